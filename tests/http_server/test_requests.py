"""What comes of bytes: a request, or none that is served."""

import asyncio
import socket
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http_server.served import GET, Client, answer, connected, echo, post, serving

from ebbtide.http_server import HTTPServer
from ebbtide.http_server.connection import MAX_HEAD_BYTES, MAX_PIPELINED


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


async def test_an_offer_to_speak_something_else_is_not_taken_up() -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
    async with serving(echo) as (_, port), connected(port) as client:
        first = await client.ask(post("/first", b"body", upgrade))
        second = await client.ask(GET.replace(b"\r\n\r\n", b"\r\n" + upgrade.encode() + b"\r\n\r\n"))
        third = await client.ask(post("/third", b"more"))

    assert (first.status, first.told["body"]) == (200, "body")
    assert second.status == 200
    assert third.told["body"] == "more"


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
