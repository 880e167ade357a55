"""Which engine serves a checkpoint, and in which type it computes. Imports no engine before it is chosen."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ebbtide.runtime.conversion import ctranslate
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.parameters import Generation

ENGINES = ("ctranslate2", "native", "transformers")

_WIDE_RANGE = ("pegasus", "t5", "mt5")
"""Trained in bfloat16: their activations overflow float16."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`compute_type`: what the weights are stored as and, as far as it says so, computed in. `processor`: the
    kind that the prepared files are for, empty where any will do.
    """

    engine: str
    compute_type: str
    processor: str = ""


def choose(
    environment: Mapping[str, str], model_type: str, own_generation: Callable[[str], Generation]
) -> Choice:
    """What EBBTIDE_ENGINE and EBBTIDE_COMPUTE_TYPE (or CT2_COMPUTE_TYPE) say, or else what suits the machine
    and serves the checkpoint's own generation, as `own_generation` tells it for an engine.

    Raises LoadFailure for a model, an engine or a compute type that cannot be had, naming what there is.
    """
    engine = environment.get("EBBTIDE_ENGINE") or "auto"
    asked = environment.get("EBBTIDE_COMPUTE_TYPE") or environment.get("CT2_COMPUTE_TYPE")
    if engine == "auto":
        engine = _automatic(model_type, asked, own_generation, has_gpu=_has_gpu(environment))
    if engine not in ENGINES:
        raise LoadFailure(f"EBBTIDE_ENGINE {engine} is none of auto, {', '.join(ENGINES)}")
    if engine == "ctranslate2":
        if model_type not in ctranslate.MODEL_TYPES:
            served = ", ".join(ctranslate.MODEL_TYPES)
            raise LoadFailure(
                f"The engine ctranslate2 does not serve {model_type or '(no model_type)'}, but {served}"
            )
        return Choice(engine, _ctranslate2_type(asked, model_type))
    if engine == "native":
        from ebbtide.runtime.engines.native import preparation as native
        from ebbtide.runtime.engines.native.processor import processor

        kind = hashlib.sha256(processor().encode()).hexdigest()[:8]
        return Choice(engine, _one_of(asked or "int8", native.COMPUTE_TYPES, engine), kind)
    from ebbtide.runtime.engines import reference

    return Choice(engine, _one_of(asked or "float32", reference.COMPUTE_TYPES, engine))


def _automatic(
    model_type: str, asked: str | None, own_generation: Callable[[str], Generation], *, has_gpu: bool
) -> str:
    if not has_gpu and _suits_native(model_type, asked):
        return "native"
    lacking = f"The model type {model_type or '(none)'} is served by transformers alone"
    if model_type in ctranslate.MODEL_TYPES:
        refusal = _refusal(own_generation)
        if refusal is None:
            return "ctranslate2"
        if not has_gpu and asked == "float32" and _has_family(model_type):
            return "native"
        lacking = f"The model's own generation settings are served by transformers alone ({refusal})"
    if find_spec("transformers") and find_spec("torch"):
        return "transformers"
    raise LoadFailure(
        f"{lacking}: install ebbtide[transformers]. Without it there are {', '.join(ctranslate.MODEL_TYPES)}"
    )


def _refusal(own_generation: Callable[[str], Generation]) -> str | None:
    """What CTranslate2 has against it."""
    from ebbtide.runtime.engines.ctranslate import refuse

    try:
        wanted = own_generation("ctranslate2")
    except BadRequest:
        return None  # it is for requests to say, and for them to be refused
    try:
        refuse(wanted)
    except BadRequest as error:
        return str(error)
    return None


def _has_family(model_type: str) -> bool:
    from ebbtide.runtime.engines.native.families import FAMILIES

    return model_type in FAMILIES


def _suits_native(model_type: str, asked: str | None) -> bool:
    """Whether it can serve the model on a processor with exact 8-bit products, where it measures faster."""
    if not _has_family(model_type) or asked not in (None, "int8"):
        return False
    from ebbtide.runtime.engines.native.processor import has_exact_int8_products

    return has_exact_int8_products()


def _has_gpu(environment: Mapping[str, str]) -> bool:
    """Whether a GPU is this process's to use, without asking a library that would take 100 ms to load."""
    is_there = Path("/dev/nvidiactl").exists()
    return is_there and environment.get("CUDA_VISIBLE_DEVICES", "all").strip() not in ("", "-1")


def _ctranslate2_type(asked: str | None, model_type: str) -> str:
    import ctranslate2

    device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    supported = ctranslate2.get_supported_compute_types(device)
    if asked:
        there_are = [each for each in ctranslate.COMPUTE_TYPES if each in supported]
        return _one_of(asked, there_are, f"ctranslate2 on {device}")
    return suited_type(model_type, device, supported)


def suited_type(model_type: str, device: str, supported: Collection[str]) -> str:
    """The compute type for a model on a device that supports those."""
    if device == "cpu":
        # Four times smaller and half again as fast as float32, at a small loss.
        preferred: tuple[str, ...] = ("int8", "float32")
    elif model_type in _WIDE_RANGE:
        preferred = ("bfloat16", "float32")
    else:
        preferred = ("float16", "bfloat16", "float32")
    return next(each for each in preferred if each in supported)


def _one_of(asked: str, there_are: tuple[str, ...] | list[str], engine: str) -> str:
    if asked not in there_are:
        raise LoadFailure(
            f"The compute type {asked} is not served by {engine}: there are {', '.join(there_are)}"
        )
    return asked
