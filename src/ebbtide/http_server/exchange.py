"""One request and its answer: ASGI's messages on one side, the connection's bytes on the other."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebbtide.http_server.connection import Connection

log = logging.getLogger(__name__)

MAX_UNREAD_BYTES = 1024 * 1024
"""Of a body that the application does not read yet; its sender waits then."""

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""What ASGI calls one."""

INTERIM = "ebbtide.response.interim"
"""A message of ours beside ASGI's, named by the scope's extensions: an interim response with its `headers`.
It is a 100, the one that every client reads past (RFC 9110, 15.2), and goes only before the answer begins."""

EXTENSIONS: dict[str, Any] = {INTERIM: {}}
STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_WITHOUT_BODY = frozenset((204, 304))
_LINE_BREAKS = bytes.maketrans(b"\r\n\0", b"   ")


class ClientGone(ConnectionError):
    """What is sent reaches nobody."""


class Exchange:
    """One request and its answer, by ASGI's messages."""

    def __init__(self, connection: "Connection", scope: Scope, *, keeps_alive: bool) -> None:
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
                connection.write(_head([STATUS_LINES[100], *lines]))
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
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
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
