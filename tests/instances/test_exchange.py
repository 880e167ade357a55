"""The agent's side of HTTP, against model servers that answer in every way, and badly: raw bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from ebbtide.errors import ServiceError
from ebbtide.instances.exchange import Exchanges, ModelServerGone, ModelServerLost

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A model server whose every connection is served by `serve`; counts them."""

    def __init__(self, socket: Path) -> None:
        self.exchanges = Exchanges(socket)
        self.connections = 0
        self.serve: Serve = answering(b"")

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def post(self, body: bytes | AsyncIterator[bytes] = b"x", **headers: str) -> tuple[int, bytes]:
        length = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {}
        async with self.exchanges.post("/invocations", {**length, **headers}, body) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer(tmp_path / "s")
    server = await asyncio.start_unix_server(peer.accept, tmp_path / "s")
    yield peer
    peer.exchanges.close()
    server.close()


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """A request's head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [
        line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    ]
    return head, await reader.readexactly(int(lengths[0]) if lengths else 0)


def answering(*answers: bytes, close: bool = False) -> Serve:
    """Answers one request after the other, each in pieces of the given bytes, then closes if asked to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            for piece in answers:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                return

    return serve


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("answers", "close", "expected"),
    [
        pytest.param([OK], False, (200, b"hello"), id="a length"),
        pytest.param([OK[n : n + 1] for n in range(len(OK))], False, (200, b"hello"), id="byte by byte"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"],
            False,
            (200, b"hello"),
            id="chunks",
        ),
        pytest.param(
            [b"HTTP/1.0 200 OK\r\n\r\nhe", b"llo"], True, (200, b"hello"), id="until the connection ends"
        ),
        pytest.param(
            [b"HTTP/1.1 100 Continue\r\n\r\n", OK], False, (200, b"hello"), id="go on, then an answer"
        ),
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], False, (204, b""), id="no body"),
        pytest.param(
            [b"HTTP/1.1 507 No Room\r\nContent-Length: 0\r\n\r\n"], False, (507, b""), id="an empty body"
        ),
    ],
)
async def test_an_answer_is_read_however_it_is_bounded(peer: Peer, answers, close, expected) -> None:
    peer.serve = answering(*answers, close=close)

    assert await peer.post() == expected


async def test_a_connection_is_kept_for_the_next_request(peer: Peer) -> None:
    peer.serve = answering(OK)

    for _ in range(5):
        assert await peer.post() == (200, b"hello")

    assert peer.connections == 1


async def test_requests_at_the_same_time_have_connections_of_their_own(peer: Peer) -> None:
    peer.serve = answering(OK)

    assert await asyncio.gather(*(peer.post() for _ in range(8))) == [(200, b"hello")] * 8


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="without a word"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="in the headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", id="in the body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", id="before the last chunk"
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="with something else"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"A: " + b"a" * 70_000 + b"\r\n\r\n", id="with endless headers"
        ),
    ],
)
async def test_a_model_server_that_breaks_off_is_told_from_one_that_answers(
    peer: Peer, answer: bytes
) -> None:
    peer.serve = answering(answer, close=True)

    with pytest.raises(ModelServerLost):
        await peer.post()


async def test_one_that_is_not_there_got_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelServerGone):
        async with Exchanges(tmp_path / "nobody").post("/invocations", {}, b""):
            pass


async def test_a_connection_that_the_model_server_closed_meanwhile_is_not_used_again(peer: Peer) -> None:
    peer.serve = answering(OK, close=True)
    for _ in range(3):
        assert await peer.post() == (200, b"hello")
        while any(not connection.lost for connection in peer.exchanges._idle):
            await asyncio.sleep(0)

    assert peer.connections == 3


async def test_a_body_streams_at_the_model_servers_pace(peer: Peer) -> None:
    given, taken = 0, asyncio.Event()

    async def blocks() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(64):
            given += 1
            yield b"x" * 262_144

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await taken.wait()
        await reader.readexactly(64 * 262_144)
        writer.write(OK)

    peer.serve = serve
    posting = asyncio.create_task(peer.post(blocks(), **{"Content-Length": str(64 * 262_144)}))
    before = -1
    while given != before or given == 0:  # until the socket is full
        before = given
        for _ in range(50):
            await asyncio.sleep(0)
    held_back = given

    taken.set()

    assert await posting == (200, b"hello")
    assert held_back < 64


async def test_an_answer_that_nobody_reads_is_held_back_at_the_model_server(peer: Peer) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n")
        for _ in range(128):
            writer.write(b"x" * 262_144)
            await writer.drain()
            sent += 262_144

    peer.serve = serve
    async with peer.exchanges.post("/invocations", {"Content-Length": "0"}, b"") as answer:
        before = -1
        while sent != before or sent == 0:
            before = sent
            for _ in range(50):
                await asyncio.sleep(0)
        held_back = sent
        body = await answer.read()

    assert held_back < 33_554_432
    assert len(body) == 33_554_432


async def test_a_body_that_cannot_be_read_breaks_the_request_off_and_says_why(peer: Peer) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ServiceError("the disk is gone")

    with pytest.raises(ServiceError, match="the disk is gone"):
        await peer.post(broken(), **{"Content-Length": "8"})


async def test_an_answer_before_the_whole_request_counts(peer: Peer) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read()

    peer.serve = serve

    assert await peer.post(endless(), **{"Content-Length": str(10**12)}) == (413, b"big")


async def test_who_leaves_early_breaks_the_connection(peer: Peer) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        arrived.set()
        await reader.read()
        gone.set()

    peer.serve = serve
    posting = asyncio.create_task(peer.post())
    await arrived.wait()

    posting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await posting
    await gone.wait()


async def test_a_header_cannot_smuggle_another(peer: Peer) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await request(reader))[0])
        writer.write(OK)

    peer.serve = serve
    await peer.post(Accept="text/plain\r\nX-Evil: 1")

    assert b"\r\nX-Evil" not in heads[0]
