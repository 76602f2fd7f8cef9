"""Files of plain pixels for the model: of what had to be changed, and no larger than what came."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from PIL.JpegImagePlugin import get_sampling

from langchain_vlmguard.content.containers import is_lossy_webp
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

_SMALL = 65_536
"""Bytes and pixels up to which a picture's file may grow: nobody's limit is near."""

_QUALITIES = (95, 90, 85, 80, 72, 64, 55, 45)
_COARSER = (1.0, 1.1, 1.25, 1.5, 2.0)
"""Factors for a source's own quantisation tables, where its own are not enough to stay as small."""

_PHOTOGRAPHS = ("JPEG", "MPO", "HEIF", "AVIF")
_444 = 0


@dataclass(frozen=True)
class Source:
    """How the file that came was coded."""

    size: int
    """Bytes."""

    lossy: bool
    """Whether it was coded with losses, as photographs are."""

    photograph: bool = False
    """Whether its format is one of photographs alone."""

    tables: tuple[tuple[int, ...], ...] = ()
    """Quantisation tables of a JPEG, which say its quality."""

    subsampling: int = _444
    progressive: bool = False

    @classmethod
    def of(cls, opened: Image.Image, data: bytes) -> Source:
        """Describe an opened file.

        Args:
            opened: The file, as Pillow opened it.
            data: Its bytes.
        """
        kind = opened.format
        photograph = kind in _PHOTOGRAPHS
        lossy = photograph or (kind == "WEBP" and is_lossy_webp(data))
        tables = getattr(opened, "quantization", None) or {}
        known = kind in ("JPEG", "MPO") and opened.mode == "RGB" and tables
        sampling = get_sampling(opened) if known else _444
        kept = tuple(tuple(tables[at]) for at in sorted(tables)) if known else ()
        return cls(len(data), lossy, photograph, kept, max(sampling, _444), bool(opened.info.get("progressive")))


def plain_file(picture: Image.Image, source: Source, most: int) -> tuple[bytes, str]:
    """Write RGB pixels as PNG or JPEG: at the quality that came, in no more bytes than came.

    Args:
        picture: RGB; what else it carries is dropped.
        source: What it was read from.
        most: Bytes that the limits allow.

    Returns:
        The file and its type.

    Raises:
        UnreadableContentError: It would be over the limit in every form.
    """
    picture.info.clear()
    budget = min(most, max(source.size, _SMALL))
    if not source.lossy or (not source.photograph and picture.width * picture.height <= _SMALL):
        exact = file_of(picture, "PNG")
        if len(exact) <= (budget if source.lossy else min(most, 2 * budget)):
            return exact, "image/png"
    smallest = b""
    for data in _photographs(picture, source):
        smallest = data if not smallest or len(data) < len(smallest) else smallest
        if len(smallest) <= budget:
            break
    if len(smallest) > most:
        msg = f"the picture's pixels need more than {most:,} bytes in the form that a model gets"
        raise UnreadableContentError(msg)
    return smallest, "image/jpeg"


def file_of(picture: Image.Image, picture_format: str, **options: object) -> bytes:
    """Return a picture as a file without metadata."""
    buffer = BytesIO()
    picture.save(buffer, picture_format, **options)
    return buffer.getvalue()


def _photographs(picture: Image.Image, source: Source) -> Iterator[bytes]:
    """Yield JPEG files from the best one worth writing downwards."""
    options = {"optimize": True, "progressive": source.progressive}
    for factor in _COARSER if source.tables else ():
        tables = [[min(255, round(one * factor)) for one in table] for table in source.tables]
        yield file_of(picture, "JPEG", qtables=tables, subsampling=source.subsampling, **options)
    if not source.tables:
        yield file_of(picture, "JPEG", quality=_QUALITIES[0], subsampling=_444)
    for quality in _QUALITIES[1:]:
        yield file_of(picture, "JPEG", quality=quality, optimize=True)
