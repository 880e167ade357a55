"""A model's files in the Hub's layout: its configuration, and its weights one tensor at a time.

safetensors are mapped from the file, so that a tensor costs memory only while somebody reads it, and need no
torch. Pickled weights are read by torch alone, and only as tensors: nothing in them can run.
"""

import json
import math
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol
from zipfile import is_zipfile

import numpy as np

from ebbtide.runtime.errors import LoadFailure, one_line

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"

_LFS_POINTER = b"version https://git-lfs"
_BFLOAT16 = "BF16"
# Little-endian, as the format stores them. Source: safetensors' format description and its Dtype.
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    _BFLOAT16: "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}
_MAX_HEADER_BYTES = 100_000_000
"""safetensors' own bound."""


class _Shard(Protocol):
    """One file of weights."""

    @property
    def names(self) -> Iterable[str]: ...

    def tensor(self, name: str) -> np.ndarray: ...


class Checkpoint:
    """A folder as the Hub has it. Every fault of its files is a LoadFailure that names the file.

    Weights are looked for as transformers does: safetensors before pickles, one file before shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        config = self.json("config.json")
        if config is None:
            raise LoadFailure("The model's files have no config.json")
        return config

    @cached_property
    def generation_config(self) -> dict[str, Any] | None:
        """generation_config.json; None for older checkpoints, which keep its members in config.json."""
        return self.json("generation_config.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """tokenizer_config.json; empty if there is none."""
        return self.json("tokenizer_config.json") or {}

    @property
    def model_type(self) -> str:
        """The architecture's family in transformers' terms, such as pegasus or m2m_100; empty if not told."""
        return str(self.config.get("model_type") or "")

    @property
    def tokenizer_class(self) -> str | None:
        """The tokenizer's class in transformers, without Fast at its end; None if the model type decides."""
        named = self.tokenizer_config.get("tokenizer_class") or self.config.get("tokenizer_class")
        return str(named).removesuffix("Fast") if named else None

    @cached_property
    def weight_files(self) -> tuple[str, ...]:
        """The files that hold the weights. Raises LoadFailure when there are none."""
        for single in (SAFETENSORS, PICKLE):
            if (self.folder / single).is_file():
                return (single,)
            if (index := self.json(f"{single}.index.json")) is not None:
                return self._indexed(f"{single}.index.json", index)
        raise LoadFailure(f"The model's files have no weights: no {SAFETENSORS} and no {PICKLE}")

    @property
    def names(self) -> frozenset[str]:
        """The stored tensors' names. Tied weights are commonly stored once, under one of their names."""
        return frozenset(self._shard_of)

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as it is stored, float64 and bfloat16 as float32 (the latter exactly).

        From safetensors it is a read-only view of the mapped file. Raises LoadFailure when it is not there.
        """
        try:
            return self._shard_of[name].tensor(name)
        except KeyError as error:
            files = ", ".join(self.weight_files)
            raise LoadFailure(f"The model's weights ({files}) lack the tensor {name}") from error

    def json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file of the folder; None if there is no such file."""
        try:
            found = json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            refuse_pointer(self.folder / name)
            raise LoadFailure(f"The model's {name} is not JSON: {one_line(error)}") from error
        if not isinstance(found, dict):
            raise LoadFailure(f"The model's {name} is no object of names and values")
        return found

    @cached_property
    def _shard_of(self) -> dict[str, _Shard]:
        shards = [self._open(name) for name in self.weight_files]
        return {name: shard for shard in shards for name in shard.names}

    def _indexed(self, name: str, index: dict[str, Any]) -> tuple[str, ...]:
        places = index.get("weight_map")
        if not isinstance(places, dict) or not places:
            raise LoadFailure(f"The model's {name} has no weight_map")
        for place in places.values():
            # A name with a folder in it could lead anywhere on this machine.
            if not isinstance(place, str) or place == ".." or Path(place).name != place:
                raise LoadFailure(f"The model's {name} names a file outside the model's folder: {place!r}")
        files = sorted(set(places.values()))
        for file in files:
            if not (self.folder / file).is_file():
                raise LoadFailure(f"The model's {name} names {file}, which is missing")
        return tuple(files)

    def _open(self, name: str) -> _Shard:
        path = self.folder / name
        refuse_pointer(path)
        return _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)


def refuse_pointer(path: Path) -> None:
    """Raises LoadFailure for a file that Git LFS has not fetched."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise LoadFailure(f"{path.name} is a Git LFS pointer, not the file it stands for")


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            header, self._start = _header(path)
            self._tensors = {name: _Place.read(told) for name, told in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise LoadFailure(f"{path.name} is damaged: its header is not that of safetensors") from error
        held = path.stat().st_size - self._start
        if any(place.end > held for place in self._tensors.values()):
            needed = max(place.end for place in self._tensors.values())
            raise LoadFailure(f"{path.name} is truncated: it holds {held} of {needed} bytes of weights")
        # numpy maps no empty range, which a file without a single weight would be.
        self._bytes = np.memmap(path, np.uint8, mode="r", offset=self._start) if held else np.empty(0, "u1")

    @property
    def names(self) -> Iterable[str]:
        return self._tensors

    def tensor(self, name: str) -> np.ndarray:
        place = self._tensors[name]
        # A plain array over the mapping: numpy's memmap type would go on into everything computed from it.
        stored: np.ndarray = np.ndarray(
            place.shape, _DTYPES[place.dtype], buffer=self._bytes.data, offset=place.begin
        )
        if place.dtype == _BFLOAT16:
            # bfloat16 is the upper half of a float32.
            return (stored.astype("<u4") << 16).view("<f4")
        return stored.astype("<f4") if place.dtype == "F64" else stored


class _Place:
    """Where a tensor lies behind the header, in bytes."""

    __slots__ = ("begin", "dtype", "end", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> None:
        self.dtype, self.shape, self.begin, self.end = dtype, shape, begin, end

    @classmethod
    def read(cls, told: dict[str, Any]) -> "_Place":
        """Raises ValueError, KeyError or TypeError for an entry that contradicts itself."""
        begin, end = told["data_offsets"]
        place = cls(told["dtype"], tuple(told["shape"]), begin, end)
        size = math.prod(place.shape) * np.dtype(_DTYPES[place.dtype]).itemsize
        if begin < 0 or min(place.shape, default=0) < 0 or end - begin != size:
            raise ValueError("offsets that do not fit the shape")
        return place


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors' descriptions, and where the bytes behind them begin."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise ValueError("a header longer than the file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


class _Pickle:
    def __init__(self, path: Path) -> None:
        try:
            import torch
        except ModuleNotFoundError as error:
            raise LoadFailure(
                f"{path.name} holds pickled weights, which need torch once: install ebbtide[convert], "
                "or use a version of the model with safetensors"
            ) from error
        try:
            # Checkpoints from before torch 1.6 are no zip archives and cannot be mapped.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        except UnpicklingError as error:
            raise LoadFailure(
                f"{path.name} is refused: it is damaged, or holds more than tensors, "
                "which could run code when it is read"
            ) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise LoadFailure(f"{path.name} is damaged: {one_line(error)}") from error
        if not isinstance(loaded, dict) or not all(
            isinstance(each, torch.Tensor) for each in loaded.values()
        ):
            raise LoadFailure(f"{path.name} is no dictionary of tensors alone")
        self._tensors: dict[str, Any] = loaded

    @property
    def names(self) -> Iterable[str]:
        return self._tensors

    def tensor(self, name: str) -> np.ndarray:
        import torch

        stored = self._tensors[name].detach()
        widened = stored.float() if stored.dtype in (torch.bfloat16, torch.float64) else stored
        array: np.ndarray = widened.numpy()
        return array


def pegasus_positions(count: int, width: int) -> np.ndarray:
    """PEGASUS's table of positions, which newer checkpoints leave out: sines, then cosines.

    Returns float32 [count, width]. Source: PegasusSinusoidalPositionalEmbedding, which computes in float64.
    """
    angles = np.arange(count)[:, None] / np.power(10000, 2 * np.arange(width // 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
