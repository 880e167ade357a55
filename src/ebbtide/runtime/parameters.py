"""The `parameters` of a request, as transformers' pipelines take them, to what the engine is asked. No I/O.

Each is honoured with transformers' meaning or refused by name; none is ignored. Precedence as in the
pipelines of transformers 4.57: the request, the model's task_specific_params, its generation_config, the
pipeline's default.

Two differences of beam search remain. Where nobody sets early_stopping, a search ends as if it were true;
false costs much more here and seldom changes an answer of a trained model. And what is forbidden (the end
before min_length, a repeated n-gram) is left out before probabilities are normalised, where transformers
forbids it after: with several beams their scores, and now and then the answer, differ.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ebbtide.runtime.errors import BadRequest

PIPELINE_DEFAULTS = {"max_new_tokens": 256, "num_beams": 4}
"""transformers 4.57's, of its summarization and text2text pipelines, for what the model leaves open."""

EXHAUSTIVE_PATIENCE = 8
"""Finished hypotheses awaited for each beam when early_stopping is false: more gains no parity."""

DEFAULT_BATCH_SIZE = 8
"""Inputs of one request decoded together: bounds memory when a request has hundreds."""

MAX_BEAMS = 64
"""Most hypotheses of one input: a slip of the keyboard is not to hold an instance for an hour."""

DEFAULT_TOP_K = 50
"""GenerationConfig's own: sampling draws from the 50 likeliest tokens unless told otherwise."""


@dataclass(frozen=True, slots=True)
class _Kind:
    accepts: Callable[[Any], bool]
    description: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_BOOLEAN = _Kind(lambda value: isinstance(value, bool), "true or false")
_COUNT = _Kind(lambda value: type(value) is int and value >= 1, "a positive integer")
_BEAMS = _Kind(
    lambda value: type(value) is int and 1 <= value <= MAX_BEAMS, f"an integer from 1 to {MAX_BEAMS}"
)
_NATURAL = _Kind(lambda value: type(value) is int and value >= 0, "an integer of at least 0")
_NUMBER = _Kind(_is_number, "a number")
_POSITIVE = _Kind(lambda value: _is_number(value) and value > 0, "a number above 0")
_SHARE = _Kind(lambda value: _is_number(value) and 0 < value <= 1, "a number above 0, at most 1")
_TRUNCATION = _Kind(
    lambda value: isinstance(value, bool) or value in ("longest_first", "only_first", "do_not_truncate"),
    "true, false, longest_first, only_first or do_not_truncate",
)

_KINDS = {
    "max_length": _COUNT,
    "max_new_tokens": _COUNT,
    "min_length": _NATURAL,
    "min_new_tokens": _NATURAL,
    "num_beams": _BEAMS,
    "num_return_sequences": _BEAMS,
    "length_penalty": _NUMBER,
    "no_repeat_ngram_size": _NATURAL,
    "repetition_penalty": _POSITIVE,
    "early_stopping": _BOOLEAN,
    "do_sample": _BOOLEAN,
    "top_k": _NATURAL,
    "top_p": _SHARE,
    "temperature": _POSITIVE,
    "truncation": _TRUNCATION,
    "clean_up_tokenization_spaces": _BOOLEAN,
    "batch_size": _COUNT,
}

_WITHOUT_EFFECT = {"return_text": True, "return_tensors": False, "use_cache": True, "num_beam_groups": 1}
"""Accepted with the value that changes nothing, refused with another."""

_ONLY_SAMPLING = ("top_k", "top_p", "temperature")

_REQUEST_ONLY = ("truncation", "clean_up_tokenization_spaces", "batch_size")

GENERATION_MEMBERS = (
    *(name for name in _KINDS if name not in _REQUEST_ONLY),
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""What is taken over from a model's own generation settings."""


@dataclass(frozen=True, slots=True)
class Generation:
    """`engine`: arguments of CTranslate2's translate_batch. `forced_bos_token_id`: each answer's first."""

    engine: dict[str, Any]
    truncate: bool
    clean_up: bool
    forced_bos_token_id: int | None


def generation(parameters: Mapping[str, Any], defaults: Mapping[str, Any], *, positions: int) -> Generation:
    """What to ask of the engine for a request's parameters over the model's defaults.

    positions: the tokens the decoder can count to. Raises BadRequest naming the parameter that is unknown, of
    the wrong kind, or cannot be had beside another.
    """
    for name, value in parameters.items():
        _check(name, value)
    settings = PIPELINE_DEFAULTS | dict(defaults)
    # A bound that somebody set, as either name, replaces the pipeline's default bound.
    if "max_length" in defaults and "max_new_tokens" not in defaults:
        del settings["max_new_tokens"]
    if "max_length" in parameters and "max_new_tokens" not in parameters:
        settings.pop("max_new_tokens", None)
    settings |= {name: value for name, value in parameters.items() if value is not None}

    beams = settings["num_beams"]
    sampling = settings.get("do_sample", False)
    _check_together(parameters, settings, beams=beams, sampling=sampling)
    # transformers counts the decoder's start token in both lengths; the engine does not.
    longest = settings["max_new_tokens"] if "max_new_tokens" in settings else settings["max_length"] - 1
    shortest = max(settings.get("min_new_tokens", 0), settings.get("min_length", 0) - 1)
    if longest >= positions:
        raise BadRequest(f"The length asked for is over the model's {positions} positions")
    if shortest > longest:
        raise BadRequest(f"The shortest answer asked for, {shortest} tokens, is over the longest, {longest}")
    if settings.get("forced_eos_token_id") is not None:
        # The last token that fits is then the end token, which is no part of the text.
        longest -= 1
    engine: dict[str, Any] = {
        "beam_size": beams,
        "patience": EXHAUSTIVE_PATIENCE if settings.get("early_stopping") is False else 1,
        "num_hypotheses": settings.get("num_return_sequences", 1),
        "max_decoding_length": max(1, longest),
        "min_decoding_length": max(0, min(shortest, longest)),
        "length_penalty": settings.get("length_penalty", 1.0),
        "no_repeat_ngram_size": settings.get("no_repeat_ngram_size", 0),
        "repetition_penalty": settings.get("repetition_penalty", 1.0),
        "max_batch_size": settings.get("batch_size", DEFAULT_BATCH_SIZE),
    }
    if sampling:
        engine |= {
            "sampling_topk": settings.get("top_k", DEFAULT_TOP_K),
            "sampling_topp": settings.get("top_p", 1.0),
            "sampling_temperature": settings.get("temperature", 1.0),
        }
    return Generation(
        engine,
        truncate=settings.get("truncation", False) not in (False, "do_not_truncate"),
        clean_up=settings.get("clean_up_tokenization_spaces", False),
        forced_bos_token_id=settings.get("forced_bos_token_id"),
    )


def _check(name: str, value: Any) -> None:
    if name in _WITHOUT_EFFECT:
        if value != _WITHOUT_EFFECT[name]:
            raise BadRequest(f"{name} can only be {_WITHOUT_EFFECT[name]!r} here, not {value!r}")
    elif name not in _KINDS:
        raise BadRequest(f"The parameter {name} is not served; there are {', '.join(sorted(_KINDS))}")
    elif value is not None and not _KINDS[name].accepts(value):
        raise BadRequest(f"{name} must be {_KINDS[name].description}, not {value!r}")


def _check_together(
    parameters: Mapping[str, Any], settings: Mapping[str, Any], *, beams: int, sampling: bool
) -> None:
    if sampling and beams > 1:
        raise BadRequest(f"do_sample is served with num_beams 1, not {beams}")
    if not sampling:
        for name in _ONLY_SAMPLING:
            if parameters.get(name) is not None:
                raise BadRequest(f"{name} has a meaning only with do_sample true")
    wanted = settings.get("num_return_sequences", 1)
    if wanted > beams and not sampling:
        raise BadRequest(f"num_return_sequences {wanted} is over num_beams {beams}")
