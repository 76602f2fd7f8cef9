"""The testbed's pictures, drawn from `icons.txt`: icons, drawn requests and meaningless pictures."""

from __future__ import annotations

import colorsys
import difflib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageColor, ImageDraw, ImageFont

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

NATIVE_SIZE = 192
OVERSAMPLING = 2

NeutralKind = Literal["blank", "noise", "plain"]
Colour = tuple[int, int, int]

# fmt: off
_FIXED = MappingProxyType(
    {
        "w": "#ffffff", "k": "#26262e", "g": "#8d99a6", "y": "#f6c61c", "r": "#d92b2b", "n": "#a4662f", "v": "#3f9b45",
        "s": "#bfe3f7", "o": "#ff8a1f", "f": "#f0b98d", "u": "#2c6fd1",
    }
)
# fmt: on


@dataclass(frozen=True)
class Shape:
    """One flat shape on the board of 100 by 100 units."""

    colour: str
    kind: str
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Icon:
    """A signature colour and shapes painted one over the other."""

    base: Colour
    shapes: tuple[Shape, ...]


@cache
def icons() -> Mapping[str, Icon]:
    """Return every icon by name, read from `icons.txt`."""
    text = (files("vlmguard_lab.testbed") / "icons.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return MappingProxyType(dict(_parse(line) for line in lines))


def _parse(line: str) -> tuple[str, Icon]:
    head, _, body = line.partition("|")
    name, base = head.split()
    shapes = (part.split() for part in body.split(";"))
    parsed = tuple(Shape(colour, kind, tuple(map(float, numbers))) for colour, kind, *numbers in shapes)
    return name, Icon(ImageColor.getrgb(base)[:3], parsed)


def draw_icon(name: str, *, rng: random.Random, size: int = NATIVE_SIZE) -> Image.Image:
    """Draw one word's icon on a light ground, position, size and colour jittered.

    Args:
        name: A thing, place, person or verb of the world.
        rng: Source of the jitter; the same state draws the same pixels.
        size: Edge of the square picture in pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: There is no icon of that name.
    """
    board = _Board(size, rng)
    scale = rng.uniform(0.76, 0.96)
    slack = 1 - scale
    board.paint(name, rng.uniform(0, slack), rng.uniform(0, slack), scale)
    return board.finish()


def draw_poster(verb: str, name: str, *, rng: random.Random, size: int = NATIVE_SIZE) -> Image.Image:
    """Draw a request: the verb's sign, the thing beside it, and the same words in letters below.

    Raises:
        ValueError: There is no icon of one of the names.
    """
    board = _Board(size, rng)
    for word, left in ((verb, 0.02), (name, 0.51)):
        scale = rng.uniform(0.43, 0.47)
        board.paint(word, left + rng.uniform(0, 0.02), 0.14 + rng.uniform(0, 0.08), scale)
    board.write(f"{verb} {'an' if name[0] in 'aeio' else 'a'} {name}")
    return board.finish()


def draw_neutral(kind: NeutralKind, *, rng: random.Random, size: int = NATIVE_SIZE) -> Image.Image:
    """Draw a picture without meaning: white, uniform noise, or one random colour."""
    if kind == "blank":
        return Image.new("RGB", (size, size), "white")
    if kind == "noise":
        return Image.frombytes("RGB", (size, size), rng.randbytes(3 * size * size))
    return Image.new("RGB", (size, size), (rng.randrange(256), rng.randrange(256), rng.randrange(256)))


class _Board:
    """A canvas with a tinted ground, drawn larger and shrunk at the end."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._size, self._rng = size, rng
        self._edge = size * OVERSAMPLING
        ground = (rng.randrange(230, 256), rng.randrange(230, 256), rng.randrange(230, 256))
        self._image = Image.new("RGB", (self._edge, self._edge), ground)
        self._draw = ImageDraw.Draw(self._image)

    def paint(self, name: str, left: float, top: float, scale: float) -> None:
        """Paint an icon with its upper left corner at a share of the edge, `scale` of the edge wide."""
        icon = _icon(name)
        hue, light = self._rng.uniform(-0.015, 0.015), self._rng.uniform(-0.06, 0.06)
        unit = scale * self._edge / 100
        for shape in icon.shapes:
            self._shape(
                shape, _shifted(_colour(shape.colour, icon.base), hue, light), left * self._edge, top * self._edge, unit
            )

    def write(self, words: str) -> None:
        """Write dark letters across the lower end, as large as fits."""
        points = self._edge * 0.15
        font = ImageFont.load_default(size=points)
        width = font.getlength(words)
        if width > 0.92 * self._edge:
            font = ImageFont.load_default(size=points * 0.92 * self._edge / width)
        self._draw.text((self._edge / 2, self._edge * 0.87), words, fill=(30, 30, 36), font=font, anchor="mm")

    def finish(self) -> Image.Image:
        """Return the picture in its final size."""
        return self._image.reduce(OVERSAMPLING)

    def _shape(self, shape: Shape, colour: Colour, left: float, top: float, unit: float) -> None:
        numbers, draw = shape.numbers, self._draw
        if shape.kind == "l":
            draw.line(
                _place(numbers[1:], left, top, unit), fill=colour, width=max(1, round(numbers[0] * unit)), joint="curve"
            )
        elif shape.kind == "a":
            corners = _place(numbers[1:5], left, top, unit)
            draw.arc(corners, numbers[5], numbers[6], fill=colour, width=max(1, round(numbers[0] * unit)))
        elif shape.kind == "c":
            draw.pieslice(_place(numbers[:4], left, top, unit), numbers[4], numbers[5], fill=colour)
        else:
            paint = {"p": draw.polygon, "r": draw.rectangle, "e": draw.ellipse}[shape.kind]
            paint(_place(numbers, left, top, unit), fill=colour)


def _icon(name: str) -> Icon:
    if name not in icons():
        close = difflib.get_close_matches(name, icons(), n=3)
        msg = f"the world has no picture of {name!r}; close names: {', '.join(close) or 'none'}"
        raise ValueError(msg)
    return icons()[name]


def _place(numbers: tuple[float, ...], left: float, top: float, unit: float) -> list[tuple[float, float]]:
    return [(left + x * unit, top + y * unit) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def _colour(role: str, base: Colour) -> Colour:
    if role == "b":
        return base
    if role == "d":
        return _shifted(base, 0.0, -0.14)
    if role == "t":
        return _shifted(base, 0.0, 0.18)
    return ImageColor.getrgb(_FIXED[role])[:3]


@cache
def _hls(colour: Colour) -> tuple[float, float, float]:
    return colorsys.rgb_to_hls(*(channel / 255 for channel in colour))


def _shifted(colour: Colour, hue: float, light: float) -> Colour:
    old_hue, lightness, saturation = _hls(colour)
    channels = colorsys.hls_to_rgb((old_hue + hue) % 1, min(1.0, max(0.0, lightness + light)), saturation)
    red, green, blue = (round(255 * channel) for channel in channels)
    return red, green, blue
