"""Find lines at several scales and in several lights, and recognise each of them once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from PIL import Image, ImageDraw, ImageFilter, ImageOps, ImageStat

from langchain_vlmguard.content.ocr import Line, Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_vlmguard.content.ocr import Box
    from langchain_vlmguard.content.views import View

SURE = 0.85
"""Less sure lines may be on their head or mirrored, and are looked at again."""

_TALLEST_MASKED = 0.08
"""Share of a picture's height up to which a line that was read is covered in later views: what is larger may hold others."""

_LEAST_EDGES = 40.0
"""Of 255: the strength of edges, in the strongest spot, from which there may be letters in what is left of a view."""

_SPOT = 6
_ROOM = 40
_LEAST_PART = 480
"""Pixels of an edge of what is given to the detector, which enlarges what is much smaller."""

_FILLED = 0.3
_SAME_LINE = 0.5
_WIDEST_LETTER = 0.9
_UNSURE_LETTER = 1.8
"""Letters that a line has for each of its heights, at the least: fewer were recognised than stand there."""

_SEEN = 0.6
_GUESSED = 0.7
"""Confidence below which the letters of a clear, long line are those of another script."""

_LONG = 3.0
_LEAST_HEIGHT = 12
_CLEARLY_SURER = 0.1
_WIDE = ("\u2e80", "\uffef")
"""Letters of Chinese, Japanese and Korean, which are as wide as they are high."""


@runtime_checkable
class DetectingOCR(Protocol):
    """A reader that finds lines in one step and reads them in another."""

    def detect(self, image: Image.Image, fine: Image.Image | None = None) -> list[Region]:
        """Return the lines of an RGB picture, unread; cut out of the same pixels in a larger size, if they are given."""

    def recognise(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Return text and confidence of single lines, in their order."""


class LineOCR(Protocol):
    """A reader of other scripts, which is asked about lines that the first one cannot read."""

    def read(self, image: Image.Image) -> list[Line]:
        """Return the lines of an RGB picture."""


@dataclass
class Look:
    """One look of a picture, and which of its lines are known by now."""

    known: list[Box] = field(default_factory=list)
    """Lines that are covered in further views of it."""

    shown: list[Box] = field(default_factory=list)
    """Lines of the picture's first look, where this is another one."""


class LineSearch:
    """Reads view after view of one picture, each line once."""

    def __init__(self, ocr: DetectingOCR, others: LineOCR | None = None) -> None:
        """Take the reader, and one for lines that it cannot read."""
        self.ocr = ocr
        self.others = others

    def read(self, view: View, look: Look) -> tuple[list[Line], list[Box]]:
        """Read what is new in a view.

        Args:
            view: The view.
            look: What is known of the same pixels; what is read for sure is added.

        Returns:
            New lines with boxes in the view, and boxes in which text is seen that could not be read.
        """
        regions = self._regions(view, look)
        fresh = [region for region in regions if not self._is_shown(region, view, look)]
        lines, unread = self._recognised(fresh, again=view.average is None)
        places = [view.place(line.box) for line in lines if line.confidence >= SURE]
        look.known += [place for place in places if place[3] - place[1] <= _TALLEST_MASKED]
        return lines, unread

    def _regions(self, view: View, look: Look) -> list[Region]:
        """Find lines where no line is known yet."""
        if not look.known:
            return self.ocr.detect(view.image, view.fine)
        image = _without(view, look.known)
        part = _left(image)
        if part is None:
            return []
        return [_moved(region, part, image.size) for region in self.ocr.detect(image.crop(part))]

    def _is_shown(self, region: Region, view: View, look: Look) -> bool:
        """Whether a region of a shrunk view is a known line, shrunk: in its place, and like the plain average of its pixels."""
        if view.average is None or not any(_covers(known, view.place(region.box)) for known in look.shown):
            return False
        return _likeness(_cut(view.image, region.box), _cut(view.average, region.box)) > _SAME_LINE

    def _recognised(self, regions: list[Region], *, again: bool) -> tuple[list[Line], list[Box]]:
        found = self.ocr.recognise([region.image for region in regions]) if regions else []
        unsure = [at for at, (_, confidence) in enumerate(found) if confidence < SURE]
        for turn in (_on_its_head, ImageOps.mirror) if again else ():
            if unsure:
                others = self.ocr.recognise([turn(regions[at].image) for at in unsure])
                for at, other in zip(unsure, others, strict=True):
                    if other[0].strip() and other[1] > max(SURE, found[at][1] + _CLEARLY_SURER):
                        found[at] = other
        lines: list[Line] = []
        unread: list[Box] = []
        for region, (text, confidence) in zip(regions, found, strict=True):
            line = Line(text, confidence, region.box)
            if _is_unread(region, line):
                known = [one for one in self._others(region) if one.confidence >= _SEEN]
                if not known:
                    unread.append(region.box)
                    continue
                line = Line(" ".join(one.text for one in known), min(one.confidence for one in known), region.box)
            lines.append(line)
        return [line for line in lines if line.text.strip()], unread

    def _others(self, region: Region) -> list[Line]:
        return [] if self.others is None else self.others.read(ImageOps.expand(region.image, 10, "white"))


def is_read_by(box: Box, lines: Sequence[Box]) -> bool:
    """Whether lines that were read fill a box, as they do where a detector took several for one."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    shared = 0.0
    for left, top, right, bottom in lines:
        across, down = min(box[2], right) - max(box[0], left), min(box[3], bottom) - max(box[1], top)
        shared += max(0.0, across) * max(0.0, down)
    return shared > _FILLED * area


def _is_unread(region: Region, line: Line) -> bool:
    """Whether a long line is seen clearly, and fewer letters were recognised than stand there."""
    width, height = region.image.size
    if region.score < _SEEN or height < _LEAST_HEIGHT or width < _LONG * height:
        return False
    letters = sum(2 if _WIDE[0] <= letter <= _WIDE[1] else 1 for letter in line.text if not letter.isspace())
    each = letters * height / width
    unsure = line.confidence < SURE and each < _UNSURE_LETTER
    return each < _WIDEST_LETTER or unsure or line.confidence < _GUESSED


def _without(view: View, known: Sequence[Box]) -> Image.Image:
    """Cover lines that were read before with what is around them."""
    if not known:
        return view.image
    image, (left, top, right, bottom) = view.image.copy(), view.part
    across, down = image.width / (right - left), image.height / (bottom - top)
    draw = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in known:
        margin = 0.15 * (y1 - y0) * down
        box = (
            max(0, int((x0 - left) * across - margin)),
            max(0, int((y0 - top) * down - margin)),
            min(image.width - 1, int((x1 - left) * across + margin)),
            min(image.height - 1, int((y1 - top) * down + margin)),
        )
        if box[0] < box[2] and box[1] < box[3]:
            draw.rectangle(box, fill=_ground(view.image, box))
    return image


def _ground(image: Image.Image, box: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Return the median colour along a box's upper and lower edge."""
    left, top, right, bottom = box
    strip = Image.new("RGB", (right - left, 2))
    strip.paste(image.crop((left, top, right, top + 1)), (0, 0))
    strip.paste(image.crop((left, bottom, right, bottom + 1)), (0, 1))
    return tuple(int(value) for value in ImageStat.Stat(strip).median)


def _left(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the part of a view in which edges as strong as letters are left, with some room around it; `None` for none."""
    edges = image.convert("L").filter(ImageFilter.FIND_EDGES)
    ImageDraw.Draw(edges).rectangle((0, 0, image.width - 1, image.height - 1), outline=0, width=2)
    spots = edges.resize((max(1, image.width // _SPOT), max(1, image.height // _SPOT)), Image.Resampling.BOX)
    box = spots.point(lambda strength: 255 * (strength > _LEAST_EDGES)).getbbox()
    if box is None:
        return None
    left, top, right, bottom = (_SPOT * edge for edge in box)
    across, down = (max(_ROOM, (_LEAST_PART - size) // 2) for size in (right - left, bottom - top))
    return max(0, left - across), max(0, top - down), min(image.width, right + across), min(image.height, bottom + down)


def _moved(region: Region, part: tuple[int, int, int, int], size: tuple[int, int]) -> Region:
    """Return a region of a part as one of the whole."""
    (left, top, right, bottom), (x0, y0, x1, y1) = part, region.box
    width, height = size
    across, down = (right - left) / width, (bottom - top) / height
    box = (left / width + x0 * across, top / height + y0 * down, left / width + x1 * across, top / height + y1 * down)
    return replace(region, box=box)


def _covers(known: Box, box: Box) -> bool:
    """Whether most of a box lies in a known one."""
    across = min(known[2], box[2]) - max(known[0], box[0])
    down = min(known[3], box[3]) - max(known[1], box[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return across > 0 and down > 0 and across * down > area / 2


def _cut(image: Image.Image, box: Box) -> Image.Image:
    left, top, right, bottom = box
    left, top = int(left * image.width), int(top * image.height)
    return image.crop(
        (left, top, max(left + 1, round(right * image.width)), max(top + 1, round(bottom * image.height)))
    )


def _likeness(one: Image.Image, other: Image.Image) -> float:
    """Return the correlation of two pictures' brightness."""
    import numpy as np

    first, second = (np.asarray(picture.convert("L"), dtype=np.float32).ravel() for picture in (one, other))
    first, second = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / spread if spread else 0.0


def _on_its_head(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_180)
