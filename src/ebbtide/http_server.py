"""HTTP/1.1 on the event loop: connections, requests, answers. What is asked goes to an ASGI application.

Every request of every service passes here, and a small one costs little else: servers made for any
application take two to three times as long for it (docs/benchmarks.md). The parser is httptools', which is
Node's llhttp. Source: RFC 9112; ASGI 3.0, its HTTP part.
"""

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 128 * 1024
"""Of a request's line and headers together, or of what stands between two pieces of its body. S3's own limit
is 8 KB; ours carry tags and submissions too."""

MAX_UNREAD_BYTES = 1024 * 1024
"""Of a body that the application does not read yet; its sender waits then."""

MAX_FORGOTTEN_BYTES = 16 * 1024 * 1024
"""Of a body that is not wanted any more, its answer being out. The connection of a longer one is closed."""

MAX_PIPELINED = 100
"""Requests of one connection that have come and are not answered: each waits for the one before."""

IDLE_S = 300.0
"""How long a connection may be without a request: until the whole of a head has come. Also how long a client
may take nothing of its answer."""

SILENCE_S = 60.0
"""How long nothing may come in the middle of a body."""

LINGER_S, MAX_LINGER_S = 2.0, 30.0
"""How long a connection that is to be closed is read for nothing, so that its client comes to our answer:
until nothing has come for so long, and at most."""

SWEEP_S = 10.0

BACKLOG = 1024
"""Connections that wait to be accepted: a burst of clients is what we are for."""

Scope = dict[str, Any]
Message = Mapping[str, Any]
Application = Callable[
    [Scope, Callable[[], Awaitable[dict[str, Any]]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""What ASGI calls one."""

INTERIM = "ebbtide.response.interim"
"""A message of ours beside ASGI's, named by the scope's extensions: an interim response with its `headers`.
It is a 100, the one that every client reads past (RFC 9110, 15.2), and goes only before the answer begins."""

_EXTENSIONS: dict[str, Any] = {INTERIM: {}}
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_WITHOUT_BODY = frozenset((204, 304))
_LINE_BREAKS = bytes.maketrans(b"\r\n\0", b"   ")


class ClientGone(ConnectionError):
    """What is sent reaches nobody."""


class HTTPServer:
    """Serves one application at one address."""

    def __init__(
        self,
        application: Application,
        *,
        most_connections: int,
        idle_s: float = IDLE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """most_connections: with more, the one that has been idle longest makes room; the new one, where all
        are in work.
        """
        self.application = application
        self.idle_s = idle_s
        self.silence_s = silence_s
        self._most_connections = most_connections
        self._closes = False
        self._listener: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._connections: set[_Connection] = set()
        # Those without a request, and since when; the longest first.
        self._idle: dict[_Connection, float] = {}
        self._in_work: set[asyncio.Task[None]] = set()
        self._date = 0, b""

    async def listen(self, listener: socket.socket) -> None:
        """Take connections from now on. listener: is bound, and the server's from now on."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=BACKLOG)
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Take no more requests; returns when those in work are answered. Cancelled, it breaks them off."""
        self._closes = True
        if self._listener is not None:
            self._listener.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._connections):
            connection.finish()
        try:
            while self._in_work:
                await asyncio.wait(self._in_work)
        finally:
            for connection in list(self._connections):
                connection.abort()

    # What connections tell and ask.

    def opened(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        if self._closes:  # it was accepted just before
            connection.abort()
        elif len(self._connections) > self._most_connections:
            next(iter(self._idle), connection).abort()
        if connection in self._connections:
            self.rests(connection)

    def closed(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def rests(self, connection: "_Connection") -> None:
        """The connection is without a request from now on."""
        self._idle.pop(connection, None)
        self._idle[connection] = time.monotonic()

    def begin(self, connection: "_Connection", exchange: "_Exchange") -> None:
        self._idle.pop(connection, None)
        task = asyncio.create_task(exchange.run(self.application))
        self._in_work.add(task)
        task.add_done_callback(self._in_work.discard)

    def date(self) -> bytes:
        """The header of that name: its value is worked out once in a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = now, f"date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._date[1]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_S, self.idle_s))
            long_ago = time.monotonic() - self.idle_s
            for connection, since in list(self._idle.items()):
                if since > long_ago:
                    break
                connection.abort()


class _Connection(asyncio.Protocol):
    """One client's: its requests come one after the other and are answered in that order."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.lost = False
        self.ended = False
        """Nothing more comes from the client."""
        self.full = False
        """It takes less than is written to it."""
        self._parser = httptools.HttpRequestParser(self)
        self._transport = cast(asyncio.Transport, None)
        self._addresses: tuple[Any, Any] = (None, None)
        # The parser takes the request for the last one in HTTP/1.1, or has just been told otherwise.
        self._departs = False
        self._stays = False
        # Those not answered yet: the first is in work.
        self._exchanges: deque[_Exchange] = deque()
        # The one whose request has begun and not ended. None while a head is awaited.
        self._receiving: _Exchange | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        # Of the body that is not wanted, or since the connection is to be closed.
        self._forgotten_bytes = 0
        self._takes_more = True
        self._drained: asyncio.Future[None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if peer is None:  # its client has gone before it was accepted
            self.abort()
            return
        # On a Unix socket the client has no address, and ours is a path.
        self._addresses = (None, (own, None)) if isinstance(own, str) else (peer[:2], own[:2])
        # `full` as long as anything is left, so that nothing is when an answer counts as sent.
        transport.set_write_buffer_limits(high=0)
        self.server.opened(self)

    def data_received(self, data: bytes) -> None:
        if not self._takes_more and self._receiving is None:
            self._forgotten_bytes += len(data)
            return
        self._head_bytes += len(data)
        try:
            while data:
                try:
                    self._parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as offer:
                    data = data[offer.args[0] :]
                    self._stay()
        except httptools.HttpParserError as error:
            self._refuse(400, f"{error.__context__ or error}")
        else:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"a head of more than {MAX_HEAD_BYTES} bytes")

    def eof_received(self) -> bool:
        self._end()
        # An answer may still be wanted.
        return bool(self._exchanges) and not self._exchanges[0].forgets

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True
        self.server.closed(self)
        self.resume_writing()
        self._end()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # What the parser calls, in the order of a request.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too, after a body in chunks, and are seen by nobody.
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._stays:
            return
        self._departs = bool(self._parser.should_upgrade())
        if len(self._exchanges) >= MAX_PIPELINED:
            raise ValueError(f"more than {MAX_PIPELINED} requests at a time")
        self._head_bytes = 0
        if not self._takes_more:
            return
        if fault := _fault(self._parser.get_http_version(), self._headers):
            raise ValueError(fault)
        exchange = _Exchange(self, self._scope(), keeps_alive=self._parser.should_keep_alive())
        self._headers = []
        self._receiving = exchange
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self.server.begin(self, exchange)
        else:
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self._receiving is None:
            return
        if not self._receiving.forgets:
            self._receiving.feed(body)
            return
        self._forgotten_bytes += len(body)
        if self._forgotten_bytes > MAX_FORGOTTEN_BYTES:
            self._close()

    def on_message_complete(self) -> None:
        if self._departs:
            return
        exchange, self._receiving = self._receiving, None
        self._head_bytes = 0
        if exchange is None:
            return
        exchange.complete = True
        exchange.wake()
        if exchange.forgets:
            self._rest(exchange)

    # What exchanges and the server ask for.

    def write(self, data: bytes) -> None:
        if not self.lost:
            self._transport.write(data)

    async def drained(self) -> None:
        """Return once the system has taken all that was written, or the client has gone: who takes nothing
        for too long is taken for gone.
        """
        while self.full:
            self._drained = asyncio.get_running_loop().create_future()
            left_bytes = self._transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self.server.idle_s):
                    await self._drained
            except TimeoutError:
                if self._transport.get_write_buffer_size() == left_bytes:
                    self.abort()

    def pause_reading(self) -> None:
        if self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless another request waits to be worked on already."""
        waits = len(self._exchanges) > 1
        if not waits and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def answered(self, exchange: "_Exchange") -> None:
        """Its answer is out; what may be left of the request is not wanted."""
        if exchange.complete:
            self._rest(exchange)
        elif not exchange.keeps_alive or exchange.gone:
            self._close()
        else:
            exchange.forgets = True
            self._forgotten_bytes = 0
            self.server.rests(self)
            self.resume_reading()

    def finish(self) -> None:
        """Have the one in work answered, and close."""
        self._takes_more = False
        if self._exchanges and not self._exchanges[0].forgets:
            self._exchanges[0].keeps_alive = False
        else:
            self._transport.close()

    def abort(self) -> None:
        # Counted no more at once: in a burst of new connections each has to find another that makes room.
        self.server.closed(self)
        self._transport.abort()

    def _scope(self) -> Scope:
        parser = self._parser
        path, _, query = self._url.partition(b"?")
        if not path.startswith(b"/"):
            path = _without_authority(path)
        client, server = self._addresses
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": parser.get_http_version(),
            "method": parser.get_method().decode("latin-1"),
            "scheme": "http",
            "path": (unquote_to_bytes(path) if b"%" in path else path).decode(errors="replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": client,
            "server": server,
            "extensions": _EXTENSIONS,
        }

    def _stay(self) -> None:
        """The client offers to go on in another protocol. That need not be accepted, but the parser does:
        leave the body, and what follows, to another one that knows how long the body is.
        """
        headers = self._receiving.scope["headers"] if self._receiving is not None else []
        lines = [b"%b: %b\r\n" % header for header in headers if header[0] in _FRAMING]
        self._parser = httptools.HttpRequestParser(self)
        self._departs, self._stays = False, True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n")
        self._stays = False

    def _rest(self, exchange: "_Exchange") -> None:
        """The first exchange is over: go on with the next."""
        self._exchanges.popleft()
        if not exchange.keeps_alive or self.lost or (self.ended and not self._exchanges):
            self._close()
        elif self._exchanges:
            self.server.begin(self, self._exchanges[0])
            self.resume_reading()
        else:
            self.server.rests(self)

    def _refuse(self, status: int, reason: str) -> None:
        """What came is no request that is served. Those that came before it are answered first."""
        log.debug("%s: %s", self._addresses[0], reason)
        broken, self._receiving = self._receiving, None
        self._takes_more = False
        if broken is not None and broken.forgets:
            self._close()
        elif broken is not None:
            broken.keeps_alive = False
            broken.lose()
        elif self._exchanges:
            self._exchanges[-1].keeps_alive = False
        else:
            self.write(_STATUS_LINES[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self._close()

    def _end(self) -> None:
        self.ended = True
        for exchange in self._exchanges:
            exchange.lose()

    def _close(self) -> None:
        """Close. What still comes is read for a while and thrown away: the system would break off a
        connection that is closed with bytes unread, and with it the answer.
        """
        self._takes_more, self._receiving = False, None
        self._exchanges.clear()
        if self.ended or self._transport.is_closing():
            self._transport.close()
            return
        self.resume_reading()
        try:
            self._transport.write_eof()
        except OSError:  # the client has gone, which we are about to be told
            self.abort()
        else:
            self._linger(asyncio.get_running_loop().time() + MAX_LINGER_S)

    def _linger(self, until: float, seen_bytes: int = -1) -> None:
        """Read for nothing as long as something comes. until: by the loop's clock."""
        loop = asyncio.get_running_loop()
        if self._forgotten_bytes == seen_bytes or loop.time() > until:
            self.abort()
        else:
            loop.call_later(LINGER_S, self._linger, until, self._forgotten_bytes)


class _Exchange:
    """One request and its answer, by ASGI's messages."""

    def __init__(self, connection: _Connection, scope: Scope, *, keeps_alive: bool) -> None:
        self.keeps_alive = keeps_alive
        """The connection is good for another after this one."""
        self.complete = False
        """All of the request has come."""
        self.forgets = False
        """What still comes of it is thrown away."""
        self.gone = False
        """Nothing more comes of it: its client has gone, or sends what nobody can read."""
        self._connection = connection
        self.scope = scope
        # Clients of HTTP/1.0 do not know what 100 means.
        self._awaits_continue = scope["http_version"] == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"]
        )
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._read_to_end = False
        self._news: asyncio.Future[None] | None = None
        # The answer's: its status and headers until they are sent, and how its end is told.
        self._start: Message | None = None
        self._has_begun = False
        self._is_bodiless = False
        self._is_chunked = False
        self._left_bytes: int | None = None
        self._is_answered = False

    async def run(self, application: Application) -> None:
        try:
            await application(self.scope, self.receive, self.send)
        except ClientGone:
            pass
        except Exception:
            log.exception("%s %s", self.scope["method"], self.scope["path"])
        finally:
            if not self._is_answered:
                self._connection.abort()  # which is how the client learns that it did not get all

    def feed(self, body: bytes) -> None:
        self._awaits_continue = False
        self._unread.append(body)
        self._unread_bytes += len(body)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self._connection.pause_reading()
        self.wake()

    def lose(self) -> None:
        self.gone = True
        self.wake()

    def wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def receive(self) -> dict[str, Any]:
        """What has come of the body; after its end, that the client has gone.

        Raises TimeoutError when nothing came for too long in the middle of the body.
        """
        connection = self._connection
        if self._awaits_continue:
            # Even where no body is to come: botocores of some years misread the next answer otherwise.
            self._awaits_continue = False
            connection.write(_CONTINUE)
        while not (self._unread or self.gone or (self.complete and not self._read_to_end)):
            self._news = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(None if self.complete else connection.server.silence_s):
                    await self._news
            except TimeoutError:
                self.keeps_alive = False
                raise
        if not self._unread and (self._read_to_end or not self.complete):
            return {"type": "http.disconnect"}
        body = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread.clear()
        self._read_to_end = self.complete
        if self._unread_bytes > MAX_UNREAD_BYTES:
            connection.resume_reading()
        self._unread_bytes = 0
        return {"type": "http.request", "body": body, "more_body": not self.complete}

    async def send(self, message: Message) -> None:
        """Send the answer's next part.

        Raises ClientGone; RuntimeError for a body of another length than was declared.
        """
        connection = self._connection
        if connection.lost:
            raise ClientGone
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] == INTERIM:
            if not self._has_begun and self.scope["http_version"] == "1.1":
                self._awaits_continue = False
                lines = [b"%b: %b\r\n" % header for header in message["headers"]]
                connection.write(_head([_STATUS_LINES[100], *lines]))
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        head = b""
        if self._start is not None:
            head = self._head(self._start, None if more else len(body))
            self._start = None
            self._has_begun = True
        body = self._framed(body, more=more)
        if head or body:
            connection.write(head + body)
        if connection.full:
            await connection.drained()
        if not more:
            self._is_answered = True
            connection.answered(self)

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self._is_bodiless:
            return b""
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._left_bytes is not None:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (self._left_bytes and not more):
                raise RuntimeError("a body of another length than was declared")
        return body

    def _head(self, start: Message, whole_bytes: int | None) -> bytes:
        """Status and headers, among them how the answer's end is told.

        whole_bytes: the length of a body that is all there.
        """
        status: int = start["status"]
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in start["headers"]:
            if name == b"connection":
                self.keeps_alive = self.keeps_alive and value != b"close"
                continue
            if name == b"content-length":
                self._left_bytes = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        lines.append(self._connection.server.date())
        self._is_bodiless = self.scope["method"] == "HEAD" or status in _WITHOUT_BODY
        is_newest = self.scope["http_version"] == "1.1"
        if self._left_bytes is None and not self._is_bodiless:
            if whole_bytes is not None:
                lines.append(b"content-length: %d\r\n" % whole_bytes)
            elif is_newest:
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keeps_alive = False  # which is how its end is told
        if self._awaits_continue:
            self._awaits_continue = False
            self.keeps_alive = False  # whether its body comes after all, only the client knows
        if not self.keeps_alive:
            lines.append(b"connection: close\r\n")
        elif not is_newest:
            lines.append(b"connection: keep-alive\r\n")
        return _head(lines)


def _head(lines: list[bytes]) -> bytes:
    """Lines with their ends, and what ends them all."""
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        # Nothing that a header holds may begin another, or another answer.
        head = b"".join(line[:-2].translate(_LINE_BREAKS) + b"\r\n" for line in lines)
    return head + b"\r\n"


def _fault(version: str, headers: list[tuple[bytes, bytes]]) -> str | None:
    """What the parser lets pass and leaves in doubt where a request goes or ends.

    Source: RFC 9112 3.2 (Host), 6.1 (Transfer-Encoding).
    """
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version}"
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and version == "1.1"):
        return f"{hosts} Host headers"
    if b"transfer-encoding" in names:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"] or version == "1.0":
            return f"Transfer-Encoding {codings} in HTTP/{version}"
    return None


def _without_authority(target: bytes) -> bytes:
    """The path of what names a whole URL, as requests to proxies do."""
    _, scheme, rest = target.partition(b"://")
    if not scheme:
        return target
    _, slash, path = rest.partition(b"/")
    return slash + path or b"/"
