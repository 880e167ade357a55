"""A server of ours for tests, and clients whose answers are read by h11, which has none of its code."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import h11

from ebbtide.http_server import HTTPServer

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


IMPATIENT_S = 0.05
"""Set once what is not to be closed has its request in work, however long that took to come."""


@asynccontextmanager
async def serving(application: Application, **options: Any) -> AsyncIterator[tuple[HTTPServer, int]]:
    """A server of the application and its port."""
    server = HTTPServer(application, **{"most_connections": 100} | options)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    await server.listen(listener)
    try:
        yield server, listener.getsockname()[1]
    finally:
        closing = asyncio.create_task(server.close())
        await asyncio.wait([closing], timeout=60)
        assert closing.done(), "something is still in work"


async def read_body(receive: Any) -> bytes:
    pieces = []
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


async def answer(send: Any, body: bytes, *, status: int = 200, headers: Sequence[Any] = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with what it was asked."""
    body = await read_body(receive)
    told = {name: scope[name] for name in ("method", "path", "http_version")} | {
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
    }
    await answer(send, json.dumps(told).encode())


class Answered:
    """What a client got, as h11 reads it."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, *, keeps: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.keeps = keeps
        """The connection may be used again."""

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.left = b""
        """What came after the last answer."""

    async def ask(self, request: bytes, method: str = "GET") -> Answered:
        self.writer.write(request)
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> Answered:
        """The next answer. Raises h11's RemoteProtocolError for one that is none or not whole."""
        protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        protocol.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        protocol.send(h11.EndOfMessage())
        if self.left:
            protocol.receive_data(self.left)
        head, body = None, b""
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await self.reader.read(65_536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionError(f"the connection ended: {event!r}")
        assert head is not None
        self.left = protocol.trailing_data[0]
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        keeps = protocol.their_state is h11.DONE
        return Answered(head.status_code, headers, body, keeps=keeps)

    async def closed(self) -> bool:
        """Wait for the connection's end: nothing more comes."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client
    finally:
        client.writer.close()


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
