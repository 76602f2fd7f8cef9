"""Words that a picture's file carries beside its pixels: EXIF, XMP, PNG text, comments."""

from __future__ import annotations

import html
import re
from contextlib import suppress
from typing import TYPE_CHECKING, SupportsIndex

from PIL import ExifTags

from langchain_vlmguard.content.tiff_directories import check_exif

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from PIL import Image

MOST_NOTES = 64
MOST_XMP = 1_000_000
"""Characters of XMP that are searched."""

MOST_CHARACTERS = 4_000
"""Of one note; what is longer is cut."""

_SUB_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_XMP = ("xmp", "XML:com.adobe.xmp")
_NO_WORDS = frozenset({"icc_profile", "exif", "mp", "photoshop", "adobe", *_XMP})
_CHARACTER_CODES = {b"ASCII\x00\x00\x00": "ascii", b"UNICODE\x00": "utf-16", b"JIS\x00\x00\x00\x00\x00": "iso2022_jp"}
_NAMESPACES = re.compile(r"xmlns:\w+\s*=\s*(\"[^\"]*\"|'[^']*')|<\?xpacket[^<>]*>")
_IN_XML = re.compile(r">([^<>]+)<|=\s*\"([^\"]*)\"|=\s*'([^']*)'")
"""Each branch ends where the next one may begin, so that no text makes them look through it twice."""

_LETTERS = re.compile(r"[^\W\d_]{2}")
_WIDE = range(0x9C9B, 0x9CA0)
"""EXIF's XP tags, which Windows writes in UTF-16."""

_USUAL = frozenset(
    {
        "Title",
        "Author",
        "Description",
        "Copyright",
        "Creation Time",
        "Software",
        "Disclaimer",
        "Warning",
        "Source",
        "Comment",
    }
    | {"comment", "parameters", "prompt", "workflow", "keyword", "dpi", *ExifTags.TAGS.values()}
)

Note = tuple[str, str]
"""Where it stands and what it says."""


def check_metadata(picture: Image.Image) -> None:
    """Measure an opened picture's EXIF before it is read.

    Raises:
        UnreadableContentError: It would take more time or memory than EXIF may.
    """
    exif, raw = picture.info.get("exif"), picture.info.get("Raw profile type exif")
    if isinstance(exif, bytes):
        check_exif(exif)
    if isinstance(raw, str):
        with suppress(ValueError):
            check_exif(bytes.fromhex("".join(raw.split("\n")[3:])))


def read_notes(picture: Image.Image) -> tuple[Note, ...]:
    """Return the notes of an opened and loaded picture, each at most `MOST_CHARACTERS` long, at most `MOST_NOTES` of them.

    Notes without two letters in a row (numbers, dates, flags) say nothing to a model and are left out.
    """
    found: list[Note] = []
    for source in (_from_info, _from_exif, _from_xmp):
        with suppress(Exception):  # broken metadata is no reason to refuse pixels, and is handed to nobody
            found += [(where, text) for where, text in source(picture) if _LETTERS.search(text)]
    return tuple(dict.fromkeys((where, text[:MOST_CHARACTERS].strip()) for where, text in found[:MOST_NOTES]))


def _from_info(picture: Image.Image) -> Iterator[Note]:
    texts: Mapping[object, object] = getattr(picture, "text", None) or {}
    found: dict[object, object] = {name: value for name, value in (*picture.info.items(), *texts.items())}  # noqa: C416
    for name, value in found.items():
        if str(name) not in _NO_WORDS and isinstance(value, str | bytes):
            yield f"{picture.format} {_name(name)}", _text(value)
    for name in texts:
        if len(str(name)) > len("Creation Time"):
            yield f"{picture.format} keyword", str(name)


def _from_exif(picture: Image.Image) -> Iterator[Note]:
    exif = picture.getexif()
    tags = [(tag, value) for tag, value in exif.items()]
    for ifd in _SUB_IFDS:
        tags += list(exif.get_ifd(ifd).items())
    for tag, value in tags:
        if isinstance(value, str | bytes | tuple) and tag != ExifTags.Base.MakerNote:
            yield f"EXIF {_name(ExifTags.TAGS.get(tag, tag))}", _exif_text(tag, value)


def _from_xmp(picture: Image.Image) -> Iterator[Note]:
    for key in _XMP:
        packet = picture.info.get(key)
        if isinstance(packet, str | bytes):
            found = _IN_XML.finditer(_NAMESPACES.sub("", _text(packet[:MOST_XMP])))
            words = (html.unescape(next(filter(None, one.groups()), "")).strip() for one in found)
            yield from (("XMP", one) for one in words if one)


def _exif_text(tag: int, value: str | bytes | tuple[SupportsIndex, ...]) -> str:
    if isinstance(value, tuple):
        try:
            value = bytes(value)
        except (TypeError, ValueError):
            return ""
    if tag in _WIDE and isinstance(value, bytes):
        return value.decode("utf-16-le", "replace").strip("\x00")
    if isinstance(value, bytes) and value[:8] in _CHARACTER_CODES:
        return value[8:].decode(_CHARACTER_CODES[value[:8]], "replace").strip("\x00")
    return _text(value)


def _text(value: str | bytes) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else value).strip("\x00 \r\n\t")


def _name(name: object) -> str:
    """Return a field's name if it is a usual one: strangers write names too, and they go into verdicts."""
    text = str(name)
    return text if text in _USUAL else "note"
