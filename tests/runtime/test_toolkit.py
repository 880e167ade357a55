"""Requests and answers of the Hugging Face toolkit for summarization, with the extractive model."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from ebbtide.runtime.extract import ExtractivePipeline
from ebbtide.runtime.handlers import Handlers
from ebbtide.runtime.toolkit import Answer, HuggingFace, Service

ARTICLE = "The moon pulls the ocean. The ocean rises with the moon. My aunt lives inland."


@pytest.fixture
def service() -> Service:
    return Service(HuggingFace(), Handlers(), ExtractivePipeline("summary_text"), Path())


def ask(service: Service, body: bytes, content_type: str = "application/json", **headers: str) -> Answer:
    return service.answer(body, {"Content-Type": content_type, **headers}, threading.Event())


def test_one_text_gets_a_list_of_one_answer(service: Service):
    answer = ask(service, b'{"inputs": "The moon pulls the ocean strongly."}')

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body == b'[{"summary_text":"The moon pulls the ocean strongly."}]'


def test_a_list_of_texts_gets_an_answer_each_in_order(service: Service):
    answer = ask(service, b'{"inputs": ["This text is the first.", "This text is the second."]}')

    assert answer.body.index(b"first") < answer.body.index(b"second")


def test_plain_text_is_summarised(service: Service):
    answer = ask(service, ARTICLE.encode(), "text/plain")

    assert b"ocean" in answer.body


def test_parameters_reach_the_model(service: Service):
    body = f'{{"inputs": "{ARTICLE}", "parameters": {{"max_length": 2}}}}'.encode()

    assert ask(service, body).body == '[{"summary_text":"The moon…"}]'.encode()


def test_csv_comes_and_goes(service: Service):
    answer = ask(service, b"inputs\nThis text is the first.\n", "text/csv", Accept="text/csv")

    assert answer.body == b"summary_text\nThis text is the first.\n"


LINES = b'{"text": "This text is the first."}\n{bad\n\n""\n{"title": "x"}\n[1]\n"This text is the last."\n'


def test_each_of_many_lines_gets_its_answer_or_its_error_in_order(service: Service):
    answer = ask(service, LINES, "application/jsonlines")

    items = _json(answer)
    assert answer.status == 200
    assert [list(item) for item in items] == [["summary_text"], *[["error"]] * 4, ["summary_text"]]
    assert items[0]["summary_text"] == "This text is the first."
    assert items[1]["error"].startswith("Line 2 is not JSON: ")
    assert items[2]["error"] == "Line 4: inputs is empty: there is nothing to summarise"
    assert items[3]["error"] == "Line 5 is neither a string nor has inputs or text or article or document"
    assert items[5]["summary_text"] == "This text is the last."


def test_lines_come_and_go(service: Service):
    answer = ask(service, LINES, "application/jsonlines", Accept="application/jsonlines")

    assert [next(iter(json.loads(line))) for line in answer.body.splitlines()] == [
        "summary_text",
        *["error"] * 4,
        "summary_text",
    ]
    rows = ask(service, LINES, "application/jsonlines", Accept="text/csv").body.splitlines()
    assert rows[:2] == [b"summary_text,error", b"This text is the first.,"]


def test_a_users_own_prediction_does_not_get_lines_of_which_some_are_bad():
    own = Handlers(predict_fn=lambda data, _model, _context: data)
    service = Service(HuggingFace(), own, ExtractivePipeline("summary_text"), Path())

    refused = ask(service, LINES, "application/jsonlines")

    assert refused.status == 400
    assert _json(refused)["message"].startswith("Line 2 is not JSON")
    assert _json(ask(service, b'"a"', "application/jsonlines")) == {"inputs": ["a"]}


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        pytest.param(b"{", "application/json", "not JSON", id="no JSON"),
        pytest.param(b'["a"]', "application/json", "must be an object", id="a list at the top"),
        pytest.param(b'{"text": "a"}', "application/json", "inputs must be a string", id="no inputs"),
        pytest.param(
            b'{"inputs": 7}', "application/json", "inputs must be a string", id="inputs of a wrong kind"
        ),
        pytest.param(
            b'{"inputs": [1]}', "application/json", "inputs must be a string", id="a list of others"
        ),
        pytest.param(b'{"inputs": []}', "application/json", "empty list", id="no texts"),
        pytest.param(b'{"inputs": ["a", " "]}', "application/json", "inputs[1] is empty", id="an empty text"),
        pytest.param(b"", "text/plain", "inputs is empty", id="an empty article"),
        pytest.param(
            b'{"inputs": "a \\ud800"}', "application/json", "character 2 is half", id="half a surrogate pair"
        ),
        pytest.param(b"\xff\xfe\x00", "text/plain", "not UTF-16", id="half a character"),
        pytest.param(b"a\x00b", "text/plain", "binary", id="a binary article"),
        pytest.param(
            b"{}\n3", "application/jsonlines", "; Line 2 is neither a string", id="lines, and all of them bad"
        ),
        pytest.param(
            b'""\n""', "application/jsonlines", "Line 2: inputs is empty", id="lines without a word"
        ),
        pytest.param(b"\n", "application/jsonlines", "empty list", id="no lines"),
        pytest.param(b"x", "video/mp4", "video/mp4 is not supported", id="a type nobody reads"),
        pytest.param(
            b'{"inputs": "a", "parameters": [1]}', "application/json", "parameters must", id="no parameters"
        ),
        pytest.param(
            b'{"inputs": "a", "parameters": {"num_beams": 4}}',
            "application/json",
            "num_beams",
            id="unknown one",
        ),
        pytest.param(
            b'{"inputs": "a", "parameters": {"max_length": 0}}',
            "application/json",
            "max_length",
            id="wrong one",
        ),
    ],
)
def test_a_wrong_body_gets_the_toolkits_400(service: Service, body: bytes, content_type: str, message: str):
    answer = ask(service, body, content_type)

    assert answer.status == 400
    described = _json(answer)
    assert described["code"] == 400
    assert described["type"] == "InternalServerException"
    assert message in described["message"]


def _json(answer: Answer) -> Any:
    return json.loads(answer.body)
