"""PEGASUS on CTranslate2: prepared once, served like the toolkit's pipeline, beside transformers' answers."""

import threading
from pathlib import Path

import psutil
import pytest
from tests import checkpoints
from tests.model_servers import Start

from ebbtide.runtime import engines
from ebbtide.runtime.deployment import HUGGING_FACE as REPOSITORY
from ebbtide.runtime.deployment import Deployment
from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.preparation import converted
from ebbtide.runtime.spiece import pegasus_tokenizer
from ebbtide.runtime.summariser import Summariser

EXACT = {"CT2_COMPUTE_TYPE": "float32", "HF_TASK": "summarization"}


@pytest.fixture(scope="module")
def summariser(pegasus: Path, cache: Path) -> Summariser:
    return summariser_of(pegasus, cache)


def summariser_of(folder: Path, cache: Path) -> Summariser:
    """The checkpoint in the folder, in float32."""
    deployment = Deployment(REPOSITORY, folder, cache, EXACT)
    prepared = converted(deployment, folder)
    return Summariser(prepared, engines.load(prepared, folder, threads=2), task="summarization")


def test_several_answers_to_a_text_come_as_a_list_of_their_own(summariser: Summariser, texts: list[str]):
    answers = summariser(texts[:2], num_beams=4, num_return_sequences=3)

    assert [len(several) for several in answers] == [3, 3]
    assert len({item["summary_text"] for item in answers[0]}) == 3


def test_sampling_draws_different_answers(summariser: Summariser, texts: list[str]):
    # Hot enough that five draws alike are not to be met, however sure the small model is.
    hot = {"num_beams": 1, "do_sample": True, "temperature": 10.0}
    drawn = [summariser(texts[0], **hot)[0]["summary_text"] for _ in range(5)]

    assert len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("words", "figure"),
    [pytest.param(50, r"has \d{3} tokens", id="long"), pytest.param(50_000, r"about \d+,000", id="huge")],
)
def test_an_input_over_the_window_is_refused_unless_truncation_is_asked_for(
    summariser: Summariser, words: int, figure: str
):
    with pytest.raises(BadRequest, match=rf"{figure}.* reads 128: .*truncation"):
        summariser("tide and moon " * words)


@pytest.mark.parametrize("words", [500, 50_000], ids=["long", "huge"])
def test_truncation_reads_the_beginning_and_counts_what_it_cuts(
    summariser: Summariser, pegasus: Path, texts: list[str], words: int
):
    tokenizer = pegasus_tokenizer(pegasus / "spiece.model")
    long = "tide " * words
    tokens = tokenizer.encode(long).ids
    beginning = tokenizer.decode(tokens[: checkpoints.POSITIONS - 1])

    summaries = summariser.run([long, texts[0]], {"truncation": True}, threading.Event())

    assert summaries.cut_tokens == (len(tokens) - checkpoints.POSITIONS, 0)
    assert summaries.items == summariser([beginning, texts[0]])


def test_a_directory_named_by_hf_model_id_is_served(start: Start, pegasus: Path, texts: list[str]):
    server = start({"HF_MODEL_ID": str(pegasus), **EXACT}).ready()

    reply = server.invoke({"inputs": texts[:2], "parameters": {"num_beams": 2, "max_length": 12}})

    assert reply.status == 200
    assert [set(item) for item in reply.json] == [{"summary_text"}] * 2
    refused = {"inputs": "tide " * 500, "parameters": {"long_document": "error"}}
    assert server.invoke(refused).status == 400
    cut = server.invoke({"inputs": "tide " * 500, "parameters": {"truncation": True}})
    assert int(cut.headers["X-Ebbtide-Cut-Tokens"]) > 0
    mapped = {Path(region.path).name for region in psutil.Process(server.process.pid).memory_maps()}
    assert not any(name.startswith("libtorch") for name in mapped)


def test_without_a_task_the_answer_is_generated_text_as_in_the_toolkit(
    start: Start, pegasus: Path, texts: list[str]
):
    server = start({"CT2_COMPUTE_TYPE": "float32"}, model_dir=pegasus).ready()

    assert set(server.invoke({"inputs": texts[0]}).json[0]) == {"generated_text"}
