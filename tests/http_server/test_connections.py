"""Connections: how many there may be, for how long, and how they end."""

import asyncio
import socket
import struct
from typing import Any

import pytest
from tests.http_server.served import (
    GET,
    IMPATIENT_S,
    Client,
    answer,
    connected,
    echo,
    post,
    read_body,
    serving,
)


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
