"""Our HTTP server, asked byte by byte; its answers are read by h11, which has none of its code."""

import asyncio
import json
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.http_server import IDLE_S, HTTPServer
from ebbtide.http_server.connection import MAX_FORGOTTEN_BYTES, MAX_HEAD_BYTES, MAX_PIPELINED
from ebbtide.http_server.exchange import INTERIM, MAX_UNREAD_BYTES, ClientGone

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

IMPATIENT_S = 0.05
"""Set once what is not to be closed has its request in work, however long that took to come."""


@pytest.fixture
def often_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebbtide.http_server.SWEEP_S", IMPATIENT_S)


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


async def test_the_application_is_told_what_was_asked() -> None:
    async with serving(echo) as (_, port), connected(port) as client:
        answered = await client.ask(post("/a%20b/%C3%A9?x=1&y=%2F", b"text", "X-One: 1", "x-one: 2"))

    assert answered.status == 200
    assert answered.told == {
        "method": "POST",
        "path": "/a b/é",
        "raw_path": "/a%20b/%C3%A9",
        "query": "x=1&y=%2F",
        "http_version": "1.1",
        "headers": [["host", "h"], ["content-length", "4"], ["x-one", "1"], ["x-one", "2"]],
        "body": "text",
    }
    assert answered.headers["content-length"] == str(len(answered.body))
    assert "date" in answered.headers
    assert answered.keeps


REQUESTS = (
    post("/plain", b"x" * 50, "Content-Type: text/plain"),
    (
        b"PUT /chunks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n3;ext=1\r\n yo\r\n0\r\nTrailer: t\r\n\r\n"
    ),
    b"GET http://elsewhere.example/path?q HTTP/1.1\r\nHost: h\r\n\r\n",
    b"DELETE /d HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nX-Spaces: \t a b \t \r\nX-Bytes: \xff\xfe\r\n\r\n",
    post("/offer", b"z" * 20, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"),
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_requests_that_come_in_any_pieces_are_answered_in_their_order(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4))
    sent = b"".join(chosen)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=8))

    async def asked(pieces: Sequence[bytes]) -> list[Any]:
        async with serving(echo) as (_, port), connected(port) as client:
            for piece in pieces:
                client.writer.write(piece)
                await client.writer.drain()
                await asyncio.sleep(0)  # lets the server see that piece by itself
            return [(await client.answer()).told for _ in chosen]

    borders = [0, *sorted(cuts), len(sent)]
    pieces = [sent[begin:end] for begin, end in pairwise(borders) if end > begin]

    assert asyncio.run(asked(pieces)) == asyncio.run(asked([sent]))


async def test_a_body_in_chunks_is_whole_and_its_trailers_are_seen_by_nobody() -> None:
    async with serving(echo) as (_, port), connected(port) as client:
        told = (await client.ask(REQUESTS[1])).told

    assert told["body"] == "hello yo"
    assert [name for name, _ in told["headers"]] == ["host", "transfer-encoding"]


@settings(max_examples=80, deadline=None)
@given(
    method=st.sampled_from(("GET", "HEAD", "POST")),
    version=st.sampled_from(("1.0", "1.1")),
    status=st.sampled_from((200, 202, 204, 206, 304, 404, 500, 299)),
    blocks=st.lists(st.binary(max_size=300), max_size=4),
    declared=st.booleans(),
)
def test_whatever_the_application_answers_its_client_can_tell_where_it_ends(
    method: str, version: str, status: int, blocks: list[bytes], declared: bool
) -> None:
    whole = b"".join(blocks)
    bodiless = method == "HEAD" or status in (204, 304)

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        length = [(b"content-length", b"%d" % len(whole))] if declared and status not in (204, 304) else []
        await send({"type": "http.response.start", "status": status, "headers": length})
        for block in blocks:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body"})

    async def asked() -> None:
        request = f"{method} / HTTP/{version}\r\nHost: h\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(application) as (_, port), connected(port) as client:
            first = await client.ask(request, method)
            assert (first.status, first.body) == (status, b"" if bodiless else whole)
            if version == "1.1":
                assert (await client.ask(request, method)).body == first.body
            else:
                assert await client.closed()

    asyncio.run(asked())


async def test_an_old_client_that_asks_for_it_keeps_its_connection() -> None:
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    async with serving(echo) as (_, port), connected(port) as client:
        first = await client.ask(request)
        second = await client.ask(request)

    assert first.headers["connection"] == "keep-alive"
    assert second.status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chun\r\n ked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: h\n\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
async def test_what_is_no_request_is_refused_and_nobody_hears_of_it(request_bytes: bytes) -> None:
    heard = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        heard.append(scope)
        await echo(scope, receive, send)

    async with serving(application) as (_, port), connected(port) as client:
        answered = await client.ask(request_bytes)

        assert answered.status == 400
        assert answered.headers["connection"] == "close"
        assert await client.closed()
    assert heard == []


async def test_what_came_before_nonsense_is_answered() -> None:
    async with serving(echo) as (_, port), connected(port) as client:
        client.writer.write(post("/first", b"") + post("/second", b"") + b"nonsense\r\n\r\n")

        assert (await client.answer()).told["path"] == "/first"
        assert (await client.answer()).told["path"] == "/second"
        assert await client.closed()


@pytest.mark.parametrize(
    "line", [b"GET /" + b"a" * MAX_HEAD_BYTES, b"GET / HTTP/1.1\r\nX: " + b"b" * MAX_HEAD_BYTES]
)
async def test_a_head_without_an_end_is_refused(line: bytes) -> None:
    async with serving(echo) as (_, port), connected(port) as client:
        assert (await client.ask(line)).status == 431
        assert await client.closed()


async def test_trailers_without_an_end_are_refused() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX: "

    async def read(_scope: Any, receive: Any, send: Any) -> None:
        types = [(await receive())["type"], (await receive())["type"]]
        await answer(send, ",".join(types).encode())

    async with serving(read) as (_, port), connected(port) as client:
        answered = await client.ask(head + b"t" * MAX_HEAD_BYTES * 2)

        assert answered.body == b"http.request,http.disconnect"
        assert await client.closed()


async def test_a_client_that_sends_requests_without_end_and_reads_nothing_is_cut_off() -> None:
    async with serving(echo) as (_, port), connected(port) as client:
        client.writer.write(GET * (MAX_PIPELINED * 20))
        answers = 0
        while True:
            try:
                await client.answer()
            except (h11.RemoteProtocolError, ConnectionError):
                break
            answers += 1

    assert 0 < answers <= MAX_PIPELINED


async def test_no_header_can_begin_another() -> None:
    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"", headers=[(b"x-told", b"a\r\nset-cookie: b\r\n\r\nHTTP/1.1 200 OK\0")])

    async with serving(application) as (_, port), connected(port) as client:
        answered = await client.ask(GET)

    assert answered.headers["x-told"] == "a  set-cookie: b    HTTP/1.1 200 OK"
    assert "set-cookie" not in answered.headers


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


async def test_the_application_waits_for_a_client_that_reads_slowly() -> None:
    written = 0

    async def generous(_scope: Any, _receive: Any, send: Any) -> None:
        nonlocal written
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            written += 1
        await send({"type": "http.response.body"})

    async with serving(generous) as (_, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await asyncio.to_thread(select.select, [client], [], [])
            taken, seen = written, -1
            while taken != seen:  # until it stands still
                seen = taken
                await asyncio.sleep(0.05)
                taken = written
            assert taken < 32
            received = 0
            while data := await asyncio.to_thread(client.recv, 1 << 20):
                received += len(data)
            assert received > 64 << 20


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


async def test_the_application_is_told_when_what_it_sends_reaches_nobody() -> None:
    told = asyncio.get_running_loop().create_future()

    async def generous(_scope: Any, _receive: Any, send: Any) -> None:
        server.idle_s = IMPATIENT_S
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        except ClientGone as error:
            told.set_result(error)
            raise

    async with serving(generous) as (server, port):
        async with connected(port) as client:
            client.writer.write(GET)
            await client.reader.read(1)
        await told
        told = asyncio.get_running_loop().create_future()
        server.idle_s = IDLE_S
        async with connected(port) as client:  # which reads nothing
            client.reader._limit = 1  # type: ignore[attr-defined]
            client.writer.write(GET)
            await told


async def test_an_application_that_does_not_answer_breaks_off() -> None:
    async def silent(_scope: Any, receive: Any, _send: Any) -> None:
        await read_body(receive)

    async with serving(silent) as (_, port), connected(port) as client:
        client.writer.write(GET)

        assert await client.closed()


async def test_a_client_that_has_sent_all_it_will_gets_its_answer() -> None:
    async with serving(echo) as (_, port), connected(port) as client:
        client.writer.write(post("/", b"all"))
        client.writer.write_eof()

        assert (await client.answer()).told["body"] == "all"
        assert await client.closed()


async def test_the_application_learns_that_its_client_has_gone() -> None:
    told = asyncio.get_running_loop().create_future()

    async def follow(_scope: Any, receive: Any, send: Any) -> None:
        assert await read_body(receive) == b""
        told.set_result((await receive())["type"])
        await answer(send, b"to nobody")

    async with serving(follow) as (_, port):
        async with connected(port) as client:
            client.writer.write(GET)
            await client.writer.drain()
        assert await told == "http.disconnect"


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


async def test_an_answer_of_another_length_than_it_declares_breaks_off() -> None:
    async def wrong(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"short", headers=[(b"content-length", b"10")])

    async with serving(wrong) as (_, port), connected(port) as client:
        with pytest.raises((h11.RemoteProtocolError, ConnectionError)):
            await client.ask(GET)


async def test_an_offer_to_speak_something_else_is_not_taken_up() -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
    async with serving(echo) as (_, port), connected(port) as client:
        first = await client.ask(post("/first", b"body", upgrade))
        second = await client.ask(GET.replace(b"\r\n\r\n", b"\r\n" + upgrade.encode() + b"\r\n\r\n"))
        third = await client.ask(post("/third", b"more"))

    assert (first.status, first.told["body"]) == (200, "body")
    assert second.status == 200
    assert third.told["body"] == "more"


async def test_a_connection_without_a_request_is_closed_after_a_while_and_one_with_is_not(
    often_swept: None,
) -> None:
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def patient(_scope: Any, _receive: Any, send: Any) -> None:
        began.set()
        await goes_on.wait()
        await answer(send, b"at last")

    async with (
        serving(patient) as (server, port),
        connected(port) as silent,
        connected(port) as slow,
        connected(port) as busy,
    ):
        slow.writer.write(GET[:10])
        busy.writer.write(GET)
        await began.wait()
        server.idle_s = IMPATIENT_S

        assert await silent.closed()
        assert await slow.closed()
        goes_on.set()
        assert (await busy.answer()).body == b"at last"


async def test_with_too_many_connections_the_longest_idle_one_makes_room() -> None:
    async with serving(echo, most_connections=2) as (_, port), connected(port) as first:
        assert (await first.ask(GET)).status == 200
        async with connected(port) as second:
            assert (await second.ask(GET)).status == 200
            assert (await first.ask(GET)).status == 200
            async with connected(port) as third:
                assert (await third.ask(GET)).status == 200
                assert await second.closed()
                assert (await first.ask(GET)).status == 200


async def test_a_burst_of_connections_leaves_no_more_than_there_may_be() -> None:
    async with serving(echo, most_connections=3) as (_, port):
        burst = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        clients = [Client(*await asyncio.open_connection(sock=each)) for each in burst]

        assert all([await client.closed() for client in clients[:-3]])
        assert [(await client.ask(GET)).status for client in clients[-3:]] == [200] * 3
        for client in clients:
            client.writer.close()


async def test_with_all_connections_in_work_another_is_not_taken() -> None:
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def patient(_scope: Any, _receive: Any, send: Any) -> None:
        began.set()
        await goes_on.wait()
        await answer(send, b"at last")

    async with serving(patient, most_connections=1) as (_, port), connected(port) as busy:
        busy.writer.write(GET)
        await began.wait()
        async with connected(port) as other:
            assert await other.closed()
        goes_on.set()
        assert (await busy.answer()).body == b"at last"


async def test_clients_that_have_gone_before_they_are_looked_at_are_nothing_to_speak_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo) as (_, port):
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # with a reset
        async with connected(port) as client:
            assert (await client.ask(GET)).status == 200

    assert not caplog.records


async def test_a_server_that_closes_answers_what_it_has_and_takes_no_more() -> None:
    goes_on, began = asyncio.Event(), asyncio.Event()

    async def patient(scope: dict[str, Any], receive: Any, send: Any) -> None:
        began.set()
        await goes_on.wait()
        await echo(scope, receive, send)

    async with (
        serving(patient) as (server, port),
        connected(port) as idle,
        connected(port) as busy,
    ):
        busy.writer.write(post("/", b"in work"))
        await began.wait()
        closing = asyncio.create_task(server.close())
        assert await idle.closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        goes_on.set()

        answered = await busy.answer()

        assert answered.told["body"] == "in work"
        assert answered.headers["connection"] == "close"
        await closing


async def test_a_server_that_is_not_to_wait_breaks_off_what_it_has() -> None:
    began = asyncio.Event()

    async def endless(_scope: Any, receive: Any, _send: Any) -> None:
        await read_body(receive)
        began.set()
        await receive()  # until its client has gone

    async with serving(endless) as (server, port), connected(port) as client:
        client.writer.write(GET)
        await began.wait()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        closing.cancel()

        assert await client.closed()


async def test_what_does_not_look_whether_its_client_has_gone_is_broken_off_too() -> None:
    began, left = asyncio.Event(), asyncio.Event()

    async def deaf(_scope: Any, _receive: Any, _send: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with serving(deaf) as (server, port), connected(port) as client:
        client.writer.write(GET)
        await began.wait()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        closing.cancel()

        with pytest.raises(asyncio.CancelledError):
            await closing

        assert left.is_set()


async def test_interim_answers_go_out_until_the_answer_begins() -> None:
    async def reporting(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await read_body(receive)
        assert INTERIM in scope["extensions"]
        await send({"type": INTERIM, "headers": [(b"x-far", b"half\r\nx-forged: 1")]})
        await send({"type": INTERIM, "headers": [(b"x-far", b"whole")]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ans", "more_body": True})
        await send({"type": INTERIM, "headers": [(b"x-far", b"too far")]})
        await send({"type": "http.response.body", "body": b"wer"})

    async with serving(reporting) as (_, port), connected(port) as client:
        client.writer.write(GET)
        first = await client.reader.readuntil(b"\r\n\r\n")
        second = await client.reader.readuntil(b"\r\n\r\n")
        answered = await client.answer()
        oldest = await client.ask(GET.replace(b"1.1", b"1.0"))

    assert first == b"HTTP/1.1 100 Continue\r\nx-far: half  x-forged: 1\r\n\r\n"
    assert second == b"HTTP/1.1 100 Continue\r\nx-far: whole\r\n\r\n"
    assert answered.body == b"answer"
    assert oldest.body == b"answer"


async def test_on_a_unix_socket_the_server_s_address_is_a_path(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    addresses: list[Any] = []

    async def telling(scope: dict[str, Any], receive: Any, send: Any) -> None:
        addresses.append((scope["client"], scope["server"]))
        await echo(scope, receive, send)

    server = HTTPServer(telling, most_connections=10)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    await server.listen(listener)
    client = Client(*await asyncio.open_unix_connection(path))

    assert (await client.ask(post("/", b"body"))).told["body"] == "body"
    assert addresses == [(None, (path, None))]
    client.writer.close()
    await server.close()
