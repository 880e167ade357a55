"""The server's end of the process that writes what every invocation pays for.

There is one while there is much to do: it starts within a burst and ends when nothing has come for a while.
Works go to it over a socket of ours as they come; it takes what has gathered as one group, and answers group
by group, in order (__main__.py). Without it, or when it is lost, works go by the writer's thread.

Both ends are this program: nobody else's bytes are unpickled. One installed under a running server in
place of its own ends at once.
"""

import asyncio
import gc
import logging
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from ebbtide import __version__
from ebbtide.database.kinds import Kind
from ebbtide.database.writer import Outcome, answer
from ebbtide.errors import Unconfirmed

log = logging.getLogger(__name__)

FEW = 8
"""Works about fewer invocations go by the thread, whose answer comes sooner."""

MUCH = 200
"""Invocations within a second, of works that are not about few, for which it is worth a process."""

IDLE_S = 60.0
"""After how long without work it ends."""

SILENT_S = 40.0
"""How long it may take over a work: longer than PostgreSQL may be silent to a statement and it asks again."""

LOOK_EVERY_S = 1.0

ENDS_WITHIN_S = 10.0
"""How long it may take to end once it is told to."""

PAUSE_S, AFTER_FAILURE_S = 1.0, 60.0
"""How long after one has ended the next may start, and after one that could not even start."""

SIZE = struct.Struct("!I")
"""Before each pickle: its bytes."""

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Opening:
    """What the process is told first. functions: what will be asked for, so that their modules are loaded."""

    version: str
    kind: Callable[[], Kind]
    functions: tuple[Callable[..., Any], ...]
    collect_after: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the process says of a group, and first, of none, when it can work. records: what it has logged."""

    outcomes: Sequence[Outcome]
    records: Sequence[logging.LogRecord]


def framed(value: object) -> bytes:
    """A value as it travels, either way."""
    pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return SIZE.pack(len(pickled)) + pickled


class Frames:
    """Whole pickles out of bytes that come in any pieces."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The values that are whole by now, in order."""
        self._bytes += data
        values, at = [], 0
        while len(self._bytes) - at >= SIZE.size:
            begin = at + SIZE.size
            end = begin + SIZE.unpack_from(self._bytes, at)[0]
            if end > len(self._bytes):
                break
            with memoryview(self._bytes)[begin:end] as pickled:
                values.append(pickle.loads(pickled))  # noqa: S301 - this program's own
            at = end
        del self._bytes[:at]
        return values


class WriterProcess:
    """Used on one event loop, that of the first work; works of others are not taken."""

    def __init__(self, kind: Callable[[], Kind]) -> None:
        """kind: opens the database there."""
        self._kind = kind
        self._functions: dict[Callable[..., Any], None] = {}
        self._channel: _Channel | None = None
        self._life: asyncio.Task[None] | None = None
        self._second, self._seen = 0, 0

    def carry_out(self, work: "partial[Any]", *, of: int) -> "asyncio.Future[Any] | None":
        """The work's outcome to come; None where it is no work for a process, or there is none.

        of: how many invocations it is about.
        """
        if of < FEW:
            return None
        channel = self._channel
        if channel is not None and not channel.gone.is_set() and channel.loop is asyncio.get_running_loop():
            return channel.send(work)
        self._functions[work.func] = None
        if self._life is None and self._is_much(of):
            self._life = asyncio.create_task(self._live())
        return None

    def close(self) -> None:
        """End it; what it has been given it finishes."""
        if self._life is not None:
            self._life.cancel()
        if self._channel is not None:
            self._channel.end()
            self._channel.reap()
            self._channel = None

    def _is_much(self, of: int) -> bool:
        """Whether it comes fast enough, and there is a second processor to do it."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._seen = second, 0
        self._seen += of
        return self._seen >= MUCH and len(os.sched_getaffinity(0)) > 1

    async def _live(self) -> None:
        """Start a process, look after it, and see it end."""
        pause_s = PAUSE_S
        try:
            opening = Opening(__version__, self._kind, tuple(self._functions), gc.get_threshold())
            channel = self._channel = await _Channel.open(opening)
            try:
                await channel.watch()
            finally:
                self._channel = None
            if channel.gone.is_set():
                log.error("the process for writing was lost")
            channel.end()
            await asyncio.to_thread(channel.reap)
        except OSError as error:
            log.warning("no process for writing: %s", error)
            pause_s = AFTER_FAILURE_S
        # Also after one that ended in peace: it is not to be started and ended again and again.
        await asyncio.sleep(pause_s)
        self._life = None


class _Channel(asyncio.Protocol):
    """The socket to one process, from its start to its end."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.loop = asyncio.get_running_loop()
        self.gone = asyncio.Event()
        self._process = process
        self._frames = Frames()
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._is_ready = asyncio.Event()
        self._heard_at = self._asked_at = time.monotonic()
        self._transport: asyncio.Transport

    @classmethod
    async def open(cls, opening: Opening) -> "_Channel":
        """Start a process; returns once it can work. Raises OSError when it cannot."""
        process, ours = await asyncio.to_thread(_start)
        channel = cls(process)
        try:
            await channel.loop.create_unix_connection(lambda: channel, sock=ours)
            channel._transport.write(framed(opening))
            await channel._is_ready.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if channel.gone.is_set():
            raise OSError(f"the process ended with {await asyncio.to_thread(process.wait)}")
        return channel

    def send(self, work: "partial[Any]") -> "asyncio.Future[Any]":
        now = time.monotonic()
        if not self._asked:
            self._heard_at = now
        self._asked_at = now
        self._transport.write(framed(work))
        outcome = self.loop.create_future()
        self._asked.append(outcome)
        return outcome

    async def watch(self) -> None:
        """Returns when it is gone or has nothing more to do."""
        while not self.gone.is_set():
            now = time.monotonic()
            if self._asked:
                if now - self._heard_at > SILENT_S:
                    log.error("the process for writing says nothing, and is ended")
                    self._process.kill()
            elif now - self._asked_at > IDLE_S:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), LOOK_EVERY_S)

    def end(self) -> None:
        """Let it finish what it has been given."""
        if not self.gone.is_set():
            self._transport.write_eof()

    def reap(self) -> None:
        """Wait until it has ended."""
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        for said in self._frames.feed(data):
            self._is_ready.set()
            for record in said.records:
                logging.getLogger(record.name).handle(record)
            for outcome in said.outcomes:
                answer(self._asked.popleft(), outcome)

    def connection_lost(self, _: Exception | None) -> None:
        self.gone.set()
        self._is_ready.set()
        while self._asked:
            lost = Unconfirmed("The process that wrote was lost before it answered: it was done or was not")
            answer(self._asked.popleft(), (None, lost))


def _start() -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """A process and the socket to it. Raises OSError."""
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, "-P", "-m", "ebbtide.database", str(its.fileno())]
        try:
            # A group of its own: what a terminal's keys end is the server, which ends this one in turn.
            process = subprocess.Popen(  # noqa: S603 - our own module
                command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, process_group=0
            )
        except OSError:
            ours.close()
            raise
    return process, ours
