"""Read a PDF with PDFium (extra `pdf`): each page as a picture, and the words of its text layer, shown ones and others.

PDFium is native code that strangers' files go through, so this runs in a process of its own only (`content.documents`).
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_vlmguard.content.apart import bound
from langchain_vlmguard.errors import UnreadableContentError, extra
from langchain_vlmguard.verdict.limits import PdfLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

_LARGEST_SCALE = 4.0
"""Pixels for each of a PDF's points (1/72 inch), so that a stamp does not become a poster."""

_LEAST_INK = 24
"""Levels, of 255, by which a word differs from what is around it, at the least, so that a page shows it."""

_LEAST_HEIGHT = 3.0
"""Pixels of a word that a page shows."""

_LOCKED = 4


class Page(TypedDict):
    """A page as JSON."""

    picture: str
    """PNG or JPEG as base64."""

    shown: str
    """The words of its text layer that stand where the page shows something."""

    unseen: str
    """The other words: white on white, outside the page, too small to be seen."""


class Result(TypedDict, total=False):
    """What the process writes: pages, or why there are none."""

    pages: list[Page]
    error: str


def read_pages(data: bytes, limits: PdfLimits) -> list[Page]:
    """Draw each page and read its text layer.

    Raises:
        UnreadableContentError: The file is locked or broken, or over a limit.
        MissingExtraError: The extra is not installed.
    """
    with extra("pdf"):
        import pypdfium2 as pdfium
    letters, pages = limits.max_text_chars, []
    try:
        with pdfium.PdfDocument(data) as document:
            if len(document) > limits.max_pages:
                msg = f"the PDF has {len(document):,} pages, more than {limits.max_pages}"
                raise UnreadableContentError(msg)
            for page in document:
                pages.append(_page(page, limits.edge, letters))
                letters -= len(pages[-1]["shown"]) + len(pages[-1]["unseen"])
    except pdfium.PdfiumError as error:
        locked = getattr(error, "err_code", None) == _LOCKED
        msg = "the PDF is locked with a password" if locked else "the PDF's data is broken"
        raise UnreadableContentError(msg) from error
    if not pages:
        msg = "the PDF has no pages"
        raise UnreadableContentError(msg)
    return pages


def _page(page: Any, edge: int, letters: int) -> Page:
    width, height = (max(1.0, float(side)) for side in page.get_size())
    scale = min(_LARGEST_SCALE, edge / max(width, height))
    picture = page.render(scale=scale).to_pil().convert("RGB")
    text = page.get_textpage()
    if text.count_chars() > letters:
        msg = "the PDF's text is longer than may be judged at once"
        raise UnreadableContentError(msg)
    shown: list[str] = []
    unseen: list[str] = []
    for word, box in _words(page, text, picture.size):
        if word == "\n":
            shown.append(word)
        else:
            (shown if _is_shown(picture, box) else unseen).append(word)
    lines = " ".join(shown).split("\n")
    return {
        "picture": base64.b64encode(_file(picture)).decode(),
        "shown": "\n".join(line.strip() for line in lines if line.strip()),
        "unseen": " ".join(unseen),
    }


def _words(
    page: Any, text: Any, size: tuple[int, int]
) -> Iterator[tuple[str, tuple[float, float, float, float] | None]]:
    """Yield the words of a text layer with the pixels around them, and the ends of its lines."""
    letters: list[str] = []
    boxes: list[tuple[float, float, float, float]] = []
    for at in range(text.count_chars()):
        letter = text.get_text_range(at, 1)
        if letter.strip():
            letters.append(letter)
            boxes += [_pixels(page, text.get_charbox(at), size)]
            continue
        if letters:
            yield "".join(letters), _around(boxes)
            letters, boxes = [], []
        if "\n" in letter or "\r" in letter:
            yield "\n", None
    if letters:
        yield "".join(letters), _around(boxes)


def _pixels(
    page: Any, box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return where a box of a page, in its own points, is drawn: turned and cut as the page is."""
    import pypdfium2.raw as pdfium

    left, bottom, right, top = box
    corners = []
    for x, y in ((left, bottom), (right, top)):
        across, down = ctypes.c_int(), ctypes.c_int()
        # In sixteenths of a pixel, since PDFium gives whole numbers only.
        pdfium.FPDF_PageToDevice(page.raw, 0, 0, 16 * size[0], 16 * size[1], 0, x, y, across, down)
        corners.append((across.value / 16, down.value / 16))
    (x0, y0), (x1, y1) = corners
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _around(boxes: list[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _is_shown(picture: Image.Image, box: tuple[float, float, float, float] | None) -> bool:
    """Whether something can be seen where a word stands."""
    if box is None:
        return False
    left, top, right, bottom = box
    if max(right - left, bottom - top) < _LEAST_HEIGHT:
        return False
    place = (
        max(0, int(left)),
        max(0, int(top)),
        min(picture.width, int(right) + 1),
        min(picture.height, int(bottom) + 1),
    )
    if place[0] >= place[2] or place[1] >= place[3]:
        return False
    extrema = picture.crop(place).getextrema()
    return any(high - low >= _LEAST_INK for low, high in extrema)  # type: ignore[misc]


def _file(picture: Image.Image) -> bytes:
    """Return a page as the smaller of PNG and a good JPEG: drawn pages and scanned ones."""
    files = []
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 92, "subsampling": 0})):
        buffer = BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return min(files, key=len)


def main() -> None:
    """Read limits and a file from the standard input; write pages, or why there are none, to the standard output."""
    head, _, data = sys.stdin.buffer.read().partition(b"\n")
    limits = PdfLimits.model_validate_json(head)
    bound(limits.max_memory)
    try:
        result: Result = {"pages": read_pages(data, limits)}
    except UnreadableContentError as error:
        result = {"error": str(error)}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
