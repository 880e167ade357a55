"""HTTP/1.1 on the event loop: connections, requests, answers. What is asked goes to an ASGI application.

Every request of every service passes here, and what it costs is a good part of what a small one costs in all:
servers made for any application take up to twice as long for it (docs/benchmarks.md). The parser is
httptools', which is Node's llhttp. Source: RFC 9112; ASGI 3.0, its HTTP part.
"""

import asyncio
import socket
import time
from email.utils import formatdate

from ebbtide.http_server.connection import Connection
from ebbtide.http_server.exchange import Application, Exchange

__all__ = ["HTTPServer"]

IDLE_S = 300.0
"""How long a connection may be without a request: until the whole of a head has come. Also how long a client
may take nothing of its answer."""

SILENCE_S = 60.0
"""How long nothing may come in the middle of a body."""

LEAVE_S = 5.0
"""How long what is broken off may take to clear up after itself."""

SWEEP_S = 10.0

BACKLOG = 1024
"""Connections that wait to be accepted: a burst of clients is what we are for."""


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
        self._connections: set[Connection] = set()
        # Those without a request, and since when; the longest first.
        self._idle: dict[Connection, float] = {}
        self._in_work: set[asyncio.Task[None]] = set()
        self._date = 0, b""

    async def listen(self, listener: socket.socket) -> None:
        """Take connections from now on. listener: is bound, and the server's from now on."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Take no more requests; returns when those in work are answered. Cancelled, it breaks them off: the
        connections, and what the application does for them.
        """
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
            for task in self._in_work:
                task.cancel()
            if self._in_work:
                await asyncio.wait(self._in_work, timeout=LEAVE_S)

    # What connections tell and ask.

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._closes:  # it was accepted just before
            connection.abort()
        elif len(self._connections) > self._most_connections:
            next(iter(self._idle), connection).abort()
        if connection in self._connections:
            self.rests(connection)

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def rests(self, connection: Connection) -> None:
        """The connection is without a request from now on."""
        self._idle.pop(connection, None)
        self._idle[connection] = time.monotonic()

    def begin(self, connection: Connection, exchange: Exchange) -> None:
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
