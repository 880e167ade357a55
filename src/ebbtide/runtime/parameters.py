"""How an answer is generated: the `parameters` of a request over the checkpoint's own settings. No I/O.

Names, meanings and defaults are transformers'. Each parameter, of a request as of generation_config.json, is
honoured with that meaning or refused by name: a request's with a 400, a checkpoint's as the model loads. None
is ignored but those that change no answer (`_WITHOUT_MEANING`). Precedence, as in the pipelines of
transformers 4.57: the request, the checkpoint's task_specific_params, its generation_config, the pipeline's
default. One thing differs on purpose: between max_length and max_new_tokens the one set closest to the
request holds, so that a request's max_length is not overruled by a default that the caller never saw.

`Generation` is what an engine gets. An engine that cannot honour a part of it refuses the request by name.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ebbtide.runtime.errors import BadRequest, LoadFailure

PIPELINE_DEFAULTS = {"max_new_tokens": 256, "num_beams": 4}
"""transformers 4.57's, of its summarization and text2text pipelines, for what the checkpoint leaves open."""

MAX_BEAMS = 64
"""Most hypotheses of one input: a slip of the keyboard is not to hold an instance for an hour."""

DEFAULT_TOP_K = 50
"""GenerationConfig's own: sampling draws from the 50 likeliest tokens unless told otherwise."""

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """How to generate answers, every default resolved. Requests with equal ones can be decoded together.

    max_new_tokens, min_new_tokens: tokens after the start token, a forced first one and the end token
    included; before min_new_tokens no end token may come, and min may exceed max: then none may come at all.
    forced_eos_token_id: the token at place max_new_tokens, should the answer get there. top_k 0 and top_p 1
    draw from all tokens. seed: None draws anew each time. truncate, clean_up: of the text before and after.
    batch_size: most of a request's texts decoded together.
    """

    decoder_start_token_id: int
    eos_token_ids: Ids
    pad_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    bad_words_ids: tuple[Ids, ...] = ()
    suppress_tokens: Ids = ()
    begin_suppress_tokens: Ids = ()
    renormalize_logits: bool = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = DEFAULT_TOP_K
    top_p: float = 1.0
    seed: int | None = None
    truncate: bool = False
    clean_up: bool = False
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    accepts: Callable[[Any], bool]
    description: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_is_id(item) for item in value)


_BOOLEAN = _Kind(lambda value: isinstance(value, bool), "true or false")
_COUNT = _Kind(lambda value: type(value) is int and value >= 1, "a positive integer")
_BEAMS = _Kind(
    lambda value: type(value) is int and 1 <= value <= MAX_BEAMS, f"an integer from 1 to {MAX_BEAMS}"
)
_NATURAL = _Kind(_is_id, "an integer of at least 0")
_LENGTH = _Kind(
    lambda value: type(value) is int and value >= 2, "an integer of at least 2: it counts the start"
)
_NUMBER = _Kind(_is_number, "a number")
_POSITIVE = _Kind(lambda value: _is_number(value) and value > 0, "a number above 0")
_SHARE = _Kind(lambda value: _is_number(value) and 0 < value <= 1, "a number above 0, at most 1")
_ID = _Kind(_is_id, "a token id")
_IDS = _Kind(_are_ids, "a list of token ids")
_ID_OR_IDS = _Kind(
    lambda value: _is_id(value) or (_are_ids(value) and bool(value)), "a token id or a list of them"
)
_WORDS = _Kind(
    lambda value: isinstance(value, list) and all(_are_ids(word) and word for word in value),
    "a list of lists of token ids",
)
_STOPPING = _Kind(lambda value: isinstance(value, bool) or value == "never", "true, false or never")
_TRUNCATION = _Kind(
    lambda value: isinstance(value, bool) or value in ("longest_first", "only_first", "do_not_truncate"),
    "true, false, longest_first, only_first or do_not_truncate",
)

_GENERATION_KINDS = {
    "max_length": _LENGTH,
    "max_new_tokens": _COUNT,
    "min_length": _NATURAL,
    "min_new_tokens": _NATURAL,
    "num_beams": _BEAMS,
    "num_return_sequences": _BEAMS,
    "length_penalty": _NUMBER,
    "early_stopping": _STOPPING,
    "no_repeat_ngram_size": _NATURAL,
    "encoder_no_repeat_ngram_size": _NATURAL,
    "repetition_penalty": _POSITIVE,
    "bad_words_ids": _WORDS,
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "renormalize_logits": _BOOLEAN,
    "do_sample": _BOOLEAN,
    "temperature": _POSITIVE,
    "top_k": _NATURAL,
    "top_p": _SHARE,
    "bos_token_id": _ID,
    "eos_token_id": _ID_OR_IDS,
    "pad_token_id": _ID,
    "decoder_start_token_id": _ID,
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _ID,
}
"""What a request and a checkpoint may set."""

_REQUEST_KINDS = {
    **_GENERATION_KINDS,
    "seed": _NATURAL,
    "truncation": _TRUNCATION,
    "clean_up_tokenization_spaces": _BOOLEAN,
    "batch_size": _COUNT,
}

NEUTRAL = {
    "assistant_model": None,
    "constraints": None,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "max_time": None,
    "min_p": None,
    "num_beam_groups": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_logits": False,
    "output_scores": False,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "return_dict_in_generate": False,
    "return_tensors": False,
    "return_text": True,
    "sequence_bias": None,
    "stop_strings": None,
    "token_healing": False,
    "top_h": None,
    "typical_p": 1.0,
    "watermarking_config": None,
}
"""transformers' parameters that no engine serves: accepted with the value that changes nothing."""

_WITHOUT_MEANING = frozenset(
    {
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "compile_config",
        "disable_compile",
    }
    | {
        "continuous_batching_config",
        "prefill_chunk_size",
        "low_memory",
        "remove_invalid_values",
        "num_workers",
    }
    | {
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
    }
    | {"max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind"}
    | {"assistant_ensemble_weight", "speculation_type", "use_mtp"}
    | {"transformers_version", "_from_model_config", "_commit_hash"}
)
"""How transformers goes about it, or of the file itself: the same answers with any value."""

_ONLY_SAMPLING = ("top_k", "top_p", "temperature", "seed")

_SPECIAL_IDS = {
    "pegasus": {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
    "bart": {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
    "mbart": {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2},
    "t5": {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    "longt5": {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    "led": {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    "pegasus_x": {
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": 1,
    },
    "bigbird_pegasus": {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 2},
    "marian": {"eos_token_id": 0, "forced_eos_token_id": 0},
    "m2m_100": {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
}
"""What a config.json leaves out because it is its class's default. Source: transformers,
configuration_*.py."""


def model_settings(config: Mapping[str, Any], generation_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A checkpoint's own way of generating, as `generation` takes it.

    config: its config.json. generation_config: its generation_config.json; older checkpoints have none and
    keep their settings in config.json, where names that are not of generation stand beside them. Raises
    LoadFailure naming a member that cannot be honoured.
    """
    own_ids = _SPECIAL_IDS.get(config.get("model_type", ""), {})
    if generation_config is None:
        known = (name for name in (*_GENERATION_KINDS, *NEUTRAL) if name in config)
        members = own_ids | {
            name: config[name] for name in known if not name.startswith(("output_", "return_"))
        }
        if config.get("force_bos_token_to_be_generated"):
            members["forced_bos_token_id"] = config.get("bos_token_id")
        where = "config.json"
    else:
        members, where = dict(generation_config), "generation_config.json"
        for name in ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"):
            if members.get(name) is None:
                members[name] = config.get(name, own_ids.get(name))
    return _settings(members, where)


def task_settings(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What a checkpoint's task_specific_params set for a task beside their prefix. Raises LoadFailure."""
    members = dict((config.get("task_specific_params") or {}).get(task) or {})
    members.pop("prefix", None)
    return _settings(members, f"config.json, task_specific_params of {task}")


def _settings(members: Mapping[str, Any], where: str) -> dict[str, Any]:
    settings = {}
    for name, value in members.items():
        try:
            _check(name, value, _GENERATION_KINDS)
        except BadRequest as error:
            if name in _GENERATION_KINDS or name in NEUTRAL or value not in (None, False, [], {}, ""):
                raise LoadFailure(f"{where}: {error}") from error
        if value is not None and name in _GENERATION_KINDS:
            settings[name] = value
    return settings


def generation(
    parameters: Mapping[str, Any], defaults: Mapping[str, Any], *, positions: int | None
) -> Generation:
    """What to ask of an engine for a request's parameters over the checkpoint's settings.

    positions: the tokens that the decoder can count to, None for a model that counts without end.
    Raises BadRequest naming the parameter that is unknown, of the wrong kind, or cannot be had beside
    another.
    """
    for name, value in parameters.items():
        _check(name, value, _REQUEST_KINDS)
    given = {name: value for name, value in parameters.items() if value is not None}
    settings = _over(_over(PIPELINE_DEFAULTS, defaults), given)
    beams = settings["num_beams"]
    sampling = settings.get("do_sample", False)
    _check_together(given, settings, beams=beams, sampling=sampling)
    # transformers counts the decoder's start token in max_length and min_length.
    longest = settings["max_new_tokens"] if "max_new_tokens" in settings else settings["max_length"] - 1
    shortest = settings.get("min_new_tokens")
    if shortest is None:
        shortest = max(0, settings.get("min_length", 0) - 1)
    if positions is not None and longest > positions:
        raise BadRequest(f"The length asked for, {longest} tokens, is over the model's {positions} positions")
    if shortest > longest and ("min_length" in given or "min_new_tokens" in given):
        raise BadRequest(f"The shortest answer asked for, {shortest} tokens, is over the longest, {longest}")
    start = settings.get("decoder_start_token_id", settings.get("bos_token_id"))
    if start is None:
        raise BadRequest("decoder_start_token_id is set neither by the model nor by the request")
    end = settings.get("eos_token_id", [])
    return Generation(
        decoder_start_token_id=start,
        eos_token_ids=tuple(end) if isinstance(end, list) else (end,),
        pad_token_id=settings.get("pad_token_id"),
        forced_bos_token_id=settings.get("forced_bos_token_id"),
        forced_eos_token_id=settings.get("forced_eos_token_id"),
        num_beams=beams,
        num_return_sequences=settings.get("num_return_sequences", 1),
        max_new_tokens=longest,
        min_new_tokens=shortest,
        length_penalty=settings.get("length_penalty", 1.0),
        early_stopping=settings.get("early_stopping", False),
        no_repeat_ngram_size=settings.get("no_repeat_ngram_size", 0),
        encoder_no_repeat_ngram_size=settings.get("encoder_no_repeat_ngram_size", 0),
        repetition_penalty=settings.get("repetition_penalty", 1.0),
        bad_words_ids=tuple(tuple(word) for word in settings.get("bad_words_ids", ())),
        suppress_tokens=tuple(settings.get("suppress_tokens", ())),
        begin_suppress_tokens=tuple(settings.get("begin_suppress_tokens", ())),
        renormalize_logits=settings.get("renormalize_logits", False),
        do_sample=sampling,
        temperature=settings.get("temperature", 1.0),
        top_k=settings.get("top_k", DEFAULT_TOP_K),
        top_p=settings.get("top_p", 1.0),
        seed=settings.get("seed"),
        truncate=settings.get("truncation", False) not in (False, "do_not_truncate"),
        clean_up=settings.get("clean_up_tokenization_spaces", False),
        batch_size=settings.get("batch_size"),
    )


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of both, `over`'s winning; a bound that it sets under either name replaces the other's."""
    settings = dict(under)
    for one, other in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if one in over or other in over:
            settings.pop(one, None)
            settings.pop(other, None)
    return settings | dict(over)


def _check(name: str, value: Any, kinds: Mapping[str, _Kind]) -> None:
    """Raises BadRequest for a parameter that is not served with this value."""
    if name in _WITHOUT_MEANING:
        return
    if name in NEUTRAL:
        if value is not None and value != NEUTRAL[name]:
            raise BadRequest(f"{name} is not served: it can only be {NEUTRAL[name]!r} here, not {value!r}")
    elif name not in kinds:
        raise BadRequest(f"The parameter {name} is not served; there are {', '.join(sorted(kinds))}")
    elif value is not None and not kinds[name].accepts(value):
        raise BadRequest(f"{name} must be {kinds[name].description}, not {value!r}")


def _check_together(
    given: Mapping[str, Any], settings: Mapping[str, Any], *, beams: int, sampling: bool
) -> None:
    if not sampling:
        for name in _ONLY_SAMPLING:
            if name in given:
                raise BadRequest(f"{name} has a meaning only with do_sample true")
    wanted = settings.get("num_return_sequences", 1)
    if wanted > beams and not (sampling and beams == 1):
        raise BadRequest(f"num_return_sequences {wanted} is over num_beams {beams}")
