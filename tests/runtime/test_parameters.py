"""A request's parameters over the checkpoint's settings: transformers' meanings, or refusals by name."""

from pathlib import Path
from typing import Any

import pytest

from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.parameters import NEUTRAL, generation, model_settings, task_settings

IDS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
PEGASUS = {**IDS, "max_length": 256, "num_beams": 8, "length_penalty": 0.8, "forced_eos_token_id": 1}
"""google/pegasus-large's own generation_config.json."""


@pytest.mark.parametrize(
    ("parameters", "defaults", "expected"),
    [
        pytest.param({}, PEGASUS, {"max_new_tokens": 255}, id="the start token counts in max_length"),
        pytest.param(
            {}, PEGASUS, {"num_beams": 8, "length_penalty": 0.8}, id="the model's settings are the default"
        ),
        pytest.param({"num_beams": 2}, PEGASUS, {"num_beams": 2}, id="the request's win"),
        pytest.param(
            {}, IDS, {"num_beams": 4, "max_new_tokens": 256}, id="the pipeline's are the last resort"
        ),
        pytest.param(
            {"max_length": 50}, IDS, {"max_new_tokens": 49}, id="max_length replaces the pipeline's bound"
        ),
        pytest.param(
            {"max_length": 50},
            {**IDS, "max_new_tokens": 99},
            {"max_new_tokens": 49},
            id="and the model's, under whatever name",
        ),
        pytest.param(
            {"max_length": 50, "max_new_tokens": 10},
            PEGASUS,
            {"max_new_tokens": 10},
            id="max_new_tokens wins over max_length beside it",
        ),
        pytest.param({"min_length": 20}, PEGASUS, {"min_new_tokens": 19}, id="and in min_length"),
        pytest.param({"min_new_tokens": 20}, PEGASUS, {"min_new_tokens": 20}, id="not in min_new_tokens"),
        pytest.param(
            {"max_length": 20},
            {**PEGASUS, "min_length": 56},
            {"max_new_tokens": 19, "min_new_tokens": 55},
            id="a model's shortest over the request's longest forbids the end, as in transformers",
        ),
        pytest.param(
            {}, PEGASUS, {"early_stopping": False}, id="a search goes on where nobody says otherwise"
        ),
        pytest.param({"early_stopping": "never"}, PEGASUS, {"early_stopping": "never"}, id="or to the last"),
        pytest.param({"eos_token_id": [1, 7]}, PEGASUS, {"eos_token_ids": (1, 7)}, id="several ends"),
        pytest.param(
            {},
            {"bos_token_id": 5, "eos_token_id": 1},
            {"decoder_start_token_id": 5},
            id="without a start token of its own the decoder starts from the beginning's",
        ),
        pytest.param(
            {"bad_words_ids": [[4], [5, 6]], "suppress_tokens": [9]},
            PEGASUS,
            {"bad_words_ids": ((4,), (5, 6)), "suppress_tokens": (9,)},
            id="words and tokens that may not come",
        ),
        pytest.param(
            {"do_sample": True, "num_beams": 1, "top_p": 0.9, "temperature": 0.7, "seed": 3},
            PEGASUS,
            {"top_k": 50, "top_p": 0.9, "temperature": 0.7, "seed": 3},
            id="sampling, from the 50 likeliest by default",
        ),
        pytest.param(
            {"do_sample": True, "num_beams": 1, "num_return_sequences": 9},
            PEGASUS,
            {"num_return_sequences": 9},
            id="any number of samples",
        ),
        pytest.param(
            {"use_cache": False, "return_text": True, "num_beam_groups": 1, "penalty_alpha": None},
            PEGASUS,
            {"num_beams": 8},
            id="values that change no answer",
        ),
        pytest.param({"num_beams": None}, PEGASUS, {"num_beams": 8}, id="null leaves the default"),
    ],
)
def test_parameters_mean_what_they_mean_in_transformers(
    parameters: dict[str, Any], defaults: dict[str, Any], expected: dict[str, Any]
):
    asked = generation(parameters, defaults, positions=1024)

    assert {name: getattr(asked, name) for name in expected} == expected


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
        pytest.param({"max_length": 1}, "max_length", id="no length at all"),
        pytest.param({"max_length": "60"}, "max_length", id="text for a number"),
        pytest.param({"num_beams": True}, "num_beams", id="a boolean for a number"),
        pytest.param(
            {"num_beams": 100_000}, "num_beams must be an integer from 1 to 64", id="beams without end"
        ),
        pytest.param({"length_penalty": float("nan")}, "length_penalty", id="not a number"),
        pytest.param({"early_stopping": "soon"}, "early_stopping", id="a rule that there is not"),
        pytest.param({"top_p": 1.5}, "top_p", id="out of range"),
        pytest.param({"bad_words_ids": [[]]}, "bad_words_ids", id="a word of nothing"),
        pytest.param({"eos_token_id": -1}, "eos_token_id", id="no token's id"),
        pytest.param({"max_length": 2000}, "1024 positions", id="longer than the model counts"),
        pytest.param({"min_length": 60, "max_length": 50}, "shortest", id="the shortest over the longest"),
        pytest.param({"temperature": 0.5}, "do_sample", id="a temperature without sampling"),
        pytest.param({"num_return_sequences": 9}, "num_return_sequences", id="more answers than beams"),
        pytest.param({"num_beam_groups": 2}, "num_beam_groups", id="a search that no engine has"),
        pytest.param({"max_time": 3.0}, "max_time", id="a bound that no engine has"),
        pytest.param({"return_tensors": True}, "return_tensors", id="tensors instead of text"),
        pytest.param(
            {"_from_model_config": True, "stop_strings": ["a"]}, "stop_strings", id="a stop in text"
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(parameters: dict[str, Any], named: str):
    with pytest.raises(BadRequest, match=named):
        generation(parameters, PEGASUS, positions=1024)


def test_a_checkpoint_keeps_its_settings_in_generation_config():
    published = {**PEGASUS, "bos_token_id": 0, "transformers_version": "4.27.0", "_from_model_config": True}

    assert model_settings({"model_type": "pegasus"}, published) == {**PEGASUS, "bos_token_id": 0}


def test_an_older_checkpoint_keeps_them_in_config_and_leaves_its_classs_out():
    config = {"model_type": "bart", "d_model": 16, "num_beams": 4, "output_attentions": True, "num_labels": 3}

    settings = model_settings({**config, "force_bos_token_to_be_generated": True, "bos_token_id": 0}, None)

    assert settings == {
        "num_beams": 4,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
    }


@pytest.mark.parametrize(
    ("member", "value"),
    [
        pytest.param("diversity_penalty", 0.5, id="what no engine serves"),
        pytest.param("num_beams", "4", id="what is of a wrong kind"),
        pytest.param("invented_last_week", 2, id="what nobody here knows"),
    ],
)
def test_a_checkpoint_that_asks_for_what_cannot_be_honoured_is_not_loaded(member: str, value: object):
    with pytest.raises(LoadFailure, match=rf"generation_config\.json: .*{member}"):
        model_settings({"model_type": "pegasus"}, {**PEGASUS, member: value})


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_member_that_is_set_to_nothing_asks_for_nothing(value: object):
    assert (
        model_settings({"model_type": "pegasus"}, {**PEGASUS, "invented_last_week": value})["num_beams"] == 8
    )


def test_a_tasks_settings_are_those_of_task_specific_params_without_its_prefix():
    config = {"task_specific_params": {"summarization": {"prefix": "summarize: ", "min_length": 30}}}

    assert task_settings(config, "summarization") == {"min_length": 30}
    assert task_settings(config, "translation_en_to_de") == {}


def test_every_parameter_that_is_known_is_documented():
    documented = (Path(__file__).parents[2] / "docs" / "generation.md").read_text()

    with pytest.raises(BadRequest) as refused:
        generation({"unknown": 1}, PEGASUS, positions=None)

    served = str(refused.value).partition("there are ")[2].split(", ")
    assert [name for name in (*served, *NEUTRAL) if f"`{name}`" not in documented] == []
