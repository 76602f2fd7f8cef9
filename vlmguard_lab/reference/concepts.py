"""The things that the reference model learns to name, and how they are split: seen in training, or held out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_VOWELS, _LIKE_YOU = tuple("aeiou"), ("uni", "uku", "eu")
_SINGULAR = ("ss", "us")
"""Ends of words that are no plurals."""

_ONE_IN = 7
"""One group of concepts in this many is held out."""

_BROAD = """
animal bag ball beads berries bird box bug building card disc doll drink flower fruit game glasses handset insect item leaf
machine mask meat nuts plant racket sign skate snack statue store temple tile tool tools toy tree worker
"""
"""Words that are too broad to count as a name, although they are true."""


@dataclass(frozen=True)
class Concept:
    """A thing that pictures show."""

    name: str
    kind: str
    countable: bool
    also: tuple[str, ...]
    """Other names, which count as right."""

    broader: tuple[str, ...]
    """Names that are true and too broad, or belong to another concept: they do not count, and are no wrong answers either."""

    emoji: tuple[str, ...]
    """Short names of the emoji that show it."""

    words: tuple[str, ...]
    """Words in openclipart's file names, two joined by `_`; `word@folder` counts only in that folder."""

    harmful: bool

    @property
    def held_out(self) -> bool:
        """Whether it is never seen in training; what shares a last word ("pine tree", "palm tree") is held out together."""
        last = self.name.rsplit(maxsplit=1)[-1].removesuffix("s")
        return int(hashlib.sha256(f"concept:{last}".encode()).hexdigest(), 16) % _ONE_IN == 0

    @property
    def phrase(self) -> str:
        """The name as it stands in a sentence: "a kite", "an owl", "grapes", "bread"."""
        return phrase_of(self.name, countable=self.countable)

    def named_in(self, answer: str) -> bool:
        """Whether an answer gives its name or another one that counts."""
        return any(_says(answer, name) for name in (self.name, *self.also))

    def confusable(self, other: Concept) -> bool:
        """Whether a picture of one may rightly be called the other."""
        mine, theirs = ({c.name, *c.also, *c.broader} for c in (self, other))
        return bool(mine & theirs) or _last(self.name) == _last(other.name)


def phrase_of(name: str, *, countable: bool = True) -> str:
    """Return a name with its article, if it takes one."""
    if not countable or (name.endswith("s") and not name.endswith(_SINGULAR)) or " and " in name:
        return name
    return f"{'an' if name.startswith(_VOWELS) and not name.startswith(_LIKE_YOU) else 'a'} {name}"


@cache
def concepts() -> tuple[Concept, ...]:
    """Return every concept, harmless and harmful, in the order of the files."""
    rows = [*_rows("concepts.txt", harmful=False), *_rows("harmful.txt", harmful=True)]
    names = {row[0].rstrip("~") for row in rows} | set(_BROAD.split())
    found = []
    for name, others, emoji, words, kind, harmful in rows:
        listed = [other.strip() for other in others.split(",") if other.strip()]
        broader = tuple(other for other in listed if other in names)
        also = tuple(other for other in listed if other not in broader)
        countable, short = not name.endswith("~"), name.rstrip("~")
        found.append(
            Concept(short, kind, countable, also, broader, tuple(emoji.split()), tuple(words.split()), harmful)
        )
    return tuple(found)


def _rows(file: str, *, harmful: bool) -> list[tuple[str, str, str, str, str, bool]]:
    rows, kind = [], ""
    for line in (_HERE / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif line and not line.startswith("#"):
            name, others, emoji, words = (part.strip() for part in line.split("|"))
            rows.append((name, others, emoji, words, kind, harmful))
    return rows


def _says(answer: str, name: str) -> bool:
    plain = re.sub(r"[^a-z0-9' ]+", " ", answer.lower().replace("-", " "))
    sought = re.escape(name.replace("-", " "))
    return re.search(rf"\b{sought}(?:e?s)?\b", plain) is not None


def _last(name: str) -> str:
    return name.rsplit(maxsplit=1)[-1].removesuffix("s")
