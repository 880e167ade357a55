"""HTTP/1.1 with one model server, over its Unix socket.

Every invocation passes here, and a general HTTP client took three times as long for it: this one speaks to
one server that never redirects, compresses nothing and needs no cookies. The parser is httptools'.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import cast

import httptools

MAX_BUFFERED_BYTES = 1 << 20
"""Of an answer that nobody reads yet; the model server waits then."""

MAX_HEAD_BYTES = 64 * 1024

_LINE_BREAKS = str.maketrans("\r\n\0", "   ")

OnInterim = Callable[[Mapping[str, str]], None]


class ModelServerLost(Exception):
    """The connection ended before the answer did, or what came is no HTTP: the model server died, or was
    killed, with the request in it.
    """


class ModelServerGone(ModelServerLost):
    """The model server takes no connections: it was dead before it got any of the request."""


class Answer:
    """A model server's answer, its body still on the way. Names of `headers` are in lower case."""

    def __init__(self, connection: "_Connection", on_interim: OnInterim | None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.keeps_connection = False
        self._connection = connection
        self._on_interim = on_interim
        self._head_bytes = 0
        self._began = asyncio.get_running_loop().create_future()
        self._more: asyncio.Future[None] | None = None
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._complete = False
        self._error: ModelServerLost | None = None

    @property
    def complete(self) -> bool:
        """All of it has come."""
        return self._complete

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises ModelServerLost."""
        while True:
            while self._unread:
                chunk = self._unread.popleft()
                self._unread_bytes -= len(chunk)
                if self._unread_bytes <= MAX_BUFFERED_BYTES // 2:
                    self._connection.resume_reading()
                yield chunk
            if self._complete:
                return
            if self._error is not None:
                raise self._error
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    def arrived(self, most_bytes: int) -> bytes | None:
        """The whole body, if it has come and has no more bytes than that: most come with their heads."""
        if not self._complete or self._unread_bytes > most_bytes:
            return None
        body = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        return body

    async def read(self) -> bytes:
        """The whole body. Raises ModelServerLost."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def began(self) -> None:
        """Return once status and headers are there. Raises ModelServerLost."""
        await self._began

    # What httptools calls, in the order of the answer.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"the answer's headers have more than {MAX_HEAD_BYTES} bytes")
        known = name.decode("latin-1").lower()
        text = value.decode(errors="replace")
        self.headers[known] = f"{self.headers[known]}, {text}" if known in self.headers else text

    def on_headers_complete(self) -> None:
        status = self._connection.status
        if status < 200:  # 100 Continue and the like: the answer proper follows
            if self._on_interim is not None:
                self._on_interim(self.headers)
            self.headers.clear()
            self._head_bytes = 0
            return
        self.status = status
        if not self._began.done():
            self._began.set_result(None)

    def on_body(self, body: bytes) -> None:
        self._unread.append(body)
        self._unread_bytes += len(body)
        if self._unread_bytes > MAX_BUFFERED_BYTES:
            self._connection.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True
            # The parser knows it in this moment only.
            self.keeps_connection = self._connection.keeps_alive
            self._wake()

    def ended(self, error: ModelServerLost) -> None:
        """The connection is gone; a body that nothing bounds ends so."""
        unbounded = "content-length" not in self.headers and "transfer-encoding" not in self.headers
        if self.status and unbounded and not self._complete:
            self._complete = True
        elif not self._complete:
            self._error = error
            if not self._began.done():
                self._began.set_exception(error)
                self._began.exception()  # perhaps nobody waits for it any more
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


class _Connection(asyncio.Protocol):
    """One connection: an exchange at a time."""

    def __init__(self) -> None:
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: Answer | None = None
        self._paused: asyncio.Future[None] | None = None

    @property
    def status(self) -> int:
        assert self._parser is not None
        return int(self._parser.get_status_code())

    @property
    def reusable(self) -> bool:
        """Its last answer was complete, and the model server keeps the connection."""
        return not self.lost and self._answer is not None and self._answer.keeps_connection

    @property
    def keeps_alive(self) -> bool:
        assert self._parser is not None
        return bool(self._parser.should_keep_alive())

    def begin(self, head: bytes, on_interim: OnInterim | None) -> Answer:
        """Send a request's head, or with its body the whole of it."""
        assert self._transport is not None
        answer = self._answer = Answer(self, on_interim)
        self._parser = httptools.HttpResponseParser(answer)
        self._transport.write(head)
        return answer

    async def send(self, body: AsyncIterator[bytes]) -> None:
        """Send a body at the model server's pace. Raises what the body raises."""
        assert self._transport is not None
        async for chunk in body:
            if self.lost:
                return  # the answer tells
            self._transport.write(chunk)
            if self._paused is not None:
                await self._paused

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.lost and not self._transport.is_reading():
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._answer is None or self._answer.complete:
            self.abort()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._answer.ended(ModelServerLost(f"The model server was lost: its answer is no HTTP: {error}"))
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.resume_writing()
        if self._answer is not None:
            how = "was closed" if error is None else f"broke: {error}"
            self._answer.ended(ModelServerLost(f"The model server was lost: the connection {how}"))

    def pause_writing(self) -> None:
        self._paused = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._paused is not None and not self._paused.done():
            self._paused.set_result(None)
        self._paused = None


class Exchanges:
    """Requests to the model server at `socket`, over connections that are kept. `in_flight` counts those in
    it; `on_end` is called when one has left.
    """

    def __init__(self, socket: Path) -> None:
        self.in_flight = 0
        self.on_end: Callable[[], object] | None = None
        self._socket = str(socket)
        self._idle: list[_Connection] = []

    def post(
        self,
        path: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes],
        on_interim: OnInterim | None = None,
    ) -> "Exchange":
        """One request, which entering the exchange sends.

        headers: with the body's Content-Length. on_interim: called with the headers of each interim response
        that comes before the answer.
        """
        return Exchange(self, _head(path, headers), body, on_interim)

    def close(self) -> None:
        """Break the connections that are kept."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def take(self) -> _Connection:
        """A connection for one exchange, for this one alone. Raises ModelServerGone."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(_Connection, self._socket)
        except OSError as error:
            raise ModelServerGone(f"The model server is gone: it takes no connections: {error}") from error
        return connection

    def give_back(self, connection: _Connection | None) -> None:
        """An exchange is over: its connection is kept for another, if it is good for one."""
        self.in_flight -= 1
        if connection is not None and connection.reusable:
            self._idle.append(connection)
        elif connection is not None:
            connection.abort()
        if self.on_end is not None:
            self.on_end()


class Exchange:
    """A context that sends one request; within, its answer, whose status has come. Left early, the connection
    is broken, by which the model server learns that nobody waits.

    Raises ModelServerGone, ModelServerLost, and what the body raises. No `asynccontextmanager`: the loop
    keeps account of every generator, which costs a tenth of the whole exchange.
    """

    __slots__ = ("_body", "_connection", "_exchanges", "_head", "_on_interim", "_sending")

    def __init__(
        self,
        exchanges: Exchanges,
        head: bytes,
        body: bytes | AsyncIterator[bytes],
        on_interim: OnInterim | None,
    ) -> None:
        self._exchanges = exchanges
        self._head = head
        self._body = body
        self._on_interim = on_interim
        self._connection: _Connection | None = None
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Answer:
        self._exchanges.in_flight += 1
        try:
            connection = self._connection = await self._exchanges.take()
            if isinstance(self._body, bytes):
                answer = connection.begin(self._head + self._body, self._on_interim)
            else:
                answer = connection.begin(self._head, self._on_interim)
                self._sending = asyncio.create_task(connection.send(self._body))
                self._sending.add_done_callback(lambda task: _stop_unsent(task, connection))
            await answer.began()
        except BaseException as error:
            self._end(error)
            raise
        return answer

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        sending = self._sending
        if sending is not None and not sending.done() and self._connection is not None:
            # It answered without the whole request, or nobody waits any more.
            sending.cancel()
            self._connection.abort()
        self._exchanges.give_back(self._connection)
        sent = sending is not None and sending.done() and not sending.cancelled()
        if sending is not None and sent and isinstance(error, ModelServerLost):
            sending.result()  # it was we who broke off


def _head(path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1\r\nHost: model"]
    for name, value in headers.items():
        # Nearly all are printable, and to see that is quicker than to translate.
        lines.append(f"{name}: {value if value.isprintable() else value.translate(_LINE_BREAKS)}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode(errors="replace")


def _stop_unsent(sending: asyncio.Task[None], connection: _Connection) -> None:
    """A body that could not be read to its end leaves half a request: break it off."""
    with suppress(asyncio.CancelledError):
        if sending.exception() is not None:
            connection.abort()
