"""Ways of looking at a picture that bring out what it hides from a first look."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageFilter, ImageStat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Resampling, Transform, Transpose = Image.Resampling, Image.Transform, Image.Transpose

_TURNS = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}

STRETCHED = "contrast stretched"
AFAR = "from afar"
_SHRUNK_TO = 640
"""Longer edge of a second, smaller look at pictures that are much larger: detectors miss letters that fill the picture."""

_SMALL = 500
"""Longer edge up to which a picture is enlarged twice."""

_LARGE = 1920
"""Longer edge above which the whole is shrunk, and looked at in tiles besides."""

_SEARCHED = 1280
"""Longer edge in which lines of a large picture are looked for at first; the tiles show what is too small for that."""

_TILE_OVERLAP = 160
_MOST_TILES = 6
_NEIGHBOURHOOD = 24
"""Pixels over which brightness and contrast are evened out."""

_GAIN, _LEAST_CONTRAST = 50, 1.5
_EDGES_SEEN = (224, 336, 384, 448, 512, 560, 672, 768, 896, 1024)
"""Edges to which processors of vision-language models shrink pictures."""

_SUSPICIOUS = 25.0
"""Difference, of 255, between a shrunk picture and its average that smooth shrinking does not make."""

_AMOUNTS = [2 * abs(level - 128) for level in range(256)]
"""What half a difference, which is 128 where there is none, amounts to."""

_MOST_SHRUNK = 2

_SAMPLINGS = MappingProxyType(
    {"nearest": Resampling.NEAREST, "bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}
)
"""Ways of resizing that look at few of a picture's pixels."""

_GAP = 3.0
"""Times the wanted size down to which a larger picture is averaged by whole numbers at first, which is faster."""


@dataclass(frozen=True)
class View:
    """One way of looking at a picture."""

    name: str
    image: Image.Image
    """RGB."""

    part: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Which part of the picture it shows: left, top, right, bottom as shares of its edges."""

    fine: Image.Image | None = None
    """The same pixels, larger: lines that are found in `image` are read there."""

    average: Image.Image | None = None
    """Of a shrunk view, the plain average of the same pixels, in the same size."""

    angle: int = 0
    """Degrees by which that part was turned, counter-clockwise: 0, 90, 180 or 270."""

    def place(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Return where in the picture a box of this view lies; both in shares."""
        (x0, y0, x1, y1), (left, top, right, bottom) = _turned_back(box, self.angle), self.part
        across, down = right - left, bottom - top
        return tuple(round(v, 3) for v in (left + x0 * across, top + y0 * down, left + x1 * across, top + y1 * down))  # type: ignore[return-value]


def views_of(picture: Image.Image) -> Iterator[View]:
    """Yield what is looked at in any picture: as it is, with contrasts evened out, and large ones part by part.

    Small pictures are enlarged. A picture of one colour yields nothing.
    """
    if is_flat(picture):
        return
    whole = _at_reading_size(picture)
    large = max(picture.size) > _LARGE
    searched = whole.resize(_fitted(whole.size, _SEARCHED), Resampling.LANCZOS) if large else whole
    yield View("as it is", searched, fine=whole if large else None)
    yield View(STRETCHED, stretched(whole))
    for part, tile in _tiles(picture):
        yield View("enlarged", tile, part)


def view_from_afar(picture: Image.Image) -> Iterator[View]:
    """Yield a much smaller look at a large picture, in which letters that fill it are of a usual size."""
    if max(picture.size) > _SHRUNK_TO * 3 // 2 and not is_flat(picture):
        yield View(AFAR, picture.resize(_fitted(picture.size, _SHRUNK_TO), Resampling.LANCZOS))


def turned(view: View, angles: Sequence[int] = (90, 180, 270)) -> Iterator[View]:
    """Yield a view turned by quarters, for what cannot be read as it stands."""
    for angle in angles:
        yield View(f"{view.name}, turned {angle}°", view.image.transpose(_TURNS[angle]), view.part, angle=angle)


def _turned_back(box: tuple[float, float, float, float], angle: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    if angle == 90:  # noqa: PLR2004 - degrees
        return 1 - y1, x0, 1 - y0, x1
    if angle == 180:  # noqa: PLR2004
        return 1 - x1, 1 - y1, 1 - x0, 1 - y0
    if angle == 270:  # noqa: PLR2004
        return y0, 1 - x1, y1, 1 - x0
    return box


def stretched(picture: Image.Image) -> Image.Image:
    """Even out brightness and contrast in every neighbourhood, so that a difference of a few levels becomes black and white.

    `128 + 50 (g - m) / max(s, 1.5)` with the grey value g and the neighbourhood's mean m and standard deviation s.
    """
    import numpy as np

    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    difference = grey - np.asarray(_neighbourhood(Image.fromarray(grey)))
    spread = np.sqrt(np.maximum(np.asarray(_neighbourhood(Image.fromarray(difference**2))), 0.0))
    even = 128 + _GAIN * difference / np.maximum(spread, _LEAST_CONTRAST)
    return Image.fromarray(np.clip(even, 0, 255).astype(np.uint8)).convert("RGB")


def shrunk_views(picture: Image.Image) -> list[View]:
    """Return the shrunk looks that differ from the picture itself: image-scaling attacks.

    A text can be spread over a large picture so that it appears only when some resizing keeps the pixels it stands in. Each
    common edge and way of resizing without smoothing is compared with the plain average of the same pixels; the most different
    ones return. Smooth ways weigh all pixels, as the average does, and show nothing that it does not show.
    """
    grey = picture.convert("L")
    found: list[tuple[float, str, tuple[int, int]]] = []
    for edge in _EDGES_SEEN:
        if edge >= max(picture.size):
            break
        sizes = {(edge, edge), _fitted(picture.size, edge)}
        found += [scored for size in sorted(sizes) for scored in _shrunk(grey, size)]
    found.sort(key=lambda scored: -scored[0])
    return [
        View(
            f"shrunk to {size[0]} x {size[1]}, {how}",
            _at_reading_size(_sampled(picture, size, _SAMPLINGS[how])),
            average=_at_reading_size(_average(grey, size)),
        )
        for _, how, size in found[:_MOST_SHRUNK]
    ]


def seen_views(picture: Image.Image, seen: Sequence[Image.Image]) -> list[View]:
    """Return what a model's own processor makes of the picture, if that looks different."""
    strange = (image for image in seen if image.size != picture.size and _strangeness(picture, image) > _SUSPICIOUS)
    return [
        View(f"as the model sees it ({image.width} x {image.height})", _at_reading_size(image)) for image in strange
    ]


def is_flat(picture: Image.Image) -> bool:
    """Whether a picture is of one colour."""
    return all(low == high for low, high in picture.convert("RGB").getextrema())  # type: ignore[misc]


def _at_reading_size(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest <= _SMALL:
        return picture.resize((picture.width * 2, picture.height * 2), Resampling.BICUBIC)
    if longest <= _LARGE:
        return picture
    return picture.resize(_fitted(picture.size, _LARGE), Resampling.LANCZOS)


def _tiles(picture: Image.Image) -> Iterator[tuple[tuple[float, float, float, float], Image.Image]]:
    """Yield parts of a large picture at its own size; of one too large for that, at the largest size that does."""
    width, height = picture.size
    if max(picture.size) <= _LARGE:
        return
    step = _LARGE - _TILE_OVERLAP
    while -(-width // step) * -(-height // step) > _MOST_TILES:
        width, height = width * 4 // 5, height * 4 // 5
    if max(width, height) <= _LARGE:
        return
    whole = picture.resize((width, height), Resampling.LANCZOS)
    for top in range(0, max(1, height - _TILE_OVERLAP), step):
        for left in range(0, max(1, width - _TILE_OVERLAP), step):
            right, bottom = min(width, left + _LARGE), min(height, top + _LARGE)
            part = (left / width, top / height, right / width, bottom / height)
            yield part, whole.crop((left, top, right, bottom))


def _neighbourhood(picture: Image.Image) -> Image.Image:
    small = (max(1, picture.width // _NEIGHBOURHOOD * 3), max(1, picture.height // _NEIGHBOURHOOD * 3))
    return picture.resize(small, Resampling.BOX).resize(picture.size, Resampling.BILINEAR)


def _fitted(size: tuple[int, int], edge: int) -> tuple[int, int]:
    scale = edge / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrunk(grey: Image.Image, size: tuple[int, int]) -> Iterator[tuple[float, str, tuple[int, int]]]:
    average = _average(grey, size)
    for name, how in _SAMPLINGS.items():
        strange = _difference(average, _sampled(grey, size, how))
        if strange > _SUSPICIOUS:
            yield strange, name, size


def _average(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Resampling.BOX, reducing_gap=_GAP)


def _sampled(picture: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    """Shrink without smoothing, as OpenCV and many tensor libraries do."""
    across, down = picture.width / size[0], picture.height / size[1]
    return picture.transform(size, Transform.AFFINE, (across, 0, 0, 0, down, 0), resample=how)


def _strangeness(picture: Image.Image, image: Image.Image) -> float:
    return _difference(picture.resize(image.size, Resampling.BOX), image)


def _difference(average: Image.Image, image: Image.Image) -> float:
    """Return how much two pictures of one size differ where they differ most, grain apart.

    Grain (noise, fine texture) differs at random from its average and is gone after a little blur; a hidden picture stays.
    """
    halves = ImageChops.subtract(average.convert("L"), image.convert("L"), scale=2, offset=128)
    at_a_glance = _strongest(halves.reduce(5), 3)
    if at_a_glance < _SUSPICIOUS / 2:
        return at_a_glance
    return _strongest(halves.filter(ImageFilter.GaussianBlur(1.5)), 16)


def _strongest(halves: Image.Image, edge: int) -> float:
    """Return how much half a difference amounts to in the block where it is largest."""
    amounts = halves.point(_AMOUNTS)
    return float(max(high for _, high in ImageStat.Stat(amounts.reduce(edge)).extrema))
