"""Writing a model in ONNX's format: nodes, constants, and the weights in a file beside it.

Only what ONNX Runtime needs to read, in protobuf's wire format: some forty lines instead of the packages onnx
and protobuf, which would weigh more than the rest of the engine. Source: onnx.proto3 of ONNX 1.16 and the
encoding chapter of protobuf's documentation.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

OPSET = 21
CONTRIB = "com.microsoft"
"""ONNX Runtime's own operators: integer products, fused attention."""

_IR_VERSION = 10
_ALIGNMENT = 4096
"""Tensors in the file of weights begin at a page, so that they can be mapped."""
_INLINE_BYTES = 1024

DTYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}
"""TensorProto.DataType by numpy's names."""

Attribute = int | float | str | Sequence[int] | np.ndarray
Shape = Sequence[int | str]


class Graph:
    """One model. Values are known by names that are made here. Weights go into a file .data beside `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = path.with_suffix(".data").open("wb")
        self._nodes: list[tuple[str, Sequence[str], Sequence[str], str, dict[str, Attribute]]] = []
        self._constants: list[bytes] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._output_names: dict[str, str] = {}
        self._count = 0

    def input(self, name: str, dtype: str, shape: Shape) -> str:
        """shape: numbers, or names for what differs from run to run."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: Shape) -> None:
        # Named as it is made: a node that passes it on would copy it.
        self._output_names[value] = name
        self._outputs.append(_value_info(name, dtype, shape))

    def constant(self, array: np.ndarray) -> str:
        """Small equal ones are kept once, large ones in the file of weights."""
        array = np.ascontiguousarray(array)
        large = array.nbytes >= _INLINE_BYTES
        if large:
            name = self._name()
            self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT))
            place = {"location": self._data_name, "offset": self._data.tell(), "length": array.nbytes}
            array.tofile(self._data)
            stored = b"".join(
                _message(13, _text(1, key) + _text(2, str(value))) for key, value in place.items()
            )
            stored += _integer(14, 1)
        else:
            key = (str(array.dtype), array.shape, array.tobytes())
            if key in self._known:
                return self._known[key]
            name = self._known[key] = self._name()
            stored = _message(9, array.tobytes())
        self._constants.append(_tensor_head(array) + _text(8, name) + stored)
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """The node's one output. An empty name leaves an optional input out."""
        return self.nodes(op, *inputs, outputs=1, domain=domain, **attributes)[0]

    def nodes(
        self, op: str, *inputs: str, outputs: int, domain: str = "", **attributes: Attribute
    ) -> list[str]:
        names = [self._name() for _ in range(outputs)]
        self._nodes.append((op, inputs, names, domain, attributes))
        return names

    def save(self) -> None:
        self._data.close()
        graph = b"".join(
            _message(1, _node(op, self._final(inputs), self._final(outputs), domain, attributes))
            for op, inputs, outputs, domain, attributes in self._nodes
        )
        graph += _text(2, self._path.stem)
        graph += b"".join(_message(5, constant) for constant in self._constants)
        graph += b"".join(_message(11, info) for info in self._inputs)
        graph += b"".join(_message(12, info) for info in self._outputs)
        opsets = _message(8, _text(1, "") + _integer(2, OPSET)) + _message(
            8, _text(1, CONTRIB) + _integer(2, 1)
        )
        self._path.write_bytes(_integer(1, _IR_VERSION) + opsets + _message(7, graph))

    def _final(self, names: Sequence[str]) -> list[str]:
        return [self._output_names.get(name, name) for name in names]

    @property
    def _data_name(self) -> str:
        return Path(self._data.name).name

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"


def _node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str, attributes: dict[str, Attribute]
) -> bytes:
    told = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in outputs)
    told += _text(4, op) + b"".join(_message(5, _attribute(*each)) for each in attributes.items())
    return told + (_text(7, domain) if domain else b"")


def _attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto: the member that holds the value, and its number in AttributeType."""
    if isinstance(value, float):
        held = _tag(2, 5) + struct.pack("<f", value) + _integer(20, 1)
    elif isinstance(value, int):
        held = _integer(3, value) + _integer(20, 2)
    elif isinstance(value, str):
        held = _text(4, value) + _integer(20, 3)
    elif isinstance(value, np.ndarray):
        held = _message(5, _tensor_head(value) + _message(9, value.tobytes())) + _integer(20, 4)
    else:
        held = b"".join(_integer(8, each) for each in value) + _integer(20, 7)
    return _text(1, name) + held


def _tensor_head(array: np.ndarray) -> bytes:
    return b"".join(_integer(1, size) for size in array.shape) + _integer(2, DTYPES[str(array.dtype)])


def _value_info(name: str, dtype: str, shape: Shape) -> bytes:
    sizes = (_text(2, size) if isinstance(size, str) else _integer(1, size) for size in shape)
    of_shape = b"".join(_message(1, size) for size in sizes)
    return _text(1, name) + _message(2, _message(1, _integer(1, DTYPES[dtype]) + _message(2, of_shape)))


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _integer(field: int, number: int) -> bytes:
    return _tag(field, 0) + _varint(number)


def _message(field: int, encoded: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(encoded)) + encoded


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())
