"""A walk over everything that a value holds, whatever a program put in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

MOST_PARTS = 1_000_000
"""Parts of one value that are looked at; numbers do not count."""

_LONGEST_NAME = 64


def walk(
    value: object, *, without: Collection[str] = (), into: Callable[[object], bool] = lambda _: True
) -> Iterator[object]:
    """Yield a value, its parts and theirs, in order; names of fields too where they may say something. Circles end.

    Args:
        value: Anything, however deep.
        without: Names of fields that are left out with all they hold.
        into: Whether the parts of a part are looked at.

    Raises:
        UnreadableContentError: The value has more than `MOST_PARTS` parts.
    """
    waiting: list[object] = [value]
    seen: dict[int, object] = {}  # holds what it has seen, so that no number is given twice
    for _ in range(MOST_PARTS):
        if not waiting:
            return
        one = waiting.pop()
        if isinstance(one, str | bytes):
            yield one
        elif id(one) not in seen:
            seen[id(one)] = one
            yield one
            parts = _held(one, without) if into(one) else []
            waiting += reversed([part for part in parts if not isinstance(part, int | float | None)])
    if waiting:
        msg = f"it has more than {MOST_PARTS:,} parts, too many to be read"
        raise UnreadableContentError(msg)


def texts_in(value: object, *, without: Collection[str] = ()) -> Iterator[str]:
    """Yield the strings in a value, in order, as `walk` finds them."""
    return (one for one in walk(value, without=without) if isinstance(one, str))


def parts_of(value: object) -> list[object]:
    """Return what a mapping, sequence, dataclass or pydantic model holds."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, BaseModel):
        return [value.__dict__]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, one.name, None) for one in fields(value)]
    return list(value) if isinstance(value, list | tuple | set | frozenset) else []


def is_prose(text: str) -> bool:
    """Whether a text may say something to people: more than one word of plain letters, or an address."""
    return len(text.split()) > 1 or not text.isascii() or "://" in text


def _held(value: object, without: Collection[str]) -> list[object]:
    if not isinstance(value, Mapping):
        return parts_of(value)
    kept = [key for key in value if key not in without]
    return [part for key in kept for part in ((key, value[key]) if _says(key) else (value[key],))]


def _says(key: object) -> bool:
    return is_prose(key) or len(key) > _LONGEST_NAME if isinstance(key, str) else not isinstance(key, int | float)
