"""Pictures: from bytes to checked pixels, within limits, or a reason why not."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.parse import unquote

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from langchain_vlmguard.content.bounds import check_bounds
from langchain_vlmguard.content.containers import refuse_polyglots, without_metadata
from langchain_vlmguard.content.flattening import flatten, is_plain
from langchain_vlmguard.content.gif import BoundedGif
from langchain_vlmguard.content.metadata import Note, check_metadata, read_notes
from langchain_vlmguard.content.reencoding import Source, file_of, plain_file
from langchain_vlmguard.content.signatures import may_be_picture
from langchain_vlmguard.content.walk import walk
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from langchain_vlmguard.verdict.limits import ImageLimits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Told by content, never by name or declared type."""

HEIF_FORMATS = ("HEIF", "AVIF")
"""Read if `ImageLimits.heif` is on."""

_SEVERAL_VIEWS = "MPO"
"""A JPEG with further views behind it, as phones write: what stands for it anywhere is its first one."""

_AS_THEY_ARE = {"PNG": "image/png", "JPEG": "image/jpeg"}
_OPAQUE_MODES = {"PNG": ("RGB", "L", "P", "1"), "JPEG": ("RGB", "L")}
"""Modes of files that every viewer shows alike, and that are passed on as they came."""


@dataclass(frozen=True)
class CheckedPicture:
    """A picture that was decoded whole. What the model gets are these bytes."""

    data: bytes
    """PNG or JPEG without metadata."""

    mime_type: str
    size: tuple[int, int]
    """Width and height in pixels."""

    hidden: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    """What other viewers may see in the file that came (transparency laid on another colour), by how, as PNG."""

    notes: tuple[Note, ...] = field(default=(), repr=False)
    """Words in the metadata of the file that came; they are not handed on."""

    @cached_property
    def sha256(self) -> str:
        """Content hash in hex."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def encoded(self) -> str:
        """The picture as base64: the same text each time, so that it is known again at once."""
        parts = (self.data[at : at + _PIECE] for at in range(0, len(self.data), _PIECE))
        return "".join(base64.b64encode(part).decode() for part in parts)

    def open(self) -> Image.Image:
        """Return the RGB pixels."""
        return pixels_of(self.data)

    def open_hidden(self) -> list[tuple[str, Image.Image]]:
        """Return the RGB pixels of what other viewers may see, by how."""
        return [(how, pixels_of(data)) for how, data in self.hidden]

    def block(self) -> dict[str, str]:
        """Return the picture as LangChain's standard image block."""
        return {"type": "image", "base64": self.encoded, "mime_type": self.mime_type}


_STANDARD_LETTERS = str.maketrans("-_", "+/")
_PIECE = 12 * 2**16
"""Of a long text, coded at a time: nothing else runs meanwhile, the event loop included."""


def decode_base64(text: str, max_bytes: int, what: str = "picture") -> bytes:
    """Decode base64 in any spelling that clients send: line breaks, URL-safe letters, %-escapes, no padding.

    Args:
        text: The base64.
        max_bytes: Most bytes that it may stand for.
        what: What it is, for errors.

    Raises:
        UnreadableContentError: It is broken, or larger than the limit.
    """
    if len(text) * 3 // 4 > max_bytes + 3 and _letters_in(text) * 3 // 4 > max_bytes + 3:
        raise too_large(max_bytes, what)
    whole = "".join((unquote(text) if "%" in text else text).split()).translate(_STANDARD_LETTERS)
    bare = whole.rstrip("=")
    if "=" in bare or len(whole) - len(bare) > 2:  # noqa: PLR2004 - base64 pads with at most two
        msg = f"the {what}'s base64 is broken"
        raise UnreadableContentError(msg)
    whole = bare + "=" * (-len(bare) % 4)
    try:
        parts = (whole[at : at + _PIECE] for at in range(0, len(whole), _PIECE))
        return b"".join(base64.b64decode(part, validate=True) for part in parts)
    except (binascii.Error, ValueError) as error:
        msg = f"the {what}'s base64 is broken"
        raise UnreadableContentError(msg) from error


def _letters_in(text: str) -> int:
    """Return how many characters of a text are coded data: blanks are none, and an escape is one."""
    return len("".join(text.split())) - 2 * text.count("%")


def decode_frames(data: bytes, limits: ImageLimits) -> tuple[CheckedPicture, ...]:
    """Decode a file here and now; `content.checking` chooses where, and remembers.

    Raises:
        UnreadableContentError: It is no picture, of another format, truncated, animated, two files at once, or over a limit.
    """
    pages = limits.max_frames if limits.frames == "all" else 1
    frames = check_bounds(data, pages, partial(_check_size, limits=limits))
    formats = _formats(data, limits)
    try:
        with _opened(data, formats, limits) as opened:
            return _checked(opened, data, limits, frames)
    except UnreadableContentError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        msg = "the picture claims far too many pixels"
        raise UnreadableContentError(msg) from error
    except (UnidentifiedImageError, SyntaxError) as error:
        raise UnreadableContentError(_unknown(data, formats)) from error
    except Exception as error:
        msg = f"the picture cannot be decoded, its data may be broken ({type(error).__name__})"
        raise UnreadableContentError(msg) from error


def picture_bytes(picture: Image.Image, limits: ImageLimits) -> bytes:
    """Return a PIL picture's current frame as a file, so that it is checked like any other; turned upright as its EXIF says.

    One that is opened and not decoded yet is its own file, which is measured before anything decodes it.

    Raises:
        UnreadableContentError: It is over a limit or cannot be written.
    """
    _check_size(picture.size, limits)
    try:
        came = _undecoded(picture, limits)
        if came:
            return came
        upright = ImageOps.exif_transpose(picture)
        return file_of(upright, "PNG" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "TIFF")
    except Exception as error:
        msg = f"the picture object cannot be read ({type(error).__name__})"
        raise UnreadableContentError(msg) from error


def _undecoded(picture: Image.Image, limits: ImageLimits) -> bytes:
    """Return the file behind a picture that was opened and not touched since, as far as the limits allow; nothing for others."""
    stream = getattr(picture, "fp", None)
    untouched = isinstance(picture, ImageFile.ImageFile) and picture.tile and not picture.tell()
    if not untouched or stream is None or not stream.seekable():
        return b""
    at = stream.tell()
    stream.seek(0)
    data: bytes = stream.read(limits.max_bytes + 1)
    stream.seek(at)
    return data


def holds_picture(value: object, *, declared: bool = True) -> bool:
    """Whether a picture may be anywhere in a value; one too large to be searched counts as holding one.

    Args:
        value: Anything: nested mappings, sequences and pydantic models are searched.
        declared: Whether a mapping that calls itself a picture counts, whatever it holds; a search for images does so, too.
    """
    try:
        return any(may_be_picture(one) and (declared or not isinstance(one, Mapping)) for one in walk(value))
    except UnreadableContentError:
        return True


def pixels_of(data: bytes) -> Image.Image:
    """Return the RGB pixels of a file that was checked before."""
    with Image.open(BytesIO(data), formats=tuple(_AS_THEY_ARE)) as opened:
        return opened.convert("RGB")


def too_large(max_bytes: int, what: str = "picture") -> UnreadableContentError:
    """Return the error for a file over the limit."""
    return UnreadableContentError(f"the {what} is larger than {max_bytes:,} bytes")


def _opened(data: bytes, formats: tuple[str, ...], limits: ImageLimits) -> Image.Image:
    if data.startswith(b"GIF8"):
        return BoundedGif(data, partial(_check_size, limits=limits))
    return Image.open(BytesIO(data), formats=formats)


def _formats(data: bytes, limits: ImageLimits) -> tuple[str, ...]:
    if not limits.heif or data[4:8] != b"ftyp":
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        msg = "HEIC is read with the extra 'heif': pip install 'langchain-vlmguard[heif]'"
        raise UnreadableContentError(msg) from error
    register_heif_opener()
    return FORMATS + HEIF_FORMATS


def _unknown(data: bytes, formats: tuple[str, ...]) -> str:
    start = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "SVG is a program for a browser, not a picture: send it drawn, as PNG"
    if data[4:8] == b"ftyp" and formats == FORMATS:
        return "HEIC and AVIF are not read unless the policy turns them on (heif=True): send PNG or JPEG"
    return f"the data is no picture in a format that is read here ({', '.join(formats)}), or its head is broken"


def _check_size(size: tuple[int, int], limits: ImageLimits, frames: int = 1) -> None:
    width, height = size
    if width * height * frames > limits.max_pixels:
        times = f" x {frames} frames" if frames > 1 else ""
        msg = f"the picture has {width} x {height}{times} pixels, more than {limits.max_pixels:,}"
        raise UnreadableContentError(msg)
    if max(size) > limits.max_ratio * max(1, min(size)):
        msg = f"the picture is {width} x {height} pixels: one edge is more than {limits.max_ratio:g} times the other"
        raise UnreadableContentError(msg)


def _checked(opened: Image.Image, data: bytes, limits: ImageLimits, frames: int | None) -> tuple[CheckedPicture, ...]:
    _check_size(opened.size, limits)
    kind = opened.format or ""
    several = 1 if kind == _SEVERAL_VIEWS else _frames(opened, frames)
    if several > 1 and limits.frames == "refuse":
        msg = "the picture is animated: only its first frame could be judged (see the policy's `frames`)"
        raise UnreadableContentError(msg)
    taken = several if limits.frames == "all" else 1
    if taken > limits.max_frames:
        msg = f"the picture has {taken} frames, more than {limits.max_frames}"
        raise UnreadableContentError(msg)
    _check_size(opened.size, limits, taken)
    refuse_polyglots(data, kind)
    check_metadata(opened)
    return tuple(_frame(opened, at, kind, data, limits) for at in range(taken))


def _frames(opened: Image.Image, counted: int | None) -> int:
    """Return how many frames a file has, as it was counted where Pillow would have to walk through all of them."""
    if counted is None:
        return int(getattr(opened, "n_frames", 1))
    return max(counted, 2) if getattr(opened, "is_animated", counted > 1) else 1


def _frame(opened: Image.Image, at: int, kind: str, data: bytes, limits: ImageLimits) -> CheckedPicture:
    if at:
        opened.seek(at)
        _check_size(opened.size, limits)
    bare = "JPEG" if kind == _SEVERAL_VIEWS else kind
    alone = kind == _SEVERAL_VIEWS or not getattr(opened, "is_animated", False)
    if alone and opened.mode in _OPAQUE_MODES.get(bare, ()) and is_plain(opened):
        return _as_it_came(opened, data, bare)
    source = Source.of(opened, data)
    opened.load()
    notes = read_notes(opened)
    flat = flatten(opened)
    hidden = tuple((how, file_of(look, "PNG", compress_level=1)) for how, look in flat.hidden)
    written, mime_type = plain_file(flat.shown, source, limits.max_bytes)
    return CheckedPicture(written, mime_type, flat.shown.size, hidden, notes)


def _as_it_came(opened: Image.Image, data: bytes, kind: str) -> CheckedPicture:
    """Return a plain picture's own compressed pixels; what is decoded for the check is what is handed on."""
    bare = without_metadata(data, kind)
    if bare == data:  # one object instead of two equal ones
        bare = data
    with Image.open(BytesIO(bare), formats=(kind,)) as again:
        again.load()
        if (again.size, again.mode) != (opened.size, opened.mode):
            msg = "the picture's file is broken"
            raise UnreadableContentError(msg)
    if kind == "PNG":  # whose texts may stand behind its pixels
        del again
        opened.load()
    return CheckedPicture(bare, _AS_THEY_ARE[kind], opened.size, notes=read_notes(opened))
