"""A model server's process: how it is started, spoken to, bounded, and how it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ebbtide.errors import Unavailable
from ebbtide.instances import fork_server as fork_server_module
from ebbtide.instances.fork_server import ForkServer
from ebbtide.instances.model_server import (
    Launch,
    ModelFailed,
    ModelServer,
    clear_left_over,
    needs_own_interpreter,
    prepare,
)
from ebbtide.instances.processes import describe_exit, passed_on, scrubbed_environment
from ebbtide.logs import LogStore, LogStream

IMAGE = "huggingface-pytorch-inference"
ECHO = {"HF_MODEL_ID": "ebbtide/echo"}


@pytest.fixture
def log(tmp_path: Path) -> LogStream:
    return LogStore(tmp_path / "logs").of("123456789012").stream("group", "stream")


def launch(tmp_path: Path, *, code: str | None = None, **given: Any) -> Launch:
    """How to start the built-in echo, or a model that is only its code/inference.py."""
    directory = None
    if code is not None:
        directory = tmp_path / "model"
        (directory / "code").mkdir(parents=True)
        (directory / "code" / "inference.py").write_text(code)
    defaults: dict[str, Any] = {
        "image": IMAGE,
        "model_directory": directory,
        "cache": tmp_path / "cache",
        "environment": ECHO if code is None else {},
        "region": "us-east-1",
        "concurrency": 2,
        "threads": 1,
    }
    return Launch(**defaults | given)


@pytest.fixture
async def fork_server(tmp_path: Path) -> AsyncIterator[ForkServer]:
    fork_server = ForkServer(passed_on(os.environ), tmp_path)
    yield fork_server
    await fork_server.close()


@pytest.fixture
async def start(log: LogStream, fork_server: ForkServer) -> AsyncIterator[Callable[..., Any]]:
    """Starts model servers that end with the test."""
    started: list[ModelServer] = []

    async def start(launch: Launch, timeout_s: float = 120.0) -> ModelServer:
        server = await ModelServer.start(launch, log, fork_server)
        started.append(server)
        await server.ready(timeout_s)
        return server

    yield start
    for server in started:
        await server.stop(0)


def printed(log: LogStream) -> list[str]:
    return [event.message for event in log.forward(0)]


async def ask(server: ModelServer, body: Any) -> Any:
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
    async with server.exchanges.post("/invocations", headers, content) as answer:
        return json.loads(await answer.read())


async def gone(pid: int) -> bool:
    """Whether the process ends, given a while."""
    for _ in range(6_000):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_model_server_answers_once_it_is_ready(start, tmp_path):
    server = await start(launch(tmp_path))

    assert await ask(server, {"inputs": "text"}) == {"inputs": "text"}


async def test_what_the_model_prints_is_its_log(start, tmp_path, log):
    code = """
import sys
import tempfile
def model_fn(model_dir):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("no newline at its end")
def predict_fn(data, model):
    return data
"""
    server = await start(launch(tmp_path, code=code))
    await server.stop(60)

    lines = printed(log)
    assert "to stdout" in lines
    assert any("to stderr" in line for line in lines)
    assert any("no newline at its end" in line for line in lines)


async def test_a_model_that_cannot_be_loaded_says_why(start, tmp_path):
    code = """
def model_fn(model_dir):
    raise RuntimeError("the weights are not there")
def predict_fn(data, model):
    return data
"""
    with pytest.raises(ModelFailed, match="the weights are not there"):
        await start(launch(tmp_path, code=code))


async def test_a_model_that_ends_its_process_has_an_exit_status(start, tmp_path):
    code = """
import os
def model_fn(model_dir):
    os._exit(7)
def predict_fn(data, model):
    return data
"""
    with pytest.raises(ModelFailed, match="the model server exited with status 7"):
        await start(launch(tmp_path, code=code))


async def test_a_model_that_does_not_come_up_in_its_time_has_failed(start, tmp_path):
    code = """
import time
def model_fn(model_dir):
    time.sleep(1000)
def predict_fn(data, model):
    return data
"""
    with pytest.raises(ModelFailed, match=r"within 0 s \(ContainerStartupHealthCheckTimeoutInSeconds\)"):
        await start(launch(tmp_path, code=code), timeout_s=0.2)


async def test_a_model_sees_nothing_of_the_servers_keys(start, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("EBBTIDE_SECRET_ACCESS_KEY", "secret")
    code = """
import os
def model_fn(model_dir):
    return dict(os.environ)
def predict_fn(data, model):
    return model
"""
    server = await start(launch(tmp_path, code=code, environment={"HF_TASK": "mine"}))

    environment = await ask(server, {"inputs": "x"})

    assert "secret" not in environment.values()
    assert environment["HF_TASK"] == "mine"
    assert environment["SAGEMAKER_REGION"] == "us-east-1"


async def test_its_children_end_with_it(start, tmp_path):
    code = """
import subprocess
def model_fn(model_dir):
    return subprocess.Popen(["sleep", "1000"]).pid
def predict_fn(data, model):
    return model
"""
    server = await start(launch(tmp_path, code=code))
    child = await ask(server, {"inputs": "x"})

    await server.stop(5)

    assert await gone(child)
    assert await gone(server.pid)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go, under a name short enough for a socket's address."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        yield Path(short)


async def test_it_leaves_no_files_behind(temporary, start, tmp_path):
    server = await start(launch(tmp_path))
    assert temporary.stat().st_nlink > 2

    await server.stop(5)

    assert not any(temporary.iterdir())


async def test_it_starts_where_temporary_files_have_names_too_long_for_a_socket(start, tmp_path, monkeypatch):
    long = tmp_path / ("l" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    server = await start(launch(tmp_path))

    assert await ask(server, {"inputs": "x"}) == {"inputs": "x"}


async def test_its_socket_is_its_owners_alone(temporary, start, tmp_path):
    await start(launch(tmp_path))

    (place,) = temporary.glob("ebbtide-*")
    assert place.stat().st_mode & 0o777 == 0o700


async def test_its_memory_is_bounded(start, tmp_path):
    code = """
def model_fn(model_dir):
    return bytearray(400 * 1024 * 1024)
def predict_fn(data, model):
    return data
"""
    with pytest.raises(ModelFailed, match="MemoryError"):
        await start(launch(tmp_path, code=code, memory_limit_bytes=300 * 2**20))


async def test_what_it_takes_is_measured_with_its_children(start, tmp_path):
    server = await start(launch(tmp_path))

    resident, peak = await asyncio.to_thread(server.memory_bytes)

    assert 10 * 2**20 < resident <= peak < 500 * 2**20


async def test_it_is_the_kernels_choice_when_memory_runs_out(start, tmp_path):
    server = await start(launch(tmp_path))

    assert int(Path(f"/proc/{server.pid}/oom_score_adj").read_text()) == 500


async def test_it_dies_with_the_server_that_started_it(tmp_path):
    parent = tmp_path / "parent.py"
    parent.write_text(f"""
import asyncio
import os
from pathlib import Path
from ebbtide.instances.fork_server import ForkServer
from ebbtide.instances.fork_server import ForkServer
from ebbtide.instances.model_server import Launch, ModelServer
from ebbtide.logs import LogStore

async def main():
    data = Path({str(tmp_path)!r})
    log = LogStore(data / "logs").of("123456789012").stream("group", "stream")
    launch = Launch({IMAGE!r}, None, Path({str(tmp_path)!r}), {ECHO!r}, "us-east-1", 1, 1)
    server = await ModelServer.start(launch, log, ForkServer(os.environ, data))
    await server.ready(120)
    print(server.pid, flush=True)
    await server.exited

asyncio.run(main())
""")
    process = subprocess.Popen([sys.executable, str(parent)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(await asyncio.to_thread(process.stdout.readline))

    process.send_signal(signal.SIGKILL)
    process.wait()

    assert await gone(pid)


DAEMON = """
import subprocess
def model_fn(model_dir):
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
def predict_fn(data, model):
    return model
"""


async def test_what_its_model_started_ends_with_it_in_whatever_session(start, tmp_path):
    server = await start(launch(tmp_path, code=DAEMON))
    daemon = await ask(server, {})
    assert psutil.pid_exists(daemon)

    await server.stop(0)

    assert await gone(daemon)


async def test_what_a_killed_server_leaves_is_cleared_by_the_next(start, tmp_path):
    left = launch(tmp_path, code=DAEMON)
    server = await start(left)
    daemon = await ask(server, {})
    [link] = (left.cache / "workplaces").iterdir()
    workplace = link.readlink()

    clear_left_over(left.cache)

    assert await gone(server.pid)
    assert await gone(daemon)
    assert not workplace.exists()
    assert not list((left.cache / "workplaces").iterdir())


async def test_preparing_says_why_it_cannot(tmp_path, log, fork_server):
    with pytest.raises(ModelFailed, match="/nowhere, which does not exist"):
        await prepare(launch(tmp_path, environment={"HF_MODEL_ID": "/nowhere"}), log, fork_server)


async def test_preparing_a_built_in_model_is_nothing(tmp_path, log, fork_server):
    await prepare(launch(tmp_path), log, fork_server)


async def test_model_servers_are_forked_when_one_was_before(start, tmp_path):
    first = await start(launch(tmp_path))
    second = await start(launch(tmp_path))

    assert psutil.Process(first.pid).parent() == psutil.Process(second.pid).parent()
    assert psutil.Process(second.pid).cmdline() == psutil.Process(second.pid).parent().cmdline()


@pytest.mark.parametrize("engine", ["ctranslate2", "native"])
async def test_a_forked_model_server_computes_with_its_engines_threads(
    start, trained, tmp_path, log, fork_server, engine
):
    wanted = launch(
        tmp_path,
        environment={
            "HF_MODEL_ID": str(trained("pegasus")),
            "HF_TASK": "summarization",
            "EBBTIDE_ENGINE": engine,
            "EBBTIDE_COMPUTE_TYPE": "float32",
        },
        threads=2,
    )
    await prepare(wanted, log, fork_server)

    # The second is forked while the first one's threads compute.
    first = await start(wanted)
    asked = asyncio.create_task(ask(first, {"inputs": "a b c", "parameters": {"num_beams": 4}}))
    second = await start(wanted)

    assert await ask(second, {"inputs": "a b c", "parameters": {"num_beams": 4}}) == await asked
    assert second.start_report()["engine"]["engine"] == engine
    assert psutil.Process(first.pid).parent() == psutil.Process(second.pid).parent()


async def test_nothing_is_forked_beside_a_thread(start, tmp_path):
    """What another thread had locked would stay locked in the fork."""
    server = await start(launch(tmp_path))

    assert psutil.Process(server.pid).parent().num_threads() == 1


async def test_a_forked_model_server_has_its_own_session_environment_and_nobody_elses_files(start, tmp_path):
    await start(launch(tmp_path))
    server = await start(launch(tmp_path))

    assert os.getsid(server.pid) == server.pid
    open_files = {link.readlink() for link in Path(f"/proc/{server.pid}/fd").iterdir()}
    assert Path("anon_inode:[pidfd]") not in open_files


async def test_when_the_fork_server_ends_its_model_servers_do_and_the_next_is_forked_anew(start, tmp_path):
    first = await start(launch(tmp_path))
    psutil.Process(first.pid).parent().kill()

    assert await first.exited == -signal.SIGKILL
    assert await gone(first.pid)
    second = await start(launch(tmp_path))
    assert await ask(second, {"inputs": "text"}) == {"inputs": "text"}


async def test_a_start_that_the_fork_server_ended_in_is_not_the_models_failure(tmp_path, log, fork_server):
    server = await ModelServer.start(launch(tmp_path), log, fork_server)
    psutil.Process(server.pid).parent().kill()

    with pytest.raises(Unavailable, match="forked from has ended"):
        await server.ready(60)

    await server.stop(0)


async def test_where_there_can_be_no_further_process_a_start_waits_and_those_that_run_live_on(
    start, tmp_path, log, fork_server
):
    first = await start(launch(tmp_path))
    parent = psutil.Process(first.pid).parent()
    limits = parent.rlimit(psutil.RLIMIT_NOFILE)

    for more in (0, 3):  # none for what it is sent; for that, but not for the new process
        parent.rlimit(psutil.RLIMIT_NOFILE, (parent.num_fds() + more, limits[1]))
        with pytest.raises(Unavailable, match="no place for another process now: Too many open files"):
            await ModelServer.start(launch(tmp_path), log, fork_server)
    parent.rlimit(psutil.RLIMIT_NOFILE, limits)

    assert await ask(first, {"inputs": "text"}) == {"inputs": "text"}
    second = await start(launch(tmp_path))
    assert second.pid in {child.pid for child in parent.children()}


async def test_a_fork_server_that_hangs_is_replaced_and_keeps_nobody_from_ending(
    start, tmp_path, fork_server, monkeypatch
):
    monkeypatch.setattr(fork_server_module, "END_S", 0.1)
    first = await start(launch(tmp_path))
    psutil.Process(first.pid).parent().suspend()

    with monkeypatch.context() as impatient:
        impatient.setattr(fork_server_module, "ANSWER_S", 0.1)
        with pytest.raises(Unavailable, match="forked from has ended"):
            await start(launch(tmp_path))
    assert await first.exited == -signal.SIGKILL
    second = await start(launch(tmp_path))
    assert await ask(second, {"inputs": "text"}) == {"inputs": "text"}

    psutil.Process(second.pid).parent().suspend()
    await fork_server.close()
    assert await second.exited == -signal.SIGKILL


@pytest.mark.parametrize(
    ("environment", "code", "own"),
    [
        pytest.param({"HF_TASK": "summarization"}, False, False, id="what the runtime reads is read late"),
        pytest.param({"OMP_NUM_THREADS": "1"}, False, True, id="a library reads its names as it starts"),
        pytest.param({"LD_PRELOAD": "x.so"}, False, True, id="so does the loader"),
        pytest.param({}, True, True, id="a model with code of its own"),
        pytest.param({"HF_TRUST_REMOTE_CODE": "1"}, False, True, id="a model whose code is trusted"),
    ],
)
def test_a_model_has_an_interpreter_of_its_own_where_it_could_tell(tmp_path, environment, code, own):
    code_or_none = "def model_fn(model_dir): ..." if code else None

    assert needs_own_interpreter(launch(tmp_path, code=code_or_none, environment=environment)) == own


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param(0, "exited with status 0", id="an exit"),
        pytest.param(-signal.SIGSEGV, "was killed (SIGSEGV)", id="a crash"),
        pytest.param(
            -signal.SIGKILL,
            "was killed (SIGKILL), as the kernel does when memory runs out",
            id="out of memory",
        ),
    ],
)
def test_how_a_process_ended_in_words(status, words):
    assert describe_exit(status) == words


def test_the_models_own_environment_wins():
    environment = scrubbed_environment(
        {"PATH": "/bin", "EBBTIDE_DATA": "/data", "SECRET": "s", "HTTPS_PROXY": "http://proxy"},
        {"OMP_NUM_THREADS": "8"},
        region="eu-west-1",
        threads=2,
        gpus=(1, 3),
        workplace=Path("/tmp/x"),
        temporary=Path("/tmp/x/tmp"),
    )

    assert environment.keys() >= {"PATH", "HTTPS_PROXY", "TMPDIR"}
    assert not environment.keys() & {"EBBTIDE_DATA", "SECRET"}
    assert environment["OMP_NUM_THREADS"] == "8"
    assert environment["OPENBLAS_NUM_THREADS"] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
