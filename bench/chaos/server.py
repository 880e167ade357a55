"""The server under the storm: on a small disk, with a wall clock that can be set, started again when it ends.

Neither needs root: the disk is a tmpfs in a mount namespace of its own, the clock a library loaded before
libc. Where a machine has not what a fault takes, that fault says why it is left out.
"""

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import psutil

from ebbtide.cli.running import RunningServer
from ebbtide.runtime.lifeline import die_with_parent
from ebbtide.settings import Credentials

PATIENCE_S = 120.0
"""Bounds the wait for a server's coming up or going down."""

RESTART_PAUSE_S = 0.2

FILLED_BYTES = 4 << 20
"""What a disk that is being filled still has, and its ballast takes."""

INODES = 1 << 20

SIZE_BYTES = 1 << 36
"""Of a small disk that is not full. The server wants a gigabyte to be free before it unpacks a model."""


class Unavailable(Exception):
    """This machine has not what a fault takes; the message says what."""


class SmallDisk:
    """A tmpfs at `place` that only processes started with `enter` see there; it ends with this process.

    It takes as much memory as lies in it, full or not.
    """

    def __init__(self, place: Path, used_bytes: int) -> None:
        """used_bytes: how much will lie in it. Raises Unavailable."""
        if not (shutil.which("unshare") and shutil.which("nsenter")):
            raise Unavailable("unshare and nsenter (util-linux) are not installed")
        if used_bytes > psutil.virtual_memory().available // 2:
            raise Unavailable(f"a small disk takes {used_bytes >> 20} MiB of memory, which is not free")
        place.mkdir(parents=True, exist_ok=True)
        root = os.geteuid() == 0
        own_user = [] if root else ["--user", "--map-root-user"]
        mount = 'mount -t tmpfs -o "size=$1,mode=700" tmpfs "$2" && echo mounted && exec sleep infinity'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", *own_user, "sh", "-c", mount, "sh", str(SIZE_BYTES), str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if not self._holder.stdout.readline():
            words = self._holder.stderr.read().decode().strip()
            self._holder.wait()
            raise Unavailable(f"a file system cannot be mounted here: {words}")
        self.enter = ["nsenter", "--target", str(self._holder.pid), "--mount"]
        if not root:
            self.enter += ["--user", "--preserve-credentials"]
        self._place = place
        self._ballast = self.seen_from_here(place / "ballast")

    def seen_from_here(self, path: Path) -> Path:
        """The path by which a process outside, as this one, reaches one inside."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def fill(self) -> None:
        """Leave no byte free; called again it takes what has been freed meanwhile."""
        if not self._ballast.exists():
            # What is written while we look leaves less than that: the disk cannot be made smaller than full.
            while not self._resize(self._used_bytes() + FILLED_BYTES):
                pass
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 12))

    def fill_up_names(self) -> None:
        """Leave no inode free: no file and no directory can be made, whatever room there is."""
        found = os.statvfs(self._ballast.parent)
        while not self._remount(f"nr_inodes={found.f_files - found.f_ffree}"):
            found = os.statvfs(self._ballast.parent)

    def free(self) -> None:
        self._remount(f"nr_inodes={INODES}")
        self._resize(SIZE_BYTES)
        self._ballast.unlink(missing_ok=True)

    def _used_bytes(self) -> int:
        found = os.statvfs(self._ballast.parent)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _resize(self, size_bytes: int) -> bool:
        return self._remount(f"size={size_bytes}")

    def _remount(self, option: str) -> bool:
        command = [*self.enter, "mount", "-o", f"remount,{option}", str(self._place)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


class WallClock:
    """The wall clock of the processes started with `environment`; set by an offset in s."""

    def __init__(self, place: Path) -> None:
        """place: a directory for its files. Raises Unavailable."""
        library = place / "wall_clock.so"
        compiler = shutil.which("cc")
        if compiler is None:
            raise Unavailable("there is no C compiler for the library that sets the wall clock")
        source = Path(__file__).with_name("wall_clock.c")
        made = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"],
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise Unavailable(f"the library that sets the wall clock cannot be compiled: {made.stderr}")
        self._offset = place / "wall_clock_offset"
        self._offset.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._offset)}

    def set(self, offset_s: int) -> None:
        with self._offset.open("r+b") as file:
            file.write(struct.pack("=q", offset_s))


class Server:
    """`ebbtide serve` under a supervisor that starts it again, whyever it has ended.

    `up` is set from its readiness to the signal that is to end it, or its end. `ends` counts processes that
    have ended, `failed_starts` those that ended by themselves before they were ready. `broken` names what it
    did that no server may: end by itself, or leave a SIGTERM with another status than 0.
    """

    def __init__(
        self,
        data: Path,
        log: Path,
        *,
        enter: list[str],
        environment: Mapping[str, str],
        options: Sequence[str],
        beside: "Server | None" = None,
    ) -> None:
        """beside: the one whose database it shares, and with it the key."""
        key = (
            beside.running.credentials
            if beside
            else Credentials(f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))
        )
        # Bound and not listening, as long as we are here: a server takes its port again at each start, and
        # meanwhile nobody else may get it, a client's own end of a connection included.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        port = self._holder.getsockname()[1]
        self.running = RunningServer(f"http://127.0.0.1:{port}", "us-east-1", key)
        self.up = threading.Event()
        self.broken: list[str] = []
        self.ends = 0
        self.failed_starts = 0
        self._data = data
        self._log = log
        ebbtide = [sys.executable, "-P", str(Path(__file__).with_name("serve.py"))]
        serve = [*ebbtide, "serve", "--data", str(data), "--port", str(port)]
        self._command = [*enter, *serve, *options]
        self._environment = {
            **_without_ours(os.environ),
            **environment,
            "EBBTIDE_ACCESS_KEY_ID": key.access_key_id,
            "EBBTIDE_SECRET_ACCESS_KEY": key.secret_access_key,
        }
        self._changing = threading.Lock()
        """Held by whoever looks at the fields below and acts on what they say."""
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False
        self._stopping = False
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")
        self._supervisor.start()

    def await_up(self) -> None:
        """Raises TimeoutError, at once for a server that does not even start the first time."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.up.wait(RESTART_PAUSE_S):
            never_up = 0 < self.ends == self.failed_starts
            if time.monotonic() < deadline and not never_up:
                continue
            end = self._log.read_text(errors="replace")[-2000:]
            raise TimeoutError(f"The server is not up after {PATIENCE_S:.0f} s. Its log ends:\n{end}")

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def terminate(self, *, hurry_after_s: float | None = None) -> None:
        """SIGTERM, and a second one after so many s; returns once it has ended."""
        self._end(signal.SIGTERM, hurry_after_s)

    def send(self, number: signal.Signals) -> None:
        """A signal that is not waited for; to nobody when it is not up."""
        with self._changing:
            self._signal(number, ends=number is signal.SIGTERM)

    def model_servers(self) -> list[psutil.Process]:
        """Its model servers and whatever else runs for it, the server itself aside."""
        own = self._process.pid if self._process is not None else 0
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.pid != own
            and {"ebbtide.runtime", "ebbtide.runtime.forkserver"} & {*(process.info["cmdline"] or ())}
            and any(str(self._data) in argument for argument in process.info["cmdline"])
        ]

    def writer_processes(self) -> list[psutil.Process]:
        """What it has at most one of."""
        own = self._process.pid if self._process is not None else 0
        return [
            process
            for process in psutil.process_iter(["cmdline", "ppid"])
            if process.info["ppid"] == own and "ebbtide.database" in (process.info["cmdline"] or ())
        ]

    def close(self) -> None:
        """End it by a SIGTERM, for good; one that is not up, at once."""
        with self._changing:
            self._stopping = True
            up = self.up.is_set()
            if not up:
                self._signal(signal.SIGKILL, ends=True)
        if up:
            self.terminate()
        self._supervisor.join()
        self._holder.close()

    def _end(self, number: signal.Signals, hurry_after_s: float | None = None) -> None:
        with self._changing:
            process = self._process
            assert process is not None
            self._signal(number, ends=True)
        if hurry_after_s is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(hurry_after_s)
            process.send_signal(number)
        try:
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.broken.append(f"the server was still there {PATIENCE_S:.0f} s after {number.name}")
            process.kill()
            return
        if number is signal.SIGTERM and status != 0:
            self.broken.append(f"the server ended with status {status} after SIGTERM")

    def _signal(self, number: signal.Signals, *, ends: bool) -> None:
        """To the process there is. One that it `ends` counts as not up from here on, not from when the
        supervisor learns of its end: our caller may await the next start before that.
        """
        if ends:
            self._ending = True
            self.up.clear()
        if self._process is not None:
            self._process.send_signal(number)  # to nobody, if it has ended

    def _supervise(self) -> None:
        with self._log.open("wb") as log:
            while (process := self._start(log)) is not None:
                assert process.stdout is not None
                ready = process.stdout.readline()
                with self._changing:
                    if ready and not self._ending:
                        _note(log, f"process {process.pid} is up")
                        self.up.set()
                status = process.wait()
                _note(log, f"process {process.pid} has ended with status {status}")
                process.stdout.close()
                with self._changing:
                    self.up.clear()
                    if not self._ending and ready:
                        self.broken.append(f"the server ended by itself, with status {status}")
                    elif not self._ending:
                        self.failed_starts += 1  # on a full disk, say
                    self.ends += 1
                time.sleep(RESTART_PAUSE_S)

    def _start(self, log: BinaryIO) -> subprocess.Popen[bytes] | None:
        """The next process, unless there is to be none any more."""
        with self._changing:
            if self._stopping:
                return None
            _note(log, "the server is started")
            self._ending = False
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=die_with_parent,
            )
            return self._process


def _note(log: BinaryIO, words: str) -> None:
    log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} STORM {words}\n".encode())
    log.flush()


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which nothing leads to a server of the developer's."""
    return {name: value for name, value in environment.items() if not name.startswith(("AWS_", "EBBTIDE_"))}
