"""The process that model servers are forked from, as seen by the server that started it.

It has imported what every model server imports, which is most of the time that a small one takes to start.
The other side and what passes between the two: runtime/forkserver.py.
"""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
from asyncio import Future
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 4096

ANSWER_S = 60.0
"""How long it may take to fork, its own start included: then it hangs, or somebody has stopped it."""

END_S = 5.0


class ForkServerEnded(Exception):
    """The process that model servers are forked from ended, and with it all that it had forked."""


class Forked:
    """A process that was asked for. `ended` gives its exit status, negative for the signal that killed it;
    `orphaned` says that this was the end of what it was forked from.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        """descriptor: of the process (pidfd), ours from now on: unlike the pid it never is another's."""
        self.pid = pid
        self.ended: Future[int] = asyncio.get_running_loop().create_future()
        self.orphaned = False
        self._descriptor = descriptor

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens to one that has ended."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def end(self, status: int) -> None:
        os.close(self._descriptor)
        self.ended.set_result(status)


class ForkServer:
    """Started when first needed, and again when it has ended."""

    def __init__(self, environment: Mapping[str, str], data: Path) -> None:
        """environment: its own, until a forked process takes on the one it is given.
        data: the server's, told to whoever lists processes: a fork's command line is the fork server's.
        """
        self._environment = environment
        self._data = data
        self._running: _Running | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Have it ready, or about to be, before it is needed. Raises OSError where there can be none."""
        await self._started()

    async def spawn(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        its_input: int,
        its_output: int,
        own_interpreter: bool,
    ) -> Forked:
        """Start `python -m ebbtide.runtime ARGUMENTS`, in a session of its own.

        own_interpreter: execute Python anew, so that the environment holds from its very start.
        Raises ForkServerEnded, OSError where there can be no further process.
        """
        request = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "directory": str(directory),
            "own_interpreter": own_interpreter,
        }
        running = await self._started()
        return await running.request(json.dumps(request).encode(), its_input, its_output)

    async def close(self) -> None:
        """End it, and with it what it forked."""
        if self._running is not None:
            await self._running.close()

    async def _started(self) -> "_Running":
        async with self._starting:
            if self._running is None or self._running.lost:
                self._running = await _Running.start(self._environment, self._data)
            return self._running


class _Running:
    """One process, from its start to its end."""

    def __init__(self, control: socket.socket, process: Process) -> None:
        self._control = control
        self._process = process
        self._asked: deque[Future[Forked]] = deque()
        self._forked: dict[int, Forked] = {}
        self.lost = False
        asyncio.get_running_loop().add_reader(control, self._read)

    @classmethod
    async def start(cls, environment: Mapping[str, str], data: Path) -> "_Running":
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            # No code of ours runs between fork and exec: this process has threads, and their locks.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "ebbtide.runtime.forkserver", str(data)),
                stdin=its.fileno(),
                cwd="/",
                # numpy's OpenBLAS would start threads as it is imported.
                env={**environment, "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        return cls(ours, process)

    async def request(self, request: bytes, its_input: int, its_output: int) -> Forked:
        asked: Future[Forked] = asyncio.get_running_loop().create_future()
        with os.fdopen(os.memfd_create("request"), "wb") as file:
            file.write(request)
            file.flush()
            try:
                socket.send_fds(self._control, [b"\0"], [its_input, its_output, file.fileno()])
            except OSError as error:
                raise ForkServerEnded from error
        self._asked.append(asked)
        # Not `wait_for`, which would cancel it with us: its answer is still to come.
        await asyncio.wait([asked], timeout=ANSWER_S)
        if not asked.done():
            log.warning("the fork server has not answered for %g s, and is killed", ANSWER_S)
            self._kill()
            self._lose()
        return asked.result()

    async def close(self) -> None:
        if not self.lost:
            self._lose()
        try:
            await asyncio.wait_for(self._process.wait(), END_S)
        except TimeoutError:
            self._kill()
            await self._process.wait()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    def _read(self) -> None:
        try:
            answer, descriptors, _, _ = socket.recv_fds(
                self._control, MAX_ANSWER_BYTES, 1, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return
        except ConnectionError:
            answer = b""
        if not answer:
            self._lose()
            return
        said = json.loads(answer)
        if descriptors:
            forked = self._forked[said["pid"]] = Forked(said["pid"], descriptors[0])
            self._asked.popleft().set_result(forked)
        elif "status" not in said:
            # Where our own limit of files let no descriptor through, its input ends, and so does it.
            self._fail(self._asked.popleft(), _os_error(said.get("errno", errno.EMFILE)))
        elif forked_before := self._forked.pop(said["pid"], None):
            forked_before.end(said["status"])

    @staticmethod
    def _fail(asked: Future[Forked], error: Exception) -> None:
        asked.set_exception(error)
        asked.exception()  # perhaps nobody waits for it any more

    def _lose(self) -> None:
        """What was forked has the kernel's word that it dies with the process that forked it."""
        self.lost = True
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        for asked in self._asked:
            self._fail(asked, ForkServerEnded())
        for forked in self._forked.values():
            forked.orphaned = True
            forked.end(-signal.SIGKILL)


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
