"""transformers as an engine: the models for long texts that only it has, beside its own generate."""

import json
import pickle
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import corpus
from tests.checkpoints import Trained
from tests.model_servers import Start

from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.conversion.tokenizer import text_tokenizer
from ebbtide.runtime.engine import Cancelled
from ebbtide.runtime.engines.reference import ReferenceEngine
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.parameters import Generation, generation, model_settings

LONG_TEXT_FAMILIES = ("led", "longt5", "pegasus_x", "bigbird_pegasus")


class Subject:
    """A checkpoint in the engine and in transformers alone, and texts of different lengths as its tokens."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSeq2SeqLM

        self.folder = folder
        checkpoint = Checkpoint(folder)
        self.settings = model_settings(checkpoint.config, checkpoint.generation_config)
        self.engine = ReferenceEngine(folder, threads=1)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        texts = corpus.texts()
        some = [texts[0], "Tide.", texts[1], f"{texts[2]} {texts[3]}", texts[4]]
        self.sources = text_tokenizer(checkpoint).encode(some)

    def generation(self, **parameters: Any) -> Generation:
        return generation(parameters, self.settings, positions=None)

    def generate(self, wanted: Generation) -> list[tuple[int, ...]]:
        """The best answer to each source."""
        several = self.engine.generate(self.sources, wanted, threading.Event())
        return [hypotheses[0].tokens for hypotheses in several]

    def expected(self, parameters: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """transformers' own answers, one text at a time."""
        import torch

        answers = []
        for source in self.sources:
            ids = torch.tensor([source])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if self.model.config.model_type == "led":
                inputs["global_attention_mask"] = torch.zeros_like(ids)
                inputs["global_attention_mask"][:, 0] = 1
            if self.model.config.model_type == "bigbird_pegasus":
                self.model.get_encoder().set_attention_type("block_sparse")
            with torch.no_grad():
                tokens = self.model.generate(**inputs, **parameters)[0].tolist()[1:]
            end = self.model.generation_config.eos_token_id
            answers.append(tuple(tokens[: tokens.index(end)] if end in tokens else tokens))
        return answers


@pytest.fixture(scope="session")
def subject(trained: Trained) -> Callable[[str], Subject]:
    made: dict[str, Subject] = {}

    def of(family: str) -> Subject:
        if family not in made:
            made[family] = Subject(trained(family))
        return made[family]

    return of


@pytest.mark.parametrize("family", [*LONG_TEXT_FAMILIES, "pegasus"])
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"num_beams": 1}, id="greedy"),
        pytest.param({"num_beams": 4, "early_stopping": False, "length_penalty": 0.6}, id="beams"),
        pytest.param(
            {"num_beams": 3, "early_stopping": "never", "min_new_tokens": 12, "no_repeat_ngram_size": 2},
            id="a least length, no n-gram twice",
        ),
        pytest.param(
            {
                "num_beams": 1,
                "repetition_penalty": 1.4,
                "encoder_no_repeat_ngram_size": 3,
                "max_new_tokens": 9,
            },
            id="nothing twice, little from the text",
        ),
    ],
)
def test_answers_of_a_batch_are_transformers_own(
    subject: Callable[[str], Subject], family: str, parameters: dict[str, Any]
):
    model = subject(family)
    parameters = {"max_new_tokens": 20, **parameters}

    assert model.generate(model.generation(**parameters)) == model.expected(parameters)


def test_several_answers_come_best_first(subject: Callable[[str], Subject]):
    model = subject("led")

    several = model.engine.generate(
        model.sources, model.generation(num_beams=4, num_return_sequences=3), threading.Event()
    )

    assert [len(hypotheses) for hypotheses in several] == [3] * len(model.sources)
    assert [hypotheses[0].tokens for hypotheses in several] == model.generate(model.generation(num_beams=4))


def test_a_seed_gives_the_same_draw_again(subject: Callable[[str], Subject]):
    model = subject("pegasus_x")
    drawing = {"num_beams": 1, "do_sample": True, "temperature": 3.0}

    first, again, other = (model.generate(model.generation(seed=seed, **drawing)) for seed in (7, 7, 8))

    assert first == again != other


def test_a_short_text_leaves_the_attention_of_longer_ones_as_it_was(subject: Callable[[str], Subject]):
    model = subject("bigbird_pegasus")
    wanted = model.generation(num_beams=1)
    before = model.generate(wanted)

    model.engine.generate([model.sources[1]], wanted, threading.Event())

    assert model.generate(wanted) == before


class SetAfter(threading.Event):
    """Set once it has been asked for so many times: a request cancelled in the midst of decoding."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize("beams", [1, 4])
def test_a_cancelled_request_ends_between_two_layers(subject: Callable[[str], Subject], beams: int):
    model = subject("longt5")
    passes: list[None] = []
    counting = model.engine._model.register_forward_pre_hook(lambda *_: passes.append(None))
    wanted = replace(model.generation(num_beams=beams), min_new_tokens=50, max_new_tokens=60)

    with pytest.raises(Cancelled):
        model.engine.generate(model.sources[:1], wanted, SetAfter(40))

    counting.remove()
    assert 0 < len(passes) < 40


def test_led_refuses_a_length_that_its_decoder_has_no_places_for(subject: Callable[[str], Subject]):
    model = subject("led")

    with pytest.raises(BadRequest, match=r"65 tokens, is over the 64"):
        model.generate(model.generation(max_new_tokens=65))


def test_led_is_served_within_its_window(start: Start, trained: Trained):
    folder = trained("led")
    server = start(model_dir=folder).ready()

    reply = server.invoke({"inputs": corpus.texts()[:2], "parameters": {"num_beams": 2}})
    long = server.invoke({"inputs": "tide " * 500})
    cut = server.invoke({"inputs": "tide " * 500, "parameters": {"truncation": True}})

    assert [set(item) for item in reply.json] == [{"generated_text"}] * 2
    assert (long.status, "the model reads 128" in long.json["message"]) == (400, True)
    assert int(cut.headers["X-Ebbtide-Cut-Tokens"]) > 0


def test_any_model_is_served_where_transformers_is_asked_for(start: Start, trained: Trained):
    answers = []
    for environment in ({"EBBTIDE_ENGINE": "transformers"}, {"EBBTIDE_COMPUTE_TYPE": "float32"}):
        server = start({"HF_TASK": "translation_en_to_de", **environment}, model_dir=trained("t5")).ready()
        answers.append(server.invoke({"inputs": corpus.texts()[:4]}).json)

    assert [set(item) for item in answers[0]] == [{"translation_text"}] * 4
    assert answers[0] == answers[1]


@pytest.fixture
def damaged(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a checkpoint to change."""
    return Path(shutil.copytree(trained("led"), tmp_path / "led"))


def test_weights_that_lack_a_tensor_are_not_made_up(damaged: Path):
    from safetensors.torch import load_file, save_file

    weights = load_file(damaged / "model.safetensors")
    weights.pop("led.encoder.layers.1.fc1.weight")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(LoadFailure, match=r"lack 1 tensors, led.encoder.layers.1.fc1.weight"):
        ReferenceEngine(damaged, threads=1)


class Code:
    """What a pickle runs when it is loaded without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of the weights has run')",)


def test_pickled_weights_do_not_run_code(damaged: Path):
    (damaged / "model.safetensors").unlink()
    with (damaged / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weights": Code()}, file)

    with pytest.raises(LoadFailure, match="transformers cannot load the model"):
        ReferenceEngine(damaged, threads=1)


def test_code_among_the_files_does_not_run_untrusted(damaged: Path):
    config = json.loads((damaged / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForSeq2SeqLM": "own.Model"}
    (damaged / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (damaged / "own.py").write_text("raise SystemExit('code among the files has run')")

    with pytest.raises(LoadFailure, match="transformers cannot load the model"):
        ReferenceEngine(damaged, threads=1)


def test_a_type_that_torch_does_not_compute_in_is_refused(trained: Trained):
    with pytest.raises(LoadFailure, match="not in int8"):
        ReferenceEngine(trained("led"), threads=1, compute_type="int8")


def test_bfloat16_takes_half_the_memory(trained: Trained):
    import torch

    engine = ReferenceEngine(trained("led"), threads=1, compute_type="bfloat16")

    assert {weights.dtype for weights in engine._model.parameters()} == {torch.bfloat16}
    assert engine.describe()["compute_type"] == "bfloat16"
