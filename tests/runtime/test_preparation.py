"""A model made ready once: from a folder or the Hub, for the engine that suits; what the cache keeps."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.checkpoints import Trained
from tests.model_servers import HUGGING_FACE, Start, command, surroundings

from ebbtide.runtime import engines, preparation
from ebbtide.runtime.deployment import HUGGING_FACE as REPOSITORY
from ebbtide.runtime.deployment import Deployment
from ebbtide.runtime.engines.native.processor import has_exact_int8_products
from ebbtide.runtime.engines.selection import Choice, choose, suited_type
from ebbtide.runtime.errors import LoadFailure
from ebbtide.runtime.loading import load
from ebbtide.runtime.parameters import Generation
from ebbtide.runtime.preparation import converted
from ebbtide.runtime.status import StatusFile
from ebbtide.runtime.summariser import Summariser

EXACT = {"EBBTIDE_ENGINE": "ctranslate2", "EBBTIDE_COMPUTE_TYPE": "float32", "HF_TASK": "summarization"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DAY_S = 86_400.0
GREEDY = Generation(decoder_start_token_id=0, eos_token_ids=(1,))


@pytest.fixture
def checkpoint(pegasus: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to change."""
    return Path(shutil.copytree(pegasus, tmp_path / "checkpoint"))


@pytest.fixture
def given_up() -> Iterator[Callable[[], None]]:
    """Give up the models that this process uses, as its end would."""
    yield preparation._held.close
    preparation._held.close()


def models(cache: Path) -> set[str]:
    return {path.name for path in (cache / "prepared").iterdir() if path.is_dir()}


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

    assert sum(b"Preparing" in log for log in logs) == 1
    assert len(models(cache)) == 1


def test_a_checkpoint_with_pickled_weights_answers_the_same(
    prepared_twice: tuple[Path, list[bytes]], pegasus: Path, cache: Path, texts: list[str]
):
    (name,) = models(prepared_twice[0])
    pickled = prepared_twice[0] / "prepared" / name
    safe = converted(Deployment(REPOSITORY, pegasus, cache, EXACT), pegasus)

    answers = [
        Summariser(folder, engines.load(folder, pegasus, threads=1), task="summarization")(texts[:4])
        for folder in (pickled, safe)
    ]

    assert answers[0] == answers[1]


def test_what_is_prepared_depends_on_the_content_and_the_compute_type_not_on_the_place(
    pegasus: Path, checkpoint: Path, tmp_path: Path
):
    def prepared(folder: Path, compute_type: str) -> Path:
        environment = EXACT | {"EBBTIDE_COMPUTE_TYPE": compute_type}
        return converted(Deployment(REPOSITORY, folder, tmp_path / "cache", environment), folder)

    assert prepared(pegasus, "int8") == prepared(checkpoint, "int8")
    assert prepared(pegasus, "int8") != prepared(pegasus, "float32")
    generation = json.loads((checkpoint / "generation_config.json").read_text()) | {"num_beams": 2}
    (checkpoint / "generation_config.json").write_text(json.dumps(generation))
    assert prepared(pegasus, "int8") != prepared(checkpoint, "int8")


def test_a_model_in_use_stays_whatever_the_cache_may_hold(
    pegasus: Path, tmp_path: Path, given_up: Callable[[], None]
):
    cache = tmp_path / "cache"
    prepared = converted(Deployment(REPOSITORY, pegasus, cache, EXACT, cache_bytes=0), pegasus)

    preparation.prune(cache, 0, now=time.time() + 365 * DAY_S)
    assert prepared.is_dir()

    given_up()
    preparation.prune(cache, 0, now=time.time())
    assert models(cache) == set()


def test_the_models_unused_for_longest_make_room(pegasus: Path, tmp_path: Path, given_up: Callable[[], None]):
    cache = tmp_path / "cache"
    kinds = ("float32", "int8", "int8_float32")
    made = {
        kind: converted(
            Deployment(REPOSITORY, pegasus, cache, EXACT | {"EBBTIDE_COMPUTE_TYPE": kind}), pegasus
        )
        for kind in kinds
    }
    given_up()
    now = time.time()
    for days, kind in ((3, "int8"), (2, "float32"), (1, "int8_float32")):
        os.utime(f"{made[kind]}.used", (now - days * DAY_S,) * 2)
    rest = sum(file.stat().st_size for kind in ("float32", "int8_float32") for file in made[kind].iterdir())

    preparation.prune(cache, rest, now=now)
    assert models(cache) == {made["float32"].name, made["int8_float32"].name}

    preparation.prune(cache, rest, now=now - 2 * DAY_S + preparation.UNUSED_S + 1)
    assert models(cache) == {made["int8_float32"].name}


def test_what_an_interrupted_conversion_left_is_removed(
    pegasus: Path, tmp_path: Path, given_up: Callable[[], None]
):
    cache = tmp_path / "cache"
    left = cache / "prepared" / "0123-ctranslate2-int8-1.unfinished"
    left.mkdir(parents=True)
    (left / "model.bin").write_bytes(b"half")

    prepared = converted(Deployment(REPOSITORY, pegasus, cache, EXACT), pegasus)

    assert models(cache) == {prepared.name}


def _fetched(place: Path, folder: Path) -> Path:
    """Leave the folder in a cache of the Hub's client, under the place; what that keeps of the repository."""
    repository = place / "hub" / "models--example--pegasus-tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    return repository


def test_what_was_fetched_from_the_hub_goes_by_the_same_bound(
    pegasus: Path, tmp_path: Path, given_up: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    repository = _fetched(tmp_path, pegasus)
    named = {"HF_MODEL_ID": "example/pegasus-tiny"}
    snapshot = preparation.fetched(Deployment(REPOSITORY, None, tmp_path, named))

    preparation.prune(tmp_path, 0, now=time.time() + 365 * DAY_S)
    assert snapshot == repository / "snapshots" / COMMIT
    assert snapshot.is_dir()

    given_up()
    preparation.prune(tmp_path, 0, now=time.time())
    assert not repository.exists()


def _hub(place: Path, folder: Path) -> dict[str, str]:
    """A cache of the Hub's client that holds the folder, and the environment that finds it, offline."""
    _fetched(place, folder)
    hub = {"HF_HUB_CACHE": str(place / "hub"), "HF_HUB_OFFLINE": "1"}
    return {"HF_MODEL_ID": "example/pegasus-tiny", **hub, **EXACT}


def test_the_snapshot_in_a_hub_cache_is_served_offline(
    start: Start, pegasus: Path, tmp_path: Path, texts: list[str]
):
    server = start(_hub(tmp_path, pegasus)).ready()

    assert server.invoke({"inputs": texts[0]}).status == 200


def test_a_commit_is_never_asked_for_again(pegasus: Path, tmp_path: Path):
    """Once fetched, the Hub's client is not even imported, though the caller wants what is newest."""
    noted = tmp_path / "snapshots" / f"example--pegasus-tiny@{COMMIT}"
    noted.parent.mkdir()
    noted.write_text(str(pegasus))
    named = {"HF_MODEL_ID": "example/pegasus-tiny", "HF_MODEL_REVISION": COMMIT}
    script = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from pathlib import Path\n"
        "from ebbtide.runtime.deployment import Deployment\n"
        "from ebbtide.runtime.preparation import fetched\n"
        f"print(fetched(Deployment('{REPOSITORY}', None, Path({str(tmp_path)!r}), {named!r}), refresh=True))"
    )

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == str(pegasus)


def test_a_hub_model_that_cannot_be_had_fails_naming_it(cache: Path, tmp_path: Path):
    environment = {"HF_MODEL_ID": "example/absent", "HF_HUB_OFFLINE": "1", **EXACT}
    line = command("prepare", tmp_path, image=HUGGING_FACE, model_dir=None, cache=cache)

    process = subprocess.run(line, env=surroundings(environment), capture_output=True, check=False)

    assert process.returncode == 1
    status = json.loads((tmp_path / "status").read_text())
    assert status["phase"] == "failed"
    assert "example/absent@main is not in the cache and the Hub cannot be reached" in status["reason"]


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
            "model.safetensors is a Git LFS pointer",
            id="a pointer for weights, as in the AWS post's archive",
        ),
        pytest.param(
            _with("config.json", '{"model_type": "led"}'),
            "ctranslate2 does not serve led",
            id="a model that the engine asked for does not serve",
        ),
        pytest.param(_with("config.json", "{"), "config.json is not JSON", id="a damaged configuration"),
        pytest.param(_with("config.json", "[]"), "config.json is no object", id="a list for a configuration"),
        pytest.param(
            _with(
                "config.json", '{"model_type": "pegasus", "quantization_config": {"quant_method": "gptq"}}'
            ),
            r"quantised already \(gptq\)",
            id="weights in another's quantisation",
        ),
        pytest.param(
            _with("config.json", '{"model_type": "pegasus", "eos_token_id": 1}'),
            "does not describe a pegasus: 'encoder_layers'",
            id="a configuration that lacks the model's size",
        ),
        pytest.param(
            _with("spiece.model", "version https://git-lfs.github.com/spec/v1\n"),
            "spiece.model is a Git LFS pointer",
            id="a tokenizer that Git LFS has not fetched",
        ),
        pytest.param(
            _with("model.safetensors", "zzzzzzzzzzzzzzzz"),
            "model.safetensors is damaged",
            id="damaged weights",
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
    assert not any(tmp_path.glob("cache/prepared/*.unfinished"))


@pytest.mark.parametrize(
    ("environment", "model_type", "expected"),
    [
        pytest.param(
            {"EBBTIDE_ENGINE": "ctranslate2"}, "bart", Choice("ctranslate2", "int8"), id="int8 on CPU"
        ),
        pytest.param(
            {"EBBTIDE_ENGINE": "ctranslate2", "CT2_COMPUTE_TYPE": "float32"},
            "bart",
            Choice("ctranslate2", "float32"),
            id="the older name of the compute type",
        ),
        pytest.param(
            {"EBBTIDE_ENGINE": "transformers"},
            "bart",
            Choice("transformers", "float32"),
            id="transformers as asked",
        ),
        pytest.param({}, "m2m_100", Choice("ctranslate2", "int8"), id="what the native engine lacks"),
        pytest.param(
            {"EBBTIDE_COMPUTE_TYPE": "float32"},
            "pegasus",
            Choice("ctranslate2", "float32"),
            id="a type in which it is no faster",
        ),
        pytest.param(
            {}, "led", Choice("transformers", "float32"), id="transformers for what the others lack"
        ),
    ],
)
def test_the_engine_and_its_type_are_those_asked_for_or_what_suits(
    environment: dict[str, str], model_type: str, expected: Choice
):
    assert choose(environment, model_type, lambda _: GREEDY) == expected


@pytest.mark.parametrize(
    ("environment", "model_type", "expected"),
    [
        pytest.param({}, "m2m_100", "transformers", id="an engine that takes everything"),
        pytest.param({"EBBTIDE_COMPUTE_TYPE": "float32"}, "bart", "native", id="the faster one of two"),
        pytest.param({"EBBTIDE_ENGINE": "ctranslate2"}, "bart", "ctranslate2", id="the one asked for"),
    ],
)
def test_settings_of_the_checkpoint_that_one_engine_lacks_lead_to_another(
    environment: dict[str, str], model_type: str, expected: str
):
    penalty = replace(GREEDY, num_beams=4, repetition_penalty=1.2)

    assert choose(environment, model_type, lambda _: penalty).engine == expected


def test_settings_of_the_checkpoint_that_the_engine_asked_for_lacks_fail_by_name(
    checkpoint: Path, tmp_path: Path, cache: Path
):
    settings = json.loads((checkpoint / "generation_config.json").read_text()) | {"early_stopping": "never"}
    (checkpoint / "generation_config.json").write_text(json.dumps(settings))
    deployment = Deployment(REPOSITORY, checkpoint, cache, EXACT)

    with pytest.raises(
        LoadFailure, match=r"own generation settings cannot be served: .* early_stopping never"
    ):
        load(deployment, StatusFile(tmp_path / "status"))


@pytest.mark.parametrize(
    ("model_type", "device", "supported", "expected"),
    [
        pytest.param("pegasus", "cpu", {"int8", "float32"}, "int8", id="int8 on a processor"),
        pytest.param("pegasus", "cpu", {"float32"}, "float32", id="a processor without 8-bit products"),
        pytest.param(
            "bart", "cuda", {"int8", "float16", "bfloat16", "float32"}, "float16", id="half on a GPU"
        ),
        pytest.param("t5", "cuda", {"float16", "bfloat16", "float32"}, "bfloat16", id="what overflows half"),
        pytest.param("t5", "cuda", {"float16", "float32"}, "float32", id="the same on an older GPU"),
    ],
)
def test_the_compute_type_suits_the_hardware(
    model_type: str, device: str, supported: set[str], expected: str
):
    assert suited_type(model_type, device, supported) == expected


def test_the_native_engine_is_taken_where_its_products_are_exact():
    chosen = choose({}, "pegasus", lambda _: GREEDY)

    assert chosen.engine == ("native" if has_exact_int8_products() else "ctranslate2")
    assert bool(chosen.processor) == (chosen.engine == "native")


@pytest.mark.parametrize(
    ("environment", "fact"),
    [
        pytest.param(
            {"EBBTIDE_COMPUTE_TYPE": "int3"},
            "int3 is not served by ctranslate2 on cpu: there are int8",
            id="a type that nobody has",
        ),
        pytest.param({"EBBTIDE_ENGINE": "onnx"}, "onnx is none of auto, ctranslate2", id="an unknown engine"),
        pytest.param({"HF_MODEL_ID": "/no/such/place"}, "does not exist", id="a directory that is not there"),
    ],
)
def test_an_environment_that_cannot_be_served_fails_with_the_cause(
    pegasus: Path, cache: Path, tmp_path: Path, environment: dict[str, str], fact: str
):
    deployment = Deployment(REPOSITORY, pegasus, cache, EXACT | environment)

    with pytest.raises(LoadFailure, match=fact):
        load(deployment, StatusFile(tmp_path / "status"))


@pytest.mark.parametrize(
    ("family", "task", "languages"),
    [
        ("marian", "translation_en_to_de", {}),
        ("mbart50", "translation", {"src_lang": "en_XX", "tgt_lang": "de_DE"}),
        ("nllb", "translation", {"src_lang": "eng_Latn", "tgt_lang": "deu_Latn"}),
        ("m2m100", "translation_en_to_de", {}),
    ],
)
def test_a_translation_model_is_served_without_transformers(
    trained: Trained, cache: Path, texts: list[str], family: str, task: str, languages: dict[str, str]
):
    folder = trained(family)
    prepared = converted(Deployment(REPOSITORY, folder, cache, EXACT), folder)
    translator = Summariser(prepared, engines.load(prepared, folder, threads=1), task=task)

    answers = translator(texts, num_beams=1, **languages)

    # They learnt to give back the beginnings of these texts.
    right = sum(
        text.startswith(answer["translation_text"]) for text, answer in zip(texts, answers, strict=True)
    )
    assert right >= len(texts) // 2
