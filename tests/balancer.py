"""What stands in front of several servers: each connection goes to the next of them."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import cycle
from urllib.parse import urlsplit

BLOCK_BYTES = 1 << 16


@contextmanager
def balanced(urls: Sequence[str]) -> Iterator[str]:
    """The URL of a balancer in front of the servers, which forwards bytes and reads none of them."""
    listening: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_balance(urls, listening)), name="balancer")
    thread.start()
    url, loop, stop = listening.result()
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _balance(
    urls: Sequence[str], listening: "Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]]"
) -> None:
    servers = cycle([urlsplit(url) for url in urls])

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = next(servers)
        try:
            answers, requests = await asyncio.open_connection(server.hostname, server.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, requests), _pass_on(answers, writer))

    balancer = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = balancer.sockets[0].getsockname()
    stop = asyncio.Event()
    listening.set_result((f"http://{host}:{port}", asyncio.get_running_loop(), stop))
    await stop.wait()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await reader.read(BLOCK_BYTES):
            writer.write(block)
            await writer.drain()
    writer.close()
