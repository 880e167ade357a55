"""A request's parameters as the engine's: transformers' meanings, or a refusal that names the parameter."""

from typing import Any

import pytest

from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.parameters import generation

PEGASUS = {"max_length": 256, "num_beams": 8, "length_penalty": 0.8, "forced_eos_token_id": 1}
"""google/pegasus-large's own generation_config.json."""

UNFORCED = {"max_length": 256, "num_beams": 8}


@pytest.mark.parametrize(
    ("parameters", "defaults", "expected"),
    [
        pytest.param({}, UNFORCED, {"max_decoding_length": 255}, id="the start token counts in max_length"),
        pytest.param({}, PEGASUS, {"max_decoding_length": 254}, id="so does an end token that is forced"),
        pytest.param(
            {}, PEGASUS, {"beam_size": 8, "length_penalty": 0.8}, id="the model's settings are the default"
        ),
        pytest.param({"num_beams": 2}, PEGASUS, {"beam_size": 2}, id="the request's win"),
        pytest.param(
            {}, {}, {"beam_size": 4, "max_decoding_length": 256}, id="the pipeline's are the last resort"
        ),
        pytest.param(
            {"max_length": 50}, {}, {"max_decoding_length": 49}, id="max_length replaces the pipeline's bound"
        ),
        pytest.param(
            {"max_length": 50, "max_new_tokens": 10},
            UNFORCED,
            {"max_decoding_length": 10},
            id="max_new_tokens wins over max_length",
        ),
        pytest.param({"min_length": 20}, UNFORCED, {"min_decoding_length": 19}, id="and in min_length"),
        pytest.param(
            {"min_new_tokens": 20}, UNFORCED, {"min_decoding_length": 20}, id="not in min_new_tokens"
        ),
        pytest.param(
            {"no_repeat_ngram_size": 3}, PEGASUS, {"no_repeat_ngram_size": 3}, id="no_repeat_ngram_size"
        ),
        pytest.param(
            {"repetition_penalty": 1.2}, PEGASUS, {"repetition_penalty": 1.2}, id="repetition_penalty"
        ),
        pytest.param(
            {"early_stopping": True}, PEGASUS, {"patience": 1}, id="early_stopping ends at num_beams"
        ),
        pytest.param(
            {"early_stopping": False}, PEGASUS, {"patience": 8}, id="without it, the search goes on"
        ),
        pytest.param({"num_return_sequences": 3}, PEGASUS, {"num_hypotheses": 3}, id="several answers"),
        pytest.param(
            {"do_sample": True, "num_beams": 1, "top_p": 0.9, "temperature": 0.7},
            PEGASUS,
            {"sampling_topk": 50, "sampling_topp": 0.9, "sampling_temperature": 0.7},
            id="sampling, from the 50 likeliest by default",
        ),
        pytest.param(
            {"use_cache": True, "return_text": True}, PEGASUS, {"beam_size": 8}, id="values without effect"
        ),
        pytest.param({"num_beams": None}, PEGASUS, {"beam_size": 8}, id="null leaves the default"),
    ],
)
def test_parameters_become_the_engines(
    parameters: dict[str, Any], defaults: dict[str, Any], expected: dict[str, Any]
):
    engine = generation(parameters, defaults, positions=1024).engine

    assert {name: engine[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("value", "cuts"),
    [(True, True), ("longest_first", True), ("only_first", True), (False, False), ("do_not_truncate", False)],
)
def test_an_input_is_cut_only_when_truncation_asks_for_it(value: object, *, cuts: bool):
    assert generation({"truncation": value}, PEGASUS, positions=1024).truncate is cuts
    assert generation({}, PEGASUS, positions=1024).truncate is False


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        pytest.param({"num_beam": 4}, "num_beam", id="unknown"),
        pytest.param({"max_length": 0}, "max_length", id="no length at all"),
        pytest.param({"max_length": "60"}, "max_length", id="text for a number"),
        pytest.param({"num_beams": True}, "num_beams", id="a boolean for a number"),
        pytest.param(
            {"num_beams": 100_000}, "num_beams must be an integer from 1 to 64", id="beams without end"
        ),
        pytest.param({"length_penalty": float("nan")}, "length_penalty", id="not a number"),
        pytest.param({"early_stopping": "never"}, "early_stopping", id="a rule that the engine lacks"),
        pytest.param({"top_p": 1.5}, "top_p", id="out of range"),
        pytest.param({"max_length": 2000}, "1024 positions", id="longer than the model counts"),
        pytest.param({"min_length": 60, "max_length": 50}, "shortest", id="the shortest over the longest"),
        pytest.param({"do_sample": True}, "num_beams", id="sampling with the model's beams"),
        pytest.param({"temperature": 0.5}, "do_sample", id="a temperature without sampling"),
        pytest.param({"num_return_sequences": 9}, "num_return_sequences", id="more answers than beams"),
        pytest.param({"num_beam_groups": 2}, "num_beam_groups", id="a search that the engine lacks"),
        pytest.param({"return_tensors": True}, "return_tensors", id="tensors instead of text"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(parameters: dict[str, Any], named: str):
    with pytest.raises(BadRequest, match=named):
        generation(parameters, PEGASUS, positions=1024)
