"""Which engine serves a checkpoint, and in which type it computes. Imports no engine before it is chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from ebbtide.runtime.conversion import ctranslate
from ebbtide.runtime.errors import LoadFailure

ENGINES = ("ctranslate2", "native", "transformers")

_WIDE_RANGE = ("pegasus", "t5", "mt5")
"""Trained in bfloat16: their activations overflow float16."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`compute_type`: what the weights are stored as and, as far as it says so, computed in."""

    engine: str
    compute_type: str


def choose(environment: Mapping[str, str], model_type: str) -> Choice:
    """What EBBTIDE_ENGINE and EBBTIDE_COMPUTE_TYPE (or CT2_COMPUTE_TYPE) say, or else what suits the machine.

    Raises LoadFailure for a model, an engine or a compute type that cannot be had, naming what there is.
    """
    engine = environment.get("EBBTIDE_ENGINE") or "auto"
    if engine == "auto":
        engine = _automatic(model_type)
    if engine not in ENGINES:
        raise LoadFailure(f"EBBTIDE_ENGINE {engine} is none of auto, {', '.join(ENGINES)}")
    asked = environment.get("EBBTIDE_COMPUTE_TYPE") or environment.get("CT2_COMPUTE_TYPE")
    if engine == "ctranslate2":
        if model_type not in ctranslate.MODEL_TYPES:
            served = ", ".join(ctranslate.MODEL_TYPES)
            raise LoadFailure(
                f"The engine ctranslate2 does not serve {model_type or '(no model_type)'}, but {served}"
            )
        return Choice(engine, _ctranslate2_type(asked, model_type))
    if engine == "native":
        from ebbtide.runtime.engines.native import preparation as native

        return Choice(engine, _one_of(asked or "int8", native.COMPUTE_TYPES, engine))
    from ebbtide.runtime.engines import reference

    return Choice(engine, _one_of(asked or "float32", reference.COMPUTE_TYPES, engine))


def _automatic(model_type: str) -> str:
    if model_type in ctranslate.MODEL_TYPES:
        return "ctranslate2"
    if find_spec("transformers") and find_spec("torch"):
        return "transformers"
    raise LoadFailure(
        f"The model type {model_type or '(none)'} is served by transformers alone: install "
        f"ebbtide[transformers]. Without it there are {', '.join(ctranslate.MODEL_TYPES)}"
    )


def _ctranslate2_type(asked: str | None, model_type: str) -> str:
    import ctranslate2

    device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    supported = ctranslate2.get_supported_compute_types(device)
    if asked:
        return _one_of(
            asked,
            [each for each in ctranslate.COMPUTE_TYPES if each in supported],
            f"ctranslate2 on {device}",
        )
    if device == "cpu":
        # Four times smaller and half again as fast as float32, at a small loss.
        return "int8" if "int8" in supported else "float32"
    preferred = ("bfloat16", "float32") if model_type in _WIDE_RANGE else ("float16", "bfloat16", "float32")
    return next(each for each in preferred if each in supported)


def _one_of(asked: str, there_are: tuple[str, ...] | list[str], engine: str) -> str:
    if asked not in there_are:
        raise LoadFailure(
            f"The compute type {asked} is not served by {engine}: there are {', '.join(there_are)}"
        )
    return asked
