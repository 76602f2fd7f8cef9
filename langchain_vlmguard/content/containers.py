"""Picture files as byte strings: where the picture ends, what else the file is, and the file without its metadata."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANYWHERE = (
    (b"%pdf-", "a PDF document"),
    (b"rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"<?php", "a script"),
    (b"<script", "a web page"),
    (b"<html", "a web page"),
    (b"<!doctype", "a web page"),
    (b"\x89png\r\n\x1a\n", "a second picture"),
    (b"gif87a", "a second picture"),
    (b"gif89a", "a second picture"),
)
"""Marks that are long enough not to stand in a film's data by chance; letters are compared in lower case."""

_AT_THE_START = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x7fELF", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"<svg", "an SVG drawing"),
    (b"BM", "a second picture"),
)
_ANOTHER_JPEG = (b"\xff\xd8\xff", "a second picture")
"""Behind anything but a JPEG; phones write several into one file, and take the first one for the picture."""

_OF_PHONES = ("JPEG", "MPO")
_PADDING = b"\x00 \t\r\n"
_ZIP_END, _ZIP_END_WITHIN = b"PK\x05\x06", 22 + 0xFFFF
"""A ZIP archive is found from its end, wherever it begins."""

_PDF = b"%PDF-"
_PDF_HEADER_WITHIN = 1024

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_MARK, _JPEG_EOI, _JPEG_SOS, _JPEG_COMMENT = 0xFF, 0xD9, 0xDA, 0xFE
_AFTER_A_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker that ends a scan: neither a stuffed zero nor a restart, both of which belong to it."""

GIF_FRAME, GIF_EXTENSION, GIF_END = 0x2C, 0x21, 0x3B
_JPEG_NEEDED_APPS = frozenset({0xE0, 0xEE})
"""JFIF and Adobe, which say how colours are coded."""


def refuse_polyglots(data: bytes, picture_format: str) -> None:
    """Refuse a file that is something else besides a picture.

    What follows the end of a picture without being another file is let pass here: padding, a phone's notes, the film and the
    further views of its photograph. It is never handed on.

    Raises:
        UnreadableContentError: Naming what else the file is.
    """
    name = _other_file(data, data[picture_end(data, picture_format) :], picture_format)
    if name is not None:
        msg = f"the file is a picture and {name} at once: send the picture alone"
        raise UnreadableContentError(msg)


def picture_end(data: bytes, picture_format: str) -> int:
    """Return the offset after a picture's last byte; the length of the data for formats that do not say."""
    jpegs = {"JPEG": _jpeg_end, "MPO": _jpeg_end}
    finders = {"PNG": _png_end, "GIF": _gif_end, "WEBP": _riff_end, "BMP": _bmp_end, **jpegs}
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


def _other_file(data: bytes, tail: bytes, picture_format: str) -> str | None:
    if _PDF in data[:_PDF_HEADER_WITHIN]:
        return "a PDF document"
    if _ZIP_END in tail[-_ZIP_END_WITHIN:]:
        return "a ZIP archive"
    start, lowered = tail[: len(tail) - len(tail.lstrip(_PADDING)) + 16].lstrip(_PADDING), tail.lower()
    first = (*_AT_THE_START, *(() if picture_format in _OF_PHONES else (_ANOTHER_JPEG,)))
    names = [*(name for magic, name in first if start.startswith(magic)), *(n for m, n in _ANYWHERE if m in lowered)]
    return next(iter(names), None)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
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
    for kind, start, end in png_chunks(data):
        if kind in _PNG_NEEDED:
            yield data[start:end]


def _png_end(data: bytes) -> int:
    return max((end for _, _, end in png_chunks(data)), default=len(data))


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, start and end, in order; a scan's entropy-coded data belongs to it.

    Bytes between segments are skipped, as decoders skip them.
    """
    at = 0
    while 0 <= (start := data.find(b"\xff", at)) < len(data):
        at = start
        while data[at] == _JPEG_MARK:
            at += 1
        marker = data[at]
        at += 1
        if not marker:
            continue
        if marker not in _JPEG_ALONE and marker != _JPEG_EOI:
            at += struct.unpack_from(">H", data, at)[0]
        if marker == _JPEG_SOS:
            found = _AFTER_A_SCAN.search(data, at)
            at = found.start() if found else len(data)
        yield marker, start, at
        if marker == _JPEG_EOI:
            return


def _needed_jpeg(data: bytes) -> Iterator[bytes]:
    for marker, start, end in jpeg_segments(data):
        noted = marker == _JPEG_COMMENT or (marker in range(0xE0, 0xF0) and marker not in _JPEG_NEEDED_APPS)
        if not noted:
            yield data[start:end]


def _jpeg_end(data: bytes) -> int:
    return max((end for _, _, end in jpeg_segments(data)), default=len(data))


def _gif_end(data: bytes) -> int:
    at = 13 + colour_table(data[10])
    while data[at] != GIF_END:
        if data[at] == GIF_FRAME:
            at += 11 + colour_table(data[at + 9])
        else:
            at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    return at + 1


def colour_table(flags: int) -> int:
    """Return the bytes of a GIF's colour table, if its flags say that there is one."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _riff_end(data: bytes) -> int:
    size: int = struct.unpack_from("<I", data, 4)[0]
    return 8 + size + size % 2


def _bmp_end(data: bytes) -> int:
    size: int = struct.unpack_from("<I", data, 2)[0]
    return size or len(data)


def is_lossy_webp(data: bytes) -> bool:
    """Whether a WebP file's first picture is coded as photographs are."""
    at = 12
    while at + 8 <= len(data) and data[at : at + 4] not in (b"VP8 ", b"VP8L", b"ANMF"):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return data[at : at + 4] == b"VP8 "
