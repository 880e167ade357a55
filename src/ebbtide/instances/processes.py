"""A runtime's process: `python -m ebbtide.runtime ...`, in a group of its own, with little of ours.

It gets a scrubbed environment, a bound on its memory, and a standard input that ends when we do; what it
prints goes to its log. It is the kernel's first choice when memory runs out, before the server.
"""

import asyncio
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ebbtide import clock
from ebbtide.instances.fork_server import Forked, ForkServer
from ebbtide.logs import LogStream

OOM_SCORE_ADJUSTMENT = 500
"""Added, in thousandths of all memory, to what the kernel weighs when it must kill. The server has 0."""

READ_BYTES = 8192
"""Output taken at a time: what it holds in lines, which may be thousands, is logged in one go."""

MAX_LINE_BYTES = 200_000
"""A line this long is logged before it ends, so that one without an end takes no memory."""

DRAIN_OUTPUT_S = 1.0
"""How long the output of a process that has ended may stay open: a child of it may have kept it."""

WORKPLACE = "EBBTIDE_WORKPLACE"
"""Names in the environment where a process was started: its children are known by it wherever they went."""

STRAY_ROUNDS = 10
"""A process that forks while it is looked for is found in the next round."""

PASSED_ON = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"}
    | {"HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    | {
        name
        for proxy in ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
        for name in (proxy, proxy.upper())
    }
)
"""What a model sees of the server's environment. No AWS_* and no EBBTIDE_*: the keys stay with us."""


def passed_on(server: Mapping[str, str]) -> dict[str, str]:
    """What every process of a model sees of the server's environment."""
    return {name: value for name, value in server.items() if name in PASSED_ON}


def scrubbed_environment(
    server: Mapping[str, str],
    model: Mapping[str, str],
    *,
    region: str,
    threads: int,
    gpus: Sequence[int],
    workplace: Path,
    temporary: Path,
) -> dict[str, str]:
    """The environment of a model's process; what the model's own Environment says, wins.

    gpus: indices of the devices it may use. Source: sagemaker-inference and
    sagemaker-huggingface-inference-toolkit, which read these variables.
    """
    count = str(threads)
    return {
        **passed_on(server),
        "PYTHONUNBUFFERED": "1",
        "SAGEMAKER_REGION": region,
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
        **model,
        WORKPLACE: str(workplace),
    }


class RuntimeProcess:
    """One running process. `exited` gives its exit status once it has ended and its output is logged."""

    def __init__(
        self, process: Forked, workplace: Path, lifeline: int, output: "_Output", log: LogStream
    ) -> None:
        """lifeline: our end of its standard input."""
        self._process = process
        self._workplace = workplace
        self._lifeline = lifeline
        self._output = output
        self.pid = process.pid
        self.exited: asyncio.Task[int] = asyncio.create_task(self._follow(log))

    @classmethod
    async def spawn(
        cls,
        fork_server: ForkServer,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        own_interpreter: bool,
        memory_limit_bytes: int | None,
        log: LogStream,
    ) -> "RuntimeProcess":
        """Start it. Raises ForkServerEnded, OSError where there can be no further process."""
        its_input, lifeline = os.pipe()
        ours, its_output = os.pipe()
        output = await _Output.connect(ours)
        try:
            process = await fork_server.spawn(
                arguments,
                environment=environment,
                directory=directory,  # the model's to write to, not ours to import from
                its_input=its_input,
                its_output=its_output,
                own_interpreter=own_interpreter,
            )
        except BaseException:
            os.close(lifeline)
            output.close()
            raise
        finally:
            os.close(its_input)
            os.close(its_output)
        _bound(process.pid, memory_limit_bytes)
        return cls(process, directory, lifeline, output, log)

    @property
    def orphaned(self) -> bool:
        """It has ended with the process that it was forked from, by no doing of its own."""
        return self._process.orphaned

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, which lets what runs finish, and after the grace SIGKILL, for the whole group."""
        if not self.exited.done():
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=grace_s)
        self.kill()
        await self.exited

    def kill(self) -> None:
        """SIGKILL, unless it has ended. Its children go with it."""
        self._process.send_signal(signal.SIGKILL)

    async def _follow(self, log: LogStream) -> int:
        logging = asyncio.create_task(self._output.log_to(log))
        status = await self._process.ended
        await asyncio.to_thread(end_strays, self._workplace)
        os.close(self._lifeline)
        await asyncio.wait({logging}, timeout=DRAIN_OUTPUT_S)
        logging.cancel()
        self._output.close()
        log.close()
        return status


class _Output:
    """Our end of the pipe that a process prints to."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self._reader = reader
        self.close = transport.close

    @classmethod
    async def connect(cls, descriptor: int) -> "_Output":
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        return cls(reader, transport)

    async def log_to(self, log: LogStream) -> None:
        """Log what arrives, a line an event, until the pipe's other end is closed."""
        rest = b""
        while chunk := await self._reader.read(READ_BYTES):
            await asyncio.sleep(0)  # a read of what is there already gives nobody else a turn
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            _log(log, lines)
        if rest:
            _log(log, [rest])


def end_strays(workplace: Path) -> None:
    """SIGKILL to every process started from this workplace, whatever group or session it is in now."""
    mark = f"{WORKPLACE}={workplace}".encode()
    for _ in range(STRAY_ROUNDS):
        strays = [pid for pid in psutil.pids() if mark in _environment(pid)]
        if not strays:
            return
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return []


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exited with status {status}"
    name = signal.Signals(-status).name
    if name == "SIGKILL":
        return "was killed (SIGKILL), as the kernel does when memory runs out"
    return f"was killed ({name})"


def _bound(pid: int, memory_limit_bytes: int | None) -> None:
    with suppress(ProcessLookupError, FileNotFoundError):  # it has ended already
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJUSTMENT))
        if memory_limit_bytes is not None:
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))


def _log(log: LogStream, lines: Sequence[bytes]) -> None:
    log.write_all([line.rstrip(b"\r").decode(errors="replace") for line in lines], clock.now())
