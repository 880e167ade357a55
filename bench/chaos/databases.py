"""The databases that a storm runs on, and what it does to them."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import psycopg
from tests.postgresql import PostgreSQL

LOCK_PATIENCE_S = 20

LOCK_IT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]), isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
database.execute("ROLLBACK")
"""


class NotLocked(Exception):
    """The lock cannot be had: the disk is full, say, or the database was just killed."""


class SQLiteFile:
    """The file in the server's data directory."""

    options: tuple[str, ...] = ()
    shared = False
    left_out = {
        "kill the database": "SQLite is no process",
        "kill the second server": "SQLite is one server's",
        "stop the second server": "SQLite is one server's",
    }

    def __init__(self, file: Path, enter: Sequence[str]) -> None:
        """enter: the command that leads to where the file is, before another."""
        self._command = [*enter, sys.executable, "-c", LOCK_IT, str(file), str(LOCK_PATIENCE_S)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile. Raises NotLocked."""
        other = subprocess.Popen(self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
        with other:
            assert other.stdout is not None
            assert other.stderr is not None
            if not other.stdout.readline():
                raise NotLocked(other.stderr.read())
            yield
            other.communicate()

    def close(self) -> None:
        pass


class PrivatePostgreSQL:
    """A PostgreSQL server of the storm's own."""

    shared = True
    left_out: dict[str, str] = {}

    def __init__(self) -> None:
        # It ends with the thread that has started it: one that lasts.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="postgresql")
        self._server = self._keeper.submit(PostgreSQL).result()
        self._url = self._server.url("postgres")
        self.options = ("--database", self._url)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else reads or writes an invocation meanwhile. Raises NotLocked."""
        try:
            with psycopg.connect(self._url, options=f"-c lock_timeout={LOCK_PATIENCE_S}s") as other:
                other.execute("LOCK TABLE invocations IN ACCESS EXCLUSIVE MODE")
                yield
                other.rollback()
        except psycopg.OperationalError as error:
            raise NotLocked(str(error)) from error

    def kill(self) -> None:
        """kill -9 of all its processes, and start it again."""
        self._server.kill()
        self._keeper.submit(self._server.start).result()

    def close(self) -> None:
        self._keeper.submit(self._server.close).result()
        self._keeper.shutdown()
