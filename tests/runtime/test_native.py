"""The engine native beyond the answers that test_parity.py compares: its batch, its room, its randomness."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import checkpoints

from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.engine import Cancelled, Hypothesis
from ebbtide.runtime.engines.native import engine as native
from ebbtide.runtime.engines.native.preparation import DESCRIPTION, prepare
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.parameters import Generation, generation, model_settings

GREEDY = Generation(decoder_start_token_id=0, eos_token_ids=(1,), pad_token_id=0, max_new_tokens=24)
BEAMS = replace(GREEDY, num_beams=4)
PATIENCE_S = 120.0

ENDLESS = replace(BEAMS, max_new_tokens=100_000, min_new_tokens=100_000)
SAMPLED = replace(GREEDY, do_sample=True, temperature=2.0, seed=7)
SOURCES = [[300 - 7 * place, *range(110, 114 + 3 * place), 1] for place in range(9)]


@pytest.fixture(scope="module")
def prepared(trained: checkpoints.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    # T5's decoder counts without end, so that a search can be made to last.
    prepare(Checkpoint(trained("t5")), folder, "float32")
    return folder


@pytest.fixture(scope="module")
def engine(prepared: Path) -> native.NativeEngine:
    return native.NativeEngine(prepared, threads=1)


def answers(
    engine: native.NativeEngine, sources: list[list[int]], wanted: Generation
) -> list[list[Hypothesis]]:
    return engine.generate(sources, wanted, threading.Event())


def tokens(several: list[list[Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[hypothesis.tokens for hypothesis in each] for each in several]


@pytest.fixture(scope="module")
def bart(trained: checkpoints.Trained, tmp_path_factory: pytest.TempPathFactory) -> native.NativeEngine:
    folder = tmp_path_factory.mktemp("bart")
    prepare(Checkpoint(trained("bart")), folder, "float32")
    return native.NativeEngine(folder, threads=1)


@pytest.fixture(scope="module")
def reference(trained: checkpoints.Trained) -> Any:
    """The same checkpoint in transformers."""
    from transformers import AutoModelForSeq2SeqLM

    torch.set_num_threads(1)
    return AutoModelForSeq2SeqLM.from_pretrained(trained("bart")).eval()


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"num_beams": 4, "early_stopping": "never"}, id="a search to its end"),
        pytest.param({"num_beams": 4, "early_stopping": "never", "length_penalty": -1.0}, id="of short ones"),
        pytest.param(
            {"num_beams": 4, "early_stopping": False, "num_return_sequences": 4}, id="by an estimate"
        ),
        pytest.param({"num_beams": 4, "repetition_penalty": 1.5}, id="a penalty on repetition, with beams"),
        pytest.param({"num_beams": 4, "repetition_penalty": 0.7}, id="a reward for it"),
        pytest.param({"num_beams": 3, "encoder_no_repeat_ngram_size": 2}, id="nothing of the source"),
        pytest.param({"num_beams": 3, "begin_suppress_tokens": [40, 41, 150]}, id="tokens not to begin with"),
        pytest.param({"num_beams": 4, "min_length": 10, "renormalize_logits": True}, id="renormalised"),
        pytest.param({"num_beams": 2, "max_new_tokens": 1}, id="both ends forced at once"),
        pytest.param({"num_beams": 2, "decoder_start_token_id": 5}, id="another start"),
    ],
)
def test_what_other_engines_refuse_is_as_in_transformers_too(
    bart: native.NativeEngine, reference: Any, trained: checkpoints.Trained, parameters: dict[str, Any]
):
    checkpoint = Checkpoint(trained("bart"))
    defaults = model_settings(checkpoint.config, checkpoint.generation_config)
    wanted = generation(parameters, defaults, positions=None)

    expected = []
    for source in SOURCES:
        rows = reference.generate(torch.tensor([source]), **parameters).tolist()
        ends = [row.index(2, 1) if 2 in row[1:] else len(row) for row in rows]
        expected.append([tuple(row[1:end]) for row, end in zip(rows, ends, strict=True)])
    assert tokens(answers(bart, SOURCES, wanted)) == expected


def test_requests_of_different_settings_answer_together_as_each_does_alone(engine: native.NativeEngine):
    settings = [
        GREEDY,
        BEAMS,
        replace(BEAMS, num_beams=7, max_new_tokens=5),
        replace(GREEDY, min_new_tokens=20),
    ]
    asked = [(source, settings[place % len(settings)]) for place, source in enumerate(SOURCES)]
    alone = [tokens(answers(engine, [source], wanted)) for source, wanted in asked]

    with ThreadPoolExecutor(len(asked)) as callers:
        together = list(callers.map(lambda each: tokens(answers(engine, [each[0]], each[1])), asked))

    assert together == alone


def test_long_ones_among_short_ones_answer_as_each_does_alone(engine: native.NativeEngine):
    sources = [SOURCES[0], SOURCES[1] * 12, SOURCES[2], SOURCES[3] * 7, *SOURCES[4:]]
    settings = [replace(BEAMS, min_new_tokens=5 * place, max_new_tokens=60) for place in range(len(sources))]
    alone = [tokens(answers(engine, [source], each)) for source, each in zip(sources, settings, strict=True)]

    with ThreadPoolExecutor(len(sources)) as callers:
        together = callers.map(
            lambda source, each: tokens(answers(engine, [source], each)), sources, settings
        )

    assert list(together) == alone


def test_int8_answers_do_not_depend_on_what_is_decoded_beside(trained: checkpoints.Trained, tmp_path: Path):
    prepare(Checkpoint(trained("pegasus")), tmp_path, "int8")
    engine = native.NativeEngine(tmp_path, threads=1)

    alone = [answers(engine, [source], BEAMS)[0] for source in SOURCES]

    assert tokens(answers(engine, SOURCES, BEAMS)) == tokens(alone)


def test_a_cancelled_search_ends_and_others_go_on(engine: native.NativeEngine):
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as callers:
        endless = callers.submit(engine.generate, SOURCES[:2], ENDLESS, cancelled)
        beside = answers(engine, SOURCES, BEAMS)
        cancelled.set()

        with pytest.raises(Cancelled):
            endless.result()
    assert tokens(answers(engine, SOURCES, BEAMS)) == tokens(beside)


def test_more_than_there_is_room_for_waits_its_turn(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, engine: native.NativeEngine
):
    expected = tokens(answers(engine, SOURCES, BEAMS))
    monkeypatch.setattr(native, "MAX_ROWS", 9)
    monkeypatch.setattr(native, "CACHE_BYTES", 1)
    monkeypatch.setattr(native, "ENCODED_AT_ONCE", 1)

    assert tokens(answers(native.NativeEngine(prepared, threads=1), SOURCES, BEAMS)) == expected


def test_a_long_list_is_not_held_up_by_texts_that_keep_coming(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(native, "MAX_ROWS", 1)
    engine = native.NativeEngine(prepared, threads=1)

    def keep_coming() -> bool:
        """Whether the list was done before so many had been answered."""
        assert listed_is_known.wait(PATIENCE_S)
        for _ in range(60):
            answers(engine, SOURCES[:1], GREEDY)
            if listed.done():
                return True
        return False

    listed_is_known = threading.Event()

    class Asked(threading.Event):
        def is_set(self) -> bool:
            listed_is_known.set()  # the engine, which has the list by now, wants to know if it was cancelled
            return False

    with ThreadPoolExecutor(4) as callers:
        listed = callers.submit(engine.generate, SOURCES, GREEDY, Asked())
        coming = [callers.submit(keep_coming) for _ in range(3)]
        assert all(each.result() for each in coming)


def test_a_fault_fails_the_source_that_has_it_and_no_other(engine: native.NativeEngine):
    expected = tokens(answers(engine, SOURCES, BEAMS))
    # What no request can ask for: the search finds it as its first hypothesis ends.
    faulty = replace(BEAMS, length_penalty="long", max_new_tokens=1)

    with ThreadPoolExecutor(2) as callers:
        failing = [callers.submit(answers, engine, SOURCES[:2], faulty) for _ in range(2)]
        assert tokens(answers(engine, SOURCES, BEAMS)) == expected
        for each in failing:
            with pytest.raises(TypeError):
                each.result()


def test_what_cannot_be_decoded_together_is_decoded_one_by_one(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = native.NativeEngine(prepared, threads=1)
    expected = tokens(answers(engine, SOURCES, BEAMS))
    monkeypatch.setattr(engine._model, "decoder", _WithoutMemory(engine._model.decoder, rows=BEAMS.num_beams))

    assert tokens(answers(engine, SOURCES, BEAMS)) == expected


class _WithoutMemory:
    """ONNX Runtime's session, with memory for so many rows."""

    def __init__(self, session: Any, *, rows: int) -> None:
        self._session, self._rows = session, rows

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        self._session.run_with_iobinding(binding)
        if binding.get_outputs()[0].shape()[0] > self._rows:
            raise RuntimeError("no memory")


def test_a_seed_draws_the_same_answers_whatever_is_decoded_beside(engine: native.NativeEngine):
    once = tokens(answers(engine, SOURCES, SAMPLED))
    other = tokens(answers(engine, SOURCES, replace(SAMPLED, seed=8)))

    assert tokens(answers(engine, SOURCES[:3], SAMPLED)) == once[:3]
    assert other != once


def test_samples_of_one_source_are_drawn_independently(engine: native.NativeEngine):
    (several,) = answers(engine, SOURCES[:1], replace(SAMPLED, num_return_sequences=6))

    assert len({hypothesis.tokens for hypothesis in several}) > 1


def test_beams_sampled_at_almost_no_temperature_are_those_of_beam_search(engine: native.NativeEngine):
    (best,), *_ = answers(engine, SOURCES[:1], replace(BEAMS, do_sample=True, temperature=1e-4, seed=1))

    assert best.tokens == answers(engine, SOURCES[:1], BEAMS)[0][0].tokens


def test_tokens_that_the_model_has_not_are_refused(engine: native.NativeEngine):
    with pytest.raises(BadRequest, match="suppress_tokens has an id beyond"):
        answers(engine, SOURCES, replace(GREEDY, suppress_tokens=(99_999,)))


def test_weights_packed_on_another_processor_are_not_loaded(prepared: Path, tmp_path: Path):
    for file in prepared.iterdir():
        (tmp_path / file.name).symlink_to(file)
    described = json.loads((prepared / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).unlink()
    (tmp_path / DESCRIPTION).write_text(json.dumps({**described, "processor": "abacus"}))

    with pytest.raises(LoadFailure, match="of abacus"):
        native.NativeEngine(tmp_path, threads=1)


def test_a_family_that_is_not_served_is_named(trained: checkpoints.Trained, tmp_path: Path):
    with pytest.raises(LoadFailure, match="not marian"):
        prepare(Checkpoint(trained("marian")), tmp_path, "float32")


def test_onnx_runtime_tells_nobody_and_starts_no_thread_as_it_is_imported():
    program = (
        "import os, ebbtide.runtime.engines.native.engine;"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], len(os.listdir('/proc/self/task')))"
    )
    # numpy's own threads, one for each further core, are not meant.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}

    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )

    assert told.stdout.split() == ["1", "1"]
