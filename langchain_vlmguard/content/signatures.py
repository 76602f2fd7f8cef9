"""How picture files begin, as bytes and in base64: what tells a picture that stands where nobody looks for one."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

_STARTS = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    b"\x00\x00\x00\x0cjP  ",
    b"\x00\x00\x00\x0cJXL ",
    b"\xff\x4f\xff\x51",
    b"8BPS",
    b"\x76\x2f\x31\x01",
    b"qoif",
    b"%PDF-",
    b"<svg",
)
"""PNG, JPEG, GIF, TIFF, JPEG 2000, JPEG XL, Photoshop, OpenEXR, QOI; documents and drawings that are shown as pictures."""

_LOOSE_STARTS = (b"BM", b"RIFF", b"\xff\x0a", b"\x00\x00\x01\x00", b"\x00\x00\x02\x00")
"""Too short to be told from other text in base64; bytes that begin so count."""

_FTYP_AT, _BOX = 4, b"ftyp"
"""AVIF, HEIC and films."""

_BMP_HEADS = (12, 40, 52, 56, 64, 108, 124)
_ICONS = (b"\x00\x00\x01\x00", b"\x00\x00\x02\x00")
_MOST_ICONS = 64
_TEXT_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
_URI_STARTS = ("data:image/", "data:application/pdf")
_CODED = re.compile(r"[A-Za-z0-9+/_-]{16,64}")
_READ = 96
_TYPES = frozenset({"image", "image_url", "input_image"})


def may_be_picture(value: object) -> bool:
    """Whether a value itself, not its parts, may be a picture: a block, an opened one, bytes, base64 or a data URI.

    ??? example "A word and a picture"

        ```python
        may_be_picture("iVBORw0KGgoAAAANSUhEUgAA"), may_be_picture("ivory")  # True, False
        ```
    """
    if isinstance(value, str):
        return _is_text_of_picture(value)
    if isinstance(value, bytes | bytearray | memoryview):
        start = bytes(value[:_READ])
        return start.startswith((*_STARTS, *_LOOSE_STARTS)) or start[_FTYP_AT:8] == _BOX
    if isinstance(value, Mapping):
        mime = value.get("mime_type") or value.get("media_type") or value.get("mimeType")
        kind = value.get("type")
        return (isinstance(kind, str) and kind in _TYPES) or str(mime).startswith("image/")
    return isinstance(value, Image.Image)


def _is_text_of_picture(text: str) -> bool:
    start = text.lstrip()[: 4 * _READ]
    if start.startswith(_TEXT_STARTS) or start[:5].lower() == "data:":
        return start.startswith(_TEXT_STARTS) or start.lower().startswith(_URI_STARTS)
    coded = _CODED.match("".join(start.split()))
    if coded is None:
        return False
    letters = coded[0].replace("-", "+").replace("_", "/")
    try:
        return _is_picture(base64.b64decode(letters[: len(letters) // 4 * 4]))
    except binascii.Error:
        return False


def _is_picture(start: bytes) -> bool:
    """Whether bytes begin as a picture does, which words in base64's letters do not."""
    sure: tuple[Callable[[bytes], bool], ...] = (_is_bitmap, _is_icon, _is_webp)
    return start.startswith(_STARTS) or start[_FTYP_AT:8] == _BOX or any(look(start) for look in sure)


def _is_bitmap(start: bytes) -> bool:
    return start[:2] == b"BM" and start[6:10] == bytes(4) and int.from_bytes(start[14:18], "little") in _BMP_HEADS


def _is_icon(start: bytes) -> bool:
    return start[:4] in _ICONS and 0 < int.from_bytes(start[4:6], "little") <= _MOST_ICONS


def _is_webp(start: bytes) -> bool:
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"
