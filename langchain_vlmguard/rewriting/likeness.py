"""Whether a new prompt says anything that the old one did not."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from langchain_vlmguard.rewriting.lookalikes import drawn, folded, skeleton, untagged

if TYPE_CHECKING:
    from collections.abc import Callable

    View = Callable[[str], str]

_VIEWS: tuple[View, ...] = (folded, skeleton, drawn, lambda text: skeleton(untagged(text)))
"""How a text is looked at: what two texts have in common under one of these, they have in common."""

_LETTER = re.compile(r"[^\W_]")
_WORD = re.compile(r"[^\W_]+")
_INTRODUCES = (":", '"', "'", "`", "“", "”", "„", "«", "»", "‘", "’", "‚", "‹", "「", "『", ">")  # noqa: RUF001
_LONGEST_INTRODUCTION = 12
_FEWEST_WORDS = 3
_MOST_UNKNOWN = 4
"""Of four letters, one may be foreign and of no known likeness."""

_FRAME = """
a again also an and any anything are as ask asked asking asks answer answered answering answers assistant be below best brief
briefly but by can carefully certainly clearly completely correctly could dear describe detail detailed details do does exact
exactly explain exactly following follows for from full fully give go good has have hello help helpful here hey hi his her i if
in instruction instructions into is it its just kindly know like long look may me message model more my need new next now of ok
okay on one original our out person please pls possible prompt provide query question questions quote quoted regarding rephrased
reply request requested requests respond response revised reworded rewrite rewriting rewritten s said same say saying says send
sent short simple simply so some start step steps sure task tell text thank thanks that the their them then there these they
thing things this those to today try updated us user users verbatim version very want wanted wants was we well were what which
will with word words would write writes written wrote yes you your
"""
"""Words that say nothing of a request's matter: what is left of a frame is made of them."""

_FILLERS = "please pls kindly just simply now ok okay so well hello hi hey dear thanks thank"


def says_the_same(new: str, original: str) -> bool:
    """Whether a new prompt is the original one in other letters, marks and spaces, or with nothing but a frame around it.

    ??? example

        ```python
        says_the_same("Please answer: “How do I make this?”", "how do i make this")  # True
        says_the_same("What is the safe way to make this?", "how do i make this")  # False
        ```
    """
    return any(_same(new, original, view) for view in _VIEWS)


def says_nothing(new: str) -> bool:
    """Whether a prompt holds no letter, digit or sign at all."""
    return not any(letter.isprintable() and not letter.isspace() for letter in new)


def _same(new: str, original: str, view: View) -> bool:
    one, other = view(new), view(original)
    ours, theirs = _letters(one), _letters(other)
    if not ours or not theirs:
        return not ours and not theirs and one.split() == other.split()
    if ours == theirs or _alike(ours, theirs):
        return True
    fillers = _skeletons(_FILLERS, view)
    if _words_but(one, fillers) == _words_but(other, fillers) != []:
        return True
    return _framed(one, ours, theirs, view, introduces=True) or _framed(other, theirs, ours, view, introduces=False)


def _letters(text: str) -> str:
    return "".join(_LETTER.findall(text))


def _alike(one: str, other: str) -> bool:
    """Whether two texts differ in a few letters only, each of which is foreign to one of them."""
    if len(one) != len(other):
        return False
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return len(differing) * _MOST_UNKNOWN <= len(one) and all(a.isascii() != b.isascii() for a, b in differing)


def _words_but(text: str, left_out: frozenset[str]) -> list[str]:
    return [word for word in _WORD.findall(text) if word not in left_out]


@cache
def _skeletons(words: str, view: View) -> frozenset[str]:
    return frozenset(map(view, words.split()))


def _framed(text: str, letters: str, inner: str, view: View, *, introduces: bool) -> bool:
    """Whether a text is another one, given by its letters, with nothing but a frame around it.

    Args:
        text: The text.
        letters: Its letters.
        inner: The letters of the other one.
        view: How both were looked at.
        introduces: Take a few words of any kind, with a colon or a quotation mark, for a frame. An original may have had an
            instruction there that a rewriting rightly leaves out.
    """
    rest, introduced, inside = _around(text, letters, inner)
    if not inside:
        return False
    words = _WORD.findall(rest)
    if all(word in _skeletons(_FRAME, view) for word in words):
        return True
    short = len(words) <= _LONGEST_INTRODUCTION and len(_WORD.findall(inside)) >= _FEWEST_WORDS
    return introduces and introduced and short


def _around(text: str, letters: str, inner: str) -> tuple[str, bool, str]:
    """Return what stands around another text, whether a colon or a quotation mark introduces that, and it as it stands there."""
    places = [found.start() for found in _LETTER.finditer(text)]
    rest, done, introduced, inside, at = "", 0, False, "", letters.find(inner)
    while at >= 0:
        begin, end = places[at], places[at + len(inner) - 1] + 1
        if text[max(0, begin - 1) : begin].isalnum() or text[end : end + 1].isalnum():
            at = letters.find(inner, at + 1)
            continue
        rest += text[done:begin] + " "
        introduced = introduced or text[:begin].rstrip().endswith(_INTRODUCES)
        inside, done, at = text[begin:end], end, letters.find(inner, at + len(inner))
    return rest + text[done:], introduced, inside
