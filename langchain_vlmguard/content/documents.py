"""PDFs: the pages that a model gets in place of the file, read in a process of their own, and not again while remembered."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langchain_vlmguard.content.apart import run_apart
from langchain_vlmguard.content.checking import check_picture
from langchain_vlmguard.content.images import decode_base64, too_large
from langchain_vlmguard.content.recent import Recent

if TYPE_CHECKING:
    from langchain_vlmguard.content.images import CheckedPicture
    from langchain_vlmguard.content.spellings import Encoded
    from langchain_vlmguard.content.turn import Block
    from langchain_vlmguard.verdict.limits import ReadLimits

UNSEEN = "PDF text layer"
"""Where the words stand that a page has and does not show, as evidence names it."""

_START = b"%PDF-"
_START_ENCODED = "JVBERi"
_READER = "langchain_vlmguard.content.pdf_pages"


@dataclass(frozen=True)
class PdfPage:
    """A page of a PDF as a model gets it."""

    picture: CheckedPicture
    """The page, drawn. Words of its text layer that it does not show are among the picture's notes."""

    layer: str
    """The other words of its text layer."""

    hides: bool
    """Whether there are words that the page does not show."""


_PAGES: Recent[tuple[PdfPage, ...]] = Recent(64_000_000)


def pdf_in(data: Encoded, limits: ReadLimits) -> bytes | None:
    """Return the bytes of a PDF that came or was fetched; `None` for anything else, and if the limits read none.

    Raises:
        UnreadableContentError: Its base64 is broken, or it is over the limit.
    """
    if not limits.pdf.read:
        return None
    if isinstance(data, str):
        if not data.lstrip().startswith(_START_ENCODED):
            return None
        data = decode_base64(data, limits.pdf.max_bytes, "PDF")
    return data if isinstance(data, bytes) and data.startswith(_START) else None


def pdf_block(data: bytes) -> Block:
    """Return a PDF as LangChain's standard block: what a conversation keeps of one that was fetched."""
    return {"type": "file", "base64": base64.b64encode(data).decode(), "mime_type": "application/pdf"}


def read_pdf(data: bytes, limits: ReadLimits) -> tuple[PdfPage, ...]:
    """Read a PDF, page by page.

    Args:
        data: The file.
        limits: What it may cost, and each of its pages as a picture.

    Raises:
        UnreadableContentError: It is locked or broken, or over a limit, or broke its reader.
    """
    if len(data) > limits.pdf.max_bytes:
        raise too_large(limits.pdf.max_bytes, "PDF")
    key = (data, limits.pdf, limits.image)
    pages = _PAGES.get(key)
    if pages is None:
        found = run_apart(_READER, limits.pdf.model_dump_json(), data, "PDF", limits.pdf)
        pages = tuple(_page(row, limits) for row in found["pages"])
        _PAGES.put(key, pages, len(data) + sum(len(page.picture.data) + len(page.layer) for page in pages))
    return pages


def _page(row: dict[str, str], limits: ReadLimits) -> PdfPage:
    picture = check_picture(base64.b64decode(row["picture"]), limits.image)
    hidden = row["unseen"]
    if hidden:
        picture = replace(picture, notes=(*picture.notes, (UNSEEN, hidden)))
    return PdfPage(picture, row["shown"], bool(hidden))
