"""Processes of a measurement: private Redis and PostgreSQL servers, workers, and how all of them end.

Everything listens on free loopback ports and keeps its data in the measurement's folder. Nothing outlives it:
each process leads a group that is killed at the end, and what left its group (Ray's daemons) is known by a
mark in its environment.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from bench.peers import environment

MARK = "EBBTIDE_BENCH_PEERS"
START_S = 60.0
STOP_S = 10.0
LOG_TAIL_BYTES = 4000


@contextmanager
def marked() -> Iterator[None]:
    """What is started within carries a mark; who still lives at the end is killed."""
    mark = str(uuid.uuid4())
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]
        left = [process for process in psutil.process_iter() if _carries(process, mark)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=STOP_S)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        # Our own environment as the system shows it is that of our start, without the mark.
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    user: str | None = None,
    work_in: Path | None = None,
    stdin: int | IO[str] | None = subprocess.DEVNULL,
    stdout: int | IO[str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[str]]:
    """A process that leads a group of its own; what it says goes to folder/NAME.log, unless stdout is given.

    At the end the process gets `stop`, and its group SIGKILL once it ended or after STOP_S.
    """
    name = f"{Path(command[0]).name}-{uuid.uuid4().hex[:8]}"
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=work_in or folder,
            env={**os.environ, "TMPDIR": str(folder), **(variables or {})},
            stdin=stdin,
            stdout=log if stdout is None else stdout,
            stderr=log,
            text=True,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        try:
            yield process
        finally:
            process.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


def last_words(folder: Path) -> str:
    """The ends of all logs in a folder, for the message of a failure."""
    logs = {log.name: log.read_bytes()[-LOG_TAIL_BYTES:] for log in sorted(folder.glob("*.log"))}
    return "\n".join(f"--- {name}\n{words.decode(errors='replace')}" for name, words in logs.items() if words)


@contextmanager
def redis(folder: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a fresh Redis as it comes without a configuration file, but for these options."""
    port = _free_port()
    command = [environment.redis_server(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    with running([*command, *options], folder=folder) as process:
        _await_port(process, port, folder)
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of an empty database on a fresh PostgreSQL with the settings that initdb writes."""
    binaries, user, port = environment.postgres_binaries(), environment.postgres_user(), _free_port()
    data = folder / "postgres"
    data.mkdir()
    if user is not None:
        shutil.chown(data, user)
    subprocess.run(
        [
            binaries / "initdb",
            "--pgdata",
            data,
            "--username",
            "bench",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
        ],
        check=True,
        cwd=data,
        stdout=subprocess.DEVNULL,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    command: list[str | Path] = [
        binaries / "postgres",
        "-D",
        data,
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-k",
        data,
    ]
    # SIGINT is its fast shutdown: it does not wait for clients.
    with running(command, folder=folder, user=user, work_in=data, stop=signal.SIGINT) as process:
        ready: list[str | Path] = [
            binaries / "pg_isready",
            "--quiet",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        _await(lambda: subprocess.run(ready, check=False).returncode == 0, process, folder)
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(process: subprocess.Popen[str], port: int, folder: Path) -> None:
    def connects() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    _await(connects, process, folder)


def _await(ready: Callable[[], bool], process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"a server did not start:\n{last_words(folder)}")
        time.sleep(0.02)
