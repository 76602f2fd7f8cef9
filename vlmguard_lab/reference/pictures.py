"""Labelled pictures: emoji in three styles and openclipart; what may be trained on, and what is kept for measurement."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image

from vlmguard_lab.reference.concepts import concepts
from vlmguard_lab.reference.parts import PICTURES, PartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vlmguard_lab.reference.concepts import Concept

EMOJI_STYLES = ("google", "fluent", "twitter")
HELD_OUT_STYLE = "twitter"
_KEPT_ONE_IN = 5
"""One openclipart drawing in this many is kept out of training, whatever it shows."""

_UNNAMED_FOLDERS = """
/buttons/ /cards/ /diagrams/ /flags/ /flowchart/ /folders/ /gradients/ /icons/ /led/ /logos/ /map_symbols/ /patterns/
/semaphore/ /shapes/ /special/
"""
"""Folders of openclipart whose file names say little about what is drawn."""

_MOST_PIXELS = 8_000_000
"""Larger drawings are left out: a few would take longer to open than all others together."""

_HARMFUL_FOLDERS = ("/weapons/", "/hazard/", "/medicine/", "/alcohol/", "/pantyhose/", "/pirates/")


@dataclass(frozen=True)
class Picture:
    """One picture and what it shows."""

    style: str
    path: Path
    concept: Concept

    @cached_property
    def sha256(self) -> str:
        """Checksum of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def trainable(self) -> bool:
        """Whether training may show it; a question of style, of concept and, in openclipart, of the file's checksum."""
        if self.style == HELD_OUT_STYLE or self.concept.harmful or self.concept.held_out:
            return False
        return self.style != "openclipart" or int(self.sha256, 16) % _KEPT_ONE_IN != 0

    def open(self) -> Image.Image:
        """Return the pixels, transparent ones white."""
        return open_on_white(self.path)


def open_on_white(path: Path) -> Image.Image:
    """Return a picture file's pixels in RGB, transparent ones white."""
    with Image.open(path) as opened:
        layers = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def read_pictures(work: Path) -> list[Picture]:
    """Return every labelled picture of all styles, in an order that does not change.

    Raises:
        PartError: The sets of pictures were not fetched.
    """
    taken = {style: work / "taken" / part.folder for style, part in PICTURES.items()}
    if missing := [style for style in (*EMOJI_STYLES, "openclipart") if not taken[style].is_dir()]:
        msg = (
            f"pictures are missing ({', '.join(missing)}): run python -m vlmguard_lab.reference pictures --work {work}"
        )
        raise PartError(msg)
    return [*_emoji(taken), *_drawings(taken["openclipart"])]


def _emoji(taken: dict[str, Path]) -> Iterator[Picture]:
    listed = json.loads((taken["google"] / "package/emoji.json").read_text(encoding="utf-8"))
    by_name = {name: entry for entry in listed for name in entry["short_names"]}
    for style in EMOJI_STYLES:
        for concept in concepts():
            for name in concept.emoji:
                path = taken[style] / _emoji_file(style, by_name[name])
                if path.is_file():
                    yield Picture(style, path, concept)


def _emoji_file(style: str, entry: dict[str, str]) -> str:
    if style == "fluent":
        return f"package/assets/{entry['unified'].lower()}.webp"
    return f"package/img/{style}/64/{entry['image']}"


def _drawings(folder: Path) -> Iterator[Picture]:
    """Give the drawings whose file names name exactly one concept."""
    by_word: dict[str, list[tuple[str, Concept]]] = defaultdict(list)
    for concept in concepts():
        for word in concept.words:
            plain, _, place = word.partition("@")
            by_word[plain].append((place, concept))
    for path in sorted(folder.rglob("*.png")):
        place = f"/{path.relative_to(folder).parent.as_posix()}/"
        if any(unnamed in place for unnamed in _UNNAMED_FOLDERS.split()) or _pixels(path) > _MOST_PIXELS:
            continue
        named = _named(path.stem.lower(), place, by_word)
        harmful = [concept for concept in named if concept.harmful]
        if harmful:
            yield Picture("openclipart", path, harmful[0])
        elif len(named) == 1 and not any(name in place for name in _HARMFUL_FOLDERS):
            yield Picture("openclipart", path, named[0])


def _pixels(path: Path) -> int:
    """Return the number of pixels that a PNG file's header promises, without decoding anything."""
    with path.open("rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:])
    return int(width * height)


def _named(stem: str, place: str, by_word: dict[str, list[tuple[str, Concept]]]) -> list[Concept]:
    """Return the concepts that a file name names; two words that name one together hide what each names alone."""
    words = [word for word in re.split(r"[^a-z]+", stem) if word]
    found: list[Concept] = []
    hidden: set[int] = set()
    for start in range(len(words) - 1):
        pair = _of("_".join(words[start : start + 2]), place, by_word)
        if pair:
            found += pair
            hidden |= {start, start + 1}
    for index, word in enumerate(words):
        if index not in hidden:
            found += _of(word, place, by_word)
    return list(dict.fromkeys(found))


def _of(word: str, place: str, by_word: dict[str, list[tuple[str, Concept]]]) -> list[Concept]:
    return [concept for folder, concept in by_word.get(word, ()) if not folder or f"/{folder}/" in place]
