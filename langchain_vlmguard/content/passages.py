"""What is judged of what a picture says: passages that follow its layout, and none that is left out in silence."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_vlmguard.content.ocr import Line

WORDS_TOGETHER = 60
LINES_TOGETHER = 3
MOST_PASSAGES = 2_000
"""Texts to judge for one picture: some fifty dense pages. What is beyond is said to be unjudged."""

_SPELLED = re.compile(r"(?<![^\W_])(?:[^\W_][\s.*-]{1,8}){3,}[^\W_](?![^\W_])")
"""Four letters or more that stand one by one."""

_UPRIGHT = 1.3
_FEWEST_LETTERS = 4
"""Of a line that can be told to stand on its side: a letter or two may be higher than they are wide."""

_NEAR = 1.2
_ABREAST = 0.3


def passages_of(readings: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the texts to judge of some readings, each a sequence of lines that belong together.

    A reading top down and bottom up, in windows where it is long, and neighbouring lines; with letters that stand one by one
    joined. A harmful request among much harmless text must not drown in it.
    """
    found = chain.from_iterable(_passages(list(lines)) for lines in readings)
    spelled = chain.from_iterable((passage, *_joined_letters(passage)) for passage in found)
    return tuple(dict.fromkeys(spelled))


def blocks_of_lines(lines: Sequence[Line]) -> list[list[Line]]:
    """Return lines in groups that stand together, such as columns and captions, each in reading order.

    Args:
        lines: Lines with their boxes in the same picture.
    """
    blocks: list[list[Line]] = []
    for line in in_order(lines):
        home = next((block for block in blocks if any(_together(line, other) for other in block[-3:])), None)
        if home is None:
            blocks.append([line])
        else:
            home.append(line)
    return blocks


def in_order(lines: Sequence[Line]) -> list[Line]:
    """Return lines from top to bottom, those on one height from left to right; where most stand on their side, across."""
    standing = sum(_stands(line) for line in lines) * 2 > len(lines)
    if standing:
        return sorted(lines, key=lambda line: line.box[0] + line.box[2])
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        middle = (line.box[1] + line.box[3]) / 2
        if rows and rows[-1][0].box[1] < middle < rows[-1][0].box[3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def _stands(line: Line) -> bool:
    left, top, right, bottom = line.box
    return len(line.text) >= _FEWEST_LETTERS and (bottom - top) > (right - left) * _UPRIGHT


def _together(one: Line, other: Line) -> bool:
    """Whether a line goes on where another one ends: below it, or beside it within a word's distance."""
    (left, top, right, bottom), (x0, y0, x1, y1) = one.box, other.box
    height = min(bottom - top, y1 - y0)
    across = min(right, x1) - max(left, x0)
    down = min(bottom, y1) - max(top, y0)
    below = across > _ABREAST * min(right - left, x1 - x0) and -down < _NEAR * height
    return below or (down > height / 2 and -across < height)


def _passages(lines: list[str]) -> Iterator[str]:
    words, backwards = (" ".join(each).split() for each in (lines, lines[::-1]))
    if len(lines) > 1:
        yield " ".join(backwards[: 2 * WORDS_TOGETHER])
    yield " ".join(words[: 2 * WORDS_TOGETHER])
    if len(words) > 2 * WORDS_TOGETHER:
        for start in range(0, len(words), WORDS_TOGETHER // 2):
            yield " ".join(words[start : start + WORDS_TOGETHER])
        for start in range(0, len(backwards), WORDS_TOGETHER):
            yield " ".join(backwards[start : start + WORDS_TOGETHER])
    if len(lines) > LINES_TOGETHER:
        for start in range(len(lines)):
            yield " ".join(lines[start : start + LINES_TOGETHER])


def _joined_letters(text: str) -> Iterator[str]:
    joined = _SPELLED.sub(lambda found: re.sub(r"[\s.*-]+", "", found[0]), text)
    if joined != text:
        yield joined
