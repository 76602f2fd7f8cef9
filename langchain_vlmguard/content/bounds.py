"""What a picture file may ask of a decoder: counted on its bytes, before any decoder sees them.

A few bytes can ask for hours: a scan that is repeated, directories that overlap, a million chunks of nothing. Pillow and the
libraries under it believe what a file says, so it is counted here first.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from langchain_vlmguard.content.containers import (
    GIF_END,
    GIF_EXTENSION,
    GIF_FRAME,
    colour_table,
    jpeg_segments,
    png_chunks,
)
from langchain_vlmguard.content.tiff_directories import Directories, check_exif
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[tuple[int, int]], None]

MOST_CHUNKS = 50_000
MOST_SEGMENTS = 5_000
MOST_SCANS = 500
SCANS_OF_ANY_SIZE = 16
"""Scans that a JPEG may have however large it is; encoders write about ten."""

SCANNED_PIXELS = 1_000_000_000
"""Scans times pixels, beyond that: about two seconds of decoding."""

MOST_GIF_BLOCKS = 200_000
MOST_COMMENT_BYTES = 1_000_000
MOST_RLE_BYTES = 2_000_000
"""Of a run-length coded BMP, which is decoded by a slow loop."""

_PNG, _JPEG, _TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", (b"II", b"MM")
_SOS, _APP1, _APP2 = 0xDA, 0xE1, 0xE2
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_COMMENT = 0xFE
_RLE = (1, 2)


def check_bounds(data: bytes, pages: int, check_size: Check) -> int | None:
    """Refuse a file that would cost a decoder more than a file of its size and kind may.

    Args:
        data: The file, of any format.
        pages: How many of its frames are going to be read.
        check_size: Called with the width and height that a file claims for its canvas; raises if they are too much.

    Returns:
        How many frames a GIF or TIFF has; `None` for formats whose head says it.

    Raises:
        UnreadableContentError: Naming what is too much.
    """
    try:
        if data.startswith(_JPEG):
            _check_jpeg(data)
        elif data.startswith(_PNG):
            _at_most(sum(1 for _ in png_chunks(data)), MOST_CHUNKS, "chunks")
        elif data.startswith(b"GIF8"):
            return _check_gif(data)
        elif data[8:12] == b"WEBP" and data[12:16] == b"VP8X":
            check_size((1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")))
        elif data.startswith(b"BM") and struct.unpack_from("<I", data, 30)[0] in _RLE:
            _at_most(len(data), MOST_RLE_BYTES, "bytes of run-length coding")
        elif data[:2] in _TIFF:
            return Directories(data, "TIFF").check(pages)
    except (IndexError, struct.error):
        return None  # cut short: the decoder comes no further than this did
    return None


def _check_jpeg(data: bytes) -> None:
    scans = pixels = 0
    exif: list[bytes] = []
    for segments, (marker, start, end) in enumerate(jpeg_segments(data)):
        scans += marker == _SOS
        body = data[start:end].lstrip(b"\xff")[3:] if marker in _FRAME_HEADERS or marker in (_APP1, _APP2) else b""
        if marker in _FRAME_HEADERS and len(body) >= 5:  # noqa: PLR2004 - precision, height, width
            height, width = struct.unpack_from(">HH", body, 1)
            pixels = max(pixels, height * width)
        elif body.startswith(b"Exif\x00\x00"):
            exif.append(body if not exif else body[6:])
        elif body.startswith(b"MPF\x00"):
            check_exif(body[4:])
        _at_most(segments, MOST_SEGMENTS, "segments")
        _at_most(scans, MOST_SCANS, "scans")
        if scans > SCANS_OF_ANY_SIZE:
            _at_most(scans * pixels, SCANNED_PIXELS, "pixels to be scanned")
    check_exif(b"".join(exif))


def _check_gif(data: bytes) -> int:
    size, data = len(data), data + bytes(16)  # so that a file that is cut short ends like any other
    at, frames, blocks, comments = 13 + colour_table(data[10]), 0, 0, 0
    while at < size and data[at] != GIF_END:
        kind, label = data[at], data[at + 1]
        if kind == GIF_FRAME:
            frames += 1
            at += 11 + colour_table(data[at + 9])
        elif kind == GIF_EXTENSION:
            at += 2
        else:
            at += 1
            continue
        while at < size and data[at]:
            blocks += 1
            comments += data[at] if kind == GIF_EXTENSION and label == _COMMENT else 0
            at += 1 + data[at]
        _at_most(blocks, MOST_GIF_BLOCKS, "blocks")
        _at_most(comments, MOST_COMMENT_BYTES, "bytes of comments")
        at += 1
    return frames


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        msg = f"the picture's file has {count:,} {what}, more than {most:,}, and would take too long to decode"
        raise UnreadableContentError(msg)
