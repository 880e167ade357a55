"""`python -m ebbtide.runtime.forkserver DATA`: imports what model servers run, and forks them.

Its standard input is a Unix socket with message boundaries (SOCK_SEQPACKET) to the process that started it.
A request is one byte with three descriptors: the new process's standard input, its output, and a file with
`{"arguments", "environment", "directory", "own_interpreter"}` as JSON. The answer is `{"pid"}` with a
descriptor of the process (pidfd), and once that has ended `{"pid", "status"}`, as of subprocess; where there
can be no further process, `{"errno"}`.

A fork has only the thread that forked, and what another one had locked stays locked in it: so this process
never has a second thread. Should a library start one as it is imported, each model gets its own interpreter.
"""

import errno
import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ebbtide.runtime import __main__ as runtime
from ebbtide.runtime import contract, lifeline

PRELOADED = ("numpy", "ebbtide.runtime.summariser")
"""What a model server imports only as it loads its model. Not the engines: they hold 20 MB more."""

DESCRIPTORS = 3

logger = logging.getLogger(__name__)


class ForkServer:
    """The loop of this process."""

    def __init__(self, control: socket.socket, *, own_interpreters: bool) -> None:
        """own_interpreters: for every model server, as if each asked for one."""
        self._control = control
        self._own_interpreters = own_interpreters
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the other end closes the socket."""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._reap(key.fd, pid=key.data)
                elif not self._fork():
                    return

    def _fork(self) -> bool:
        """Carry out the next request; False when there will be none any more."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, DESCRIPTORS)
        if not message:
            return False
        try:
            pid, process = self._start(descriptors)
        except OSError as error:
            # This process must not end with it: all that it has forked would.
            self._answer({"errno": error.errno or errno.EAGAIN})
        else:
            self._selector.register(process, selectors.EVENT_READ, data=pid)
            self._answer({"pid": pid}, process)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _start(self, descriptors: Sequence[int]) -> tuple[int, int]:
        """The new process, and a descriptor of it."""
        if len(descriptors) < DESCRIPTORS:
            raise OSError(errno.EMFILE, "Too many open files")
        pid = os.fork()
        if pid == 0:
            for key in self._selector.get_map().values():
                os.close(key.fd)
            self._selector.close()
            _become(*descriptors, own_interpreter=self._own_interpreters)
        try:
            return pid, os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def _reap(self, process: int, *, pid: int) -> None:
        self._selector.unregister(process)
        os.close(process)
        # Until it is reaped, its number and its group's are nobody else's.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self._answer({"pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _answer(self, answer: dict[str, int], *descriptors: int) -> None:
        with suppress(BrokenPipeError):  # the next look at the socket says that nobody is there
            socket.send_fds(self._control, [json.dumps(answer).encode()], descriptors)


def _become(its_input: int, its_output: int, request: int, *, own_interpreter: bool) -> None:
    """Be the model server that was asked for, in the forked process, to its end."""
    try:
        os.setsid()
        for standard, descriptor in ((0, its_input), (1, its_output), (2, its_output)):
            os.dup2(descriptor, standard)
        with os.fdopen(request, "rb") as file:
            file.seek(0)
            wanted: dict[str, Any] = json.load(file)
        os.close(its_input)
        os.close(its_output)
        os.chdir(wanted["directory"])
        if wanted["own_interpreter"] or own_interpreter:
            command = [sys.executable, "-P", "-m", "ebbtide.runtime", *wanted["arguments"]]
            os.execve(sys.executable, command, wanted["environment"])  # noqa: S606 our own module
        os.environ.clear()
        os.environ.update(wanted["environment"])
        status = runtime.main(wanted["arguments"], entered_at=time.monotonic())
    except BaseException:
        logger.exception("The model server could not be started")
        status = 1
    contract.exit_now(status)


def main() -> None:
    lifeline.die_with_parent()
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    for name in PRELOADED:
        importlib.import_module(name)
    threads = [path.name for path in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        logger.warning("An import has started threads: each model server gets an interpreter of its own")
    gc.collect()
    gc.freeze()  # a collection in a fork would copy the pages of what is shared
    ForkServer(control, own_interpreters=len(threads) > 1).run()


if __name__ == "__main__":
    main()
