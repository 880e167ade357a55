"""The databases that a storm runs on, and what it does to them."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from tests.postgresql import PostgreSQL

LOCK_PATIENCE_S = 20
NOT_LOCKED = (sqlite3.OperationalError, psycopg.OperationalError)
"""What `locked` raises when the lock cannot be had: the disk is full, the database just killed."""


class SQLiteFile:
    """The file in the server's data directory, `seen_from_here`."""

    options: tuple[str, ...] = ()
    left_out = {"kill the database": "SQLite is no process"}

    def __init__(self, seen_from_here: Path) -> None:
        self._file = seen_from_here

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile."""
        with closing(sqlite3.connect(self._file, timeout=LOCK_PATIENCE_S, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
            other.execute("ROLLBACK")

    def kill(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class PrivatePostgreSQL:
    """A PostgreSQL server of the storm's own."""

    left_out: dict[str, str] = {}

    def __init__(self) -> None:
        # It ends with the thread that has started it: one that lasts.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="postgresql")
        self._server = self._keeper.submit(PostgreSQL).result()
        self._url = self._server.url("postgres")
        self.options = ("--database", self._url)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else reads or writes an invocation meanwhile."""
        with psycopg.connect(self._url, options=f"-c lock_timeout={LOCK_PATIENCE_S}s") as other:
            other.execute("LOCK TABLE invocations IN ACCESS EXCLUSIVE MODE")
            yield
            other.rollback()

    def kill(self) -> None:
        """kill -9 of all its processes, and start it again."""
        self._server.kill()
        self._keeper.submit(self._server.start).result()

    def close(self) -> None:
        self._keeper.submit(self._server.close).result()
        self._keeper.shutdown()
