"""Pictures, checked: decoded here or in a process of their own, and not again while they are remembered.

Pictures come as base64 text that passes from message to message unchanged. Python keeps a text's hash with the text and compares
the same object in no time, so the texts themselves are the keys here: a picture that is met again is neither decoded nor hashed.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from langchain_vlmguard.content.apart import decode_frames_apart
from langchain_vlmguard.content.images import decode_base64, decode_frames, pixels_of, too_large
from langchain_vlmguard.content.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from langchain_vlmguard.content.images import CheckedPicture
    from langchain_vlmguard.verdict.limits import ImageLimits

_PICTURE_BYTES = 64_000_000
_TEXT_BYTES = 128_000_000
"""Of base64 texts together with what they decode to: eight pictures of seven megabytes, or hundreds of usual ones."""

_DIGEST_BYTES = 1_000_000


@dataclass(frozen=True)
class _Known:
    """A base64 text, and what it decodes to."""

    text: str
    data: bytes
    handed_on: bool
    """Whether this text is what a checked picture was passed on as."""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the text."""
        return _digest(self.text)


_PICTURES: Recent[tuple[CheckedPicture, ...]] = Recent(_PICTURE_BYTES)
"""By the bytes that came and the limits that they were checked under."""

_TEXTS: Recent[_Known] = Recent(_TEXT_BYTES)
_HANDED_ON: Recent[bool] = Recent(_DIGEST_BYTES)
"""SHA-256 of every text that was handed on: outlives the texts, which are large."""


def check_picture(data: bytes, limits: ImageLimits) -> CheckedPicture:
    """Decode a picture whole, after its declared size was found acceptable; of several frames the first one.

    Orientation and colour profile are applied and transparency is laid on the colour that shows more; such pictures are
    passed on re-encoded. Plain RGB PNG and JPEG are passed on with the pixels they came with, without their metadata. Of a
    phone's multi-view JPEG the first view is judged, and only that one is passed on.

    Args:
        data: The file.
        limits: What it may cost.

    Raises:
        UnreadableContentError: It is no picture, of another format, truncated, animated, two files at once, or over a limit.

    ??? example "A file"

        ```python
        picture = check_picture(Path("kite.png").read_bytes(), ImageLimits())
        HumanMessage([picture.block(), {"type": "text", "text": "What is this?"}])
        ```
    """
    return check_frames(data, limits)[0]


def check_frames(data: bytes, limits: ImageLimits) -> tuple[CheckedPicture, ...]:
    """Decode a picture whole; with `frames="all"` each frame is a picture. What is remembered is not decoded again.

    Raises:
        UnreadableContentError: As `check_picture`.
    """
    if len(data) > limits.max_bytes:
        raise too_large(limits.max_bytes)
    pictures = _PICTURES.get((data, limits))
    if pictures is None:
        pictures = decode_frames_apart(data, limits) if limits.isolate else decode_frames(data, limits)
        size = len(data) + sum(len(p.data) + sum(len(look) for _, look in p.hidden) for p in pictures)
        _PICTURES.put((data, limits), pictures, size)
    for picture in pictures:
        _remember(picture)
    return pictures


def bytes_of(encoded: str, limits: ImageLimits) -> bytes:
    """Decode base64, unless this very text is remembered.

    Raises:
        UnreadableContentError: It is broken, or larger than the limit.
    """
    known = _TEXTS.get(encoded)
    if known is None:
        data = decode_base64(encoded, limits.max_bytes)
        known = _Known(encoded, data, handed_on=_HANDED_ON.get(_digest(encoded)) is True)
        _TEXTS.put(encoded, known, len(encoded) + len(data))
    if len(known.data) > limits.max_bytes:
        raise too_large(limits.max_bytes)
    return known.data


def was_checked(encoded: str) -> bool:
    """Whether base64 text is that of a picture that this process checked and handed on lately."""
    known = _TEXTS.get(encoded)
    return _HANDED_ON.get(_digest(encoded)) is True if known is None else known.handed_on


def checked_block(encoded: object) -> dict[str, str] | None:
    """Return the standard image block of base64 text that this process checked and handed on lately; `None` for anything else."""
    if not isinstance(encoded, str) or not was_checked(encoded):
        return None
    mime_type = "image/png" if encoded.startswith("iVBOR") else "image/jpeg"
    return {"type": "image", "base64": encoded, "mime_type": mime_type}


def digest_of(text: str) -> bytes:
    """Return the SHA-256 of a text; a picture's is not computed again while the picture is remembered."""
    known = _TEXTS.get(text)
    return _digest(text) if known is None else known.digest


def open_picture(block: Mapping[str, object]) -> Image.Image:
    """Return the RGB pixels of a standard image block that was checked before."""
    encoded = str(block["base64"])
    known = _TEXTS.get(encoded)
    return pixels_of(base64.b64decode(encoded) if known is None else known.data)


def _remember(picture: CheckedPicture) -> None:
    known = _TEXTS.get(picture.encoded)
    if known is not None and known.handed_on:
        return
    if known is not None:  # it goes on as it came, so let both be one object, which equals itself without a look inside
        vars(picture)["encoded"] = known.text
    text = picture.encoded
    _TEXTS.put(text, _Known(text, picture.data, handed_on=True), len(text) + len(picture.data))
    _HANDED_ON.put(_digest(text), value=True, size=0)


def _digest(encoded: str) -> bytes:
    return hashlib.sha256(encoded.encode("utf-8", "surrogatepass")).digest()
