"""Weights read from a model's files, beside safetensors' and torch's own readers."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.errors import LoadFailure

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402 it imports torch


@pytest.fixture
def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    return {
        "single": torch.randn(3, 5, generator=generator),
        "half": torch.randn(4, generator=generator).half(),
        "brain": torch.randn(7, 2, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "whole": torch.arange(6).reshape(2, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "pegasus", "num_beams": 8}')
    return tmp_path


def assert_equal(checkpoint: Checkpoint, tensors: dict[str, Any]) -> None:
    assert checkpoint.names == set(tensors)
    for name, tensor in tensors.items():
        narrow = tensor.dtype in (torch.bfloat16, torch.float64)
        expected = (tensor.float() if narrow else tensor).numpy()
        read = checkpoint.tensor(name)
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)


def test_safetensors_are_read_as_they_are_stored_and_bfloat16_exactly(folder: Path, tensors: dict[str, Any]):
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    assert_equal(Checkpoint(folder), tensors)


def test_shards_are_found_by_their_index(folder: Path, tensors: dict[str, Any]):
    places = {}
    for number, name in enumerate(tensors):
        places[name] = f"model-{number % 2}.safetensors"
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    assert_equal(Checkpoint(folder), tensors)


@pytest.mark.parametrize("zipped", [pytest.param(True, id="zip"), pytest.param(False, id="older than zip")])
def test_pickled_weights_are_read_by_torch(folder: Path, tensors: dict[str, Any], zipped: bool):
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    assert_equal(Checkpoint(folder), tensors)


def test_safetensors_are_preferred_to_pickles(folder: Path, tensors: dict[str, Any]):
    save_file(tensors, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")

    assert_equal(Checkpoint(folder), tensors)


def test_older_checkpoints_have_no_generation_settings_of_their_own(folder: Path):
    assert Checkpoint(folder).generation_config is None


def test_the_tokenizer_is_named_by_its_own_file_or_the_model_s(folder: Path):
    (folder / "config.json").write_text('{"tokenizer_class": "MBart50Tokenizer"}')
    assert Checkpoint(folder).tokenizer_class == "MBart50Tokenizer"

    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MBartTokenizerFast"}')
    assert Checkpoint(folder).tokenizer_class == "MBartTokenizer"


class Dangerous:
    """What an attacker's pickle holds: a call that reading it would make."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("reading this ran it",)


def _header(entries: dict[str, Any], data: bytes) -> bytes:
    encoded = json.dumps(entries).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def _entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        pytest.param(b"", "damaged", id="an empty file"),
        pytest.param(b"z" * 64, "damaged", id="no safetensors at all"),
        pytest.param(_header(_entry([4], [0, 16]), bytes(9)), "truncated: it holds 9 of 16", id="a cut file"),
        pytest.param(_header(_entry([4], [0, 12]), bytes(16)), "damaged", id="offsets against the shape"),
        pytest.param(_header(_entry([-4, -1], [0, 16]), bytes(16)), "damaged", id="a negative shape"),
        pytest.param(_header(_entry([2], [-8, 0]), bytes(16)), "damaged", id="bytes before the beginning"),
        pytest.param(_header(_entry([4], [0, 4], "F4"), bytes(16)), "damaged", id="an unknown type"),
        pytest.param(_header({"w": 3}, bytes(16)), "damaged", id="a number for a description"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", id="a pointer"),
    ],
)
def test_damaged_safetensors_are_refused_naming_the_file(folder: Path, content: bytes, fact: str):
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(LoadFailure, match=rf"model\.safetensors .*{fact}"):
        _ = Checkpoint(folder).names


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("../secrets.safetensors", id="a parent"),
        pytest.param("/etc/passwd", id="an absolute path"),
        pytest.param("..", id="the parent itself"),
        pytest.param(7, id="a number"),
    ],
)
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, place: object):
    index = {"weight_map": {"w": "model-1.safetensors", "v": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(LoadFailure, match="outside the model's folder"):
        _ = Checkpoint(folder).names


def test_a_missing_shard_is_named(folder: Path):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-1.safetensors"}}')

    with pytest.raises(LoadFailure, match=r"model-1\.safetensors, which is missing"):
        _ = Checkpoint(folder).names


def test_a_pickle_that_would_run_code_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"w": Dangerous()}, folder / "pytorch_model.bin")

    with pytest.raises(LoadFailure, match=r"pytorch_model\.bin is refused.*run code"):
        _ = Checkpoint(folder).names
    assert capsys.readouterr().out == ""


def test_a_cut_pickle_is_refused(folder: Path, tensors: dict[str, Any]):
    torch.save(tensors, folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(LoadFailure, match=r"pytorch_model\.bin is"):
        _ = Checkpoint(folder).names


def test_pickled_weights_without_torch_name_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(LoadFailure, match=r"install ebbtide\[convert\], or use .* safetensors"):
        _ = Checkpoint(folder).names


def test_a_tensor_that_is_not_there_is_named(folder: Path, tensors: dict[str, Any]):
    save_file(tensors, folder / "model.safetensors")

    with pytest.raises(LoadFailure, match=r"model\.safetensors\) lack the tensor missing"):
        Checkpoint(folder).tensor("missing")
