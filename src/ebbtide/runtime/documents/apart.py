"""PDFs, web pages and Word documents are read in processes of their own, each within memory and time: what a
file unpacks to, takes quadratic time with, or breaks the library with, ends its process and nothing else.

The first file starts the reader, a process that has the libraries and forks for each file: a fork takes
milliseconds where an interpreter with its imports takes a second. A fork has nothing of the model server's,
and a file is read by a fork of the fork, whose end the first one tells.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ebbtide.runtime import lifeline
from ebbtide.runtime.documents.document import Document
from ebbtide.runtime.errors import BadRequest

MEMORY_BYTES = 2 << 30
"""What reading may take beside the file itself; a book of 10,000 pages takes a quarter of it."""

CPU_S, MAX_CPU_S = 30, 1200
CPU_S_PER_MB = {"pdf": 30, "html": 2, "docx": 5}
"""Seconds of a processor; five times and more what honest files take."""

REFUSED = 3
"""The exit code when the answer is why the file cannot be read."""

LIBRARIES = {"pdf": "pypdfium2", "html": "trafilatura", "docx": "docx"}
"""The modules of this package that read in a process apart -> what they import."""

_END = b"\0"
"""Before the exit status; JSON has none. An answer without it is of a reader that has ended meanwhile."""

NAMES = {"pdf": "PDF", "html": "HTML page", "docx": "Word document"}


def read(body: bytes, kind: str, charset: str | None = None) -> Document:
    """As the module of that kind reads. Raises BadRequest for what takes too much memory or time, too."""
    if find_spec(LIBRARIES[kind]) is None:
        raise ModuleNotFoundError(f"No module named {LIBRARIES[kind]!r}", name=LIBRARIES[kind])
    status, content = _reader.ask(body, {"kind": kind, "charset": charset})
    if status == 0:
        return Document(**json.loads(content))
    if status == REFUSED:
        raise BadRequest(json.loads(content))
    if status == -signal.SIGXCPU:
        raise BadRequest(
            f"The {NAMES[kind]} cannot be read: it takes more than {_cpu_s(kind, len(body))} s of a processor"
        )
    raise BadRequest(
        f"The {NAMES[kind]} cannot be read: "
        f"it takes more than {MEMORY_BYTES} bytes of memory, or breaks {LIBRARIES[kind]}"
    )


def close() -> None:
    """End the reader; the next file starts another."""
    _reader.close()


class _Reader:
    """The reader as its parent sees it. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def ask(self, body: bytes, request: dict[str, Any]) -> tuple[int, bytes]:
        """The exit status of the process that read the file, and what that wrote."""
        file = os.memfd_create("document")
        try:
            with open(file, "wb", closefd=False) as written:
                written.write(body)
            for _ in range(2):
                with self._lock:
                    control = self._started()
                content, end, status = _asked(control, file, json.dumps(request).encode()).partition(_END)
                if end:
                    return int.from_bytes(status, signed=True), content
                with self._lock:
                    if self._control is control:  # else another thread has noticed already
                        self._end()
        finally:
            os.close(file)
        raise RuntimeError("The process that reads documents ended twice before it had answered")

    def close(self) -> None:
        with self._lock:
            self._end()

    def _started(self) -> socket.socket:
        if self._control is None:
            self._control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its:
                # -I: the modules of a model's own code are not its affair.
                command = [sys.executable, "-I", "-m", __name__]
                self._process = subprocess.Popen(command, stdin=its.fileno(), stdout=subprocess.DEVNULL)  # noqa: S603
        return self._control

    def _end(self) -> None:
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.wait()
        self._control = self._process = None


def _asked(control: socket.socket, file: int, request: bytes) -> bytes:
    """What comes of the request, as far as it comes: the reader may be no more."""
    answer, write_end = os.pipe()
    with os.fdopen(answer, "rb") as pipe:
        try:
            socket.send_fds(control, [request], [file, write_end])
        except OSError:
            return b""
        finally:
            os.close(write_end)
        return pipe.read()


_reader = _Reader()


def main() -> None:
    """Be the reader: fork for each request until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells the whole group: its parent decides
    control = socket.socket(fileno=os.dup(0))
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 4096, 2)
        if not message:
            return
        request = json.loads(message)
        for module in (f"{__package__}.{request['kind']}", LIBRARIES[request["kind"]]):
            import_module(module)
        if os.fork() == 0:
            control.close()
            os._exit(_watch(*descriptors, **request))
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _watch(file: int, answer: int, **request: Any) -> int:
    """Have a fork read the file, and add how that ended to its answer."""
    lifeline.die_with_parent()
    pid = os.fork()
    if pid == 0:
        lifeline.die_with_parent()
        os._exit(_read(file, answer, **request))
    _, status = os.waitpid(pid, 0)
    os.write(answer, _END + os.waitstatus_to_exitcode(status).to_bytes(1, signed=True))
    return 0


def _read(file: int, answer: int, *, kind: str, charset: str | None) -> int:
    with open(file, "rb") as opened:
        opened.seek(0)
        body = opened.read()
    _bound(resource.RLIMIT_AS, MEMORY_BYTES + 2 * len(body))
    _bound(resource.RLIMIT_CPU, _cpu_s(kind, len(body)))
    _bound(resource.RLIMIT_CORE, 0)
    module = import_module(f"{__package__}.{kind}")
    with open(answer, "wb") as written:
        try:
            document = module.read(body, charset) if kind == "html" else module.read(body)
        except BadRequest as refusal:
            written.write(json.dumps(str(refusal)).encode())
            return REFUSED
        except MemoryError:
            return 1
        written.write(json.dumps(asdict(document)).encode())
    return 0


def _bound(kind: int, most: int) -> None:
    """Within what bounds this process anyway."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _cpu_s(kind: str, size: int) -> int:
    return min(MAX_CPU_S, CPU_S + CPU_S_PER_MB[kind] * size // 1_000_000)


if __name__ == "__main__":
    main()
