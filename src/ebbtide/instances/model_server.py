"""One model server: a runtime's process behind a private Unix socket, spoken to as to SageMaker's containers.

GET /ping says when it can serve, POST /invocations asks it to. Before the first one of a deployment starts,
`prepare` does what is needed once per model version: download, conversion.
"""

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ebbtide.disk import room_for
from ebbtide.errors import Unavailable
from ebbtide.instances import machine
from ebbtide.instances.exchange import Exchanges
from ebbtide.instances.fork_server import ForkServer, ForkServerEnded
from ebbtide.instances.processes import RuntimeProcess, describe_exit, end_strays, scrubbed_environment
from ebbtide.logs import LogStream

WORKPLACES = "workplaces"

SOCKET_PATH_BYTES = 107
"""The longest address of a socket in the file system. Source: unix(7), sun_path."""

STARTUP_TIMEOUT_S = 240.0
"""Until /ping must answer 200, where ContainerStartupHealthCheckTimeoutInSeconds says nothing."""

PREPARE_TIMEOUT_S = 3600.0
"""For download and conversion. Source: ModelDataDownloadTimeoutInSeconds, its largest value."""

PING_TIMEOUT_S = 2.0
STOP_GRACE_S = 30.0
"""From SIGTERM to SIGKILL. Both: SageMaker Developer Guide, your-algorithms-inference-code."""

FIRST_POLLS_S, LATER_POLLS_S, POLLED_OFTEN_S = 0.005, 0.2, 2.0
"""A small model is up in a few hundredths of a second, and its first request waits for it."""

NO_ROOM = os.EX_TEMPFAIL
"""A runtime's exit status when the disk was full. Source: runtime/errors.py."""

READ_WHILE_RUNNING = ("HF_", "SAGEMAKER_", "EBBTIDE_", "CT2_COMPUTE_TYPE")
"""How names in a model's Environment begin at which only the runtime looks, and what it imports later. Any
other may be meant for the interpreter, the loader or a library, which look when they start."""


ORPHANED = "The process that model servers are forked from has ended, and is started anew."


class ModelFailed(Exception):
    """The model cannot be served. The message says why in one line, for an operator."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a model server is started with.

    `model_directory` is None for a model that its environment names (HF_MODEL_ID). `cache` is shared by all:
    what `prepare` made, by content, `cache_bytes` at the most while nobody uses them. `memory_limit_bytes`
    bounds its private memory. `gpus`: device indices.
    """

    image: str
    model_directory: Path | None
    cache: Path
    environment: Mapping[str, str]
    region: str
    concurrency: int
    threads: int
    gpus: tuple[int, ...] = ()
    memory_limit_bytes: int | None = None
    cache_bytes: int | None = None


def needs_own_interpreter(launch: Launch) -> bool:
    """Whether the model must not be forked from a process that has its imports behind it.

    One with code of its own has an interpreter of its own: what that code starts is known by the environment
    which it was executed with, and libraries are as the code's author knows them.
    """
    names = launch.environment
    if any(not name.startswith(READ_WHILE_RUNNING) for name in names):
        return True
    roots = [launch.model_directory, Path(names["HF_MODEL_ID"]) if names.get("HF_MODEL_ID") else None]
    has_code = any((root / "code").exists() for root in roots if root is not None)
    return has_code or "HF_TRUST_REMOTE_CODE" in names


def _temporary_root() -> str:
    """Where temporary files go, unless a socket there would have too long an address."""
    root = tempfile.gettempdir()
    fits = len(os.fsencode(f"{root}/ebbtide-12345678/socket")) <= SOCKET_PATH_BYTES
    return root if fits else "/tmp"  # noqa: S108  a private directory is made in it


class _Workplace:
    """A private directory, its name short enough for a socket's address: socket, status, temporary files.

    A link in the launch's cache leads to it, so that a server killed in between finds it when it is back.
    """

    def __init__(self, launch: Launch) -> None:
        """Raises Unavailable on a full disk."""
        with room_for("a model server's directory"):
            self.path = Path(tempfile.mkdtemp(prefix="ebbtide-", dir=_temporary_root()))
            self._link = launch.cache / WORKPLACES / self.path.name
            self.temporary = self.path / "tmp"
            try:
                self._link.parent.mkdir(parents=True, exist_ok=True)
                self._link.symlink_to(self.path)
                self.temporary.mkdir()
            except OSError:
                self.remove()
                raise
        self.socket = self.path / "socket"
        self._status = self.path / "status.json"

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._link.unlink(missing_ok=True)

    def arguments(self, command: str, launch: Launch) -> list[str]:
        arguments = [command, "--model-dir", str(launch.model_directory or ""), "--cache", str(launch.cache)]
        if launch.cache_bytes is not None:
            arguments += ["--cache-bytes", str(launch.cache_bytes)]
        spawned = ["--spawned-at", str(time.monotonic())]
        return [*arguments, "--image", launch.image, "--status", str(self._status), *spawned]

    def failure(self) -> str | None:
        """Why the runtime says it failed, if it does."""
        reason = self.status().get("reason")
        return None if reason is None else str(reason)

    def status(self) -> dict[str, Any]:
        """What the runtime says of itself; empty before it says anything."""
        try:
            status: dict[str, Any] = json.loads(self._status.read_text())
        except (OSError, ValueError):
            return {}
        return status

    async def spawn(
        self, fork_server: ForkServer, arguments: list[str], launch: Launch, log: LogStream
    ) -> RuntimeProcess:
        try:
            with room_for("another process"):
                return await RuntimeProcess.spawn(
                    fork_server,
                    arguments,
                    environment=scrubbed_environment(
                        os.environ,
                        launch.environment,
                        region=launch.region,
                        threads=launch.threads,
                        gpus=launch.gpus,
                        workplace=self.path,
                        temporary=self.temporary,
                    ),
                    directory=self.path,
                    own_interpreter=needs_own_interpreter(launch),
                    memory_limit_bytes=launch.memory_limit_bytes,
                    log=log,
                )
        except ForkServerEnded as error:
            raise Unavailable(ORPHANED) from error


def clear_left_over(cache: Path) -> None:
    """End what a killed server's model servers left running, and remove their files.

    cache: that server's. Only for one who is alone on it, before its first model server.
    """
    for link in (cache / WORKPLACES).glob("*"):
        workplace = link.readlink()
        end_strays(workplace)
        shutil.rmtree(workplace, ignore_errors=True)
        link.unlink()


async def prepare(launch: Launch, log: LogStream, fork_server: ForkServer) -> None:
    """Have the runtime do what a model version needs once; quick when it was done.

    Raises ModelFailed, and Unavailable on a full disk or when the fork server ended.
    """
    workplace = _Workplace(launch)
    try:
        arguments = workplace.arguments("prepare", launch)
        process = await workplace.spawn(fork_server, arguments, launch, log)
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                status = await asyncio.shield(process.exited)
        except TimeoutError as error:
            raise ModelFailed(f"preparing the model took longer than {PREPARE_TIMEOUT_S:.0f} s") from error
        finally:
            process.kill()
        if status == NO_ROOM:
            raise Unavailable(
                workplace.failure() or "There is no room to prepare the model: the disk is full."
            )
        if process.orphaned:
            raise Unavailable(ORPHANED)
        if status != 0:
            raise ModelFailed(workplace.failure() or f"preparing the model {describe_exit(status)}")
    finally:
        workplace.remove()


class ModelServer:
    """A running model server. `exchanges` pass requests to it; `launch` is what it was started with;
    `exited` gives its exit status once it has ended.
    """

    def __init__(self, process: RuntimeProcess, workplace: _Workplace, launch: Launch) -> None:
        self._process = process
        self._workplace = workplace
        self.launch = launch
        self.pid = process.pid
        self.exited = process.exited
        self.exchanges = Exchanges(workplace.socket)
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(workplace.socket), limit=0))

    @classmethod
    async def start(cls, launch: Launch, log: LogStream, fork_server: ForkServer) -> "ModelServer":
        """Start its process; it does not serve before `ready` returns.

        Raises Unavailable on a full disk, where there can be no further process, or when the fork server
        ended.
        """
        workplace = _Workplace(launch)
        arguments = workplace.arguments("serve", launch)
        arguments += ["--socket", str(workplace.socket), "--concurrency", str(launch.concurrency)]
        try:
            process = await workplace.spawn(fork_server, arguments, launch, log)
        except BaseException:
            workplace.remove()
            raise
        return cls(process, workplace, launch)

    async def ready(self, timeout_s: float) -> None:
        """Return once /ping answers 200. Raises ModelFailed when it ends first, or takes longer; Unavailable
        when it ended for want of room on the disk, or with the fork server.
        """
        began_at = time.monotonic()
        while not self.exited.done():
            waited_s = time.monotonic() - began_at
            if await self._answers_ping():
                return
            if waited_s > timeout_s:
                raise ModelFailed(
                    f"it did not answer GET /ping with 200 within {timeout_s:.0f} s "
                    "(ContainerStartupHealthCheckTimeoutInSeconds)"
                )
            poll_s = FIRST_POLLS_S if waited_s < POLLED_OFTEN_S else LATER_POLLS_S
            await asyncio.wait({self.exited}, timeout=poll_s)
        if self.exited.result() == NO_ROOM:
            raise Unavailable(self._workplace.failure() or "The model's start found the disk full.")
        if self._process.orphaned:
            raise Unavailable(ORPHANED)
        raise ModelFailed(self.describe_end())

    def describe_end(self) -> str:
        """Why it has ended: what it said itself, else how the process ended."""
        if self._process.orphaned:
            return ORPHANED
        return self._workplace.failure() or f"the model server {describe_exit(self.exited.result())}"

    def start_report(self) -> dict[str, Any]:
        """`phases_s`, how long each phase of the start took and then the first request; `engine`, what the
        model is computed with, or None.
        """
        status = self._workplace.status()
        return {"phases_s": status.get("timings_s", {}), "engine": status.get("engine")}

    def memory_bytes(self) -> tuple[int, int]:
        """Resident memory of it and its children now, and their peaks."""
        return machine.process_memory(self.pid)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Let what runs finish for at most the grace, then end it and its children."""
        self.exchanges.close()
        await self._session.close()
        await self._process.stop(grace_s)
        self._workplace.remove()

    async def running_requests(self, timeout_s: float) -> int | None:
        """How many requests it says it computes; None when it does not say so in that time."""
        try:
            _, headers = await self._ping(timeout_s)
            return int(headers["X-Ebbtide-Running"])
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError, RuntimeError):
            return None  # the last: it was stopped meanwhile

    async def hangs(self, timeout_s: float) -> bool:
        """Whether it takes a GET /ping and does not answer in that time."""
        try:
            await self._ping(timeout_s)
        except TimeoutError:
            return True
        except (aiohttp.ClientError, RuntimeError):
            return False  # it is ending, or was stopped meanwhile, which is seen otherwise
        return False

    async def _ping(self, timeout_s: float) -> tuple[int, Mapping[str, str]]:
        """The status and headers of GET /ping."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.get("http://model/ping", timeout=timeout) as answer:
            return answer.status, answer.headers

    async def _answers_ping(self) -> bool:
        try:
            return (await self._ping(PING_TIMEOUT_S))[0] == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
