"""The engines: each turns token ids into token ids in its own way, behind one interface (engine.py)."""

import json
from pathlib import Path

from ebbtide.runtime.engine import Engine
from ebbtide.runtime.parameters import generation


def load(prepared: Path, checkpoint: Path, *, threads: int, trust_remote_code: bool = False) -> Engine:
    """The engine that the folder `prepared` was made for, with the model in it.

    checkpoint: the model's own files, from which transformers loads. threads: cores it may use.
    Imports no other engine. Raises LoadFailure when it refuses the model.
    """
    described = json.loads((prepared / "summariser.json").read_text())
    if described.get("engine") == "transformers":
        from ebbtide.runtime.engines.reference import ReferenceEngine

        return ReferenceEngine(
            checkpoint,
            threads=threads,
            compute_type=described["compute_type"],
            trust_remote_code=trust_remote_code,
        )
    if described.get("engine") == "native":
        from ebbtide.runtime.engines.native.engine import NativeEngine

        return NativeEngine(prepared, threads=threads)
    from ebbtide.runtime.engines.ctranslate import CTranslate2, Shape

    defaults = generation({}, described["generation"], positions=None)
    return CTranslate2(prepared, Shape.of(described["config"]), defaults, threads=threads)
