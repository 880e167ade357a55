"""The one database, SQLite or PostgreSQL: its connections, its single writer and its tables' registry.

Reads run in a few threads, each on a snapshot. Writes of the whole process pass one thread that runs
many callers' work in one transaction, a savepoint each, and answers them after the commit: each is
durable, and a disk flush is shared by all who waited for it (group commit).

Of several servers beside one PostgreSQL one writes at a time, group by group, as SQLite has it by itself:
what a caller's work reads stays true until its commit, and no work need know of other servers.

A database that is locked, restarted or out of reach is asked again for a few seconds; then callers are told
that it is unavailable, and later calls reach it once it is back. Work that was not committed is run again
meanwhile, so it may run more than once.
"""

import asyncio
import contextvars
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from sqlalchemy import Column, Connection, Engine, MetaData, String, Text, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.compiler import compiles

from ebbtide.errors import Unavailable, Unconfirmed

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection

T = TypeVar("T")

metadata = MetaData()
"""Every module's tables; a module declares its own with `Table(name, metadata, ...)`."""

MAX_GROUP = 256
"""Most callers in one transaction: bounds how long the first waits for the last."""

MAX_ROWS = 32
"""Most rows that one statement is given. Each number of rows is a text of its own, which drivers prepare."""

KEPT_STATEMENTS = 512
"""How many prepared statements a connection keeps."""

PATIENCE_S = 5.0
"""How long after it was asked for a read or a write is tried again, while the database cannot be used."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
"""Between such tries; doubled from one to the next."""

ANSWER_S = 20.0
"""How long PostgreSQL may say nothing to a statement. By way of a proxy, or to a server that hangs, a
connection may be dead and never end: the system's own limits only see that bytes are taken."""

WRITER_LOCK = 0x656262_01
"""PostgreSQL's advisory lock of the server whose group is being written."""


class Database:
    """Connections to a SQLite file, in WAL mode with synchronous=FULL, or to a PostgreSQL database."""

    def __init__(self, where: Path | str) -> None:
        """where: the file's path, or a postgresql:// URL.

        Raises SQLAlchemy's DatabaseError when it cannot be opened or is no database, ValueError for a URL
        that is none.
        """
        self._kind: _Kind = _PostgreSQL(where) if isinstance(where, str) else _SQLite(where)
        # Opened here, so that a database which cannot be used is told of at once.
        self._writing: Connection | None = self._kind.open_writer()
        self._readers = ThreadPoolExecutor(self._kind.readers, thread_name_prefix="database-reader")
        self._pending: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._run_writer, name="database-writer", daemon=True)
        self._writer.start()

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
        """Run `work` in the writer's next transaction and return its result once that is on disk.

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

    def close(self) -> None:
        """Finish what was submitted, then close the connections."""
        self._pending.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._kind.engine.dispose()

    def _read(self, work: Callable[[Connection], T], asked_at: float) -> T:
        def attempt() -> T:
            with self._kind.open_reader() as connection, connection.begin():
                return work(connection)

        return self._patiently(attempt, asked_at)

    def _run_writer(self) -> None:
        closing = False
        while not closing and (first := self._pending.get()) is not None:
            group, closing = self._gather(first)
            outcomes = self._carry_out(group)
            for loop in {write.loop for write in group}:
                mine = [(w, o) for w, o in zip(group, outcomes, strict=True) if w.loop is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_answer, mine)
        self._close_writer()

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

    def _carry_out(self, group: "list[_Write]") -> "list[_Outcome]":
        """Run the group in one transaction, again while it could not be committed; an outcome each."""
        try:
            return self._patiently(lambda: self._commit(group), group[0].asked_at)
        except Exception as error:  # noqa: BLE001 - the begin or the commit: nobody's work stands
            return [(None, error)] * len(group)

    def _commit(self, group: "list[_Write]") -> "list[_Outcome]":
        if self._writing is None:
            self._writing = self._kind.open_writer()
        connection = self._writing
        try:
            transaction = connection.begin()
            outcomes = _run_all(connection, group, self._kind)
            if len(outcomes) == 1 and outcomes[0][1] is not None:
                transaction.rollback()
                return outcomes
            self._kind.check_before_commit(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if self._kind.is_lost(connection):
                    raise Unconfirmed(
                        "The database was lost during the commit, which was done or was not: "
                        f"{_one_line(error.orig)}"
                    ) from error
                raise
        except Exception:
            # Whatever state it is in, the next group must not inherit it.
            self._close_writer()
            raise
        return outcomes

    def _close_writer(self) -> None:
        if self._writing is not None:
            with suppress(Exception):
                self._writing.invalidate()
                self._writing.close()
            self._writing = None

    def _patiently(self, attempt: Callable[[], T], asked_at: float) -> T:
        """Try until it succeeds, fails for good, or the caller has waited for PATIENCE_S.

        Raises Unavailable in the last case, and what `attempt` raises for good.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except Exception as error:
                cause = error.orig if isinstance(error, DBAPIError) else error
                if not self._kind.may_pass(cause):
                    raise
                if time.monotonic() + pause_s - asked_at > PATIENCE_S:
                    raise Unavailable(f"The database cannot be used now: {_one_line(cause)}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class _Write:
    """One caller's work and where its outcome goes."""

    __slots__ = ("asked_at", "context", "future", "loop", "work")

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
        self.asked_at = time.monotonic()


_Outcome = tuple[Any, BaseException | None]


def _run_all(connection: Connection, group: list[_Write], kind: "_Kind") -> list[_Outcome]:
    """Run the group's works in order; an outcome each. One that is alone is undone with its transaction."""
    if len(group) == 1:
        return [_run(connection, group[0], kind)]
    outcomes = []
    # Straight to the driver: SQLAlchemy's nested transactions cost more than most of the work here.
    execute = kind.executor(connection)
    for write in group:
        execute("SAVEPOINT work")
        outcome = _run(connection, write, kind)
        if outcome[1] is not None:
            execute("ROLLBACK TO work")
        execute("RELEASE work")
        outcomes.append(outcome)
    return outcomes


def _run(connection: Connection, write: _Write, kind: "_Kind") -> _Outcome:
    """Raises what befell the whole transaction; what the work itself raises is its outcome."""
    try:
        return write.context.run(write.work, connection), None
    except Exception as error:
        if kind.may_pass(error.orig if isinstance(error, DBAPIError) else error):
            raise
        return None, error


def _answer(outcomes: list[tuple[_Write, _Outcome]]) -> None:
    for write, (result, error) in outcomes:
        if write.future.cancelled():
            continue
        if error is None:
            write.future.set_result(result)
        else:
            write.future.set_exception(error)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


class _Kind(Protocol):
    """What differs between the databases."""

    engine: Engine
    readers: int

    def open_writer(self) -> Connection: ...

    def open_reader(self) -> Connection: ...

    def executor(self, connection: Connection) -> Callable[[str], object]:
        """What runs a statement without parameters at the least cost."""

    def may_pass(self, error: BaseException | None) -> bool:
        """Whether a driver's error is the database's state and not the statement: later it may succeed."""

    def is_lost(self, connection: Connection) -> bool:
        """Whether the connection broke."""

    def check_before_commit(self, connection: Connection) -> None:
        """Raise where a commit would undo the transaction and not say so."""


class _SQLite:
    readers = 2

    # Our own patience goes on after that, and looks at how long the caller has waited.
    BUSY_TIMEOUT_MS = 1000

    _PASSING = frozenset(
        (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_NOMEM,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_PROTOCOL,
        )
    )

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self.engine = create_engine(f"sqlite:///{path}", creator=self._connect, pool_size=self.readers + 1)
        event.listen(self.engine, "connect", self._prepare)
        event.listen(self.engine, "begin", self._begin)

    def open_writer(self) -> Connection:
        connection = self.engine.connect().execution_options(ebbtide_writer=True)
        self._file = self._file or _identity(self._path)
        return connection

    def open_reader(self) -> Connection:
        return self.engine.connect()

    def _connect(self) -> sqlite3.Connection:
        # Once there was a file, none is made in its place: an empty one would look like a database.
        mode = "rwc" if self._file is None else "rw"
        return sqlite3.connect(
            f"file:{quote(str(self._path))}?mode={mode}",
            uri=True,
            check_same_thread=False,
            cached_statements=KEPT_STATEMENTS,
        )

    def executor(self, connection: Connection) -> Callable[[str], object]:
        return connection.connection.cursor().execute

    def may_pass(self, error: BaseException | None) -> bool:
        # An extended code has its kind in the lowest byte.
        return isinstance(error, sqlite3.Error) and (
            getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in self._PASSING
        )

    def is_lost(self, connection: Connection) -> bool:  # noqa: ARG002 - a file has no connection to lose
        return False

    def check_before_commit(self, connection: Connection) -> None:  # noqa: ARG002 - it is about the file
        self._check_file()

    def _check_file(self) -> None:
        # SQLite goes on writing to a file that has no name any more, of which nothing would be left.
        if _identity(self._path) != self._file:
            raise Unavailable(f"{self._path} was removed or replaced: the server must be started anew")

    def _prepare(self, connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: reads would then see no snapshot.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={self.BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def _begin(self, connection: Connection) -> None:
        writer = connection.get_execution_options().get("ebbtide_writer")
        if writer:
            self._check_file()
        self.executor(connection)("BEGIN IMMEDIATE" if writer else "BEGIN")


def _identity(path: Path) -> tuple[int, int] | None:
    """What file this is, by whatever name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _PostgreSQL:
    readers = 4

    # A connection whose other end is gone without a word is given up within seconds.
    CONNECTION = {
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }

    # A server that stops in the middle of a group must not keep the others from writing.
    SESSION = "SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '6s'"

    # What the driver does not count among its operational errors: a transaction that PostgreSQL ended for its
    # length, and a server that is, for now, another's standby.
    PASSING = frozenset({"25P03", "25P04", "25006"})

    def __init__(self, url: str) -> None:
        import psycopg

        self._error, self._operational_error = psycopg.Error, psycopg.OperationalError
        self.engine = create_engine(
            postgresql_url(url).set(drivername="postgresql+psycopg"),
            pool_size=self.readers + 1,
            connect_args=self.CONNECTION,
        )
        self._snapshots = self.engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        event.listen(self.engine, "do_connect", self._connect)
        event.listen(self.engine, "connect", self._prepare)
        event.listen(self.engine, "begin", self._begin)

    def open_writer(self) -> Connection:
        # Autocommit is the driver's: it leaves the beginning of transactions to `_begin`.
        connection = self._bounded(self.engine.connect())
        return connection.execution_options(isolation_level="AUTOCOMMIT", ebbtide_writer=True)

    def open_reader(self) -> Connection:
        return self._bounded(self._snapshots.connect())

    def _bounded(self, connection: Connection) -> Connection:
        # Only here, not for every connection of the pool: changing a schema may take its time.
        self._driver(connection).answer_s = ANSWER_S  # type: ignore[attr-defined]
        return connection

    def executor(self, connection: Connection) -> Callable[[str], object]:
        cursor = self._driver(connection).cursor()
        # Prepared, two statements could not be sent as one, and these need no plan.
        return lambda statement: cursor.execute(statement, prepare=False)

    def may_pass(self, error: BaseException | None) -> bool:
        # Lost connections, deadlocks, lock timeouts, shutdowns, a full disk: nothing wrong in a statement.
        return isinstance(error, self._operational_error) or (
            isinstance(error, self._error) and error.sqlstate in self.PASSING
        )

    def is_lost(self, connection: Connection) -> bool:
        return connection.invalidated or self._driver(connection).closed

    def check_before_commit(self, connection: Connection) -> None:
        # After a failed statement whose error a work kept to itself, COMMIT is answered by a rollback.
        from psycopg.pq import TransactionStatus

        status = self._driver(connection).info.transaction_status
        if status is not TransactionStatus.INTRANS:
            raise RuntimeError("a statement failed and its error was not raised: nothing can be committed")

    def _connect(
        self, _dialect: Any, _record: Any, positional: Any, named: dict[str, Any]
    ) -> "PsycopgConnection[Any]":
        return _bounded_class().connect(*positional, **named)

    def _prepare(self, connection: "PsycopgConnection[Any]", _record: Any) -> None:
        from psycopg.types.string import StrDumperUnknown

        class TextDumper(StrDumperUnknown):
            """Texts without NUL, which PostgreSQL cannot hold: what callers send is refused before, and what
            is left are words of model servers and of errors.
            """

            def dump(self, text: str) -> Any:
                return super().dump(text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text)

        connection.adapters.register_dumper(str, TextDumper)
        connection.prepared_max = KEPT_STATEMENTS
        connection.autocommit = True
        connection.execute(self.SESSION)
        connection.autocommit = False

    def _begin(self, connection: Connection) -> None:
        if connection.get_execution_options().get("ebbtide_writer"):
            self.executor(connection)(f"BEGIN; SELECT pg_advisory_xact_lock({WRITER_LOCK})")

    def _driver(self, connection: Connection) -> "PsycopgConnection[Any]":
        driver: PsycopgConnection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
        return driver


@cache
def _bounded_class() -> "type[PsycopgConnection[Any]]":
    from psycopg import Connection, OperationalError

    class Bounded(Connection[Any]):
        """A connection that is closed when PostgreSQL has said nothing to a statement for `answer_s`."""

        answer_s = math.inf

        def wait(self, gen: Any, *given: Any, **named: Any) -> Any:
            return super().wait(self._within(gen), *given, **named)

        def _within(self, generator: Any) -> Generator[Any, Any, Any]:
            """What psycopg waits for; it is sent what is ready, and regularly that nothing is."""
            try:
                waits_for = next(generator)
                heard_at = time.monotonic()
                while True:
                    ready = yield waits_for
                    now = time.monotonic()
                    if ready:
                        heard_at = now
                    elif now - heard_at > self.answer_s:
                        self.pgconn.finish()
                        raise OperationalError(f"PostgreSQL has not answered for {self.answer_s:.0f} s")
                    waits_for = generator.send(ready)
            except StopIteration as end:
                return end.value

    return Bounded


class Statement:
    """A statement for what every group of invocations pays for, with a `?` for each value.

    It goes straight to the driver: SQLAlchemy's work on parameters and results takes longer than most of
    these statements do. Errors are the driver's own.
    """

    def __init__(self, text: str) -> None:
        self._texts = {"sqlite": text, "postgresql": _numbered(text)}

    def execute(self, connection: Connection, values: Sequence[Any]) -> list[Any]:
        """Carry it out; returns the rows it answers with as tuples, if it is one that does."""
        return _on_driver(connection, self._texts[connection.dialect.name], values)


def _on_driver(connection: Connection, text: str, values: Sequence[Any]) -> list[Any]:
    cursor = _cursor(connection)
    try:
        cursor.execute(text, values)
        return [] if cursor.description is None else list(cursor.fetchall())
    finally:
        cursor.close()


def _cursor(connection: Connection) -> Any:
    """A driver's cursor that takes a statement's text as the database reads it."""
    if connection.dialect.name != "postgresql":
        return connection.connection.cursor()
    from psycopg import RawCursor

    # Other cursors of psycopg look for their own placeholders, at each execution of a long text: that took
    # longer than the statement.
    driver: PsycopgConnection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
    return RawCursor(driver)


def _numbered(text: str) -> str:
    """A statement with PostgreSQL's own placeholders, $1 and on, for each `?`."""
    first, *others = text.split("?")
    return first + "".join(f"${n}{part}" for n, part in enumerate(others, 1))


class Rows:
    """A `Statement` that many rows pass together: whenever the driver begins one, the writer lets the event
    loop have the interpreter and waits for it after.
    """

    def __init__(self, statement: str, row: str) -> None:
        """statement: `{}` in it stands for the rows. row: one of them, a `?` for each of its values."""
        self._statement = statement
        self._row = row
        self._texts: dict[tuple[str, int], str] = {}

    def execute(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Carry it out; returns the rows it answers with, if it is one that does."""
        answers: list[Any] = []
        for begin in range(0, len(rows), MAX_ROWS):
            some = rows[begin : begin + MAX_ROWS]
            text = self._text(connection.dialect.name, len(some))
            answers += _on_driver(connection, text, tuple(chain.from_iterable(some)))
        return answers

    def _text(self, dialect: str, size: int) -> str:
        text = self._texts.get((dialect, size))
        if text is None:
            text = self._statement.format(", ".join([self._row] * size))
            if dialect == "postgresql":
                text = _numbered(text)
            self._texts[dialect, size] = text
        return text


def postgresql_url(text: str) -> Any:
    """A postgresql:// or postgres:// URL's parts. Raises ValueError for any other text."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ValueError(f"{text!r} is no URL of a database") from error
    if url.drivername not in ("postgresql", "postgres"):
        raise ValueError(f"A database is a postgresql:// URL, not {url.drivername}://")
    return url


@compiles(String, "postgresql")
@compiles(Text, "postgresql")
def _compare_bytes(*_: Any, type_expression: object = None, **__: Any) -> str:
    """Columns of texts compare by their bytes, as in SQLite and S3, whatever locale a database has."""
    return 'TEXT COLLATE "C"' if isinstance(type_expression, Column) else "TEXT"
