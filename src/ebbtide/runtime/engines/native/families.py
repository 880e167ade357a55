"""What the families' checkpoints call their weights, and how their layers differ: PEGASUS, BART, mBART and
T5.

One vocabulary of parts for all: projections, norms, attention, feed-forward. Weights are read when a part is
asked for, so that no more than a layer is in memory at once. Source: modeling_{pegasus,bart,mbart,t5}.py of
transformers 5.23.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ebbtide.runtime.checkpoint import Checkpoint, pegasus_positions
from ebbtide.runtime.errors import LoadFailure

Side = Literal["encoder", "decoder"]

ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")
_OTHER_NAMES = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"}


@dataclass(frozen=True, slots=True)
class Projection:
    """x · weightᵀ + bias. weight: float32 [out, in]."""

    weight: np.ndarray
    bias: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation; without `bias` T5's, by the root mean square alone."""

    weight: np.ndarray
    bias: np.ndarray | None
    epsilon: float


@dataclass(frozen=True, slots=True)
class Attention:
    """The factor that scales queries is in `query` already."""

    norm: Norm
    query: Projection
    key: Projection
    value: Projection
    output: Projection


@dataclass(frozen=True, slots=True)
class FeedForward:
    """wide: one projection, or two whose product is taken after the activation of the first."""

    norm: Norm
    wide: tuple[Projection, ...]
    activation: str
    output: Projection


class Family(ABC):
    """A checkpoint's parts. `pre_norm`: norms stand before their block, not after the residual sum.

    `buckets`, `max_distance`: of relative positions, 0 where a table of positions is added to the input.
    """

    pre_norm: bool
    width: int
    head_width: int
    vocabulary: int
    embedding_scale: float
    buckets: int = 0
    max_distance: int = 0

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config = checkpoint.config

    @abstractmethod
    def layers(self, side: Side) -> int: ...

    @abstractmethod
    def heads(self, side: Side) -> int: ...

    @abstractmethod
    def self_attention(self, side: Side, layer: int) -> Attention: ...

    @abstractmethod
    def cross_attention(self, layer: int) -> Attention: ...

    @abstractmethod
    def feed_forward(self, side: Side, layer: int) -> FeedForward: ...

    @abstractmethod
    def embedding_norm(self, side: Side) -> Norm | None: ...

    @abstractmethod
    def final_norm(self, side: Side) -> Norm | None: ...

    @abstractmethod
    def embeddings(self) -> np.ndarray:
        """[vocabulary, width], as stored."""

    @abstractmethod
    def positions(self, side: Side) -> np.ndarray | None:
        """float32 [positions, width], from position 0; None for relative positions."""

    def relative_bias(self, side: Side) -> np.ndarray:
        """float32 [buckets, heads]; of families with buckets."""
        raise NotImplementedError

    @abstractmethod
    def head(self) -> Projection:
        """From the decoder's last state to the vocabulary's scores."""

    def _tensor(self, *names: str) -> np.ndarray:
        """The first of these that is stored, as float32."""
        name = next((name for name in names if name in self._checkpoint), names[0])
        return self._checkpoint.tensor(name).astype(np.float32, copy=False)

    def _activation(self, name: str) -> str:
        name = _OTHER_NAMES.get(name, name)
        if name not in ACTIVATIONS:
            raise LoadFailure(f"The engine native does not compute the activation {name}")
        return name


class Bart(Family):
    """PEGASUS, BART and mBART."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        config = self._config
        self.pre_norm = checkpoint.model_type in ("pegasus", "mbart")
        self.width = config["d_model"]
        self.head_width = self.width // config["decoder_attention_heads"]
        self.vocabulary, _ = self.embeddings().shape
        self.embedding_scale = math.sqrt(self.width) if config.get("scale_embedding") else 1.0

    def layers(self, side: Side) -> int:
        layers: int = self._config[f"{side}_layers"]
        return layers

    def heads(self, side: Side) -> int:
        heads: int = self._config[f"{side}_attention_heads"]
        return heads

    def self_attention(self, side: Side, layer: int) -> Attention:
        return self._attention(f"model.{side}.layers.{layer}.self_attn", self.heads(side))

    def cross_attention(self, layer: int) -> Attention:
        return self._attention(f"model.decoder.layers.{layer}.encoder_attn", self.heads("decoder"))

    def feed_forward(self, side: Side, layer: int) -> FeedForward:
        name = f"model.{side}.layers.{layer}"
        return FeedForward(
            self._norm(f"{name}.final_layer_norm"),
            (self._projection(f"{name}.fc1"),),
            self._activation(self._config.get("activation_function", "gelu")),
            self._projection(f"{name}.fc2"),
        )

    def embedding_norm(self, side: Side) -> Norm | None:
        return self._optional_norm(f"model.{side}.layernorm_embedding")

    def final_norm(self, side: Side) -> Norm | None:
        return self._optional_norm(f"model.{side}.layer_norm")

    def embeddings(self) -> np.ndarray:
        names = ("model.shared.weight", "model.encoder.embed_tokens.weight", "lm_head.weight")
        return self._checkpoint.tensor(next((name for name in names if name in self._checkpoint), names[0]))

    def positions(self, side: Side) -> np.ndarray | None:
        name = f"model.{side}.embed_positions.weight"
        if self._checkpoint.model_type == "pegasus":
            if name in self._checkpoint:
                return self._tensor(name)
            return pegasus_positions(self._config["max_position_embeddings"], self.width)
        # fairseq counted from the id after the padding token's.
        return self._tensor(name)[2:]

    def head(self) -> Projection:
        weight = self._tensor("lm_head.weight", "model.shared.weight", "model.encoder.embed_tokens.weight")
        bias = "final_logits_bias"
        return Projection(weight, self._tensor(bias)[0] if bias in self._checkpoint else None)

    def _attention(self, name: str, heads: int) -> Attention:
        scale = np.float32((self.width // heads) ** -0.5)
        query = self._projection(f"{name}.q_proj")
        assert query.bias is not None
        return Attention(
            self._norm(f"{name}_layer_norm"),
            Projection(query.weight * scale, query.bias * scale),
            *(self._projection(f"{name}.{each}") for each in ("k_proj", "v_proj", "out_proj")),
        )

    def _projection(self, name: str) -> Projection:
        return Projection(self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"))

    def _norm(self, name: str) -> Norm:
        return Norm(self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"), 1e-5)

    def _optional_norm(self, name: str) -> Norm | None:
        return self._norm(name) if f"{name}.weight" in self._checkpoint else None


class T5(Family):
    """T5 of both versions, and FLAN-T5."""

    pre_norm = True
    embedding_scale = 1.0

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        config = self._config
        self.width = config["d_model"]
        self.head_width = config["d_kv"]
        self.vocabulary, _ = self.embeddings().shape
        self.buckets = config.get("relative_attention_num_buckets", 32)
        self.max_distance = config.get("relative_attention_max_distance", 128)
        # gated-gelu is the name in old checkpoints of what was trained with gelu_new.
        gated, _, name = config.get("feed_forward_proj", "relu").rpartition("-")
        self._is_gated = gated == "gated"
        self._activation_name = self._activation("gelu_new" if self._is_gated and name == "gelu" else name)

    def layers(self, side: Side) -> int:
        encoder: int = self._config["num_layers"]
        return encoder if side == "encoder" else self._config.get("num_decoder_layers") or encoder

    def heads(self, side: Side) -> int:  # noqa: ARG002 the same on both
        heads: int = self._config["num_heads"]
        return heads

    def self_attention(self, side: Side, layer: int) -> Attention:
        return self._attention(f"{side}.block.{layer}.layer.0", "SelfAttention")

    def cross_attention(self, layer: int) -> Attention:
        return self._attention(f"decoder.block.{layer}.layer.1", "EncDecAttention")

    def feed_forward(self, side: Side, layer: int) -> FeedForward:
        name = f"{side}.block.{layer}.layer.{1 if side == 'encoder' else 2}"
        wide = ("wi_0", "wi_1") if self._is_gated else ("wi",)
        return FeedForward(
            self._norm(f"{name}.layer_norm"),
            tuple(self._projection(f"{name}.DenseReluDense.{each}") for each in wide),
            self._activation_name,
            self._projection(f"{name}.DenseReluDense.wo"),
        )

    def embedding_norm(self, side: Side) -> Norm | None:  # noqa: ARG002 none on either
        return None

    def final_norm(self, side: Side) -> Norm | None:
        return self._norm(f"{side}.final_layer_norm")

    def embeddings(self) -> np.ndarray:
        names = ("shared.weight", "encoder.embed_tokens.weight")
        return self._checkpoint.tensor(next((name for name in names if name in self._checkpoint), names[0]))

    def positions(self, side: Side) -> np.ndarray | None:  # noqa: ARG002 none on either
        return None

    def relative_bias(self, side: Side) -> np.ndarray:
        return self._tensor(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")

    def head(self) -> Projection:
        weight = self._tensor("lm_head.weight", "shared.weight", "encoder.embed_tokens.weight")
        if self._config.get("tie_word_embeddings", True) and self._config.get("scale_decoder_outputs", True):
            weight = weight * np.float32(self.width**-0.5)
        return Projection(weight)

    def _attention(self, name: str, kind: str) -> Attention:
        return Attention(
            self._norm(f"{name}.layer_norm"), *(self._projection(f"{name}.{kind}.{each}") for each in "qkvo")
        )

    def _projection(self, name: str) -> Projection:
        return Projection(self._tensor(f"{name}.weight"))

    def _norm(self, name: str) -> Norm:
        return Norm(self._tensor(f"{name}.weight"), None, self._config.get("layer_norm_epsilon", 1e-6))


FAMILIES: dict[str, type[Family]] = {"pegasus": Bart, "bart": Bart, "mbart": Bart, "t5": T5}
"""By model_type in config.json."""
