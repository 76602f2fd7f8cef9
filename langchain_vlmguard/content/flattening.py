"""From whatever a file holds to plain RGB: orientation, colour profile, odd modes, and what transparency can hide."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageChops, ImageCms, ImageFilter, ImageOps, ImageStat

from langchain_vlmguard.errors import UnreadableContentError

GROUNDS = ("white", "black")
"""What transparency is laid on; the one that shows more is handed on, and evidence looks at the other one too."""

_MOST_FOR_DETAIL = 2048
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_WHOLE_INTEGERS = "I"
_PLAIN_GAMMA = 0.45455


@dataclass(frozen=True)
class Flat:
    """A picture without transparency, and what else it can look like."""

    shown: Image.Image
    """RGB, upright, in sRGB: what is handed on."""

    hidden: tuple[tuple[str, Image.Image], ...] = ()
    """Other pictures that a viewer may see in the same file, by how: RGB, only those that differ."""


def is_plain(picture: Image.Image) -> bool:
    """Whether every viewer shows the same pixels: upright, no transparency, no profile, no gamma of its own."""
    info = picture.info
    gamma = info.get("gamma", _PLAIN_GAMMA)
    usual = not isinstance(gamma, int | float) or abs(gamma - _PLAIN_GAMMA) < 0.001  # noqa: PLR2004 - 1/100,000 units
    upright = picture.getexif().get(0x0112, 1) == 1
    return upright and usual and not picture.has_transparency_data and not info.get("icc_profile")


def flatten(picture: Image.Image) -> Flat:
    """Return a loaded picture as plain RGB; the picture itself is turned upright and may be given up.

    Raises:
        UnreadableContentError: Its pixels are of a kind that has no one right look.
    """
    ImageOps.exif_transpose(picture, in_place=True)
    if not picture.has_transparency_data:
        return Flat(_in_srgb(picture))
    layers = _in_srgb(picture, mode="RGBA")
    looks = {f"transparency on {ground}": _on(layers, ground) for ground in GROUNDS}
    looks["transparency ignored"] = Image.merge("RGB", layers.split()[:3])
    best = max(list(looks)[: len(GROUNDS)], key=lambda name: _detail(looks[name]))
    shown = looks.pop(best)
    return Flat(shown, tuple((name, look) for name, look in looks.items() if _differ(shown, look)))


def _on(layers: Image.Image, ground: str) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", layers.size, ground), layers).convert("RGB")


def _detail(picture: Image.Image) -> float:
    """Return how much there is to see: the mean strength of edges, on a smaller copy of large pictures."""
    grey = picture.convert("L")
    grey.thumbnail((_MOST_FOR_DETAIL, _MOST_FOR_DETAIL))
    edges = grey.filter(ImageFilter.FIND_EDGES)
    inner = edges.crop(
        (1, 1, max(2, edges.width - 1), max(2, edges.height - 1))
    )  # the filter copies the outermost pixels
    return float(ImageStat.Stat(inner).mean[0])


def _differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


def _in_srgb(picture: Image.Image, mode: str = "RGB") -> Image.Image:
    if picture.mode in _SIXTEEN_BIT:
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    elif picture.mode == _WHOLE_INTEGERS:
        low, high = (float(bound) for bound in picture.getextrema())  # type: ignore[arg-type]
        scale = 255 / max(high, 255)
        picture = picture.point(lambda value: value * scale).convert("L") if low >= 0 else _no_one_look(picture)
    elif picture.mode == "F":
        picture = _no_one_look(picture)
    return _managed(picture, mode) or picture.convert(mode)


def _no_one_look(picture: Image.Image) -> Image.Image:
    msg = f"its pixels are numbers without a range ({picture.mode}): send 8 bits a channel"
    raise UnreadableContentError(msg)


def _managed(picture: Image.Image, mode: str) -> Image.Image | None:
    """Return the picture with its colour profile applied, or `None` if it has none that can be."""
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or picture.mode not in ("RGB", "RGBA", "CMYK", "L", "LAB"):
        return None
    try:
        source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
        if picture.mode == "RGBA":
            colours = ImageCms.profileToProfile(picture.convert("RGB"), source, target, outputMode="RGB")
            return None if colours is None else Image.merge("RGBA", (*colours.split(), picture.getchannel("A")))
        colours = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if colours is None else colours.convert(mode)
