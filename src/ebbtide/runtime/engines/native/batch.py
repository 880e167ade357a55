"""The sources that are decoded together, and what is kept of them between steps.

A source takes a slot: the keys and values of its cross attention, once for all of its beams, and a pool of
positions for those of self attention. Slots lie side by side, so that a step reads them where they are; who
leaves is replaced by the last. Positions that no living hypothesis descends from are written over.
"""

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from onnxruntime import OrtValue

from ebbtide.runtime.engines.native.model import Model
from ebbtide.runtime.engines.native.search import Scores, Search

_MASKED = np.float32(-1e30)
"""Added to a score it makes the share zero."""

_STEP = 32
"""Lengths of caches are multiples of this."""


@dataclass(slots=True, eq=False)
class Decoding:
    """One source. ancestors: by row, the pool's positions of its tokens so far; tokens: by row, the newest,
    which is not in the pool yet. written_at: by position of the pool, the step in which it was written."""

    search: Search
    length: int
    tokens: list[int]
    ancestors: list[np.ndarray]
    step: int = 0
    written_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def begin(cls, search: Search, length: int) -> "Decoding":
        rows = search.first_rows
        start = search.generation.decoder_start_token_id
        return cls(search, length, [start] * rows, [np.zeros(0, np.int64)] * rows)

    @property
    def pool_estimate(self) -> int:
        """Positions of the pool that it is likely to need: beams soon have the same ancestors."""
        return _rounded_up(self.search.generation.max_new_tokens + 4 * self.search.max_rows)


class Batch:
    """`decodings` in the order of their slots."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.decodings: list[Decoding] = []
        self._capacity = 0
        self._positions = 0
        self._pool_size = 0
        # An array a layer: while they grow, the old and the new of one layer alone stand side by side.
        self._cross = {name: [np.empty(0)] * model.layers for name in model.cross}
        self._pool = [np.empty(0)] * model.layers
        self._logits = np.empty((0, model.vocabulary), np.float32)
        self._binding = model.decoder.io_binding()
        self._bound = 0  # slots that the binding shows of the caches

    @property
    def position_bytes(self) -> int:
        """What a source's token takes in all layers."""
        model = self._model
        by_position = (
            np.dtype(dtype).itemsize * math.prod(size for size in shape if isinstance(size, int))
            for dtype, shape in model.cross.values()
            if "positions" in shape
        )
        return model.layers * sum(by_position)

    @property
    def pool_position_bytes(self) -> int:
        """What a position of the pool takes in all layers."""
        return self._model.layers * 2 * self._model.heads * self._model.head_width * 4

    def cache_bytes(self, *joining: Decoding) -> int:
        """What the caches take with these beside those that are in, all as long as the longest."""
        every = [*self.decodings, *joining]
        if not every:
            return 0
        of_source = _rounded_up(max(each.length for each in every)) * self.position_bytes
        of_pool = max(each.pool_estimate for each in every) * self.pool_position_bytes
        return len(every) * (of_source + of_pool)

    def join(self, decoding: Decoding, kept: Mapping[str, np.ndarray]) -> None:
        """kept: what the encoder gave for its source."""
        slot = len(self.decodings)
        self.decodings.append(decoding)
        self._arrange()
        for name, (_, shape) in self._model.cross.items():
            for layer in range(self._model.layers):
                target = self._cross[name][layer][slot]
                if "positions" in shape:
                    axis = shape.index("positions")
                    target = target[(slice(None),) * axis + (slice(decoding.length),)]
                target[...] = kept[f"{name}.{layer}"][0]

    def leave(self, decoding: Decoding) -> None:
        slot = self.decodings.index(decoding)
        last = self.decodings.pop()
        if last is not decoding:
            self.decodings[slot] = last
            for array in chain.from_iterable(self._cross.values()):
                array[slot] = array[len(self.decodings)]
            for array in self._pool:
                array[:, slot] = array[:, len(self.decodings)]
        self._arrange()

    def step(self) -> list[Decoding]:
        """Decode one token of every row. Returns those that are done; they are to leave."""
        model, decodings = self._model, self.decodings
        places = self._places()
        beams = max(len(each.tokens) for each in decodings)
        sources = np.repeat(np.arange(len(decodings)), [len(each.tokens) for each in decodings])
        rows = len(sources)
        within = np.concatenate([np.arange(len(each.tokens)) for each in decodings])
        steps = np.array([each.step for each in decodings])
        grid = np.zeros((len(decodings), beams), np.int64)
        grid[sources, within] = np.arange(rows)
        pool = self._pool_size
        self_mask = np.full((len(decodings), 1, beams, pool + beams), _MASKED)
        cross_mask = np.zeros((len(decodings), 1, 1, self._positions), np.float32)
        for slot, each in enumerate(decodings):
            cross_mask[slot, 0, 0, each.length :] = _MASKED
            for row, ancestors in enumerate(each.ancestors):
                self_mask[slot, 0, row, ancestors] = 0
        self_mask[sources, 0, within, pool + within] = 0
        tokens = [token for each in decodings for token in each.tokens]
        given = {
            "x": model.embedded(tokens, steps[sources]),
            "grid": grid,
            "places": sources * beams + within,
            "self_mask": self_mask,
            "cross_mask": cross_mask,
            "parts": np.array([pool, beams]),
            "best": np.array([min(max(each.search.best for each in decodings), model.vocabulary)]),
        }
        if model.has_buckets:
            distances = np.zeros((len(decodings), beams, pool + beams), np.int64)
            for slot, each in enumerate(decodings):
                distances[slot, :, :pool] = each.step - each.written_at
            given["buckets"] = model.buckets(distances)
        scores, newest = self._run(given, rows)

        new_places = np.concatenate(places)
        for layer, array in enumerate(self._pool):
            array[:, sources, :, new_places] = newest[:, layer]
        done = []
        first = 0
        for each, new in zip(decodings, places, strict=True):
            last = first + len(each.tokens)
            if not self._advance(each, new, scores.of_rows(first, last)):
                done.append(each)
            first = last
        return done

    def _advance(self, decoding: Decoding, places: np.ndarray, scores: Scores) -> bool:
        """Whether it goes on."""
        decoding.written_at[places] = decoding.step
        grown = [np.append(old, new) for old, new in zip(decoding.ancestors, places, strict=True)]
        continuations = decoding.search.advance(scores)
        decoding.ancestors = [grown[parent] for parent in continuations.parents]
        decoding.tokens = continuations.tokens
        decoding.step += 1
        return bool(continuations.tokens)

    def _places(self) -> list[np.ndarray]:
        """By source, the pool's positions for its rows' newest tokens: what no living row descends from."""
        free = []
        for each in self.decodings:
            living = np.zeros(self._pool_size, bool)
            for ancestors in each.ancestors:
                living[ancestors] = True
            free.append(np.flatnonzero(~living)[: len(each.tokens)])
        lacking = max(len(each.tokens) - len(found) for each, found in zip(self.decodings, free, strict=True))
        if lacking <= 0:
            return free
        self._arrange(pool=_rounded_up(self._pool_size + lacking))
        return self._places()

    def _run(self, given: Mapping[str, np.ndarray], rows: int) -> tuple[Scores, np.ndarray]:
        """The rows' scores, and their tokens' keys and values as the pool has them, rows first."""
        model, binding = self._model, self._binding
        self._bind_caches()
        for name, array in given.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
        if len(self._logits) < rows:
            self._logits = np.empty((rows, model.vocabulary), np.float32)
        best = int(given["best"][0])
        scores = Scores(
            self._logits[:rows],
            np.empty(rows, np.float32),
            np.empty((rows, best), np.float32),
            np.empty((rows, best), np.int64),
        )
        newest = np.empty((rows, model.layers, 2, model.heads, model.head_width), np.float32)
        results = {
            "logits": scores.logits,
            "total": scores.total,
            "best_logits": scores.best_logits,
            "best_tokens": scores.best_tokens,
            "newest": newest.reshape(rows, model.layers, 2, -1),
        }
        for name, array in results.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
        model.decoder.run_with_iobinding(binding)
        return scores, newest

    def _bind_caches(self) -> None:
        """Tell ONNX Runtime where the caches are, when they or the number of slots have changed."""
        count = len(self.decodings)
        if count == self._bound:
            return
        self._bound = count
        for layer in range(self._model.layers):
            arrays = {f"{name}.{layer}": array[layer] for name, array in self._cross.items()}
            arrays |= {
                f"pool_keys.{layer}": self._pool[layer][0],
                f"pool_values.{layer}": self._pool[layer][1],
            }
            for name, array in arrays.items():
                self._binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array[:count]))

    def _arrange(self, *, pool: int | None = None) -> None:
        """Make the caches as large as those that are in need them, and not much larger."""
        lengths = (each.length for each in self.decodings)
        positions = _resized(self._positions, _rounded_up(max(lengths, default=0)))
        if pool is None:
            last = (int(places.max()) for each in self.decodings for places in each.ancestors if len(places))
            pool = _resized(self._pool_size, _rounded_up(max(last, default=-1) + 1))
        capacity = _resized(self._capacity, len(self.decodings) + -len(self.decodings) % 4)
        moved = capacity != self._capacity
        if moved or positions != self._positions:
            self._positions = positions
            for name, (dtype, shape) in self._model.cross.items():
                sizes = [size if isinstance(size, int) else positions for size in shape]
                self._resize(self._cross[name], (capacity, *sizes), dtype)
        if moved or pool != self._pool_size:
            self._pool_size = pool
            heads, width = self._model.heads, self._model.head_width
            self._resize(self._pool, (2, capacity, heads, pool, width), "float32")
        self._capacity = capacity
        for each in self.decodings:
            if len(each.written_at) != pool:
                each.written_at = np.resize(each.written_at, pool)

    def _resize(self, arrays: list[np.ndarray], shape: tuple[int, ...], dtype: str) -> None:
        """Replace them by such ones, with what both have room for."""
        # The binding would keep the old ones until it is told of the new.
        self._binding.clear_binding_inputs()
        self._bound = 0
        for layer, old in enumerate(arrays):
            arrays[layer] = _pages(shape, dtype)
            if old.ndim == len(shape):
                common = tuple(slice(min(sizes)) for sizes in zip(old.shape, shape, strict=True))
                arrays[layer][common] = old[common]


def _pages(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Zeros in pages of their own, which the system has back as soon as the array goes."""
    count = math.prod(shape)
    size_bytes = max(1, count * np.dtype(dtype).itemsize)
    mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapping, dtype, count).reshape(shape)


def _resized(size: int, needed: int) -> int:
    """Less by a quarter at least, or it stays: a copy of everything is to be worth it."""
    return needed if needed > size or needed * 4 <= size * 3 else size


def _rounded_up(count: int) -> int:
    return -(-count // _STEP) * _STEP
