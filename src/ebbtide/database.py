"""The one database: its connections, its single writer and its tables' registry.

Reads run in a few threads, each on a snapshot. Writes of the whole process pass one thread that runs
many callers' work in one transaction, a savepoint each, and answers them after the commit: each is
durable, and a disk flush is shared by all who waited for it (group commit).
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import OperationalError

from ebbtide.errors import Unavailable

T = TypeVar("T")

metadata = MetaData()
"""Every module's tables; a module declares its own with `Table(name, metadata, ...)`."""

MAX_GROUP = 256
"""Most callers in one transaction: bounds how long the first waits for the last."""

READERS = 2


class Database:
    """Connections to one SQLite file in WAL mode with synchronous=FULL."""

    def __init__(self, path: Path) -> None:
        """Raises SQLAlchemy's DatabaseError when the file cannot be opened or is no database."""
        self._engine = _connect(path)
        connection = self._engine.connect().execution_options(ebbtide_writer=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="database-reader")
        self._pending: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer = threading.Thread(
            target=self._run_writer, args=(connection,), name="database-writer", daemon=True
        )
        self._writer.start()

    @property
    def engine(self) -> Engine:
        return self._engine

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a consistent snapshot in a reader thread; it must not write."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in the writer's next transaction and return its result once that is on disk.

        `work` may raise: its own statements are undone, those of others in the transaction stand.
        Cancelling the caller does not undo the work. Raises Unavailable when the database could not commit.
        """
        return await self._submit(work)

    def _submit(self, work: Callable[[Connection], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._pending.put(_Write(work, future, loop))
        return future

    def close(self) -> None:
        """Finish what was submitted, then close the connections."""
        self._pending.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._engine.dispose()

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection, connection.begin():
            return work(connection)

    def _run_writer(self, connection: Connection) -> None:
        with connection:
            while (first := self._pending.get()) is not None:
                group, closing = self._gather(first)
                outcomes = _commit(connection, group)
                for loop in {write.loop for write in group}:
                    mine = [(w, o) for w, o in zip(group, outcomes, strict=True) if w.loop is loop]
                    if not loop.is_closed():
                        loop.call_soon_threadsafe(_answer, mine)
                if closing:
                    return

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

    __slots__ = ("context", "future", "loop", "work")

    def __init__(
        self,
        work: Callable[[Connection], Any],
        future: "asyncio.Future[Any]",
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.context = contextvars.copy_context()


_Outcome = tuple[Any, BaseException | None]


def _commit(connection: Connection, group: list[_Write]) -> list[_Outcome]:
    """Run the group in one transaction; an outcome each, in order."""
    try:
        with connection.begin():
            outcomes = [_run(connection, write) for write in group]
    except Exception as error:  # noqa: BLE001 - the begin or the commit: nobody's work stands
        failure: BaseException = error
        if isinstance(error, OperationalError):
            failure = Unavailable(f"The database could not commit: {error.orig}")
            failure.__cause__ = error
        return [(None, failure)] * len(group)
    return outcomes


def _run(connection: Connection, write: _Write) -> _Outcome:
    # Straight to the driver: SQLAlchemy's nested transactions cost more than most of the work here.
    driver = connection.connection.cursor()
    driver.execute("SAVEPOINT work")
    try:
        result = write.context.run(write.work, connection)
    except Exception as error:  # noqa: BLE001 - raised again where the caller awaits
        driver.execute("ROLLBACK TO work")
        driver.execute("RELEASE work")
        return None, error
    driver.execute("RELEASE work")
    return result, None


def _answer(outcomes: list[tuple[_Write, _Outcome]]) -> None:
    for write, (result, error) in outcomes:
        if write.future.cancelled():
            continue
        if error is None:
            write.future.set_result(result)
        else:
            write.future.set_exception(error)


def _connect(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", pool_size=READERS + 1, connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: reads would then see no snapshot.
        dbapi_connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=5000",
        ):
            dbapi_connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writer = connection.get_execution_options().get("ebbtide_writer")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine
