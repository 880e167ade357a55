"""A checkpoint's weights in CTranslate2's format, without torch and transformers.

The file is the one that CTranslate2's own converter writes, byte for byte: its specification is filled with
weights that are read, and quantised, only while the file is written. Source of the layout: CTranslate2 4.8,
converters/transformers.py and specs/model_spec.py; of the architectures: transformers, modeling_*.py.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebbtide.runtime.checkpoint import PICKLE, Checkpoint, pegasus_positions
from ebbtide.runtime.errors import LoadFailure

COMPUTE_TYPES = (
    *("int8", "int8_float32", "int8_float16", "int8_bfloat16"),
    *("float32", "float16", "bfloat16"),
)
"""How weights can be stored; what follows int8 is the type of all that is no matrix."""

BLOCK_ROWS = 2048
"""Rows converted at a time: no matrix stands in memory as a whole but in the type it is written in."""

# Source: CTranslate2's Activation.
_ACTIVATIONS = {
    "relu": 0,
    "gelu_fast": 1,
    "gelu_new": 1,
    "gelu_pytorch_tanh": 1,
    "silu": 2,
    "swish": 2,
    "gelu": 3,
    "gelu_python": 3,
    "quick_gelu": 4,
}


@dataclass(frozen=True, slots=True)
class Family:
    """How architectures of BART's kind differ. `activation`: what a configuration that names none means.

    `positions`: a learned table, or sinusoids: half sines, half cosines, with the frequencies of Vaswani et
    al. 2017 or those of tensor2tensor.
    """

    pre_norm: bool
    embedding_norm: bool
    positions: str
    activation: str = "gelu"


FAMILIES = {
    "pegasus": Family(pre_norm=True, embedding_norm=False, positions="vaswani"),
    "bart": Family(pre_norm=False, embedding_norm=True, positions="learned"),
    "mbart": Family(pre_norm=True, embedding_norm=True, positions="learned"),
    "marian": Family(pre_norm=False, embedding_norm=False, positions="vaswani"),
    "m2m_100": Family(pre_norm=True, embedding_norm=False, positions="tensor2tensor", activation="relu"),
}
T5_TYPES = ("t5", "mt5")
MODEL_TYPES = (*FAMILIES, *T5_TYPES)
"""What is converted: transformers' model_type."""

POSITION_OFFSET = 2
"""Where fairseq's models begin to count. Source: BartLearnedPositionalEmbedding, M2M100's sinusoids."""


def prepare(
    checkpoint: Checkpoint,
    tokens: Sequence[str],
    special_ids: Mapping[str, int],
    output: Path,
    compute_type: str,
) -> None:
    """Write model.bin, config.json and shared_vocabulary.json into the folder `output`.

    tokens: the tokenizer's, in the order of their ids. special_ids: eos_token_id and decoder_start_token_id.
    compute_type: one of COMPUTE_TYPES. Raises LoadFailure for weights that are not what config.json says.
    """
    if not any(name.endswith(Path(PICKLE).suffix) for name in checkpoint.weight_files):
        # The specification imports torch where that is installed, for nothing that is done here.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from ctranslate2.specs import TransformerSpec

    weights = _Weights(checkpoint)
    fill = _t5 if checkpoint.model_type in T5_TYPES else _bart
    try:
        spec = fill(TransformerSpec, checkpoint, weights)
    except (KeyError, TypeError, ValueError) as error:
        raise LoadFailure(
            f"The model's config.json does not describe a {checkpoint.model_type}: {error}"
        ) from error
    rows = spec.decoder.projection.weight.shape[0]
    # Published models have more rows than tokens, to make the number round.
    vocabulary = [*tokens[:rows], *(f"<unused_{i}>" for i in range(rows - len(tokens)))]
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    for name, token in _special_tokens(checkpoint, vocabulary, special_ids).items():
        setattr(spec.config, name, token)
    try:
        spec.validate()
    except ValueError as error:
        raise LoadFailure(f"The model's weights do not fit its config.json: {error}") from error
    _share(spec)
    _set_types(spec, compute_type)
    output.mkdir(parents=True, exist_ok=True)
    spec.save(str(output))


def _special_tokens(
    checkpoint: Checkpoint, vocabulary: Sequence[str], ids: Mapping[str, int]
) -> dict[str, str | None]:
    """The tokens that CTranslate2 itself starts and ends with. Without a start, each request names one."""
    end = vocabulary[ids["eos_token_id"]]
    start: str | None
    if checkpoint.model_type == "marian":
        # It starts from a zero embedding, whatever the token is.
        start = end
    elif checkpoint.model_type == "mbart" and checkpoint.tokenizer_class != "MBart50Tokenizer":
        # The language of the answer.
        start = None
    else:
        start = vocabulary[ids["decoder_start_token_id"]]
    return {"bos_token": start or end, "eos_token": end, "unk_token": "<unk>", "decoder_start_token": start}


class Weight:
    """A variable of the specification: arrays one below the other, read and converted when it is written.

    `shape`, `dtype`, `num_bytes` and `to_bytes` are what the specification asks of its variables.
    """

    def __init__(self, read: Callable[[], list[np.ndarray]], dtype: str | None = None) -> None:
        self._read = read
        parts = read()
        self.shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        if any(part.shape[1:] != self.shape[1:] for part in parts):
            raise ValueError(f"matrices of different widths: {', '.join(str(part.shape) for part in parts)}")
        self.dtype = dtype or np.result_type(*parts).name

    def rows(self, rows: slice) -> "Weight":
        """Some rows of each array."""
        return Weight(lambda: [part[rows] for part in self._read()])

    def to(self, dtype: str) -> "Weight":
        return Weight(self._read, dtype)

    def equals(self, other: "Weight") -> bool:
        return self is other or np.array_equal(np.concatenate(self._read()), np.concatenate(other._read()))

    @property
    def first(self) -> float:
        """The first value: weights that differ nearly always do so here."""
        return float(self._read()[0].flat[0])

    def num_bytes(self) -> int:
        return int(math.prod(self.shape) * np.dtype(self._stored_type).itemsize)

    def to_bytes(self) -> memoryview:
        out: Any = np.empty(self.shape, self._stored_type)
        for rows, block in self.blocks():
            out[rows] = _bfloat16(block) if self.dtype == "bfloat16" else block
        return memoryview(out).cast("B")

    @property
    def _stored_type(self) -> str:
        return "uint16" if self.dtype == "bfloat16" else self.dtype  # numpy has no bfloat16

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows of the whole, a block at a time, with where they stand in it."""
        begin = 0
        for part in self._read():
            for first in range(0, len(part), BLOCK_ROWS):
                block = part[first : first + BLOCK_ROWS]
                yield slice(begin, begin + len(block)), block
                begin += len(block)


class Quantised(Weight):
    """A matrix as int8, each row by a scale of its own: 127 over the largest magnitude in it."""

    def __init__(self, weight: Weight) -> None:
        super().__init__(weight._read, "int8")
        self.scale = np.empty(self.shape[0], np.float32)

    def to_bytes(self) -> memoryview:
        out: Any = np.empty(self.shape, np.int8)
        for rows, block in self.blocks():
            values = block.astype(np.float32)
            largest = np.abs(values).max(axis=1)
            largest[largest == 0] = 127
            # So that the scale of a row of tiny values is still a number.
            np.maximum(largest, np.float32(127) / np.finfo(np.float32).max, out=largest)
            self.scale[rows] = np.float32(127) / largest
            values *= self.scale[rows, None]
            out[rows] = np.rint(values, out=values)
        return memoryview(out).cast("B")


class Scale:
    """A matrix's scales. The specification writes variables by name, so these after their matrix."""

    dtype = "float32"

    def __init__(self, matrix: Quantised) -> None:
        self._matrix = matrix
        self.shape = matrix.scale.shape

    def num_bytes(self) -> int:
        return self._matrix.scale.nbytes

    def to_bytes(self) -> bytes:
        return self._matrix.scale.tobytes()


class _Weights:
    """A checkpoint's tensors under the names that the whole model has for them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stacked: dict[tuple[str, ...], Weight] = {}

    def __contains__(self, name: str) -> bool:
        return self._stored(name) in self._checkpoint

    def stack(self, *names: str) -> Weight:
        """The tensors one below the other; the same object for the same names."""
        stored = tuple(self._stored(name) for name in names)
        if stored not in self._stacked:
            self._stacked[stored] = Weight(lambda: [self._checkpoint.tensor(name) for name in stored])
        return self._stacked[stored]

    def first(self, *names: str) -> Weight:
        """The first that is there: tied weights are stored under one of their names."""
        return self.stack(next((name for name in names if name in self), names[0]))

    def _stored(self, name: str) -> str:
        # What was saved without its head lacks the first part of the names.
        headless = name.removeprefix("model.")
        return headless if name not in self._checkpoint and headless in self._checkpoint else name


def _bart(spec_class: Any, checkpoint: Checkpoint, weights: _Weights) -> Any:
    config, family = checkpoint.config, FAMILIES[checkpoint.model_type]
    spec = spec_class.from_config(
        (config["encoder_layers"], config["decoder_layers"]),
        config["encoder_attention_heads"],
        pre_norm=family.pre_norm,
        activation=_activation(config.get("activation_function") or family.activation),
        layernorm_embedding=family.embedding_norm,
    )
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        prefix = f"model.{side}"
        embeddings = stack.embeddings[0] if side == "encoder" else stack.embeddings
        embeddings.weight = weights.first("model.shared.weight", f"{prefix}.embed_tokens.weight")
        stack.scale_embeddings = math.sqrt(config["d_model"]) if config.get("scale_embedding") else 1.0
        stack.position_encodings.encodings = _positions(
            f"{prefix}.embed_positions.weight", config, weights, family
        )
        if family.pre_norm:
            _norm(stack.layer_norm, f"{prefix}.layer_norm", weights)
        if family.embedding_norm:
            _norm(stack.layernorm_embedding, f"{prefix}.layernorm_embedding", weights)
        for number, layer in enumerate(stack.layer):
            _bart_layer(layer, f"{prefix}.layers.{number}", weights, crossed=side == "decoder")
    output = spec.decoder.projection
    tied = config.get("tie_word_embeddings", True)
    output.weight = spec.decoder.embeddings.weight if tied else weights.stack("lm_head.weight")
    if "final_logits_bias" in weights and any(
        block.any() for _, block in weights.stack("final_logits_bias").blocks()
    ):
        output.bias = Weight(lambda: [checkpoint.tensor("final_logits_bias").reshape(-1)])
    if checkpoint.model_type == "marian":
        spec.decoder.start_from_zero_embedding = True
        but_last = slice(-1)
        # transformers starts with the padding, last in the vocabulary. CTranslate2 needs no token for that,
        # and without the padding's row cannot generate it either.
        spec.encoder.embeddings[0].weight = spec.encoder.embeddings[0].weight.rows(but_last)
        spec.decoder.embeddings.weight = spec.decoder.embeddings.weight.rows(but_last)
        output.weight = output.weight.rows(but_last)
        if isinstance(output.bias, Weight):
            output.bias = output.bias.rows(but_last)
    return spec


def _bart_layer(layer: Any, prefix: str, weights: _Weights, *, crossed: bool) -> None:
    attentions = [(layer.self_attention, "self_attn", True)]
    if crossed:
        attentions.append((layer.attention, "encoder_attn", False))
    for attention, name, is_self in attentions:
        _attention(
            attention,
            f"{prefix}.{name}",
            ("q_proj", "k_proj", "v_proj", "out_proj"),
            weights,
            is_self=is_self,
        )
        _norm(attention.layer_norm, f"{prefix}.{name}_layer_norm", weights)
    _linear(layer.ffn.linear_0, weights, f"{prefix}.fc1")
    _linear(layer.ffn.linear_1, weights, f"{prefix}.fc2")
    _norm(layer.ffn.layer_norm, f"{prefix}.final_layer_norm", weights)


def _positions(name: str, config: Mapping[str, Any], weights: _Weights, family: Family) -> Weight:
    """The table of positions, of which only learned ones are always stored."""
    if family.positions == "learned":
        return weights.stack(name).rows(slice(POSITION_OFFSET, None))
    count, width = config["max_position_embeddings"], config["d_model"]
    if family.positions == "tensor2tensor":
        return Weight(lambda: [_sinusoids_of_tensor2tensor(count, width)])
    return weights.stack(name) if name in weights else Weight(lambda: [pegasus_positions(count, width)])


def _sinusoids_of_tensor2tensor(count: int, width: int) -> np.ndarray:
    """Source: M2M100SinusoidalPositionalEmbedding, where torch computes in float32: angles are rounded so."""
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1))
    positions = np.arange(POSITION_OFFSET, POSITION_OFFSET + count, dtype=np.float32)
    angles = positions[:, None] * np.exp(exponents.astype(np.float64)).astype(np.float32)
    sines = [turned(angles.astype(np.float64)) for turned in (np.sin, np.cos)]
    return np.concatenate(sines, axis=1).astype(np.float32)


def _t5(spec_class: Any, checkpoint: Checkpoint, weights: _Weights) -> Any:
    config = checkpoint.config
    kind = config.get("feed_forward_proj") or "relu"
    gated = kind.startswith("gated-")
    # "gated-gelu" means GELU's approximation by tanh. Source: T5Config.
    activation = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    spec = spec_class.from_config(
        (config["num_layers"], config.get("num_decoder_layers") or config["num_layers"]),
        config["num_heads"],
        pre_norm=True,
        activation=_activation(activation),
        ffn_glu=gated,
        relative_attention_bias=True,
        rms_norm=True,
    )
    farthest = np.int32(config.get("relative_attention_max_distance", 128))
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        embeddings = stack.embeddings[0] if side == "encoder" else stack.embeddings
        embeddings.weight = weights.first("shared.weight", f"{side}.embed_tokens.weight")
        stack.scale_embeddings = False
        stack.layer_norm.gamma = weights.stack(f"{side}.final_layer_norm.weight")
        # The first layer's stands for all.
        bias = weights.stack(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        for number, layer in enumerate(stack.layer):
            prefix = f"{side}.block.{number}.layer"
            _t5_layer(layer, prefix, weights, crossed=side == "decoder", gated=gated)
            layer.self_attention.relative_attention_bias = bias
            layer.self_attention.relative_attention_max_distance = farthest
    tied = config.get("tie_word_embeddings", True) and config.get("scale_decoder_outputs", True)
    output = spec.decoder.projection
    output.weight = (
        spec.decoder.embeddings.weight if tied else weights.first("lm_head.weight", "shared.weight")
    )
    if tied:
        spec.decoder.scale_outputs = config["d_model"] ** -0.5
    return spec


def _t5_layer(layer: Any, prefix: str, weights: _Weights, *, crossed: bool, gated: bool) -> None:
    attentions = [(layer.self_attention, f"{prefix}.0", "SelfAttention")]
    if crossed:
        attentions.append((layer.attention, f"{prefix}.1", "EncDecAttention"))
    for attention, place, name in attentions:
        is_self = name == "SelfAttention"
        _attention(attention, f"{place}.{name}", ("q", "k", "v", "o"), weights, is_self=is_self)
        attention.queries_scale = 1.0
        attention.layer_norm.gamma = weights.stack(f"{place}.layer_norm.weight")
    last = f"{prefix}.{len(attentions)}"
    _linear(layer.ffn.linear_0, weights, f"{last}.DenseReluDense.{'wi_0' if gated else 'wi'}")
    if gated:
        _linear(layer.ffn.linear_0_noact, weights, f"{last}.DenseReluDense.wi_1")
    _linear(layer.ffn.linear_1, weights, f"{last}.DenseReluDense.wo")
    layer.ffn.layer_norm.gamma = weights.stack(f"{last}.layer_norm.weight")


def _attention(
    attention: Any, prefix: str, names: tuple[str, str, str, str], weights: _Weights, *, is_self: bool
) -> None:
    """Queries, keys and values of one source are one matrix, keys and values of another's text likewise."""
    query, key, value, output = (f"{prefix}.{name}" for name in names)
    if is_self:
        _linear(attention.linear[0], weights, query, key, value)
    else:
        _linear(attention.linear[0], weights, query)
        _linear(attention.linear[1], weights, key, value)
    _linear(attention.linear[-1], weights, output)


def _linear(linear: Any, weights: _Weights, *names: str) -> None:
    linear.weight = weights.stack(*(f"{name}.weight" for name in names))
    if f"{names[0]}.bias" in weights:
        linear.bias = weights.stack(*(f"{name}.bias" for name in names))


def _norm(norm: Any, name: str, weights: _Weights) -> None:
    norm.gamma = weights.stack(f"{name}.weight")
    norm.beta = weights.stack(f"{name}.bias")


def _activation(name: str) -> int:
    if name not in _ACTIVATIONS:
        raise LoadFailure(f"The activation {name} is not served: there are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _share(spec: Any) -> None:
    """Write equal weights once: the first by name, by its name the others."""
    alike: dict[tuple[object, ...], list[tuple[str, Weight]]] = defaultdict(list)
    for layer, name, weight in _weights_of(spec):
        seen = alike[weight.shape, weight.dtype, weight.first]
        same = next((other for other, stored in seen if weight.equals(stored)), None)
        if same is None:
            seen.append((name, weight))
        else:
            setattr(layer, name.rpartition("/")[2], same)


def _set_types(spec: Any, compute_type: str) -> None:
    matrices, _, others = compute_type.partition("_")
    for layer, name, weight in _weights_of(spec):
        attribute = name.rpartition("/")[2]
        if not hasattr(layer, f"{attribute}_scale"):
            if matrices != "int8":
                setattr(layer, attribute, weight.to(matrices))
            elif others:
                setattr(layer, attribute, weight.to(others))
        elif matrices == "int8":
            quantised = Quantised(weight)
            setattr(layer, attribute, quantised)
            setattr(layer, f"{attribute}_scale", Scale(quantised))
        else:
            setattr(layer, attribute, weight.to(matrices))


def _weights_of(spec: Any) -> list[tuple[Any, str, Weight]]:
    """The layers with the names and values of their weights, in the order of the names."""
    from ctranslate2.specs.model_spec import visit_spec

    found: list[tuple[Any, str, Weight]] = []

    def visit(layer: Any, name: str, value: object) -> None:
        if isinstance(value, Weight):
            found.append((layer, name, value))

    visit_spec(spec, visit)
    return sorted(found, key=lambda each: each[1])


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
