"""One client's connection: bytes become requests, which are answered in the order in which they came."""

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

import httptools

from ebbtide.http_server.exchange import EXTENSIONS, STATUS_LINES, Exchange, Scope

if TYPE_CHECKING:
    from ebbtide.http_server import HTTPServer

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 128 * 1024
"""Of a request's line and headers together, or of what stands between two pieces of its body. S3's own limit
is 8 KB; ours carry tags and submissions too."""

MAX_FORGOTTEN_BYTES = 16 * 1024 * 1024
"""Of a body that is not wanted any more, its answer being out. The connection of a longer one is closed."""

MAX_PIPELINED = 100
"""Requests of one connection that have come and are not answered: each waits for the one before."""

LINGER_S, MAX_LINGER_S = 2.0, 30.0
"""How long a connection that is to be closed is read for nothing, so that its client comes to our answer:
until nothing has come for so long, and at most."""

_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class Connection(asyncio.Protocol):
    """One client's: its requests come one after the other and are answered in that order."""

    def __init__(self, server: "HTTPServer") -> None:
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
        self._exchanges: deque[Exchange] = deque()
        # The one whose request has begun and not ended. None while a head is awaited.
        self._receiving: Exchange | None = None
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
        exchange = Exchange(self, self._scope(), keeps_alive=self._parser.should_keep_alive())
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

    def answered(self, exchange: Exchange) -> None:
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
            "extensions": EXTENSIONS,
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

    def _rest(self, exchange: Exchange) -> None:
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
            self.write(STATUS_LINES[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
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
