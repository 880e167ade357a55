"""What callers read and write by."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from ebbtide.database.kinds import Kind, PostgreSQL, SQLite
from ebbtide.database.writer import MAX_GROUP, Outcome, Work, Writer, answer, patiently
from ebbtide.database.writer_process import WriterProcess

T = TypeVar("T")


class Database:
    """Connections to a SQLite file, in WAL mode with synchronous=FULL, or to a PostgreSQL database."""

    def __init__(self, where: Path | str) -> None:
        """where: the file's path, or a postgresql:// URL.

        Raises SQLAlchemy's DatabaseError when it cannot be opened or is no database, ValueError for a URL
        that is none.
        """
        self._kind: Kind = PostgreSQL(where) if isinstance(where, str) else SQLite(where)
        self._writer = Writer(self._kind)
        self._process = WriterProcess(self._kind.again())
        self._readers = ThreadPoolExecutor(self._kind.readers, thread_name_prefix="database-reader")
        self._pending: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_writer, name="database-writer", daemon=True)
        self._thread.start()

    @property
    def engine(self) -> Engine:
        return self._kind.engine

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a consistent snapshot in a reader thread; it must not write, and may run again.

        Raises Unavailable when the database could not be read for 5 s.
        """
        asked_at = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work, asked_at)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a writer's next transaction and return its result once that is on disk.

        `work` may raise: its own statements are undone, those of others in the transaction stand. It may run
        again when the transaction was undone for no fault of its own, so it changes nothing but the database.
        Cancelling the caller does not undo the work.

        Raises Unavailable when the database could not be written for 5 s: nothing was done. Raises
        Unconfirmed, one kind of it, when PostgreSQL was lost during the commit: then the work was done or was
        not, and only a look at the database can tell. A caller that tries again must bear that it was.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._pending.put(_Write(work, future, loop))
        return await future

    async def write_much(self, work: "partial[T]", *, of: int) -> T:
        """`write` for what every invocation pays for. It may run in a process of its own: `work` is a
        module's function with arguments, and they and what it returns or raises can be pickled.

        of: how many invocations it is about. Raises Unconfirmed also when that process ended meanwhile.
        """
        outcome = self._process.carry_out(work, of=of)
        return await (self.write(work) if outcome is None else outcome)

    def close(self) -> None:
        """Finish what was submitted, then close the connections."""
        self._process.close()
        self._pending.put(None)
        self._thread.join()
        self._readers.shutdown()
        self._kind.close()

    def _read(self, work: Callable[[Connection], T], asked_at: float) -> T:
        def attempt() -> T:
            with self._kind.open_reader() as connection, connection.begin():
                return work(connection)

        return patiently(self._kind, attempt, asked_at)

    def _run_writer(self) -> None:
        closing = False
        while not closing and (first := self._pending.get()) is not None:
            group, closing = self._gather(first)
            outcomes = self._writer.carry_out([write.work for write in group], first.asked_at)
            for loop in {write.loop for write in group}:
                mine = [(w, o) for w, o in zip(group, outcomes, strict=True) if w.loop is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_answer, mine)
        self._writer.close()

    def _gather(self, first: "_Write") -> "tuple[list[_Write], bool]":
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                following = self._pending.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
        return group, False


class _Write:
    """One caller's work and where its outcome goes."""

    __slots__ = ("asked_at", "future", "loop", "work")

    def __init__(
        self,
        work: Work,
        future: "asyncio.Future[Any]",
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.asked_at = time.monotonic()


def _answer(outcomes: list[tuple[_Write, Outcome]]) -> None:
    for write, outcome in outcomes:
        answer(write.future, outcome)
