"""SageMaker's container contract, spoken by a model server in its own process."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from tests.model_servers import PYTORCH, Start

EXTRACTIVE = {"HF_MODEL_ID": "ebbtide/extractive"}
ECHO = {"HF_MODEL_ID": "ebbtide/echo"}
MEBIBYTE = 1 << 20

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

    while_loading = server.ask("GET", "/ping").status, server.invoke({"inputs": "x"}).status
    (folder / "gate").write_text("loaded")
    server.ready()

    assert while_loading == (503, 503)
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


def test_echo_answers_the_body_with_its_type_and_length(start: Start):
    server = start(ECHO).ready()

    reply = server.invoke(b"\x00\xff bytes", content_type="video/mp4")

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


def test_the_serving_path_imports_neither_torch_nor_transformers(start: Start):
    server = start(EXTRACTIVE).ready()

    mapped = {Path(region.path).name for region in psutil.Process(server.process.pid).memory_maps()}

    assert not any(name.startswith(("libtorch", "libctranslate2", "libonnxruntime")) for name in mapped)


def test_echo_runs_under_any_image_it_knows(start: Start):
    server = start(ECHO, image=PYTORCH).ready()

    assert server.invoke("same").body == b"same"
