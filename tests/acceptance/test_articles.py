"""Whole articles through boto3: how far a long one has come, and the files that people have."""

import json
import zlib
from typing import Any

import pytest
from tests import corpus
from tests.checkpoints import Trained
from tests.deployments import Deployed, deploy, outcome
from tests.runtime import documents

import ebbtide as package
from ebbtide.client import Client
from ebbtide.pytest_plugin import Ebbtide


@pytest.fixture(scope="module")
def own(ebbtide: Ebbtide) -> Client:
    return package.connect(data=ebbtide.data).ebbtide


@pytest.fixture(scope="module")
def pegasus(ebbtide: Ebbtide, trained: Trained) -> Deployed:
    environment = {"HF_MODEL_ID": str(trained("pegasus")), "HF_TASK": "summarization"}
    return deploy(ebbtide, environment=environment)


DETAILS = json.dumps({"parameters": {"return_details": True, "return_grounding": True, "max_length": 40}})
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
FRENCH = (
    "La marée monte et descend avec la lune, où qu’on la mesure à Brest. Elle dépend aussi du vent d’été."
)
JAPANESE = "潮は月とともに満ち引きする。港では百年にわたって潮位が測られた。"
HTML = (
    "<html><head>{}<title>Les marées</title></head><body><nav>Accueil</nav><article><h1>Les marées</h1>"
    f"<p>{FRENCH}</p></article></body></html>"
)


def pdf_of(content: bytes) -> bytes:
    """A PDF of one page with that compressed content."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + end


def bomb() -> bytes:
    """Some hundreds of kilobytes that draw eight million words on a page."""
    packing = zlib.compressobj(9)
    drawn = b"BT /F1 12 Tf (word) Tj ET\n" * 40_000
    return pdf_of(b"".join(packing.compress(drawn) for _ in range(200)) + packing.flush())


def read(ebbtide: Ebbtide, endpoint: Deployed, body: bytes, content_type: str) -> tuple[str, Any]:
    """Upload as people do, the type on the object; what came of it, and its JSON."""
    s3 = ebbtide.client("s3")
    s3.put_object(Bucket=endpoint.bucket, Key="file", Body=body, ContentType=content_type)
    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name, InputLocation=f"s3://{endpoint.bucket}/file", CustomAttributes=DETAILS
    )
    kind, written, _ = outcome(ebbtide, answer)
    return kind, json.loads(written)


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        pytest.param(
            FRENCH.replace("’", "'").encode("latin-1"),
            "text/plain; charset=iso-8859-1",
            "marée",
            id="latin-1",
        ),
        pytest.param(FRENCH.encode("utf-16"), "text/plain", "marée", id="UTF-16 by its mark"),
        pytest.param(FRENCH.encode("cp1252"), "text/plain", "marée", id="Windows-1252, guessed"),
        pytest.param((JAPANESE * 9).encode("shift_jis"), "text/plain", "潮は月", id="Shift-JIS, guessed"),
        pytest.param(HTML.format("").encode(), "text/html", "marée", id="HTML in UTF-8"),
        pytest.param(
            HTML.format('<meta charset="windows-1252">').encode("cp1252"),
            "text/html",
            "marée",
            id="HTML that says its charset",
        ),
        pytest.param(b"# Tides\n\n" + FRENCH.encode(), "text/markdown", "marée", id="Markdown"),
        pytest.param(documents.docx([("Normal", FRENCH)]), DOCX, "marée", id="DOCX"),
        pytest.param(documents.docx([("Normal", FRENCH)]), "binary/octet-stream", "marée", id="untyped DOCX"),
        pytest.param(documents.pdf([("Data", [FRENCH])]), "application/pdf", "marée", id="PDF"),
    ],
)
def test_an_article_is_read_from_the_file_it_comes_in(
    ebbtide: Ebbtide, summaries: Deployed, body: bytes, content_type: str, expected: str
) -> None:
    kind, answers = read(ebbtide, summaries, body, content_type)
    assert kind == "output", answers
    assert expected in answers[0]["summary_text"]
    assert answers[0]["details"]["coverage"] == 1.0
    assert answers[0]["grounding"][0]["score"] == 1.0


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        pytest.param(b"", "text/plain", "empty", id="an empty file"),
        pytest.param(b"", "application/pdf", "cannot be read", id="an empty PDF"),
        pytest.param(
            documents.pdf([("Data", ["x"])])[:300], "application/pdf", "cannot be read", id="half a PDF"
        ),
        pytest.param(
            documents.pdf([("D", ["x"])], password="s"), "application/pdf", "password", id="encrypted"
        ),
        pytest.param(pdf_of(zlib.compress(b"0 0 9 9 re f")), "application/pdf", "scanned", id="no text"),
        pytest.param(bomb(), "application/pdf", "bytes of memory", id="a PDF that unpacks to gigabytes"),
        pytest.param(b"\x1f\x8b\x08\x00", "text/plain", "gzip-compressed", id="gzip"),
        pytest.param(b"{bad\n" * 300, "application/jsonlines", "Line 1 is not JSON", id="no good line"),
        pytest.param(b"<html></html>", "text/html", "no main text", id="HTML without text"),
        pytest.param(
            b"<html>" + b"<div>" * 1_000_000, "text/html", "no main text", id="HTML nested without end"
        ),
        pytest.param(b"PK\x03\x04", DOCX, "cannot be read", id="a broken DOCX"),
        pytest.param(b"x", "video/mp4", "video/mp4 is not supported", id="no article's type"),
        pytest.param(documents.docx([("Normal", "x")]), "application/pdf", "cannot be read", id="wrong type"),
    ],
)
def test_a_file_that_cannot_be_read_has_a_failure_object_that_says_why(
    ebbtide: Ebbtide, summaries: Deployed, body: bytes, content_type: str, message: str
) -> None:
    kind, failure = read(ebbtide, summaries, body, content_type)
    assert (kind, failure["code"]) == ("failure", 400)
    assert message in failure["message"]


def test_each_of_many_articles_in_json_lines_has_its_answer_or_its_error(
    ebbtide: Ebbtide, summaries: Deployed
) -> None:
    lines = [json.dumps({"article": f"The gauge number {n} rose today."}) for n in range(300)]
    kind, answers = read(ebbtide, summaries, "\n".join([*lines, "{bad"]).encode(), "application/jsonlines")
    assert kind == "output"
    *summarised, failed = answers
    assert [f"number {n} rose" in one["summary_text"] for n, one in enumerate(summarised)] == [True] * 300
    assert failed["error"].startswith("Line 301 is not JSON")


def test_what_a_file_says_of_itself_and_where_its_sentences_stand_are_in_the_details(
    ebbtide: Ebbtide, summaries: Deployed
) -> None:
    text = " ".join(documents.prose(n) for n in range(4))
    body = documents.docx([("Normal", text)], title="On tides", author="Ann Writer")
    (answer,) = read(ebbtide, summaries, body, DOCX)[1]
    details = answer["details"]
    assert (details["document"]["title"], details["document"]["authors"]) == ("On tides", "Ann Writer")
    chosen = " ".join(text[span["start"] : span["end"]] for span in details["sentences"])
    assert chosen == answer["summary_text"]
    assert (details["words_in"], details["words_out"]) == (len(text.split()), len(chosen.split()))


def invoke(ebbtide: Ebbtide, endpoint: Deployed, body: Any, **parameters: Any) -> dict[str, Any]:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    ebbtide.client("s3").put_object(Bucket=endpoint.bucket, Key="article", Body=body)
    answer: dict[str, Any] = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name,
        InputLocation=f"s3://{endpoint.bucket}/article",
        **{"ContentType": "application/json"} | parameters,
    )
    return answer


def test_a_long_article_says_how_far_it_has_come_while_it_runs(
    ebbtide: Ebbtide, own: Client, pegasus: Deployed
) -> None:
    # No two parts are alike, since a part that was summarised is not done again.
    article = "\n\n".join(f"In {n} {text}" for n in range(200) for text in corpus.texts(32))
    begun: list[dict[str, Any]] = []

    def begin() -> None:
        begun.append(invoke(ebbtide, pegasus, {"inputs": ["A short one.", article, article]}))

    events = own.events(endpoint=pegasus.name, on_open=begin)
    reached = {"parts_done": 0}
    while not reached["parts_done"]:
        told = next(events)
        reached = told.get("progress", reached)
    now = own.get(told["id"])
    own.cancel(told["id"])

    assert (told["state"], now["state"]) == ("claimed", "claimed")
    assert (reached["level"], reached["article"], reached["articles"]) == (1, 1, 2)
    assert 0 < reached["parts_done"] < reached["parts"]
    assert now["inference_id"] == begun[0]["InferenceId"]
    (step,) = [step for step in now["timeline"] if step["event"] == "parts_summarised"]
    assert step["progress"]["parts_done"] >= reached["parts_done"]


def test_an_article_that_is_done_keeps_what_each_pass_took(
    ebbtide: Ebbtide, own: Client, pegasus: Deployed
) -> None:
    article = "\n\n".join(corpus.texts(32) * 4)
    answer = invoke(ebbtide, pegasus, {"inputs": article, "parameters": {"return_details": True}})
    done = own.wait(answer["InferenceId"])

    steps = [step for step in done["timeline"] if step["event"] == "parts_summarised"]
    assert [step["progress"]["level"] for step in steps] == list(range(1, len(steps) + 1))
    assert all(step["progress"]["parts_done"] == step["progress"]["parts"] for step in steps)
    assert done["timeline"].index(steps[0]) > 0
    assert done["timeline"][-1]["event"] in ("stored", "notified")
