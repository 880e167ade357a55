"""A model server reads the whole article, from the files that people have, and says what it read."""

import json
from pathlib import Path

import pytest
from tests import checkpoints, corpus
from tests.model_servers import ModelServerProcess, Start
from tests.runtime import documents

ARTICLE = "\n\n".join(
    f"## Section {number}\n\n{text}" for number, text in enumerate(corpus.texts(12), start=1)
)


@pytest.fixture(scope="module")
def server(start_module: Start, pegasus: Path) -> ModelServerProcess:
    return start_module({"HF_MODEL_ID": str(pegasus), "HF_TASK": "summarization"}).ready()


def test_an_article_over_the_window_is_summarised_whole(server: ModelServerProcess) -> None:
    asked = {"inputs": ARTICLE, "parameters": {"max_new_tokens": 20, "return_details": True}}
    (answer,) = server.invoke(asked).json
    details = answer["details"]
    assert answer["summary_text"]
    assert (details["long_document"], details["coverage"]) == ("merge", 1.0)
    position = 0
    for part in details["parts"]:
        assert not ARTICLE[position : part["start"]].strip()
        assert part["tokens_in"] <= checkpoints.POSITIONS
        position = part["end"]
    assert not ARTICLE[position:].strip()
    assert details["parts"][0]["heading"] == "Section 1"


def test_without_details_the_answer_has_the_toolkit_s_shape(server: ModelServerProcess) -> None:
    (answer,) = server.invoke({"inputs": ARTICLE}).json
    assert set(answer) == {"summary_text"}


def test_a_long_and_a_short_article_of_one_request_are_answered_in_order(server: ModelServerProcess) -> None:
    short = corpus.texts(1)[0]
    both = server.invoke({"inputs": [ARTICLE, short]}).json
    assert [both[0]] == server.invoke({"inputs": ARTICLE}).json
    assert [both[1]] == server.invoke({"inputs": short}).json


def test_truncating_says_what_was_not_read(server: ModelServerProcess) -> None:
    asked = {"inputs": ARTICLE, "parameters": {"long_document": "truncate", "return_details": True}}
    reply = server.invoke(asked)
    cut = int(reply.headers["X-Ebbtide-Cut-Tokens"])
    assert cut > 0
    assert 0 < reply.json[0]["details"]["coverage"] < 1


def test_an_article_over_the_window_can_be_refused(server: ModelServerProcess) -> None:
    reply = server.invoke({"inputs": ARTICLE, "parameters": {"long_document": "error"}})
    assert reply.status == 400
    assert f"reads {checkpoints.POSITIONS}" in reply.json["message"]


@pytest.mark.parametrize(
    "parameters", [{"long_document": "shorten"}, {"return_details": 1}, {"return_grounding": "yes"}]
)
def test_a_wrong_way_of_reading_is_refused(server: ModelServerProcess, parameters: dict[str, object]) -> None:
    reply = server.invoke({"inputs": "A text.", "parameters": parameters})
    assert reply.status == 400
    assert next(iter(parameters)) in reply.json["message"]


def test_sentences_are_grounded_in_the_article(server: ModelServerProcess) -> None:
    asked = {"inputs": ARTICLE, "parameters": {"return_grounding": True, "max_new_tokens": 24}}
    (answer,) = server.invoke(asked).json
    for sentence in answer["grounding"]:
        assert answer["summary_text"][sentence["start"] : sentence["end"]].strip()
        for support in sentence["supports"]:
            assert ARTICLE[support["start"] : support["end"]].strip()


def test_a_pdf_is_read_and_its_title_and_author_passed_along(server: ModelServerProcess) -> None:
    body = documents.pdf([("Data", [documents.prose(n) for n in range(8)])], title="On tides")
    attributes = json.dumps({"parameters": {"return_details": True}})
    reply = server.invoke(body, "application/pdf", X_Amzn_SageMaker_Custom_Attributes=attributes)
    document = reply.json[0]["details"]["document"]
    assert (document["title"], document["authors"]) == ("On tides", "Ann Writer")


def test_a_file_uploaded_without_a_type_is_known_by_its_beginning(server: ModelServerProcess) -> None:
    body = documents.docx([("Normal", documents.prose(1))])
    assert server.invoke(body, "binary/octet-stream").json[0]["summary_text"]


def test_each_of_many_articles_in_json_lines_is_answered(server: ModelServerProcess) -> None:
    separated = "Another.\u2028It goes on."  # JSON holds it as it is
    lines = "\n".join([json.dumps("One text."), json.dumps({"text": separated}, ensure_ascii=False), ""])
    assert len(server.invoke(lines, "application/jsonlines").json) == 2
    refused = server.invoke('{"title": "x"}', "application/jsonlines")
    assert (refused.status, "Line 1" in refused.json["message"]) == (400, True)


def test_an_encrypted_file_is_refused_with_its_cause(server: ModelServerProcess) -> None:
    reply = server.invoke(documents.pdf([("Data", ["x"])], password="secret"), "application/pdf")
    assert (reply.status, reply.json["message"]) == (400, "The PDF needs a password")
