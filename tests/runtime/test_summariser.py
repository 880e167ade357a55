"""PEGASUS on CTranslate2: prepared once, served like the toolkit's pipeline, beside transformers' answers."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests import checkpoints
from tests.model_servers import HUGGING_FACE, Start, command, surroundings

from ebbtide.runtime import engines
from ebbtide.runtime.deployment import HUGGING_FACE as REPOSITORY
from ebbtide.runtime.deployment import Deployment
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.loading import load
from ebbtide.runtime.preparation import converted
from ebbtide.runtime.spiece import pegasus_tokenizer
from ebbtide.runtime.status import StatusFile
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


@pytest.fixture
def checkpoint(pegasus: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to change."""
    return Path(shutil.copytree(pegasus, tmp_path / "checkpoint"))


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

    summaries = summariser.run([long, texts[0]], {"truncation": True}, threading.Event())

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

    other = Summariser(folder, engines.load(folder, folder, threads=2), task="summarization")

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
