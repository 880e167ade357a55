"""PEGASUS on CTranslate2: prepared once, served like the toolkit's pipeline, beside transformers' answers."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import checkpoints
from tests.model_servers import HUGGING_FACE, Start, command, surroundings
from tokenizers import Tokenizer

from ebbtide.runtime.deployment import HUGGING_FACE as REPOSITORY
from ebbtide.runtime.deployment import Deployment
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.loading import load
from ebbtide.runtime.preparation import converted
from ebbtide.runtime.spiece import pegasus_tokenizer
from ebbtide.runtime.status import StatusFile
from ebbtide.runtime.summariser import Summariser

EXACT = {"CT2_COMPUTE_TYPE": "float32", "HF_TASK": "summarization"}
Reference = Callable[[Sequence[str], Mapping[str, Any]], list[str]]


@pytest.fixture(scope="module")
def summariser(pegasus: Path, cache: Path) -> Summariser:
    deployment = Deployment(REPOSITORY, pegasus, cache, EXACT)
    return Summariser(converted(deployment, pegasus), task="summarization", concurrency=1, threads=2)


@pytest.fixture(scope="module")
def reference(pegasus: Path) -> Reference:
    """transformers' own answers."""
    return transformers_answers(pegasus, pegasus_tokenizer(pegasus / "spiece.model"))


def transformers_answers(folder: Path, tokenizer: Tokenizer) -> Reference:
    """What transformers answers with the checkpoint in the folder, one text at a time."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    # For a model this small more threads only wait for each other.
    torch.set_num_threads(1)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()

    def answer(texts: Sequence[str], parameters: Mapping[str, Any]) -> list[str]:
        answers = []
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            with torch.no_grad():
                generated = model.generate(ids, attention_mask=torch.ones_like(ids), **parameters)
            answers.append(tokenizer.decode(generated[0].tolist()))
        return answers

    return answer


@pytest.fixture
def checkpoint(pegasus: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to change."""
    return Path(shutil.copytree(pegasus, tmp_path / "checkpoint"))


def agreement(
    summariser: Summariser, reference: Reference, texts: list[str], parameters: dict[str, Any]
) -> int:
    """How many texts get transformers' own answer."""
    answers = [answer["summary_text"] for answer in summariser(texts, **parameters)]
    return sum(ours == theirs for ours, theirs in zip(answers, reference(texts, parameters), strict=True))


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="the likeliest token each time"),
        pytest.param({"no_repeat_ngram_size": 3}, id="no n-gram twice"),
        pytest.param({"min_length": 20}, id="a shortest length"),
        pytest.param({"max_length": 10}, id="a longest length"),
        pytest.param({"repetition_penalty": 1.3}, id="a penalty on repetition"),
    ],
)
def test_greedy_float32_answers_are_transformers_own(
    summariser: Summariser, reference: Reference, texts: list[str], parameters: dict[str, Any]
):
    assert agreement(summariser, reference, texts, {"num_beams": 1, **parameters}) == len(texts)


@pytest.mark.parametrize(
    ("parameters", "differing"),
    [
        pytest.param(
            {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0}, 1, id="long ones favoured"
        ),
        pytest.param({"num_beams": 8, "early_stopping": True}, 1, id="the model's own eight beams"),
        # transformers ends such a search by an estimate, which the engine does not make.
        pytest.param({"num_beams": 8, "early_stopping": False}, 2, id="a search that goes on"),
    ],
)
def test_beam_search_finds_what_transformers_finds_but_for_ties(
    summariser: Summariser, reference: Reference, texts: list[str], parameters: dict[str, Any], differing: int
):
    assert agreement(summariser, reference, texts[:10], parameters) >= 10 - differing


def test_bart_is_served_with_its_own_tokenizer_and_first_token(
    trained: checkpoints.Trained, cache: Path, texts: list[str]
):
    folder = trained("bart")
    reference = transformers_answers(folder, Tokenizer.from_file(str(folder / "tokenizer.json")))

    converted_folder = converted(Deployment(REPOSITORY, folder, cache, EXACT), folder)
    bart = Summariser(converted_folder, task="summarization", concurrency=1, threads=2)

    assert agreement(bart, reference, texts, {"num_beams": 1}) == len(texts)


def test_several_answers_to_a_text_come_as_a_list_of_their_own(summariser: Summariser, texts: list[str]):
    answers = summariser(texts[:2], num_beams=4, num_return_sequences=3)

    assert [len(several) for several in answers] == [3, 3]
    assert len({item["summary_text"] for item in answers[0]}) == 3


def test_sampling_draws_different_answers(summariser: Summariser, texts: list[str]):
    drawn = [summariser(texts[0], num_beams=1, do_sample=True)[0]["summary_text"] for _ in range(5)]

    assert len(set(drawn)) > 1


def test_an_input_over_the_window_is_refused_unless_truncation_is_asked_for(summariser: Summariser):
    long = "tide " * 500

    with pytest.raises(BadRequest, match=r"reads 128: .*truncation"):
        summariser(long)


def test_truncation_reads_the_beginning_and_counts_what_it_cuts(
    summariser: Summariser, pegasus: Path, texts: list[str]
):
    tokenizer = pegasus_tokenizer(pegasus / "spiece.model")
    long = "tide " * 500
    tokens = tokenizer.encode(long).ids
    beginning = tokenizer.decode(tokens[: checkpoints.POSITIONS - 1])

    summaries = summariser.run([long, texts[0]], {"truncation": True})

    assert summaries.cut_tokens == (len(tokens) - checkpoints.POSITIONS, 0)
    assert summaries.items == summariser([beginning, texts[0]])


def test_a_directory_named_by_hf_model_id_is_served(start: Start, pegasus: Path, texts: list[str]):
    server = start({"HF_MODEL_ID": str(pegasus), **EXACT}).ready()

    reply = server.invoke({"inputs": texts[:2], "parameters": {"num_beams": 2, "max_length": 12}})

    assert reply.status == 200
    assert [set(item) for item in reply.json] == [{"summary_text"}] * 2
    assert server.invoke("tide " * 500, "text/plain").status == 400
    cut = server.invoke({"inputs": "tide " * 500, "parameters": {"truncation": True}})
    assert int(cut.headers["X-Ebbtide-Cut-Tokens"]) > 0
    mapped = {Path(region.path).name for region in psutil.Process(server.process.pid).memory_maps()}
    assert not any(name.startswith("libtorch") for name in mapped)


def test_without_a_task_the_answer_is_generated_text_as_in_the_toolkit(
    start: Start, pegasus: Path, texts: list[str]
):
    server = start({"CT2_COMPUTE_TYPE": "float32"}, model_dir=pegasus).ready()

    assert set(server.invoke({"inputs": texts[0]}).json[0]) == {"generated_text"}


@pytest.fixture(scope="module")
def prepared_twice(pegasus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """The cache and the logs of two processes that prepared one checkpoint, with .bin weights, together."""
    import torch
    from safetensors.torch import load_file

    place = tmp_path_factory.mktemp("twice")
    folder = Path(shutil.copytree(pegasus, place / "checkpoint"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    two = []
    for name in ("one", "other"):
        (place / name).mkdir()
        line = command("prepare", place / name, image=HUGGING_FACE, model_dir=folder, cache=place / "cache")
        two.append(subprocess.Popen(line, env=surroundings(EXACT), stderr=subprocess.PIPE))
    logs = [process.communicate()[1] for process in two]
    assert [process.returncode for process in two] == [0, 0], logs
    return place / "cache", logs


def test_a_model_is_converted_once_however_many_prepare_it(prepared_twice: tuple[Path, list[bytes]]):
    cache, logs = prepared_twice

    assert sum(b"Converting" in log for log in logs) == 1
    assert len([path for path in (cache / "ctranslate2").iterdir() if path.is_dir()]) == 1


def test_a_checkpoint_with_pytorch_weights_answers_the_same(
    prepared_twice: tuple[Path, list[bytes]], summariser: Summariser, texts: list[str]
):
    (folder,) = (path for path in (prepared_twice[0] / "ctranslate2").iterdir() if path.is_dir())

    other = Summariser(folder, task="summarization", concurrency=2, threads=2)

    assert other(texts[:4]) == summariser(texts[:4])


def test_the_snapshot_in_a_hub_cache_is_served_offline(
    start: Start, checkpoint: Path, tmp_path: Path, texts: list[str]
):
    repository = tmp_path / "hub" / "models--example--pegasus-tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(checkpoint, repository / "snapshots" / commit)

    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    server = start({"HF_MODEL_ID": "example/pegasus-tiny", **offline, **EXACT}).ready()

    assert server.invoke({"inputs": texts[0]}).status == 200


def test_a_hub_model_that_cannot_be_had_fails_naming_it(cache: Path, tmp_path: Path):
    environment = {"HF_MODEL_ID": "example/absent", "HF_HUB_OFFLINE": "1", **EXACT}
    line = command("prepare", tmp_path, image=HUGGING_FACE, model_dir=None, cache=cache)

    process = subprocess.run(line, env=surroundings(environment), capture_output=True, check=False)

    assert process.returncode == 1
    status = json.loads((tmp_path / "status").read_text())
    assert status["phase"] == "failed"
    assert "example/absent@main" in status["reason"]


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        pytest.param(
            _without("config.json"), "neither config.json nor code/inference.py", id="no model at all"
        ),
        pytest.param(_without("model.safetensors"), "have no weights", id="no weights"),
        pytest.param(
            _with("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
            "Git LFS pointer",
            id="a pointer for weights, as in the AWS post's archive",
        ),
        pytest.param(
            _with("config.json", '{"architectures": ["LEDForConditionalGeneration"]}'),
            "LEDForConditionalGeneration is not served",
            id="an architecture not served",
        ),
        pytest.param(_with("config.json", "{"), "config.json is not JSON", id="a damaged configuration"),
        pytest.param(_with("config.json", "[]"), "config.json is no object", id="a list for a configuration"),
        pytest.param(
            _with("spiece.model", "version https://git-lfs.github.com/spec/v1\n"),
            "spiece.model is a Git LFS pointer",
            id="a tokenizer that Git LFS has not fetched",
        ),
        pytest.param(
            _with("model.safetensors", "zzzzzzzzzzzzzzzz"), "cannot be converted", id="damaged weights"
        ),
        pytest.param(_without("spiece.model"), "neither tokenizer.json nor spiece.model", id="no tokenizer"),
    ],
)
def test_a_model_that_cannot_be_converted_fails_with_the_cause(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], object], fact: str
):
    damage(checkpoint)

    with pytest.raises(LoadFailure, match=fact):
        converted(Deployment(REPOSITORY, checkpoint, tmp_path / "cache", EXACT), checkpoint)


@pytest.mark.parametrize(
    ("environment", "fact"),
    [
        pytest.param({"HF_TASK": "translation"}, "HF_TASK translation is not served", id="a task not served"),
        pytest.param({"CT2_COMPUTE_TYPE": "int3"}, "CT2_COMPUTE_TYPE int3 is none of", id="an unknown type"),
        pytest.param({"HF_MODEL_ID": "/no/such/place"}, "does not exist", id="a directory that is not there"),
    ],
)
def test_an_environment_that_cannot_be_served_fails_with_the_cause(
    pegasus: Path, cache: Path, tmp_path: Path, environment: dict[str, str], fact: str
):
    with pytest.raises(LoadFailure, match=fact):
        load(Deployment(REPOSITORY, pegasus, cache, environment), StatusFile(tmp_path / "status"))
