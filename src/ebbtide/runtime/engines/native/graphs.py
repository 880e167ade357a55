"""A family's encoder and decoder as graphs for ONNX Runtime, in float32 or with 8-bit integer products.

The encoder reads one source, so nothing is padded, and gives what the decoder keeps of it: keys and values of
every layer's cross attention. The decoder takes one step for the newest token of every row (a beam, or a
sample) of all sources that are decoded at the time:

- Products with weights see the rows one under the other, [rows, width].
- Attention sees a grid [sources, beams], so that the beams of a source read its keys and values together:
  `grid` names the row at each place (any, where a source has fewer beams), `places` each row's place.
  - Self attention reads a pool of positions that the beams of a source share; the mask says whose ancestors
  they
  are. Beams can therefore be reordered without copying anything. The newest tokens' keys and values are given
  out, for the caller to put into the pool.

int8: weights by output channel, activations by row, as they come: a row's result does not depend on what is
in the batch beside it. The products are u8 x s8 with 32-bit sums, exact where the processor has VNNI. Keys of
cross attention are kept by position, values by channel. What is between the products stays float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ebbtide.runtime.engines.native.families import Attention, Family, FeedForward, Norm, Projection, Side
from ebbtide.runtime.engines.native.onnx_graph import CONTRIB, Graph

_TINY = np.float32(1e-30)
"""Keeps a scale from being zero."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """A matrix [rows, columns] on the left of products; in int8 with its rows' scales, [rows, 1]."""

    value: str
    scales: str | None = None


class _Writer:
    """The parts that both graphs are made of."""

    def __init__(self, path: Path, family: Family, compute_type: str) -> None:
        self.graph = Graph(path)
        self.family = family
        self.is_int8 = compute_type == "int8"

    def constant(self, value: float | Sequence[int], dtype: type) -> str:
        return self.graph.constant(np.array(value, dtype))

    def shaped(self, value: str, *shape: int) -> str:
        return self.graph.node("Reshape", value, self.constant(shape, np.int64))

    def operand(self, value: str) -> _Operand:
        return _Operand(*self.quantised(value)) if self.is_int8 else _Operand(value)

    def quantised(self, value: str) -> tuple[str, str]:
        """u8 around 128, and the scale of each row."""
        return self._quantised(value, self.graph.node("Abs", value), -1, np.uint8(128), 127)

    def quantised_signed(self, value: str, axis: int) -> tuple[str, str]:
        """s8, for the right side of products, and the scales along the axis."""
        return self._quantised(value, self.graph.node("Abs", value), axis, np.int8(0), 127)

    def quantised_shares(self, value: str) -> tuple[str, str]:
        """u8 from 0, for rows of nothing negative."""
        return self._quantised(value, value, -1, np.uint8(0), 255)

    def _quantised(self, value: str, sizes: str, axis: int, zero: np.generic, levels: int) -> tuple[str, str]:
        # Stretched first and rounded with one scale for all: QuantizeLinear with a scale for each row
        # uses one thread, and with one for each column takes them one by one.
        graph = self.graph
        largest = graph.node("ReduceMax", sizes, self.constant([axis], np.int64), keepdims=1)
        largest = graph.node("Max", largest, graph.constant(np.asarray(_TINY)))
        stretched = graph.node("Mul", value, graph.node("Div", self.constant(levels, np.float32), largest))
        one = self.constant(1, np.float32)
        rounded = graph.node("QuantizeLinear", stretched, one, graph.constant(np.asarray(zero)))
        return rounded, graph.node("Mul", largest, self.constant(1 / levels, np.float32))

    def product(self, operand: _Operand, *projections: Projection) -> str:
        """[rows, the projections' outputs side by side]."""
        weight = np.concatenate([each.weight for each in projections])
        biases = np.concatenate(
            [
                np.zeros(len(each.weight), np.float32) if each.bias is None else each.bias
                for each in projections
            ]
        )
        if operand.scales is None:
            result = self.graph.node("MatMul", operand.value, self.graph.constant(weight.T))
        else:
            scales = np.maximum(np.abs(weight).max(axis=1), _TINY) / np.float32(127)
            rounded = np.rint(weight / scales[:, None]).astype(np.int8)
            result = self.integer_product(
                operand.value, self.graph.constant(rounded.T), self.graph.constant(scales), zero=128
            )
            result = self.graph.node("Mul", result, operand.scales)
        # PEGASUS has a bias of zeros for its whole vocabulary.
        return self.graph.node("Add", result, self.graph.constant(biases)) if biases.any() else result

    def integer_product(self, left: str, right: str, scales: str, *, zero: int) -> str:
        """u8 x s8 to float32, times the right side's scales by column."""
        one, at = self.constant(1, np.float32), self.constant(zero, np.uint8)
        return self.graph.node("MatMulIntegerToFloat", left, right, one, scales, at, domain=CONTRIB)

    def norm(self, value: str, norm: Norm) -> str:
        weight = self.graph.constant(norm.weight)
        if norm.bias is None:
            return self.graph.node(
                "SimplifiedLayerNormalization", value, weight, epsilon=norm.epsilon, axis=-1
            )
        bias = self.graph.constant(norm.bias)
        return self.graph.node("LayerNormalization", value, weight, bias, epsilon=norm.epsilon, axis=-1)

    def feed_forward(self, value: str, part: FeedForward) -> str:
        wide = self.operand(value)
        inner = self._activated(self.product(wide, part.wide[0]), part.activation)
        for gate in part.wide[1:]:
            inner = self.graph.node("Mul", inner, self.product(wide, gate))
        return self.product(self.operand(inner), part.output)

    def _activated(self, value: str, activation: str) -> str:
        if activation == "relu":
            return self.graph.node("Relu", value)
        if activation == "silu":
            return self.graph.node("Mul", value, self.graph.node("Sigmoid", value))
        return self.graph.node("Gelu", value, approximate="tanh" if activation == "gelu_new" else "none")

    def enter(self, value: str, part: Attention | FeedForward) -> str:
        """What a block reads: the state, normalised before it or not."""
        return self.norm(value, part.norm) if self.family.pre_norm else value

    def leave(self, value: str, result: str, part: Attention | FeedForward) -> str:
        """The state after a block."""
        total = self.graph.node("Add", value, result)
        return total if self.family.pre_norm else self.norm(total, part.norm)

    def relative_bias(self, side: Side, buckets: str) -> str:
        """[sources, heads, queries, keys] from each pair's bucket [sources, queries, keys]."""
        gathered = self.graph.node("Gather", self.graph.constant(self.family.relative_bias(side)), buckets)
        return self.graph.node("Transpose", gathered, perm=[0, 3, 1, 2])


def write_encoder(path: Path, family: Family, compute_type: str) -> None:
    """Inputs: `x` [tokens, width], embedded; `buckets` [1, tokens, tokens] of relative positions.

    Outputs: by decoder layer i, `keys.i` and `values.i` for one source, and in int8 their scales; see
    `cross_shapes`.
    """
    writer = _Writer(path, family, compute_type)
    graph = writer.graph
    heads = family.heads("encoder")
    inner = heads * family.head_width if family.buckets else family.width
    x = graph.input("x", "float32", ["tokens", family.width])
    bias = ""
    if family.buckets:
        bias = writer.relative_bias("encoder", graph.input("buckets", "int64", [1, "tokens", "tokens"]))
    if norm := family.embedding_norm("encoder"):
        x = writer.norm(x, norm)
    for layer in range(family.layers("encoder")):
        attention = family.self_attention("encoder", layer)
        read = writer.operand(writer.enter(x, attention))
        together = writer.product(read, attention.query, attention.key, attention.value)
        parts = graph.nodes("Split", together, outputs=3, axis=1, num_outputs=3)
        query, key, value = (writer.shaped(part, 1, -1, inner) for part in parts)
        attended = graph.node(
            "MultiHeadAttention", query, key, value, "", "", bias, domain=CONTRIB, num_heads=heads, scale=1.0
        )
        output = writer.product(writer.operand(writer.shaped(attended, -1, inner)), attention.output)
        x = writer.leave(x, output, attention)
        x = _feed_forward(writer, x, family.feed_forward("encoder", layer))
    if norm := family.final_norm("encoder"):
        x = writer.norm(x, norm)
    read = writer.operand(x)
    for layer in range(family.layers("decoder")):
        attention = family.cross_attention(layer)
        _keep(writer, layer, writer.product(read, attention.key), writer.product(read, attention.value))
    graph.save()


def cross_shapes(family: Family, compute_type: str) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """What a layer keeps of a source: its type and, beside the sources, its shape."""
    heads, width = family.heads("decoder"), family.head_width
    if compute_type == "int8":
        return {
            "keys": ("int8", (heads, width, "positions")),
            "key_scales": ("float32", (heads, 1, "positions")),
            "values": ("int8", (heads, "positions", width)),
            "value_scales": ("float32", (heads, 1, width)),
        }
    kept: tuple[str, tuple[int | str, ...]] = ("float32", (heads, "positions", width))
    return {"keys": kept, "values": kept}


def _keep(writer: _Writer, layer: int, keys: str, values: str) -> None:
    """keys, values: [tokens, heads x width] to what `cross_shapes` tells."""
    graph, family = writer.graph, writer.family
    heads, width = family.heads("decoder"), family.head_width
    kept: dict[str, str] = {}
    if writer.is_int8:
        by_position = writer.shaped(keys, 1, -1, heads, width)
        for name, value in zip(("keys", "key_scales"), writer.quantised_signed(by_position, -1), strict=True):
            kept[name] = graph.node("Transpose", value, perm=[0, 2, 3, 1])
        rounded, scales = writer.quantised_signed(writer.shaped(values, 1, -1, heads, width), 1)
        kept["values"] = graph.node("Transpose", rounded, perm=[0, 2, 1, 3])
        kept["value_scales"] = graph.node("Transpose", scales, perm=[0, 2, 1, 3])
    else:
        for name, value in (("keys", keys), ("values", values)):
            kept[name] = graph.node("Transpose", writer.shaped(value, 1, -1, heads, width), perm=[0, 2, 1, 3])
    for name, (dtype, shape) in cross_shapes(family, "int8" if writer.is_int8 else "float32").items():
        graph.output(f"{name}.{layer}", kept[name], dtype, [1, *shape])


def write_decoder(path: Path, family: Family, compute_type: str) -> None:
    """Inputs, beside what `cross_shapes` tells (`keys.i` ..., with the sources before):

    x [rows, width]: the newest tokens, embedded. grid int64 [sources, beams], places int64 [rows].
    self_mask [sources, 1, beams, pool + beams], cross_mask [sources, 1, 1, positions]: added to scores.
    parts int64 [2]: pool and beams. buckets int64 [sources, beams, pool + beams]: of relative positions.
    pool_keys.i, pool_values.i [sources, heads, pool, head width]. best int64 [1]: how many of each row's
    likeliest tokens to give.

    Outputs: logits [rows, vocabulary]; total [rows], the logarithm of the sum of their exponentials;
    best_logits and best_tokens [rows, best]; newest [rows, layers, 2, heads x head width], keys and values of
    the rows' tokens.
    """
    writer = _Writer(path, family, compute_type)
    graph = writer.graph
    layers, inner = family.layers("decoder"), family.heads("decoder") * family.head_width
    x = graph.input("x", "float32", ["rows", family.width])
    attend = _DecoderAttention(writer, family, compute_type)
    best = graph.input("best", "int64", [1])
    if norm := family.embedding_norm("decoder"):
        x = writer.norm(x, norm)
    newest = []
    for layer in range(layers):
        attention = family.self_attention("decoder", layer)
        read = writer.operand(writer.enter(x, attention))
        together = writer.product(read, attention.query, attention.key, attention.value)
        query, key, value = graph.nodes("Split", together, outputs=3, axis=1, num_outputs=3)
        newest += [key, value]
        attended = writer.operand(attend.to_ancestors(layer, query, key, value))
        x = writer.leave(x, writer.product(attended, attention.output), attention)

        attention = family.cross_attention(layer)
        query = writer.product(writer.operand(writer.enter(x, attention)), attention.query)
        attended = writer.operand(attend.to_source(layer, query))
        x = writer.leave(x, writer.product(attended, attention.output), attention)

        x = _feed_forward(writer, x, family.feed_forward("decoder", layer))
    if norm := family.final_norm("decoder"):
        x = writer.norm(x, norm)
    logits = writer.product(writer.operand(x), family.head())
    graph.output("logits", logits, "float32", ["rows", family.vocabulary])
    _rank(writer, logits, best)
    stacked = writer.shaped(graph.node("Concat", *newest, axis=1), 0, layers, 2, inner)
    graph.output("newest", stacked, "float32", ["rows", layers, 2, inner])
    graph.save()


class _DecoderAttention:
    """Attention in a step of the decoder, and its inputs. Rows lie in a grid of sources and beams."""

    def __init__(self, writer: _Writer, family: Family, compute_type: str) -> None:
        self._writer, self._family, self._compute_type = writer, family, compute_type
        graph = self._graph = writer.graph
        self._heads, self._width = family.heads("decoder"), family.head_width
        self._grid = graph.input("grid", "int64", ["sources", "beams"])
        self._places = graph.input("places", "int64", ["rows"])
        self._self_mask = graph.input("self_mask", "float32", ["sources", 1, "beams", "keys"])
        self._cross_mask = graph.input("cross_mask", "float32", ["sources", 1, 1, "positions"])
        self._parts = graph.input("parts", "int64", [2])
        if family.buckets:
            buckets = graph.input("buckets", "int64", ["sources", "beams", "keys"])
            self._self_mask = graph.node("Add", self._self_mask, writer.relative_bias("decoder", buckets))

    def to_ancestors(self, layer: int, query: str, key: str, value: str) -> str:
        """Of each row to its own pool of positions and to the newest."""
        graph = self._graph
        shape: list[int | str] = ["sources", self._heads, "pool", self._width]
        pool_keys = graph.input(f"pool_keys.{layer}", "float32", shape)
        pool_values = graph.input(f"pool_values.{layer}", "float32", shape)
        query, key, value = self._in_grid(query), self._in_grid(key), self._in_grid(value)
        scores = [
            graph.node("FusedMatMul", query, each, domain=CONTRIB, transB=1) for each in (pool_keys, key)
        ]
        shares = _shares(graph, graph.node("Concat", *scores, axis=-1), self._self_mask)
        shares_of_pool, shares_of_newest = graph.nodes("Split", shares, self._parts, outputs=2, axis=-1)
        of_pool = graph.node("MatMul", shares_of_pool, pool_values)
        return self._in_rows(graph.node("Add", of_pool, graph.node("MatMul", shares_of_newest, value)))

    def to_source(self, layer: int, query: str) -> str:
        """Of each row to what the encoder left of its text."""
        graph, writer = self._graph, self._writer
        kept = {
            name: graph.input(f"{name}.{layer}", dtype, ["sources", *shape])
            for name, (dtype, shape) in cross_shapes(self._family, self._compute_type).items()
        }
        if not writer.is_int8:
            asked = self._in_grid(query)
            scores = graph.node("FusedMatMul", asked, kept["keys"], domain=CONTRIB, transB=1)
            return self._in_rows(
                graph.node("MatMul", _shares(graph, scores, self._cross_mask), kept["values"])
            )
        rounded, scales = writer.quantised(self._in_grid(query))
        scores = writer.integer_product(rounded, kept["keys"], kept["key_scales"], zero=128)
        shares = _shares(graph, graph.node("Mul", scores, scales), self._cross_mask)
        rounded, scales = writer.quantised_shares(shares)
        attended = writer.integer_product(rounded, kept["values"], kept["value_scales"], zero=0)
        return self._in_rows(graph.node("Mul", attended, scales))

    def _in_grid(self, rows: str) -> str:
        gathered = self._graph.node("Gather", rows, self._grid)
        by_head = self._writer.shaped(gathered, 0, 0, self._heads, self._width)
        return self._graph.node("Transpose", by_head, perm=[0, 2, 1, 3])

    def _in_rows(self, attended: str) -> str:
        together = self._graph.node("Transpose", attended, perm=[0, 2, 1, 3])
        at_places = self._writer.shaped(together, -1, self._heads * self._width)
        return self._graph.node("Gather", at_places, self._places)


def _rank(writer: _Writer, logits: str, best: str) -> None:
    """The outputs best_logits, best_tokens and total."""
    graph = writer.graph
    best_logits, best_tokens = graph.nodes("TopK", logits, best, outputs=2, axis=-1)
    graph.output("best_logits", best_logits, "float32", ["rows", "best"])
    graph.output("best_tokens", best_tokens, "int64", ["rows", "best"])
    # By way of the likeliest token: LogSoftmax is one pass in vectors, ReduceLogSumExp several without.
    first = [writer.constant(bounds, np.int64) for bounds in ([0], [1], [1])]
    shares = graph.node("LogSoftmax", logits, axis=-1)
    share = graph.node("GatherElements", shares, graph.node("Slice", best_tokens, *first), axis=1)
    total = graph.node("Sub", graph.node("Slice", best_logits, *first), share)
    graph.output("total", writer.shaped(total, -1), "float32", ["rows"])


def _feed_forward(writer: _Writer, x: str, part: FeedForward) -> str:
    return writer.leave(x, writer.feed_forward(writer.enter(x, part), part), part)


def _shares(graph: Graph, scores: str, mask: str) -> str:
    return graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)
