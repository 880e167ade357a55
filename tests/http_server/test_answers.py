"""Answers: where they end, what their headers may hold, and that nobody may be there to take them."""

import asyncio
import select
import socket
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http_server.served import GET, IMPATIENT_S, answer, connected, echo, post, read_body, serving

from ebbtide.http_server import IDLE_S
from ebbtide.http_server.exchange import INTERIM, ClientGone


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


async def test_no_header_can_begin_another() -> None:
    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"", headers=[(b"x-told", b"a\r\nset-cookie: b\r\n\r\nHTTP/1.1 200 OK\0")])

    async with serving(application) as (_, port), connected(port) as client:
        answered = await client.ask(GET)

    assert answered.headers["x-told"] == "a  set-cookie: b    HTTP/1.1 200 OK"
    assert "set-cookie" not in answered.headers


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


async def test_an_answer_of_another_length_than_it_declares_breaks_off() -> None:
    async def wrong(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, b"short", headers=[(b"content-length", b"10")])

    async with serving(wrong) as (_, port), connected(port) as client:
        with pytest.raises((h11.RemoteProtocolError, ConnectionError)):
            await client.ask(GET)


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
