"""Engines beside transformers' own generate, on trained checkpoints: the same tokens, float32.

What an engine cannot have the same it must refuse by name: both are tested. Where only scores differ, how
many answers must agree is stated.
"""

import functools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import checkpoints, corpus

from ebbtide.evaluation import rouge
from ebbtide.runtime import engines
from ebbtide.runtime.deployment import HUGGING_FACE, Deployment
from ebbtide.runtime.engine import Engine
from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.parameters import Generation, generation
from ebbtide.runtime.preparation import converted
from ebbtide.runtime.tokenizer import TextTokenizer

Ids = Sequence[int]
FAMILIES = {
    "ctranslate2": ("pegasus", "bart", "mbart50", "t5", "flan-t5", "marian", "nllb"),
    "native": ("pegasus", "bart", "mbart50", "t5", "flan-t5"),
}
ENGINES = tuple(FAMILIES)


@dataclass
class Served:
    """A checkpoint on an engine. `sources`: the texts it has learnt and others, as it reads them."""

    engine: Engine
    sources: list[list[int]]
    defaults: dict[str, Any]
    tokenizer: TextTokenizer
    reference: "Reference"

    def generation(self, parameters: dict[str, Any]) -> Generation:
        return generation(parameters, self.defaults, positions=None)

    def answers(self, parameters: dict[str, Any]) -> list[list[tuple[int, ...]]]:
        several = self.engine.generate(self.sources, self.generation(parameters), threading.Event())
        return [[hypothesis.tokens for hypothesis in each] for each in several]

    def transformers_answers(self, parameters: dict[str, Any]) -> list[list[tuple[int, ...]]]:
        """What transformers generates for one text at a time, without start and end."""
        return self.reference.answers(self.sources, parameters, self.generation(parameters).eos_token_ids)


class Reference:
    """A checkpoint in transformers, whose answers several engines are held against: each is made once."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSeq2SeqLM

        self._model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        self._known: dict[str, list[list[tuple[int, ...]]]] = {}

    def answers(
        self, sources: list[list[int]], parameters: dict[str, Any], ends: Ids
    ) -> list[list[tuple[int, ...]]]:
        asked = json.dumps([sources, parameters, list(ends)])
        if asked not in self._known:
            self._known[asked] = [self._answer(source, parameters, ends) for source in sources]
        return self._known[asked]

    def _answer(self, source: list[int], parameters: dict[str, Any], ends: Ids) -> list[tuple[int, ...]]:
        import torch

        ids = torch.tensor([source])
        with torch.no_grad():
            rows = self._model.generate(ids, attention_mask=torch.ones_like(ids), **parameters)
        return [_until_end(row[1:], ends) for row in rows.tolist()]


def _until_end(ids: Ids, ends: Ids) -> tuple[int, ...]:
    end = next((place for place, id_ in enumerate(ids) if id_ in ends), len(ids))
    return tuple(ids[:end])


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve(trained: checkpoints.Trained, cache: Path) -> Serve:
    """A family's checkpoint on an engine, in a compute type."""
    import torch

    # For models this small more threads only wait for each other.
    torch.set_num_threads(1)

    @functools.cache
    def reference(family: str) -> Reference:
        return Reference(trained(family))

    @functools.cache
    def one(engine: str, family: str, compute_type: str = "float32") -> Served:
        folder = trained(family)
        environment = {"EBBTIDE_ENGINE": engine, "EBBTIDE_COMPUTE_TYPE": compute_type}
        prepared = converted(Deployment(HUGGING_FACE, folder, cache, environment), folder)
        tokenizer = TextTokenizer.load(prepared)
        return Served(
            engines.load(prepared, folder, threads=2),
            tokenizer.encode(_texts()),
            json.loads((prepared / "summariser.json").read_text())["generation"],
            tokenizer,
            reference(family),
        )

    return one


def _texts() -> list[str]:
    """What the checkpoints have learnt, and mixtures of it that they are not sure about."""
    known = corpus.texts()[:16]
    mixed = [
        " ".join(one.split()[:6] + other.split()[6:]) for one, other in zip(known, known[5:], strict=False)
    ]
    return known + mixed[:8]


BEAMS = {"num_beams": 4, "early_stopping": True}


@pytest.mark.parametrize(
    ("engine", "family"), [(engine, family) for engine in ENGINES for family in FAMILIES[engine]]
)
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"num_beams": 1, "no_repeat_ngram_size": 0, "max_length": 32}, id="greedy"),
        pytest.param({**BEAMS, "no_repeat_ngram_size": 0, "max_length": 32}, id="beam search"),
    ],
)
def test_every_familys_float32_answers_are_transformers_own(
    serve: Serve, engine: str, family: str, parameters: dict[str, Any]
):
    served = serve(engine, family)

    assert served.answers(parameters) == served.transformers_answers(parameters)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"num_beams": 1, "no_repeat_ngram_size": 2}, id="no n-gram twice"),
        pytest.param({"num_beams": 1, "min_length": 20}, id="a shortest length"),
        pytest.param({"num_beams": 1, "max_length": 6}, id="a longest length, its end forced"),
        pytest.param({"num_beams": 1, "max_new_tokens": 1}, id="nothing but the forced end"),
        pytest.param({"num_beams": 1, "repetition_penalty": 1.3}, id="a penalty on repetition"),
        pytest.param({"num_beams": 1, "bad_words_ids": [[150], [160, 170]]}, id="bad words"),
        pytest.param({"num_beams": 1, "suppress_tokens": [150, 200]}, id="tokens that may not come"),
        pytest.param({"num_beams": 1, "forced_bos_token_id": 150}, id="a first token"),
        pytest.param({"num_beams": 1, "eos_token_id": [1, 150]}, id="several ends"),
        pytest.param({"num_beams": 1, "do_sample": True, "top_k": 1}, id="sampling from one"),
        pytest.param({"num_beams": 8, "early_stopping": True}, id="eight beams"),
        pytest.param({**BEAMS, "length_penalty": 2.0}, id="long ones favoured"),
        pytest.param({**BEAMS, "length_penalty": 0.0}, id="length of no account"),
        pytest.param({**BEAMS, "length_penalty": -1.0}, id="short ones favoured"),
        pytest.param({**BEAMS, "max_length": 6}, id="beams that end at the longest length"),
        pytest.param({**BEAMS, "num_return_sequences": 4}, id="all beams"),
        pytest.param(
            {**BEAMS, "min_length": 12, "renormalize_logits": True}, id="beams of a shortest length"
        ),
        pytest.param(
            {**BEAMS, "no_repeat_ngram_size": 2, "renormalize_logits": True}, id="beams without repetition"
        ),
    ],
)
def test_each_parameter_means_what_it_means_in_transformers(
    serve: Serve, engine: str, parameters: dict[str, Any]
):
    served = serve(engine, "pegasus")

    assert served.answers(parameters) == served.transformers_answers(parameters)


SCORED_OTHERWISE = [
    pytest.param({"num_beams": 8, "early_stopping": False}, 0.95, id="a search ended by an estimate"),
    pytest.param({**BEAMS, "early_stopping": False, "length_penalty": 2.0}, 0.85, id="the longer favoured"),
    pytest.param({**BEAMS, "no_repeat_ngram_size": 2}, 0.8, id="repetition forbidden before normalising"),
    pytest.param({**BEAMS, "suppress_tokens": [150, 200]}, 0.8, id="tokens forbidden before normalising"),
    pytest.param({**BEAMS, "min_length": 12}, 0.4, id="the end forbidden before normalising"),
]


@pytest.mark.parametrize(("parameters", "agreeing"), SCORED_OTHERWISE)
def test_where_ctranslate2_scores_otherwise_so_many_answers_are_still_the_same(
    serve: Serve, parameters: dict[str, Any], agreeing: float
):
    served = serve("ctranslate2", "pegasus")

    pairs = list(zip(served.answers(parameters), served.transformers_answers(parameters), strict=True))

    assert sum(ours == theirs for ours, theirs in pairs) >= agreeing * len(pairs)


@pytest.mark.parametrize(("parameters", "_agreeing"), SCORED_OTHERWISE)
def test_the_native_engine_scores_as_transformers(serve: Serve, parameters: dict[str, Any], _agreeing: float):
    served = serve("native", "pegasus")

    assert served.answers(parameters) == served.transformers_answers(parameters)


@pytest.mark.parametrize(
    ("family", "parameters", "named"),
    [
        pytest.param("pegasus", {**BEAMS, "early_stopping": "never"}, "early_stopping", id="never stopping"),
        pytest.param("pegasus", {**BEAMS, "do_sample": True}, "do_sample", id="sampled beams"),
        pytest.param("pegasus", {**BEAMS, "repetition_penalty": 1.3}, "repetition_penalty", id="in beams"),
        pytest.param("bart", {"num_beams": 1, "repetition_penalty": 1.3}, "repetition_penalty", id="start"),
        pytest.param("pegasus", {"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat", id="the source's"),
        pytest.param("pegasus", {"begin_suppress_tokens": [5]}, "begin_suppress", id="no such first token"),
        pytest.param("pegasus", {"num_beams": 1, "do_sample": True, "seed": 1}, "seed", id="a seed"),
        pytest.param("pegasus", {"decoder_start_token_id": 5}, "decoder_start", id="another start"),
        pytest.param("pegasus", {"suppress_tokens": [99_999]}, "beyond the model's", id="no such token"),
    ],
)
def test_what_ctranslate2_means_otherwise_is_refused_by_name(
    serve: Serve, family: str, parameters: dict[str, Any], named: str
):
    with pytest.raises(BadRequest, match=named):
        serve("ctranslate2", family).answers(parameters)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["pegasus", "bart", "t5"])
def test_int8_answers_have_ninety_percent_rouge_l_against_float32(serve: Serve, engine: str, family: str):
    exact, quantised = serve(engine, family), serve(engine, family, "int8")

    def texts(served: Served) -> list[str]:
        return [served.tokenizer.decode(each[0]) for each in served.answers({})]

    f1 = rouge.f1(texts(quantised), texts(exact))

    assert f1[:, list(rouge.MEASURES).index("rougeLsum")].mean() >= 90
