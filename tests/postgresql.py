"""A private PostgreSQL for tests: a cluster of its own in a temporary directory, on a Unix socket."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from ebbtide.runtime.lifeline import die_with_parent

ADMINISTRATOR = "ebbtide"
PATIENCE_S = 120.0


class NotInstalledError(Exception):
    """There is no PostgreSQL server on this machine."""


def binaries() -> Path:
    """The directory of initdb and postgres, the newest version's. Raises NotInstalledError."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not installed:
        raise NotInstalledError(
            "The tests need PostgreSQL's server, 15 or newer: neither PATH nor /usr/lib/postgresql has its "
            "initdb (Debian: apt install postgresql). EBBTIDE_TEST_DATABASE=sqlite runs them without."
        )
    return installed[-1].parent


class PostgreSQL:
    """A server of its own. `kill` is kill -9 of all its processes, as the kernel's memory killer does it.

    durable: what was committed also outlives the machine's going down.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._binaries = binaries()
        # In memory, where tests write there (conftest.py); not below pytest's own, which others cannot enter.
        place = os.environ.get("PYTEST_DEBUG_TEMPROOT", "/tmp")
        self.directory = Path(tempfile.mkdtemp(prefix="ebbtide-postgresql-", dir=place))
        # postgres refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._durable = durable
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        # A locale whose order is not that of bytes: what sorts keys must not depend on it.
        made = self._run(
            "initdb",
            *("--pgdata", str(self.directory / "data"), "--username", ADMINISTRATOR, "--auth", "trust"),
            *("--encoding", "UTF8", "--locale-provider", "icu", "--icu-locale", "en-US", "--no-sync"),
        )
        if made.wait() != 0:
            raise RuntimeError(f"initdb failed:\n{(self.directory / 'log').read_text()}")
        self.start()

    def url(self, database: str) -> str:
        return f"postgresql://{ADMINISTRATOR}@/{database}?host={self.directory}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
        }
        if not self._durable:
            # `kill` loses nothing that was written: only a machine that goes down would.
            options |= {"shared_buffers": "32MB", "fsync": "off", "full_page_writes": "off"}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._server = self._run("postgres", "-D", str(self.directory / "data"), *arguments)
        _await(self._takes_connections)

    def kill(self) -> None:
        """End it and its backends at once, with nothing written that was not yet."""
        backends = self._hold()
        self._server.kill()
        for pid in backends:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.wait()
        # The next would not start beside one that has not let go of the shared memory yet.
        _await(lambda: all(_state(pid) in (None, "Z") for pid in backends))

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Meanwhile it takes what it is sent, and says nothing."""
        backends = self._hold()
        for pid in backends:
            os.kill(pid, signal.SIGSTOP)
        yield
        for pid in (*backends, self._server.pid):
            os.kill(pid, signal.SIGCONT)

    def _hold(self) -> list[int]:
        """Stop it from starting further backends; those there are."""
        self._server.send_signal(signal.SIGSTOP)
        _await(lambda: _state(self._server.pid) == "T")
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def stop(self) -> None:
        self._server.send_signal(signal.SIGINT)  # without waiting for clients
        self._server.wait()

    def close(self) -> None:
        if self._server.poll() is None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _takes_connections(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            if self._server.poll() is not None:
                raise RuntimeError(
                    f"postgres did not start:\n{(self.directory / 'log').read_text()}"
                ) from None
            return False
        return True

    def make_template(self, fill: Callable[[str], None]) -> str:
        """A database to copy, filled by `fill(url)`; its name."""
        name = _name()
        self._execute(f'CREATE DATABASE "{name}"')
        fill(self.url(name))
        return name

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A database of its own, copied from the template: its URL."""
        name = _name()
        # By files: a third of the work of writing it all into the log first, the default.
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        try:
            yield self.url(name)
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._binaries / program), *arguments],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                preexec_fn=die_with_parent,
            )


def _name() -> str:
    return f"e{uuid.uuid4().hex}"


def _state(pid: int) -> str | None:
    """A process's state as its kernel abbreviates it; None once there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _await(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not become true within {PATIENCE_S:.0f} s")
        time.sleep(0.002)
