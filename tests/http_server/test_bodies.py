"""Bodies as they come: asked for, waited for, broken off, or not wanted."""

import asyncio
import select
import socket
from typing import Any

from tests.http_server.served import GET, IMPATIENT_S, answer, connected, echo, post, read_body, serving

from ebbtide.http_server.connection import MAX_FORGOTTEN_BYTES
from ebbtide.http_server.exchange import MAX_UNREAD_BYTES


async def test_a_body_is_asked_for_with_100_continue() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    async with serving(echo) as (_, port), connected(port) as client:
        client.writer.write(head)
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        answered = await client.ask(b"body")

        assert answered.told["body"] == "body"
        assert answered.keeps


async def test_a_body_that_is_not_wanted_is_not_asked_for() -> None:
    async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"no", status=403)

    head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    async with serving(refuse) as (_, port), connected(port) as client:
        answered = await client.ask(head)

        assert (answered.status, answered.body) == (403, b"no")
        # Whether the body follows all the same, only the client knows.
        assert answered.headers["connection"] == "close"
        assert await client.closed()


async def test_a_client_of_http_1_0_is_not_told_to_continue() -> None:
    head = b"PUT / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    async with serving(echo) as (_, port), connected(port) as client:
        client.writer.write(head)
        await client.writer.drain()
        client.writer.write(b"body")

        assert (await client.reader.read(9)) == b"HTTP/1.1 "
        assert (await client.reader.read(3)) == b"200"


async def test_a_body_is_not_asked_for_in_the_middle_of_an_answer() -> None:
    async def watchful(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await receive()
        await send({"type": "http.response.body", "body": b"half"})

    request = b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n"
    async with serving(watchful) as (_, port), connected(port) as client:
        assert (await client.ask(request)).body == b"halfhalf"
        assert await client.closed()


async def test_a_sender_waits_while_nobody_reads_its_body() -> None:
    reads = asyncio.Event()

    async def slow(_scope: Any, receive: Any, send: Any) -> None:
        await reads.wait()
        await answer(send, b"%d" % len(await read_body(receive)))

    size = 64 * MAX_UNREAD_BYTES
    async with serving(slow) as (_, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
            client.setblocking(False)
            sent = await asyncio.to_thread(send_what_is_taken, client, size)
            assert sent < size / 2
            reads.set()
            client.setblocking(True)
            await asyncio.to_thread(client.sendall, bytes(size - sent))
            assert (await asyncio.to_thread(client.recv, 65_536)).endswith(b"\r\n\r\n%d" % size)


async def test_a_connection_is_read_on_after_a_body_that_had_to_wait() -> None:
    async def slow(_scope: Any, receive: Any, send: Any) -> None:
        while not receive.__self__.complete:  # all of it has come, and is just too much
            await asyncio.sleep(0)
        await answer(send, b"%d" % len(await read_body(receive)))

    size = MAX_UNREAD_BYTES + 1
    async with serving(slow) as (_, port), connected(port) as client:
        assert (await client.ask(post("/", bytes(size)))).body == b"%d" % size
        assert (await client.ask(post("/", b"next"))).body == b"4"


def send_what_is_taken(client: socket.socket, most: int) -> int:
    """Send until nothing has been taken for a while; returns how much was."""
    sent = 0
    while sent < most and select.select([], [client], [], 0.5)[1]:
        sent += client.send(bytes(min(65_536, most - sent)))
    return sent


async def test_the_rest_of_a_body_that_nobody_read_does_not_become_the_next_request() -> None:
    async def deaf(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"read nothing")

    async with serving(deaf) as (_, port), connected(port) as client:
        first = await client.ask(post("/", b"GET /smuggled HTTP/1.1\r\n\r\n" * 1000))
        second = await client.ask(GET)

        assert (first.body, second.body) == (b"read nothing", b"read nothing")


async def test_a_long_body_that_nobody_read_costs_the_connection_but_not_the_answer() -> None:
    async def deaf(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"read nothing")

    async with serving(deaf) as (_, port), connected(port) as client:
        answered = await client.ask(post("/", bytes(3 * MAX_FORGOTTEN_BYTES)))

        assert answered.body == b"read nothing"
        assert await client.closed()


async def test_a_rest_that_nobody_wants_and_that_is_nonsense_costs_the_connection() -> None:
    async def deaf(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"read nothing")

    head = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"
    async with serving(deaf) as (_, port), connected(port) as client:
        assert (await client.ask(head)).body == b"read nothing"
        client.writer.write(b"nonsense")
        assert await client.closed()


async def test_a_rest_that_nobody_wants_and_that_does_not_come_is_not_waited_for(often_swept: None) -> None:
    async def deaf(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"read nothing")

    async with serving(deaf) as (server, port), connected(port) as client:
        assert (await client.ask(post("/", b"whole")[:-2])).body == b"read nothing"
        server.idle_s = IMPATIENT_S
        assert await client.closed()


async def test_a_rest_that_nobody_wants_and_whose_sender_has_gone_is_not_waited_for() -> None:
    async def deaf(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"read nothing")

    async with serving(deaf) as (_, port), connected(port) as client:
        assert (await client.ask(post("/", b"whole")[:-2])).body == b"read nothing"
        client.writer.write_eof()
        assert await client.closed()


async def test_what_comes_after_the_last_request_does_not_touch_its_answer() -> None:
    async def watchful(_scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        gone = asyncio.ensure_future(receive())
        for _ in range(3):
            await asyncio.sleep(0)
        await answer(send, str(gone.done()).encode())
        gone.cancel()

    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with serving(watchful) as (_, port), connected(port) as client:
        assert (await client.ask(last + b"nonsense" * 1000)).body == b"False"
        assert await client.closed()


async def test_who_breaks_off_in_the_middle_of_a_body_gets_an_answer_and_leaves_nothing_behind() -> None:
    async def refuse(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass
        await answer(send, b"not whole", status=400)

    async with serving(refuse) as (_, port), connected(port) as client:
        client.writer.write(post("/", b"whole")[:-2])
        client.writer.write_eof()

        assert (await client.answer()).body == b"not whole"
        assert await client.closed()


async def test_a_body_that_breaks_off_is_not_taken_for_whole() -> None:
    told = asyncio.get_running_loop().create_future()

    async def read(_scope: Any, receive: Any, send: Any) -> None:
        messages = [await receive(), await receive()]
        told.set_result([(each["type"], each.get("more_body")) for each in messages])
        await answer(send, b"")

    async with serving(read) as (_, port):
        async with connected(port) as client:
            client.writer.write(post("/", b"whole")[:-2])
            await client.writer.drain()
        assert await told == [("http.request", True), ("http.disconnect", None)]


async def test_a_sender_that_falls_silent_is_given_up() -> None:
    told = asyncio.get_running_loop().create_future()

    async def read(_scope: Any, receive: Any, send: Any) -> None:
        try:
            await read_body(receive)
        except TimeoutError as error:
            told.set_result(error)
        await answer(send, b"too late", status=400)

    async with serving(read, silence_s=0.01) as (_, port), connected(port) as client:
        assert (await client.ask(post("/", b"whole")[:-2])).status == 400
        assert told.done()
