"""Read GGUF files and undo their quantisation, with numpy alone.

Only the block formats that the reference model's files use are known: F32, F16, Q5_0, Q8_0, Q4_K and Q6_K.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmguard_lab.reference.parts import PartError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


class JoinedFile:
    """Files read as if they were one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Map the files into memory; nothing is read yet."""
        self._parts = [np.memmap(path, dtype=np.uint8, mode="r") for path in paths]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def read(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return bytes from a place in the whole.

        Raises:
            PartError: The whole is shorter.
        """
        if start + size > self._ends[-1]:
            msg = f"a file of {self._ends[-1]} bytes ends before byte {start + size}: a part is missing"
            raise PartError(msg)
        pieces = []
        index = int(np.searchsorted(self._ends, start, side="right"))
        while size:
            part = self._parts[index]
            begin = start - (int(self._ends[index]) - len(part))
            piece = part[begin : begin + size]
            pieces.append(piece)
            start, size, index = start + len(piece), size - len(piece), index + 1
        return np.concatenate(pieces) if len(pieces) != 1 else np.asarray(pieces[0])

    def sha256(self) -> str:
        """Return the checksum of the whole."""
        digest = hashlib.sha256()
        for part in self._parts:
            digest.update(part.data)
        return digest.hexdigest()


class _Cursor:
    """Reads the header, value after value."""

    def __init__(self, file: JoinedFile) -> None:
        self._file, self.place = file, 0

    def bytes(self, size: int) -> bytes:
        found = self._file.read(self.place, size).tobytes()
        self.place += size
        return found

    def scalar(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.bytes(struct.calcsize(f"<{kind}")))[0]

    def string(self) -> str:
        return self.bytes(self.scalar("Q")).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            of, count = self.scalar("I"), self.scalar("Q")
            return [self.value(of) for _ in range(count)]
        return self.scalar(_SCALARS[kind])


@dataclass(frozen=True)
class _Entry:
    shape: tuple[int, ...]
    """As in torch: rows first."""

    kind: int
    offset: int


class GGUFFile:
    """A GGUF file: its metadata, and its tensors one by one."""

    def __init__(self, file: JoinedFile) -> None:
        """Read the header.

        Raises:
            PartError: It is no GGUF file of version 2 or 3.
        """
        self._file = file
        cursor = _Cursor(file)
        magic, version = cursor.bytes(4), cursor.scalar("I")
        if magic != b"GGUF" or version not in {2, 3}:
            msg = f"this is no GGUF file of version 2 or 3: it begins with {magic!r}, version {version}"
            raise PartError(msg)
        tensors, pairs = cursor.scalar("Q"), cursor.scalar("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            name = cursor.string()
            self.metadata[name] = cursor.value(cursor.scalar("I"))
        self._entries: dict[str, _Entry] = {}
        for _ in range(tensors):
            name = cursor.string()
            shape = tuple(cursor.scalar("Q") for _ in range(cursor.scalar("I")))
            self._entries[name] = _Entry(shape[::-1], cursor.scalar("I"), cursor.scalar("Q"))
        alignment = self.metadata.get("general.alignment", _ALIGNMENT)
        self._data = -(-cursor.place // alignment) * alignment

    @property
    def names(self) -> list[str]:
        """Names of the tensors, in the file's order."""
        return list(self._entries)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return a tensor in float32, rows first.

        Raises:
            PartError: Its format is not known.
        """
        entry = self._entries[name]
        if entry.kind not in _FORMATS:
            msg = f"{name} is stored in format {entry.kind}, which is not known here (known: {sorted(_FORMATS)})"
            raise PartError(msg)
        form = _FORMATS[entry.kind]
        blocks = prod(entry.shape) // form.values
        raw = self._file.read(self._data + entry.offset, blocks * form.size).reshape(blocks, form.size)
        return form.decode(raw).reshape(entry.shape)


def _halves(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _decode_f32(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = raw.copy().view(np.float32)
    return values


def _decode_q8_0(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _halves(raw[:, :2]) * raw[:, 2:].view(np.int8).astype(np.float32)


def _decode_q5_0(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    fifth = np.unpackbits(raw[:, 2:6], axis=1, bitorder="little")
    low = np.concatenate([raw[:, 6:] & 15, raw[:, 6:] >> 4], axis=1)
    values: NDArray[np.float32] = _halves(raw[:, :2]) * ((low | fifth << 4).astype(np.float32) - 16)
    return values


def _decode_q4_k(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    count = len(raw)
    packed = raw[:, 4:16].reshape(count, 3, 4)
    first, second, third = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1).astype(np.float32)
    floors = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1).astype(np.float32)
    nibbles = raw[:, 16:].reshape(count, 4, 1, 32)
    values = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(count, 8, 32).astype(np.float32)
    scales, floors = _halves(raw[:, :2]) * scales, _halves(raw[:, 2:4]) * floors
    return scales[..., None] * values - floors[..., None]


def _decode_q6_k(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    count = len(raw)
    low = raw[:, :128].reshape(count, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(count, 2, 4, 32)
    high = raw[:, 128:192].reshape(count, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    values = (low | (high & 3) << 4).astype(np.float32).reshape(count, 16, 16) - 32
    scales = _halves(raw[:, 208:]) * raw[:, 192:208].view(np.int8).astype(np.float32)
    return scales[..., None] * values


@dataclass(frozen=True)
class _Format:
    values: int
    """Values in a block."""

    size: int
    """Bytes in a block."""

    decode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


_FORMATS = {
    0: _Format(1, 4, _decode_f32),
    1: _Format(1, 2, _halves),
    6: _Format(32, 22, _decode_q5_0),
    8: _Format(32, 34, _decode_q8_0),
    12: _Format(256, 144, _decode_q4_k),
    14: _Format(256, 210, _decode_q6_k),
}
"""By GGUF's number."""
