"""A prepared model, loaded: ids to embeddings, a source to what the decoder keeps of it, a decoding step."""

import json
import math
import mmap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ebbtide.runtime.engines.native.preparation import DESCRIPTION, EMBEDDINGS, SIDES
from ebbtide.runtime.engines.native.processor import processor
from ebbtide.runtime.errors import LoadFailure, one_line

SPIN_US = 20
"""How long ONNX Runtime's threads look for the next work before they sleep. Its default of about 1 ms costs
half of the speed when a neighbour is busy on the same cores; 0 costs a fifth of a lone greedy search."""


class Model:
    """Weights are mapped from the files and shared with other processes that load the same ones.

    Not for several threads at once. `layers`, `heads`, `head_width`: the decoder's. `cross`: what a layer
    keeps of a source, see graphs.cross_shapes.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        """Raises LoadFailure when the files are not of this processor and release, or are damaged."""
        described = json.loads((folder / DESCRIPTION).read_text())
        if described["processor"] != processor():
            raise LoadFailure(f"The prepared model is of {described['processor']}, this is {processor()}")
        self.compute_type: str = described["compute_type"]
        self.layers: int = described["layers"]
        self.heads: int = described["heads"]
        self.head_width: int = described["head_width"]
        self.vocabulary: int = described["vocabulary"]
        self.cross: dict[str, tuple[str, list[int | str]]] = described["cross"]
        self.has_buckets: bool = described["buckets"] > 0
        self._described = described
        self._scale = np.float32(described["embedding_scale"])
        self._embeddings = self._mapped(folder / EMBEDDINGS)
        self._positions = {
            side: np.load(path, mmap_mode="r")
            for side in SIDES
            if (path := folder / f"{side}_positions.npy").is_file()
        }
        try:
            with ThreadPoolExecutor(len(SIDES)) as loaders:
                sessions = loaders.map(lambda side: _session(folder / f"{side}.onnx", threads), SIDES)
                self._encoder, self.decoder = sessions
        except Exception as error:  # ONNX Runtime's own kinds, one for each of its status codes
            raise LoadFailure(f"ONNX Runtime cannot load the model: {one_line(error)}") from error
        self._kept = [output.name for output in self._encoder.get_outputs()]

    def _mapped(self, path: Path) -> np.ndarray:
        """[vocabulary, width]: a token costs the page it is on, and no reading ahead."""
        dtype = np.float16 if self.compute_type == "int8" else np.float32
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapping.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapping, dtype).reshape(self.vocabulary, self._described["width"])

    def encode(self, source: Sequence[int]) -> Mapping[str, np.ndarray]:
        """What the decoder's layers keep of a source, by the names of graphs.write_encoder."""
        given = {"x": self._embedded("encoder", source, np.arange(len(source)))}
        if self.has_buckets:
            places = np.arange(len(source))
            given["buckets"] = self._buckets(places[None, :] - places[:, None], both_ways=True)[None]
        return dict(zip(self._kept, self._encoder.run(None, given), strict=True))

    def embedded(self, tokens: Sequence[int], positions: np.ndarray) -> np.ndarray:
        """float32 [rows, width]: the decoder's newest tokens, each at its position."""
        return self._embedded("decoder", tokens, positions)

    def buckets(self, distances: np.ndarray) -> np.ndarray:
        """int64 of the same shape: the buckets of tokens that lie so far back."""
        return self._buckets(-distances, both_ways=False)

    def _embedded(self, side: str, tokens: Sequence[int], positions: np.ndarray) -> np.ndarray:
        embedded: np.ndarray = self._embeddings[np.asarray(tokens)].astype(np.float32) * self._scale
        return embedded + self._positions[side][positions] if side in self._positions else embedded

    def _buckets(self, relative: np.ndarray, *, both_ways: bool) -> np.ndarray:
        """T5's: exact near by, then wider by the logarithm. Source: T5Attention._relative_position_bucket."""
        count = self._described["buckets"]
        start: np.ndarray | int = 0
        if both_ways:
            count //= 2
            start = np.where(relative > 0, count, 0)
            distance = np.abs(relative)
        else:
            distance = np.maximum(-relative, 0)
        exact = count // 2
        # In float32, so that a distance on a border falls into transformers' bucket.
        far = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
        far = far / np.float32(math.log(self._described["max_distance"] / exact)) * np.float32(count - exact)
        buckets = np.where(distance < exact, distance, np.minimum(exact + far.astype(np.int64), count - 1))
        found: np.ndarray = start + buckets
        return found


@cache
def _share_memory() -> None:
    """One arena for both sessions, which never run at once. It grows by what is asked for, not twofold."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(place, as_requested)


def _session(path: Path, threads: int) -> Any:
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # What could be optimised was, when the model was prepared.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # For fixed shapes: here it would keep a plan, and memory for it, for each that ever came.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.add_session_config_entry("session.dynamic_block_base", "4")
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
