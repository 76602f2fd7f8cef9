"""Picture files as byte strings: where the picture ends, what else the file is, and the file without its metadata."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OTHER_FILES = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"%PDF-", "a PDF document"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x7fELF", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"<?php", "a script"),
    (b"<script", "a web page"),
    (b"<html", "a web page"),
    (b"<!doctype", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"\x89png\r\n\x1a\n", "a second picture"),
    (b"gif87a", "a second picture"),
    (b"gif89a", "a second picture"),
    (b"\xff\xd8\xff", "a second picture"),
)
_AT_THE_START = ((b"MZ", "a program"), (b"#!", "a script"), (b"BM", "a second picture"))
_PDF = b"%PDF-"
_PDF_HEADER_WITHIN = 1024

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_MARK, _JPEG_EOI, _JPEG_SOS, _JPEG_COMMENT = 0xFF, 0xD9, 0xDA, 0xFE
_JPEG_IN_A_SCAN = frozenset({0x00, *range(0xD0, 0xD8)})
_GIF_FRAME, _GIF_END = 0x2C, 0x3B
_JPEG_NEEDED_APPS = frozenset({0xE0, 0xEE})
"""JFIF and Adobe, which say how colours are coded."""


def refuse_polyglots(data: bytes, picture_format: str) -> None:
    """Refuse a file that is something else besides a picture.

    What follows the end of a picture without being another file (padding, a phone's notes) is let pass here; it is never
    handed on.

    Raises:
        UnreadableContentError: Naming what else the file is.
    """
    name = _other_file(data, data[picture_end(data, picture_format) :])
    if name is not None:
        msg = f"the file is a picture and {name} at once: send the picture alone"
        raise UnreadableContentError(msg)


def picture_end(data: bytes, picture_format: str) -> int:
    """Return the offset after a picture's last byte; the length of the data for formats that do not say."""
    finders = {"PNG": _png_end, "JPEG": _jpeg_end, "GIF": _gif_end, "WEBP": _riff_end, "BMP": _bmp_end}
    if picture_format not in finders:
        return len(data)
    try:
        end = finders[picture_format](data)
    except (IndexError, struct.error):
        return len(data)
    return min(end, len(data))


def without_metadata(data: bytes, picture_format: str) -> bytes:
    """Return a PNG or JPEG with what its pixels need and nothing else: no text, no thumbnail, nothing after its end.

    Raises:
        UnreadableContentError: The file's parts are not those of its format.
    """
    try:
        kept = _needed_png(data) if picture_format == "PNG" else _needed_jpeg(data)
        return b"".join(kept)
    except (IndexError, struct.error) as error:
        msg = "the picture's file is broken"
        raise UnreadableContentError(msg) from error


def _other_file(data: bytes, tail: bytes) -> str | None:
    if _PDF in data[:_PDF_HEADER_WITHIN]:
        return "a PDF document"
    lowered = tail.lower()
    anywhere = (name for magic, name in _OTHER_FILES if magic.lower() in lowered)
    first = (name for magic, name in _AT_THE_START if tail.startswith(magic))
    return next(anywhere, next(first, None))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's kind, start and end, up to the last one that a reader takes."""
    at = len(_PNG_HEAD)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _needed_png(data: bytes) -> Iterator[bytes]:
    yield _PNG_HEAD
    for kind, start, end in _png_chunks(data):
        if kind in _PNG_NEEDED:
            yield data[start:end]


def _png_end(data: bytes) -> int:
    return max((end for _, _, end in _png_chunks(data)), default=len(data))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, start and end; a scan's entropy-coded data belongs to it."""
    at = 0
    while at < len(data):
        start = at
        if data[at] != _JPEG_MARK:
            msg = "a JPEG marker was expected"
            raise IndexError(msg)
        while data[at] == _JPEG_MARK:
            at += 1
        marker = data[at]
        at += 1
        if marker not in _JPEG_ALONE and marker != _JPEG_EOI:
            at += struct.unpack_from(">H", data, at)[0]
        if marker == _JPEG_SOS:
            at = _scan_end(data, at)
        yield marker, start, at
        if marker == _JPEG_EOI:
            return


def _scan_end(data: bytes, at: int) -> int:
    """Return where the marker after a scan begins; stuffed zeros and restart markers are part of the scan."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        filler = data[at + 1] == _JPEG_MARK
        if not filler and data[at + 1] not in _JPEG_IN_A_SCAN:
            return at
        at += 1 if filler else 2
    return len(data)


def _needed_jpeg(data: bytes) -> Iterator[bytes]:
    for marker, start, end in _jpeg_segments(data):
        noted = marker == _JPEG_COMMENT or (marker in range(0xE0, 0xF0) and marker not in _JPEG_NEEDED_APPS)
        if not noted:
            yield data[start:end]


def _jpeg_end(data: bytes) -> int:
    return max((end for _, _, end in _jpeg_segments(data)), default=len(data))


def _gif_end(data: bytes) -> int:
    at = 13 + _colour_table(data[10])
    while data[at] != _GIF_END:
        if data[at] == _GIF_FRAME:
            at += 11 + _colour_table(data[at + 9])
        else:
            at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    return at + 1


def _colour_table(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _riff_end(data: bytes) -> int:
    size: int = struct.unpack_from("<I", data, 4)[0]
    return 8 + size + size % 2


def _bmp_end(data: bytes) -> int:
    size: int = struct.unpack_from("<I", data, 2)[0]
    return size or len(data)
