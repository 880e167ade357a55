"""What differs between the databases: how they are reached, what may pass, whose turn it is to write."""

import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from ebbtide.errors import Unavailable

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection

KEPT_STATEMENTS = 512
"""How many prepared statements a connection keeps."""

ANSWER_S = 20.0
"""How long PostgreSQL may say nothing to a statement. By way of a proxy, or to a server that hangs, a
connection may be dead and never end: the system's own limits only see that bytes are taken."""

WRITER_LOCK = 0x656262_01
"""PostgreSQL's advisory lock of the server whose group is being written."""


class Kind(Protocol):
    """What differs between the databases."""

    engine: Engine
    readers: int

    def again(self) -> "Callable[[], Kind]":
        """What opens the same database in another process."""

    def open_writer(self) -> Connection: ...

    def open_reader(self) -> Connection: ...

    def turn(self) -> AbstractContextManager[None]:
        """Around a writer's transaction: whoever else writes waits."""

    def close(self) -> None: ...

    def executor(self, connection: Connection) -> Callable[[str], object]:
        """What runs a statement without parameters at the least cost."""

    def may_pass(self, error: BaseException | None) -> bool:
        """Whether a driver's error is the database's state and not the statement: later it may succeed."""

    def is_lost(self, connection: Connection) -> bool:
        """Whether the connection broke."""

    def check_before_commit(self, connection: Connection) -> None:
        """Raise where a commit would undo the transaction and not say so."""


class SQLite:
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

    def __init__(
        self, path: Path, file: tuple[int, int] | None = None, log: tuple[int, int] | None = None
    ) -> None:
        """file, log: the identities of the database and of its write-ahead log, if they must be these."""
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._file, self._log = file, log
        self._keeper: Connection | None = None
        # SQLite's own lock is asked for again and again, after ever longer pauses.
        self._turn = os.open(f"{path}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.engine = create_engine(f"sqlite:///{path}", creator=self._connect, pool_size=self.readers + 2)
        event.listen(self.engine, "connect", self._prepare)
        event.listen(self.engine, "begin", self._begin)

    def open_writer(self) -> Connection:
        connection = self.engine.connect().execution_options(ebbtide_writer=True)
        self._file = self._file or _identity(self._path)
        if self._keeper is None:
            # SQLite makes the log for the first that reads, and removes it after the last: this one stays.
            self._keeper = self.engine.connect()
            with self._keeper.begin():
                self.executor(self._keeper)("SELECT count(*) FROM sqlite_master")
            self._log = self._log or _identity(self._log_path)
        return connection

    def open_reader(self) -> Connection:
        return self.engine.connect()

    def again(self) -> "Callable[[], Kind]":
        return partial(SQLite, self._path, self._file, self._log)

    @contextmanager
    def turn(self) -> Iterator[None]:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
        self.engine.dispose()
        os.close(self._turn)

    def _connect(self) -> sqlite3.Connection:
        if self._log is not None:
            self._check_log()  # with another log than those that are open, it would spoil the file
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
        try:
            self._check_log()
        except Unavailable:
            # What it alone has is read from the log that we have open: the next start finds it in the file.
            if self._keeper is not None:
                with suppress(sqlite3.Error):
                    self.executor(self._keeper)("PRAGMA wal_checkpoint(PASSIVE)")
            raise

    def _check_log(self) -> None:
        if _identity(self._log_path) != self._log:
            raise Unavailable(f"{self._log_path} was removed or replaced: the server must be started anew")

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


class PostgreSQL:
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

        self._url = url
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

    def again(self) -> "Callable[[], Kind]":
        return partial(PostgreSQL, self._url)

    def turn(self) -> AbstractContextManager[None]:
        return nullcontext()  # taken with the beginning of the transaction, in one message

    def close(self) -> None:
        self.engine.dispose()

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


def postgresql_url(text: str) -> Any:
    """A postgresql:// or postgres:// URL's parts. Raises ValueError for any other text."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ValueError(f"{text!r} is no URL of a database") from error
    if url.drivername not in ("postgresql", "postgres"):
        raise ValueError(f"A database is a postgresql:// URL, not {url.drivername}://")
    return url
