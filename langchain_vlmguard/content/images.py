"""Pictures: from base64 to checked pixels, within limits, or a reason why not."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel

from langchain_vlmguard.errors import UnreadableContentError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Told by content, never by name or declared type."""

_SEVERAL_VIEWS = "MPO"
"""A JPEG with further views behind it, as phones write: what stands for it anywhere is its first one."""

_AS_THEY_ARE = {"PNG": "image/png", "JPEG": "image/jpeg"}
_ORIENTATION = 0x0112
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")
_MAGIC_TEXT = ("data:image/", "iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""How the same formats begin in data URIs and in base64."""


@dataclass(frozen=True)
class ImageLimits:
    """How much a picture may cost."""

    max_bytes: int = 10_000_000
    max_pixels: int = 40_000_000


@dataclass(frozen=True)
class CheckedPicture:
    """A picture that was decoded whole. What the model gets are these bytes."""

    data: bytes
    mime_type: str
    size: tuple[int, int]

    @property
    def sha256(self) -> str:
        """Content hash in hex."""
        return hashlib.sha256(self.data).hexdigest()

    def block(self) -> dict[str, Any]:
        """Return the picture as LangChain's standard image block."""
        return {"type": "image", "base64": base64.b64encode(self.data).decode(), "mime_type": self.mime_type}


def read_base64(text: str, limits: ImageLimits) -> CheckedPicture:
    """Decode base64 and check the picture in it.

    Raises:
        UnreadableContentError: With the reason.
    """
    if len(text) * 3 // 4 > limits.max_bytes + 3:
        msg = f"the picture is larger than {limits.max_bytes:,} bytes"
        raise UnreadableContentError(msg)
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        msg = "the picture's base64 is broken"
        raise UnreadableContentError(msg) from error
    return check_picture(data, limits)


def check_picture(data: bytes, limits: ImageLimits) -> CheckedPicture:
    """Decode a picture whole, after its declared size was found acceptable.

    Orientation from EXIF is applied and transparency is laid on white; such pictures are passed on re-encoded, plain RGB
    PNG and JPEG as they came. Of a phone's multi-view JPEG the first view is judged, and only that one is passed on.

    Raises:
        UnreadableContentError: It is no picture, of another format, truncated, animated, or over a limit.
    """
    if len(data) > limits.max_bytes:
        msg = f"the picture is larger than {limits.max_bytes:,} bytes"
        raise UnreadableContentError(msg)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as opened:
            return _checked(opened, data, limits)
    except UnreadableContentError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        msg = "the picture claims far too many pixels"
        raise UnreadableContentError(msg) from error
    except UnidentifiedImageError as error:
        msg = f"the data is no picture in a format that is read here ({', '.join(FORMATS)})"
        raise UnreadableContentError(msg) from error
    except Exception as error:
        msg = f"the picture cannot be decoded ({type(error).__name__})"
        raise UnreadableContentError(msg) from error


def holds_picture(value: object, *, most_parts: int = 200_000) -> bool:
    """Say whether a picture may stand anywhere in a value; one too large to be searched counts as holding one.

    Args:
        value: Anything: nested mappings, sequences and pydantic models are searched.
        most_parts: How many parts are looked at.
    """
    waiting = [value]
    for _ in range(most_parts):
        if not waiting:
            return False
        one = waiting.pop()
        if _may_be_picture(one):
            return True
        waiting += _parts(one)
    return bool(waiting)


def open_picture(block: dict[str, Any]) -> Image.Image:
    """Return the RGB pixels of a standard image block that was checked before."""
    with Image.open(BytesIO(base64.b64decode(block["base64"]))) as opened:
        return opened.convert("RGB")


def _checked(opened: Image.Image, data: bytes, limits: ImageLimits) -> CheckedPicture:
    width, height = opened.size
    if width * height > limits.max_pixels:
        msg = f"the picture has {width} x {height} pixels, more than {limits.max_pixels:,}"
        raise UnreadableContentError(msg)
    if opened.format != _SEVERAL_VIEWS and getattr(opened, "n_frames", 1) > 1:
        msg = "the picture is animated: only its first frame could be judged"
        raise UnreadableContentError(msg)
    opened.load()
    plain = opened.mode == "RGB" and opened.getexif().get(_ORIENTATION, 1) == 1 and "transparency" not in opened.info
    if plain and opened.format in _AS_THEY_ARE:
        return CheckedPicture(data, _AS_THEY_ARE[opened.format], opened.size)
    flat = _flattened(ImageOps.exif_transpose(opened))
    buffer = BytesIO()
    flat.save(buffer, "PNG")
    return CheckedPicture(buffer.getvalue(), "image/png", flat.size)


def _flattened(picture: Image.Image) -> Image.Image:
    if "A" not in picture.mode and "transparency" not in picture.info:
        return picture.convert("RGB")
    layers = picture.convert("RGBA")
    ground = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(ground, layers).convert("RGB")


def _may_be_picture(value: object) -> bool:
    if isinstance(value, str):
        return value.lstrip()[:20].startswith(_MAGIC_TEXT) or value.lstrip()[:20].lower().startswith("data:image/")
    if isinstance(value, bytes | bytearray):
        return bytes(value[:4]).startswith(_MAGIC)
    if isinstance(value, Mapping):
        mime = value.get("mime_type") or value.get("media_type") or value.get("mimeType")
        return value.get("type") in ("image", "image_url", "input_image") or str(mime).startswith("image/")
    return isinstance(value, Image.Image)


def _parts(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, BaseModel):
        return [value.__dict__]
    return list(value) if isinstance(value, list | tuple | set | frozenset) else []
