"""GGUF files are read by numpy alone; quantised blocks against the format's own description, value by value."""

import struct

import numpy as np
import pytest

from vlmguard_lab.reference import gguf
from vlmguard_lab.reference.gguf import GGUFFile, JoinedFile
from vlmguard_lab.reference.parts import PartError

RNG = np.random.default_rng(0)


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def file(tensors, metadata=()):
    """Write a GGUF file: tensors as (name, shape from the innermost, kind, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for name, kind, value in metadata:
        head += string(name) + struct.pack("<I", kind) + value
    offset, body = 0, b""
    for name, shape, kind, data in tensors:
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", kind, offset)
        padded = data + b"\0" * (-len(data) % 32)
        body, offset = body + padded, offset + len(padded)
    return head + b"\0" * (-len(head) % 32) + body


def opened(tmp_path, data, cut=None):
    cut = cut or len(data) // 2
    paths = [tmp_path / "part1", tmp_path / "part2"]
    paths[0].write_bytes(data[:cut])
    paths[1].write_bytes(data[cut:])
    return GGUFFile(JoinedFile(paths))


def test_tensors_and_metadata_of_a_file_in_two_parts(tmp_path):
    values = RNG.standard_normal((3, 4)).astype(np.float32)
    metadata = [("count", 4, struct.pack("<I", 7)), ("names", 9, struct.pack("<IQ", 8, 2) + string("a") + string("ß"))]
    data = file([("f32", (4, 3), 0, values.tobytes()), ("f16", (4, 3), 1, values.astype("<f2").tobytes())], metadata)
    for cut in (5, len(data) // 2, len(data) - 9):
        found = opened(tmp_path, data, cut)
        assert found.metadata == {"count": 7, "names": ["a", "ß"]}
        assert found.names == ["f32", "f16"]
        np.testing.assert_array_equal(found.tensor("f32"), values)
        np.testing.assert_allclose(found.tensor("f16"), values, atol=2e-3)


def half(raw, at):
    return float(np.frombuffer(raw[at : at + 2].tobytes(), np.float16)[0])


def q8_0(raw):
    return [half(raw, 0) * int(np.int8(value)) for value in raw[2:]]


def q5_0(raw):
    bits = int.from_bytes(raw[2:6].tobytes(), "little")
    low = [(int(raw[6 + i % 16]) >> (4 * (i // 16))) & 15 for i in range(32)]
    return [half(raw, 0) * ((low[i] | ((bits >> i) & 1) << 4) - 16) for i in range(32)]


def scale_and_floor(q, j):
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4)


def q4_k(raw):
    scales, quants, found = [int(x) for x in raw[4:16]], raw[16:], []
    for j in range(8):
        scale, floor = scale_and_floor(scales, j)
        shift, start = 4 * (j % 2), 32 * (j // 2)
        for i in range(32):
            value = (int(quants[start + i]) >> shift) & 15
            found.append(half(raw, 0) * scale * value - half(raw, 2) * floor)
    return found


def q6_k(raw):
    low, high, scales, found = raw[:128], raw[128:192], raw[192:208].view(np.int8), np.zeros(256)
    for n in range(2):
        for i in range(32):
            for quarter in range(4):
                nibble = int(low[64 * n + i + 32 * (quarter % 2)]) >> (4 * (quarter // 2)) & 15
                value = (nibble | ((int(high[32 * n + i]) >> (2 * quarter)) & 3) << 4) - 32
                at = 128 * n + 32 * quarter + i
                found[at] = half(raw, 208) * int(scales[at // 16]) * value
    return found


@pytest.mark.parametrize(
    ("kind", "size", "count", "decode"),
    [(8, 34, 32, q8_0), (6, 22, 32, q5_0), (12, 144, 256, q4_k), (14, 210, 256, q6_k)],
)
def test_quantised_blocks(tmp_path, kind, size, count, decode):
    blocks = RNG.integers(0, 256, (6, size)).astype(np.uint8)
    for at in (0, 2) if kind == 12 else (208,) if kind == 14 else (0,):
        blocks[:, at : at + 2] = RNG.standard_normal(6).astype("<f2").view(np.uint8).reshape(6, 2)
    found = opened(tmp_path, file([("w", (3 * count, 2), kind, blocks.tobytes())])).tensor("w")
    assert found.shape == (2, 3 * count)
    np.testing.assert_allclose(found.ravel(), np.concatenate([decode(block) for block in blocks]), rtol=1e-5, atol=1e-5)


def test_what_is_not_known_is_named(tmp_path):
    with pytest.raises(PartError, match="stored in format 99"):
        opened(tmp_path, file([("w", (4,), 99, b"1234")])).tensor("w")
    with pytest.raises(PartError, match="no GGUF file"):
        opened(tmp_path, b"PK" + bytes(100))


def test_a_missing_part_is_noticed(tmp_path):
    data = file([("w", (64,), 0, bytes(256))])
    (tmp_path / "only").write_bytes(data[:-200])
    with pytest.raises(PartError, match="a part is missing"):
        GGUFFile(JoinedFile([tmp_path / "only"])).tensor("w")


def test_all_known_formats_are_tried_here():
    assert set(gguf._FORMATS) == {0, 1, 6, 8, 12, 14}
