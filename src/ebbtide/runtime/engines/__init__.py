"""The engines: each turns token ids into token ids in its own way, behind one interface (engine.py)."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ebbtide.runtime.engine import Engine
from ebbtide.runtime.parameters import generation


def prepare(prepared: Path, *, threads: int) -> None:
    """Find out once, for such a machine, how the folder's engine does best with so many cores."""
    if _described(prepared)["engine"] == "ctranslate2":
        from ebbtide.runtime.engines import cores

        cores.measure(prepared, threads)


def loader(
    prepared: Path, checkpoint: Path, *, threads: int, trust_remote_code: bool = False
) -> Callable[[], Engine]:
    """What loads the engine that the folder `prepared` was made for, which is imported when this returns.

    checkpoint: the model's own files, from which transformers loads. threads: cores it may use.
    Imports no other engine. Loading raises LoadFailure when the engine refuses the model.
    """
    described = _described(prepared)
    if described["engine"] == "transformers":
        from ebbtide.runtime.engines.reference import ReferenceEngine

        return partial(
            ReferenceEngine,
            checkpoint,
            threads=threads,
            compute_type=described["compute_type"],
            trust_remote_code=trust_remote_code,
        )
    if described["engine"] == "native":
        from ebbtide.runtime.engines.native.engine import NativeEngine

        return partial(NativeEngine, prepared, threads=threads)
    from ebbtide.runtime.engines.ctranslate import CTranslate2, Shape

    defaults = generation({}, described["generation"], positions=None)
    return partial(CTranslate2, prepared, Shape.of(described["config"]), defaults, threads=threads)


def load(prepared: Path, checkpoint: Path, *, threads: int, trust_remote_code: bool = False) -> Engine:
    """As `loader` does, at once."""
    return loader(prepared, checkpoint, threads=threads, trust_remote_code=trust_remote_code)()


def _described(prepared: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((prepared / "summariser.json").read_text())
    return described
