"""SageMaker's container contract, spoken by a model server in its own process."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.model_servers import PYTORCH, ModelServerProcess, Start

from ebbtide.instances.exchange import Exchanges
from ebbtide.runtime.contract import MAX_BODY_BYTES

EXTRACTIVE = {"HF_MODEL_ID": "ebbtide/extractive"}
ECHO = {"HF_MODEL_ID": "ebbtide/echo"}
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def echo(start_module: Start) -> ModelServerProcess:
    return start_module(ECHO).ready()


WAITING = """
import pathlib
def model_fn(model_dir):
    return pathlib.Path(model_dir)
def input_fn(body, content_type):
    return body
def predict_fn(data, model):
    (model / "entered").touch()
    with open(model / "gate") as gate:
        return gate.read()
"""
"""A model that announces each request and answers what is written into its pipe."""


def test_a_model_server_is_unready_until_its_model_is_loaded(start: Start, archive: Callable[[str], Path]):
    folder = archive("def model_fn(model_dir):\n    return open(model_dir + '/gate').read()\n")
    os.mkfifo(folder / "gate")
    server = start(model_dir=folder)
    server.await_phase("loading")

    ping = server.ask("GET", "/ping")
    while_loading = ping.status, server.invoke({"inputs": "x"}).status
    (folder / "gate").write_text("loaded")
    server.ready()

    assert while_loading == (503, 503)
    assert ping.headers["X-Ebbtide-Running"] == "0"
    assert server.status()["phase"] == "ready"


def test_its_status_file_says_what_each_phase_took(start: Start):
    server = start(EXTRACTIVE, concurrency=3).ready()

    status = server.status()

    assert status["phase"] == "ready"
    assert status["reason"] is None
    assert status["concurrency"] == 3
    assert set(status["timings_s"]) == {"importing", "preparing", "loading"}


def test_its_status_file_says_what_the_first_request_took(start: Start):
    server = start(EXTRACTIVE).ready()

    server.invoke({"inputs": "One sentence. Another sentence."})
    server.wait_until(lambda: "answering" in server.status()["timings_s"])


def test_an_image_that_nothing_serves_fails_naming_it(start: Start):
    server = start(EXTRACTIVE, image="123.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:0.90-1-cpu-py3")

    code = server.exit_code()

    assert code == 1
    assert server.status()["phase"] == "failed"
    assert "sagemaker-xgboost" in server.status()["reason"]


def test_sigterm_finishes_the_request_under_way(start: Start, archive: Callable[[str], Path]):
    folder = archive(WAITING)
    os.mkfifo(folder / "gate")
    server = start(model_dir=folder).ready()
    kept = server.connection()
    kept.request("GET", "/ping")
    kept.getresponse().read()
    with ThreadPoolExecutor() as clients:
        answer = clients.submit(server.invoke, "x")
        server.wait_until((folder / "entered").exists)

        server.process.send_signal(signal.SIGTERM)
        (folder / "gate").write_text("finished")

        assert answer.result().json == "finished"
    assert server.exit_code() == 0


def test_sigterm_while_the_model_loads_ends_it_at_once(start: Start, archive: Callable[[str], Path]):
    folder = archive("def model_fn(model_dir):\n    return open(model_dir + '/gate').read()\n")
    os.mkfifo(folder / "gate")
    server = start(model_dir=folder)
    server.await_phase("loading")

    server.process.terminate()

    assert server.exit_code() == 0


def test_the_end_of_its_standard_input_ends_it(start: Start):
    server = start(EXTRACTIVE).ready()
    assert server.process.stdin is not None

    server.process.stdin.close()

    assert server.exit_code() == 0


def test_the_end_of_its_standard_input_ends_it_even_at_work(start: Start, archive: Callable[[str], Path]):
    folder = archive(WAITING)
    os.mkfifo(folder / "gate")
    server = start(model_dir=folder).ready()
    assert server.process.stdin is not None
    connection = server.connection()
    connection.request("POST", "/invocations", b"x")
    server.wait_until((folder / "entered").exists)

    server.process.stdin.close()

    assert server.exit_code() == 0


def test_work_whose_client_has_gone_counts_until_it_stops(start: Start, archive: Callable[[str], Path]):
    folder = archive(WAITING)
    os.mkfifo(folder / "gate")
    server = start(model_dir=folder).ready()
    connection = server.connection()
    connection.request("POST", "/invocations", b"x")
    server.wait_until((folder / "entered").exists)

    connection.close()
    abandoned = server.running()
    (folder / "gate").write_text("done")

    assert abandoned == 1
    server.wait_until(lambda: server.running() == 0)


def test_work_is_told_when_its_client_has_gone(start: Start, archive: Callable[[str], Path]):
    code = """
from pathlib import Path
def model_fn(model_dir):
    return Path(model_dir)
def predict_fn(data, model, context):
    (model / "entered").touch()
    return context.cancelled.wait()
"""
    folder = archive(code)
    server = start(model_dir=folder).ready()
    connection = server.connection()
    connection.request("POST", "/invocations", b"{}", {"Content-Type": "application/json"})
    server.wait_until((folder / "entered").exists)

    connection.close()

    server.wait_until(lambda: server.running() == 0)


def test_a_request_that_waits_is_dropped_when_its_client_has_gone(
    start: Start, archive: Callable[[str], Path]
):
    folder = archive(WAITING)
    os.mkfifo(folder / "gate")
    server = start(model_dir=folder, concurrency=1).ready()
    computed, waiting = server.connection(), server.connection()
    computed.request("POST", "/invocations", b"x")
    server.wait_until((folder / "entered").exists)
    waiting.request("POST", "/invocations", b"x")
    server.wait_until(lambda: server.running() == 2)

    waiting.close()
    server.wait_until(lambda: server.running() == 1)
    (folder / "gate").write_text("done")

    assert computed.getresponse().read() == b'"done"'


def test_how_far_it_has_come_is_told_before_the_answer(start: Start, archive: Callable[[str], Path]):
    code = """
def model_fn(model_dir):
    return None
def predict_fn(data, model, context):
    context.report({"done": 1, "of": 2})
    context.report({"done": 2, "of": 2})
    return "read"
"""
    server = start(model_dir=archive(code)).ready()
    told: list[str] = []

    async def ask() -> bytes:
        exchange = Exchanges(server.socket).post(
            "/invocations",
            {"Content-Type": "application/json", "Content-Length": "2"},
            b"{}",
            lambda headers: told.append(headers["x-ebbtide-progress"]),
        )
        async with exchange as answer:
            return await answer.read()

    assert asyncio.run(ask()) == b'"read"'
    assert told == ['{"done": 1, "of": 2}', '{"done": 2, "of": 2}']


def test_at_most_its_concurrency_is_computed_at_once(start: Start, archive: Callable[[str], Path]):
    code = """
import threading
from pathlib import Path
inside, most, lock = 0, 0, threading.Lock()
def model_fn(model_dir):
    return None
def predict_fn(data, model):
    global inside, most
    with lock:
        inside += 1
        most = max(most, inside)
    sum(range(300_000))
    with lock:
        inside -= 1
        return most
"""
    server = start(model_dir=archive(code), concurrency=2).ready()
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: server.invoke({"inputs": "x"}).json, range(24)))

    assert max(answers) <= 2


def test_a_model_that_exits_ends_its_process(start: Start, archive: Callable[[str], Path]):
    code = "import sys\ndef model_fn(d): return 1\ndef predict_fn(data, model): sys.exit(3)\n"
    server = start(model_dir=archive(code)).ready()

    connection = server.connection()
    connection.request("POST", "/invocations", b'{"inputs": "x"}', {"Content-Type": "application/json"})

    assert server.exit_code() == 1
    assert "exit(3)" in server.log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        pytest.param("HEAD", "/ping", 200, None, id="a ping's head"),
        pytest.param("POST", "/ping", 405, "GET, HEAD", id="a ping that is posted"),
        pytest.param("GET", "/invocations", 405, "POST", id="an invocation that is not"),
        pytest.param("POST", "/models", 404, None, id="another path"),
    ],
)
def test_the_contract_has_two_routes(
    echo: ModelServerProcess, method: str, path: str, status: int, allowed: str | None
):
    reply = echo.ask(method, path)

    assert (reply.status, reply.headers["Allow"], reply.body) == (status, allowed, b"")


def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(start: Start):
    server = start(EXTRACTIVE).ready()
    connection = server.connection()
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Length", str(MAX_BODY_BYTES + 1))
    connection.endheaders()

    answer = connection.getresponse()

    assert answer.status == 413
    assert str(MAX_BODY_BYTES) in json.loads(answer.read())["message"]


def test_echo_answers_a_body_in_chunks_and_of_no_type(echo: ModelServerProcess):
    connection = echo.connection()
    connection.request("POST", "/invocations", iter([b"one ", b"two"]), encode_chunked=True)

    answer = connection.getresponse()

    assert answer.read() == b"one two"
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_echo_answers_the_body_with_its_type_and_length(echo: ModelServerProcess):
    reply = echo.invoke(b"\x00\xff bytes", content_type="video/mp4")

    assert reply.body == b"\x00\xff bytes"
    assert reply.headers["Content-Type"] == "video/mp4"
    assert reply.headers["Content-Length"] == "8"


def test_echo_streams_a_large_body_in_flat_memory(start: Start):
    server = start(ECHO).ready()
    before = psutil.Process(server.process.pid).memory_info().rss
    size = 256 * MEBIBYTE
    connection = server.connection()
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()

    def send() -> None:
        for _ in range(size // MEBIBYTE):
            connection.send(bytes(MEBIBYTE))

    sender = threading.Thread(target=send)
    sender.start()
    answer = connection.getresponse()
    received = 0
    while chunk := answer.read(MEBIBYTE):
        received += len(chunk)
    sender.join()

    assert received == size
    assert psutil.Process(server.process.pid).memory_info().rss - before < 32 * MEBIBYTE


def test_the_serving_path_imports_no_engine_and_no_http_client(start: Start):
    server = start(EXTRACTIVE).ready()

    mapped = {Path(region.path).name for region in psutil.Process(server.process.pid).memory_maps()}

    heavy = ("libtorch", "libctranslate2", "libonnxruntime", "_http_parser", "_multidict")
    assert not any(name.startswith(heavy) for name in mapped)


def test_echo_runs_under_any_image_it_knows(start: Start):
    server = start(ECHO, image=PYTORCH).ready()

    assert server.invoke("same").body == b"same"
