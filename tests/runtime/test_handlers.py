"""The user's code/inference.py under the Hugging Face and the PyTorch toolkit's rules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.model_servers import PYTORCH, ModelServerProcess, Start

Archive = Callable[[str], Path]


def test_an_archive_that_holds_nothing_but_handlers_is_served(start: Start, archive: Archive):
    code = """
def model_fn(model_dir):
    return {"greeting": "Hello, "}
def predict_fn(data, model):
    return [model["greeting"] + data["inputs"]]
"""
    server = start(model_dir=archive(code)).ready()

    assert server.invoke({"inputs": "you"}).json == ["Hello, you"]


def test_the_default_steps_call_a_users_model_as_a_pipeline(start: Start, archive: Archive):
    code = """
def model_fn(model_dir):
    return lambda inputs, **parameters: [{"summary_text": inputs.upper(), **parameters}]
"""
    server = start(model_dir=archive(code)).ready()

    reply = server.invoke({"inputs": "abc", "parameters": {"anything": 1}})

    assert reply.json == [{"summary_text": "ABC", "anything": 1}]


def test_handlers_replace_the_steps_around_a_built_in_model(start: Start, archive: Archive):
    code = """
def input_fn(body, content_type):
    assert content_type == "application/x-article"
    return {"inputs": body.decode().split("|"), "parameters": {"max_length": 3}}
def output_fn(prediction, accept):
    return " / ".join(item["summary_text"] for item in prediction), "text/plain"
"""
    server = start({"HF_MODEL_ID": "ebbtide/extractive"}, model_dir=archive(code)).ready()

    reply = server.invoke(b"It is one.|It is two.", content_type="application/x-article")

    assert reply.body == b"It is one. / It is two."
    assert reply.headers["Content-Type"] == "text/plain"


def test_transform_fn_does_it_all(start: Start, archive: Archive):
    code = """
def model_fn(model_dir):
    return 2
def transform_fn(model, body, content_type, accept):
    return str(model * int(body)).encode()
"""
    server = start(model_dir=archive(code), image=PYTORCH).ready()

    reply = server.invoke("21")

    assert reply.body == b"42"
    assert reply.headers["Content-Type"] == "application/json"


def test_a_handler_that_takes_one_argument_more_gets_the_context(start: Start, archive: Archive):
    code = """
def model_fn(model_dir, context):
    return context.system_properties["model_dir"] == model_dir
def predict_fn(data, model, context):
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "seen")
    name = "X-Amzn-SageMaker-Inference-Id"
    headers = context.get_all_request_header(0)
    return [model, context.get_request_header(0, name), headers[name.upper()], headers.get("X-None")]
"""
    server = start(model_dir=archive(code)).ready()

    reply = server.invoke({"inputs": ""}, X_Amzn_SageMaker_Inference_Id="inference-7")

    assert reply.json == [True, "inference-7", "inference-7", None]
    assert reply.headers["X-Amzn-SageMaker-Custom-Attributes"] == "seen"


@pytest.fixture(scope="module")
def marking(start_module: Start, tmp_path_factory: pytest.TempPathFactory) -> ModelServerProcess:
    """Its handler sets the status and headers that it is asked for."""
    code = """
def model_fn(model_dir):
    return None
def predict_fn(data, model, context):
    context.set_response_status(data["status"])
    for name, value in data["headers"].items():
        context.set_response_header(0, name, value)
    return "done"
"""
    folder = tmp_path_factory.mktemp("marking")
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(code)
    return start_module(model_dir=folder).ready()


@pytest.mark.parametrize(
    ("status", "headers", "seen"),
    [
        pytest.param(201, {"X-Note": "grüße"}, {"X-Note": "grüße"}, id="letters beyond ASCII"),
        pytest.param("202", {"X-Note": ""}, {"X-Note": ""}, id="an empty value, a status in words"),
        pytest.param(
            200, {"content-type": "text/x"}, {"Content-Type": "text/x"}, id="the type in lower case"
        ),
        pytest.param(
            200,
            {"content-length": "1", "Transfer-Encoding": "chunked", "Connection": "close"},
            {"Content-Length": "6", "Transfer-Encoding": None, "Connection": None},
            id="what says how it is sent",
        ),
    ],
)
def test_the_answer_has_the_status_and_headers_that_a_handler_set(
    marking: ModelServerProcess, status: Any, headers: dict[str, str], seen: dict[str, str | None]
):
    reply = marking.invoke({"status": status, "headers": headers})

    found = {name: reply.headers.get_all(name) for name in seen}
    expected = {name: None if value is None else [value] for name, value in seen.items()}
    as_text = {
        name: values and [each.encode("latin-1").decode() for each in values]
        for name, values in found.items()
    }
    assert (reply.status, reply.json) == (int(status), "done")
    assert as_text == expected


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param(99, {}, id="no status"),
        pytest.param(100, {}, id="an interim status"),
        pytest.param(200, {"X-Note": "a\r\nb"}, id="a value of two lines"),
        pytest.param(200, {"X-Note": 5}, id="a value that is no text"),
        pytest.param(200, {"X Note": "a"}, id="a name with a space"),
        pytest.param(200, {"X-Note:": "a"}, id="a name with a colon"),
        pytest.param(200, {"": "a"}, id="no name"),
    ],
)
def test_a_handler_is_told_what_no_answer_can_have(
    marking: ModelServerProcess, status: int, headers: dict[str, Any]
):
    reply = marking.invoke({"status": status, "headers": headers})

    assert reply.status == 400
    assert "cannot be" in reply.json["message"]


@pytest.mark.parametrize(
    ("image_name", "status"),
    [pytest.param("hugging-face", 400, id="Hugging Face's"), pytest.param("pytorch", 500, id="PyTorch's")],
)
def test_what_a_handler_raises_is_answered_with_the_toolkits_status(
    start: Start, archive: Archive, image_name: str, status: int
):
    code = """
def model_fn(model_dir):
    return None
def input_fn(body, content_type):
    raise LookupError("no such article")
"""
    image = {"image": PYTORCH} if image_name == "pytorch" else {}
    server = start(model_dir=archive(code), **image).ready()

    reply = server.invoke({"inputs": "x"})

    assert reply.status == status
    assert reply.json == {"code": status, "type": "InternalServerException", "message": "no such article"}
    assert "LookupError" in server.log.read_text()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("import no_such_module", "No module named 'no_such_module'", id="a module is missing"),
        pytest.param("1 / 0", "ZeroDivisionError: division by zero", id="it raises when imported"),
        pytest.param(
            "def model_fn(d): raise OSError('weights.bin\\nis missing')",
            "OSError: weights.bin",
            id="its model cannot be loaded",
        ),
        pytest.param(
            "def predict_fn(a, b, c, d): pass",
            "predict_fn definition takes 2 or 3 arguments but 4 were given.",
            id="arguments nobody gives",
        ),
        pytest.param(
            "def transform_fn(m, b, c, a): pass\ndef input_fn(b, c): pass",
            "Cannot use transform_fn implementation in conjunction with input_fn",
            id="transform_fn beside what it replaces",
        ),
        pytest.param("model_fn = 3", "model_fn is not a function", id="no function"),
    ],
)
def test_handlers_that_cannot_be_used_fail_the_load_with_the_cause(
    start: Start, archive: Archive, code: str, reason: str
):
    server = start(model_dir=archive(code))

    assert server.exit_code() == 1
    assert reason in server.status()["reason"]
    assert "\n" not in server.status()["reason"]


def test_a_missing_module_that_requirements_ask_for_is_said_to_be_so(start: Start, archive: Archive):
    folder = archive("import no_such_module")
    (folder / "code" / "requirements.txt").write_text("no_such_module==1.0\n")

    server = start(model_dir=folder)

    assert server.exit_code() == 1
    assert "requirements.txt is not installed by the server" in server.status()["reason"]


def test_a_program_that_is_not_there_fails_the_load(start: Start, tmp_path: Path):
    server = start({"SAGEMAKER_PROGRAM": "serve.py"}, model_dir=tmp_path)

    assert server.exit_code() == 1
    assert "code/serve.py" in server.status()["reason"]


def test_pytorch_calls_the_model_with_a_tensor_and_writes_one(start: Start, archive: Archive):
    server = start(model_dir=archive("def model_fn(d): return lambda x: x * 2"), image=PYTORCH).ready()

    assert server.invoke([[1, 2], [3, 4]]).json == [[2.0, 4.0], [6.0, 8.0]]
    assert server.invoke("1,2\n3,4\n", content_type="text/csv", Accept="text/csv").body == b"2.0,4.0\n6.0,8.0"


def test_pytorch_without_model_fn_is_refused(start: Start, tmp_path: Path):
    server = start(image=PYTORCH, model_dir=tmp_path)

    assert server.exit_code() == 1
    assert "model_fn" in server.status()["reason"]


def test_a_header_that_cannot_be_sent_is_an_answered_failure(start: Start, archive: Archive):
    code = """
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    return b"x", "text/plain\\r\\nX-Forged: 1"
"""
    server = start(model_dir=archive(code)).ready()

    reply = server.invoke(b"")

    assert reply.status == 400
    assert "Content-Type" in reply.json["message"]
