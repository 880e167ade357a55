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
