"""From a checkpoint to the files that the engine loads: once, without torch.

The graphs are written, then ONNX Runtime optimises them and packs their weights as its products want them;
both go into files that are mapped at load. Packing depends on the processor: `processor.py` names it.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.engines.native import graphs
from ebbtide.runtime.engines.native.families import FAMILIES, Family, Side
from ebbtide.runtime.engines.native.processor import processor
from ebbtide.runtime.errors import LoadFailure

logger = logging.getLogger(__name__)

COMPUTE_TYPES = ("int8", "float32")
DESCRIPTION = "native.json"
EMBEDDINGS = "embeddings.data"
SIDES: tuple[Side, ...] = ("encoder", "decoder")


def prepare(checkpoint: Checkpoint, folder: Path, compute_type: str) -> None:
    """Write what `NativeEngine` loads into the folder.

    Raises LoadFailure for a family or compute type that is not served, and for weights that do not fit.
    """
    if checkpoint.model_type not in FAMILIES:
        raise LoadFailure(f"The engine native serves {', '.join(FAMILIES)}, not {checkpoint.model_type}")
    if compute_type not in COMPUTE_TYPES:
        raise LoadFailure(
            f"The engine native computes in {' and '.join(COMPUTE_TYPES)}, not in {compute_type}"
        )
    family = FAMILIES[checkpoint.model_type](checkpoint)
    for side, write in (("encoder", graphs.write_encoder), ("decoder", graphs.write_decoder)):
        written = folder / f"{side}.written.onnx"
        write(written, family, compute_type)
        _pack(written, folder / f"{side}.onnx")
        written.unlink()
        written.with_suffix(".data").unlink()
    _write_tables(family, folder, compute_type)
    (folder / DESCRIPTION).write_text(json.dumps(_describe(family, compute_type), indent=2))


def _pack(written: Path, packed: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(packed)
    for name, value in (
        ("session.optimized_model_external_initializers_file_name", packed.with_suffix(".data").name),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(name, value)
    onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def _write_tables(family: Family, folder: Path, compute_type: str) -> None:
    # Looked up row by row from the mapped file: a token costs a page, not the table.
    dtype = np.float16 if compute_type == "int8" else np.float32
    family.embeddings().astype(dtype, copy=False).tofile(folder / EMBEDDINGS)
    for side in SIDES:
        if (positions := family.positions(side)) is not None:
            np.save(folder / f"{side}_positions.npy", positions)


def _describe(family: Family, compute_type: str) -> dict[str, Any]:
    return {
        "compute_type": compute_type,
        "processor": processor(),
        "width": family.width,
        "layers": family.layers("decoder"),
        "heads": family.heads("decoder"),
        "head_width": family.head_width,
        "vocabulary": family.vocabulary,
        "embedding_scale": family.embedding_scale,
        "buckets": family.buckets,
        "max_distance": family.max_distance,
        "cross": graphs.cross_shapes(family, compute_type),
    }
