"""Read the weights of an ONNX file, with numpy alone: an ONNX file is a protobuf message, and five of its fields are enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmguard_lab.reference.parts import PartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

Field = tuple[int, "int | memoryview"]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}
"""ONNX's element types that are known here."""

_QUANTISED = "_quantized"
_MATMUL = "/MatMul_quant"


@dataclass(frozen=True)
class Node:
    """One operation of the graph."""

    name: str
    kind: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxGraph:
    """Operations and constants of a graph."""

    nodes: tuple[Node, ...]
    constants: dict[str, NDArray[np.generic]]

    @classmethod
    def read(cls, path: Path) -> OnnxGraph:
        """Read a file.

        Raises:
            PartError: It holds no graph, or an element type that is not known here.
        """
        model = memoryview(path.read_bytes())
        graph = next((value for number, value in _fields(model) if number == 7 and isinstance(value, memoryview)), None)  # noqa: PLR2004
        if graph is None:
            msg = f"{path} holds no ONNX graph"
            raise PartError(msg)
        nodes, constants = [], {}
        for number, value in _fields(graph):
            if number == 1 and isinstance(value, memoryview):
                nodes.append(_node(value))
            elif number == 5 and isinstance(value, memoryview):  # noqa: PLR2004
                name, array = _tensor(value)
                constants[name] = array
        return cls(tuple(nodes), constants)

    def float_weights(self) -> dict[str, NDArray[np.float32]]:
        """Return weights by the names they had before export, in float32, quantised matrices turned back.

        A dynamically quantised `MatMul` has its matrix as `X_quantized` with `X_scale` and `X_zero_point`, and keeps the
        module's path as its own name; matrices come out as torch stores them, outputs first.
        """
        weights = {
            name: array.astype(np.float32)
            for name, array in self.constants.items()
            if array.dtype == np.float32 and not name.endswith("_scale") and "::" not in name
        }
        for node in self.nodes:
            if node.kind != "MatMulInteger":
                continue
            stored = next((i for i in node.inputs if i.endswith(_QUANTISED) and i in self.constants), None)
            if stored is None:
                continue
            base = stored.removesuffix(_QUANTISED)
            zero, scale = (self.constants[base + end].astype(np.float32) for end in ("_zero_point", "_scale"))
            matrix = (self.constants[stored].astype(np.float32) - zero) * scale
            weights[node.name.strip("/").replace(_MATMUL, "").replace("/", ".") + ".weight"] = matrix.T.copy()
        return weights


def _fields(data: memoryview) -> Iterator[Field]:
    """Give a message's fields: number, and an integer or bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in {_FIXED64, _FIXED32}:
            size = 8 if wire == _FIXED64 else 4
        else:
            msg = f"this is no protobuf message (wire type {wire})"
            raise PartError(msg)
        if place + size > len(data):
            msg = "this protobuf message is cut off"
            raise PartError(msg)
        yield number, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:  # noqa: PLR2004 - the highest bit says that more follow
            return value, place


def _node(data: memoryview) -> Node:
    inputs, name, kind = [], "", ""
    for number, value in _fields(data):
        if isinstance(value, memoryview) and number in {1, 3, 4}:
            text = str(value, "utf-8")
            if number == 1:
                inputs.append(text)
            elif number == 3:  # noqa: PLR2004
                name = text
            else:
                kind = text
    return Node(name, kind, tuple(inputs))


def _tensor(data: memoryview) -> tuple[str, NDArray[np.generic]]:
    shape: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    integers: list[int] = []
    for number, value in _fields(data):
        if number == 1:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif number == 2 and isinstance(value, int):  # noqa: PLR2004
            kind = value
        elif number == 8 and isinstance(value, memoryview):  # noqa: PLR2004
            name = str(value, "utf-8")
        elif number in {5, 7}:
            integers += [value] if isinstance(value, int) else _packed(value)
        elif number in {4, 9} and isinstance(value, memoryview):  # packed floats are stored as raw ones are
            raw = value
    if kind not in _TYPES:
        msg = f"{name} has ONNX element type {kind}, which is not known here"
        raise PartError(msg)
    if integers:
        return name, np.array(integers, np.uint64).astype(np.int64).astype(_TYPES[kind]).reshape(shape)
    return name, np.frombuffer(raw, _TYPES[kind]).reshape(shape)


def _packed(data: memoryview) -> list[int]:
    values, place = [], 0
    while place < len(data):
        value, place = _varint(data, place)
        values.append(value)
    return values
