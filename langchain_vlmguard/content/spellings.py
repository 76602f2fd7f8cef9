"""The ways in which a content block can carry a picture, resolved to where its data is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from langchain_vlmguard.content.checking import bytes_of, check_frames
from langchain_vlmguard.content.images import holds_picture, picture_bytes
from langchain_vlmguard.content.signatures import may_be_picture
from langchain_vlmguard.content.walk import walk
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from langchain_vlmguard.content.images import CheckedPicture
    from langchain_vlmguard.verdict.limits import ImageLimits

    Fields = Mapping[object, object]
    """A block as it came: nothing is known about its keys and values."""

Encoded = str | bytes | Image.Image
"""Base64 text, bytes, or a picture object."""


@dataclass(frozen=True)
class Inline:
    """A picture whose data came with the message."""

    data: Encoded


@dataclass(frozen=True)
class Address:
    """A picture that lies elsewhere."""

    url: str


@dataclass(frozen=True)
class Words:
    """A block that turned out to be text."""

    text: str


@dataclass(frozen=True)
class Parts:
    """A block that holds other blocks."""

    blocks: Sequence[object]


Spelled = Inline | Address | Words | Parts

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_PDF = "application/pdf"
_MIME = re.compile(r"[a-z]+/[a-z0-9.+-]{1,60}")

PICTURES = frozenset({"image", "image_url", "input_image", "computer_screenshot", "image_generation_call"})
"""Block types that are pictures whatever type of data they declare."""

FILES = frozenset({"file", "input_file", "media", "resource", "inline_data", "document"})
"""Block types that are pictures when what they hold is one."""

NESTED = frozenset({"tool_result", "list"})
"""Block types whose content is blocks again."""

_CONTAINERS = ("source", "image", "file", "resource", "inline_data", "inlineData", "document")
_ENCODED = ("base64", "data", "bytes", "blob", "result")
_ADDRESSES = ("url", "image_url", "imageUrl", "file_data", "file_url", "image")
_POINTERS = ("file_id", "fileId", "path", "file_uri", "fileUri", "fileData", "s3Location", "file_name", "image_file")
_MIME_KEYS = ("mime_type", "mimeType", "media_type", "mediaType")
_UNTYPED = {"inline_data": "inline_data", "inlineData": "inline_data", "image": "image", "document": "document"}
"""Blocks of Google and Bedrock have no type; a single key says what they are."""

_DEEPEST = 4


def kind_of(block: object) -> str:
    """Name a block's type; what strangers wrote there is repeated only if it is a plain word."""
    if isinstance(block, list | tuple):
        return "list"
    if not isinstance(block, Mapping):
        return type(block).__name__
    if "type" not in block:
        found = [name for key, name in _UNTYPED.items() if key in block]
        return found[0] if len(found) == 1 else "unknown"
    kind = block["type"]
    return kind if isinstance(kind, str) and _WORD.fullmatch(kind) else "unknown"


def resolve(block: object, *, pdf: bool = False) -> Spelled | None:
    """Return where a block's picture is, or what else it holds; `None` for a block that has no picture by its type.

    Args:
        block: The block, in any provider's form.
        pdf: Whether a file may be a PDF as well.

    Raises:
        UnreadableContentError: The block is of a picture's type and its picture cannot be had, or is there more than once.
    """
    kind = kind_of(block)
    if kind in NESTED:
        return Parts(_nested(block))
    if not isinstance(block, Mapping):
        return None
    if kind == "text-plain" or (kind == "resource" and "text" in _held(block)):
        return Words(_plain_text(_held(block)))
    if kind not in PICTURES | FILES:
        return None
    if kind in FILES:
        _check_declared(block, kind, pdf=pdf)
    found = list(_candidates(block, 0))
    if len(found) > 1:
        msg = "the block carries its picture more than once: which one a model sees is anybody's guess"
        raise UnreadableContentError(msg)
    if not found:
        msg = "it holds no picture data: send base64 or a data URI"
        raise UnreadableContentError(msg)
    return found[0]()


def is_exactly(block: object, found: Spelled, picture: CheckedPicture) -> bool:
    """Whether a block is this picture, byte for byte and under its true type, so that it may be handed on as it came."""
    if not (isinstance(block, Mapping) and isinstance(found, Inline)) or found.data not in (
        picture.encoded,
        picture.data,
    ):
        return False
    if isinstance(block.get("file"), Mapping):  # LangChain takes what stands in there for a PDF
        return False
    inner = block.get("image")
    declared = set(_declared(block)) or ({f"image/{inner.get('format')}"} if isinstance(inner, Mapping) else set())
    return declared == {picture.mime_type}


def shows_picture(block: object, limits: ImageLimits) -> bool:
    """Whether a block came with a picture that can be read."""
    try:
        found = resolve(block)
        return isinstance(found, Inline) and bool(check_frames(picture_data(found.data, limits), limits))
    except UnreadableContentError:
        return False


def picture_data(data: Encoded, limits: ImageLimits) -> bytes:
    """Return the bytes of a picture that came with a message.

    Raises:
        UnreadableContentError: They cannot be had, or are over a limit.
    """
    if isinstance(data, Image.Image):
        return picture_bytes(data, limits)
    return data if isinstance(data, bytes) else bytes_of(data, limits)


def loose_pictures(value: object, *, pdf: bool = False) -> Iterator[Inline | Address]:
    """Yield every picture in a value that is no message content, such as a tool's artifact; and PDFs, if those are read.

    Raises:
        UnreadableContentError: Something looks like a picture and cannot be read, or the value is too large to search.
    """
    for one in walk(value, into=lambda part: not _may_spell(part)):
        if not _may_spell(one):
            continue
        if not isinstance(one, Mapping) or ("type" in one and kind_of(one) not in PICTURES | FILES):
            yield _encoded(one)()
        else:
            found = resolve(one if kind_of(one) in PICTURES | FILES else {**one, "type": "file"}, pdf=pdf)
            yield from (found,) if isinstance(found, Inline | Address) else ()


def _may_spell(value: object) -> bool:
    is_block = isinstance(value, Mapping) and kind_of(value) in PICTURES | FILES
    return holds_picture(value) if is_block else may_be_picture(value)


def _held(block: Fields) -> Fields:
    inner = block.get("resource")
    return inner if isinstance(inner, Mapping) else block


def _nested(block: object) -> list[object]:
    content = block.get("content", []) if isinstance(block, Mapping) else block
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple):
        msg = "its content is neither text nor a list of blocks"
        raise UnreadableContentError(msg)
    return list(content)


def _plain_text(block: Fields) -> str:
    others = {key: value for key, value in block.items() if key != "text"}
    if not isinstance(block.get("text"), str) or any(key in others for key in (*_ENCODED, "url", "file_id")):
        msg = "only plain text that came as text is read: send its words"
        raise UnreadableContentError(msg)
    return str(block["text"])


def _check_declared(block: Fields, kind: str, *, pdf: bool) -> None:
    """Refuse files of another declared type; one that declares nothing is told by its content."""
    for mime in _declared(block):
        if not (mime.startswith("image/") or (pdf and mime == _PDF)):
            shown = mime if _MIME.fullmatch(mime) else "another type"
            msg = f"blocks of type {kind!r} are read only when they hold a picture, not {shown}"
            raise UnreadableContentError(msg)


def _declared(block: Fields) -> Iterator[str]:
    """Yield the types that a block declares for its picture, on its own level and one below."""
    for holder in (block, *(block.get(key) for key in _CONTAINERS)):
        if isinstance(holder, Mapping):
            yield from (str(holder[key]).lower() for key in _MIME_KEYS if holder.get(key))
            places = (holder.get(key) for key in _ADDRESSES)
            addresses = (place.get("url") if isinstance(place, Mapping) else place for place in places)
            yield from (_uri_type(address) for address in addresses if _is_data_uri(address))


def _candidates(block: Fields, depth: int) -> Iterator[Callable[[], Spelled]]:
    """Yield a resolver for every place in a block where picture data, or a pointer to it, stands."""
    if depth > _DEEPEST:
        msg = "its parts are nested too deep"
        raise UnreadableContentError(msg)
    for key, value in block.items():
        if value is None:
            continue
        if key in _CONTAINERS and isinstance(value, Mapping):
            yield from _candidates(value, depth + 1)
        elif key in ("image_url", "imageUrl") and isinstance(value, Mapping):
            yield _address(value.get("url"))
        elif key in _ENCODED or (key == "source" and isinstance(value, str | bytes)):
            yield _encoded(value)
        elif key in _ADDRESSES:
            yield _address(value)
        elif key in _POINTERS and not _is_name_beside(key, block):
            yield _pointer(str(key))
        elif holds_picture(value):
            yield _unknown_place


def _unknown_place() -> Spelled:
    msg = "its picture stands where no model looks for one: send base64 or a data URI"
    raise UnreadableContentError(msg)


def _is_name_beside(key: object, block: Fields) -> bool:
    return key == "file_name" and any(other in block for other in (*_ENCODED, *_ADDRESSES))


def _encoded(value: object) -> Callable[[], Inline]:
    def read() -> Inline:
        if isinstance(value, bytearray | memoryview):
            return Inline(bytes(value))
        if isinstance(value, bytes | Image.Image):
            return Inline(value)
        if not isinstance(value, str):
            msg = "its picture data is not text"
            raise UnreadableContentError(msg)
        return _from_uri(value) if _is_data_uri(value) else Inline(value)

    return read


def _address(value: object) -> Callable[[], Spelled]:
    def read() -> Spelled:
        if not isinstance(value, str):
            if isinstance(value, bytes | bytearray | memoryview | Image.Image):
                return _encoded(value)()
            msg = "its address is not text"
            raise UnreadableContentError(msg)
        if _is_data_uri(value):
            return _from_uri(value)
        if may_be_picture(value):
            return Inline(value)
        return Address(value.strip())

    return read


def _pointer(key: str) -> Callable[[], Spelled]:
    def read() -> Spelled:
        msg = f"its {key!r} points to something that was not sent: send base64 or a data URI"
        raise UnreadableContentError(msg)

    return read


def _is_data_uri(value: object) -> bool:
    return isinstance(value, str) and value.lstrip()[:5].lower() == "data:"


def _uri_type(uri: object) -> str:
    return str(uri).lstrip()[5:].partition(",")[0].partition(";")[0].strip().lower() or "text/plain"


def _from_uri(uri: str) -> Inline:
    head, comma, data = uri.partition(",")
    if not comma or ";" not in head or head.rpartition(";")[2].strip().lower() != "base64":
        msg = "its data URI is not in base64"
        raise UnreadableContentError(msg)
    return Inline(data)
