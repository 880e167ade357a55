"""What is written for CTranslate2 without torch, beside what its own converter writes with it."""

import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checkpoints import Trained

from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.conversion import ctranslate
from ebbtide.runtime.convert import convert
from ebbtide.runtime.errors import LoadFailure

POSITIONS = "position_encodings/encodings"
FAMILIES = ("pegasus", "bart", "mbart", "mbart50", "t5", "flan-t5", "marian", "nllb", "m2m100")


def converted_by_ctranslate2(folder: Path, output: Path, compute_type: str) -> None:
    """By its own converter; tokens are named by their ids, since names make no difference to weights."""
    from ctranslate2.converters import TransformersConverter

    class Tokens:
        bos_token = eos_token = pad_token = unk_token = "0"
        unk_token_id = 0
        special_tokens_map: dict[str, list[str]] = {}

        def __init__(self, model_type: str, count: int) -> None:
            self._last = "<pad>" if model_type == "marian" else str(count - 1)
            self._count = count

        def get_vocab(self) -> dict[str, int]:
            return {str(i): i for i in range(self._count - 1)} | {self._last: self._count - 1}

        def convert_ids_to_tokens(self, id_: int) -> str:
            return str(id_)

    class Converter(TransformersConverter):
        def load_model(self, model_class: Any, name: str, **options: Any) -> Any:
            model_type = options["config"].model_type
            # It reads what configurations need not have: the architectures' own constants.
            options["config"].normalize_before = model_type != "bart"
            options["config"].normalize_embedding = model_type in ("bart", "mbart")
            model = super().load_model(model_class, name, **options)
            # transformers 5 no longer says here whether the output is the embeddings.
            model.config.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", True)
            self.tokens = Tokens(model_type, model.config.vocab_size)
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return self.tokens

    Converter(str(folder)).convert(str(output), quantization=compute_type)


def variables(path: Path) -> dict[str, np.ndarray | str]:
    """A model.bin's variables, and aliases as the name of what they stand for."""
    data, place = path.read_bytes(), 0
    types = ("<f4", "i1", "<i2", "<i4", "<f2", "<u2")

    def number(code: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(code, data, place)
        place += struct.calcsize(code)
        return int(value)

    def text() -> str:
        nonlocal place
        length = number("<H")
        place += length
        return data[place - length : place - 1].decode()

    number("<I")
    text()
    number("<I")
    found: dict[str, np.ndarray | str] = {}
    for _ in range(number("<I")):
        name = text()
        shape = [number("<I") for _ in range(number("B"))]
        dtype = types[number("B")]
        size = number("<I")
        found[name] = np.frombuffer(data, dtype, math.prod(shape), place).reshape(shape)
        place += size
    for _ in range(number("<I")):
        name = text()
        found[name] = text()
    assert place == len(data)
    return found


@pytest.mark.parametrize("compute_type", ["float32", "int8", "int8_float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_those_that_ctranslate2_s_own_converter_writes(
    trained: Trained, tmp_path: Path, family: str, compute_type: str
):
    converted_by_ctranslate2(trained(family), tmp_path / "theirs", compute_type)

    convert(Checkpoint(trained(family)), tmp_path / "ours", "ctranslate2", compute_type)

    ours, theirs = (tmp_path / name / "model.bin" for name in ("ours", "theirs"))
    if family not in ("nllb", "m2m100"):
        assert ours.read_bytes() == theirs.read_bytes()
        return
    # Their positions are in no file: sines of torch's and of numpy's own differ in the last place.
    mine, other = variables(ours), variables(theirs)
    assert list(mine) == list(other)
    for name, value in mine.items():
        if name.endswith(POSITIONS) and not isinstance(value, str):
            np.testing.assert_allclose(value, other[name], atol=1e-3 if value.dtype == "<f2" else 1e-6)
        else:
            np.testing.assert_array_equal(value, other[name])


def test_every_compute_type_is_written_as_ctranslate2_does(trained: Trained, tmp_path: Path):
    for compute_type in ctranslate.COMPUTE_TYPES:
        converted_by_ctranslate2(trained("pegasus"), tmp_path / f"{compute_type}-theirs", compute_type)
        convert(Checkpoint(trained("pegasus")), tmp_path / compute_type, "ctranslate2", compute_type)

        theirs = tmp_path / f"{compute_type}-theirs" / "model.bin"
        assert (tmp_path / compute_type / "model.bin").read_bytes() == theirs.read_bytes()


def test_a_conversion_imports_neither_torch_nor_transformers(trained: Trained, tmp_path: Path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ebbtide.runtime.checkpoint import Checkpoint\n"
        "from ebbtide.runtime.convert import convert\n"
        "convert(Checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), 'ctranslate2', 'int8')\n"
        "sys.exit(bool(sys.modules.get('torch') or sys.modules.get('transformers')))\n"
    )
    command = [sys.executable, "-c", script, str(trained("pegasus")), str(tmp_path / "output")]

    assert subprocess.run(command, check=False).returncode == 0


def test_weights_that_were_saved_without_their_head_are_found(trained: Trained, tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    whole = load_file(trained("bart") / "model.safetensors")
    bare = {
        name.removeprefix("model."): tensor for name, tensor in whole.items() if name != "final_logits_bias"
    }
    for path in trained("bart").iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(bare, tmp_path / "model.safetensors")

    convert(Checkpoint(tmp_path), tmp_path / "bare", "ctranslate2", "float32")
    convert(Checkpoint(trained("bart")), tmp_path / "whole", "ctranslate2", "float32")

    assert (tmp_path / "bare" / "model.bin").read_bytes() == (tmp_path / "whole" / "model.bin").read_bytes()


def test_equal_weights_of_different_makeup_are_written_once(tmp_path: Path):
    """Biases that are all zero: of three fused matrices, and of one three times as tall."""
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    small = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = PegasusConfig(
        vocab_size=50, d_model=16, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=8, **small
    )
    PegasusForConditionalGeneration(config).save_pretrained(tmp_path / "checkpoint")
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    ids = {"eos_token_id": 1, "decoder_start_token_id": 0}
    converted_by_ctranslate2(tmp_path / "checkpoint", tmp_path / "theirs", "float32")

    ctranslate.prepare(checkpoint, [str(i) for i in range(50)], ids, tmp_path / "ours", "float32")

    assert (tmp_path / "ours" / "model.bin").read_bytes() == (tmp_path / "theirs" / "model.bin").read_bytes()


def test_weights_that_are_not_what_the_configuration_says_are_refused(trained: Trained, tmp_path: Path):
    for path in trained("pegasus").iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(config.replace('"decoder_layers": 2', '"decoder_layers": 3'))

    with pytest.raises(LoadFailure, match=r"lack the tensor model\.decoder\.layers\.2"):
        convert(Checkpoint(tmp_path), tmp_path / "output", "ctranslate2", "int8")
