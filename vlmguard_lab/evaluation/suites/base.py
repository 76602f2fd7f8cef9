"""What a suite is: items with their cell and their harm, and a card that says where they come from."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_vlmguard.errors import SuiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

HoldOut = Literal["test only", "has a training split", "overlaps a training set"]


@dataclass(frozen=True)
class Item:
    """One request of a suite."""

    id: str
    text: str
    harmful: bool
    """Whether a safe model must not do as asked; judges need it."""

    cell: str = "all"
    """The group that rates are given for, e.g. a family or a scenario."""

    picture: Path | None = None
    more_pictures: tuple[Path, ...] = ()
    """Shown after the first."""

    before: tuple[tuple[str, str], ...] = ()
    """Earlier turns of the conversation: what was asked and what was answered."""

    tools: tuple[dict[str, Any], ...] = ()
    """Tools offered, in OpenAI's form."""

    system: str = ""
    """A system prompt of the agent's own; the model's default if empty."""

    reference: dict[str, Any] = field(default_factory=dict)
    """What judges of this suite need, as JSON: a warning, a right answer, a label."""


@dataclass(frozen=True)
class SuiteCard:
    """Where a set comes from, and what may be done with it. Nothing is fetched without being asked for."""

    name: str
    source: str
    licence: str
    """As far as it could be confirmed; "not confirmed" where it could not."""

    hold_out: HoldOut
    layout: str
    """The files that the reader expects."""

    confirmed: bool = True
    """Whether the layout was read at the source; otherwise it is as remembered, and the reader says what it misses."""


@dataclass(frozen=True)
class Suite:
    """A named set of items."""

    card: SuiteCard
    items: tuple[Item, ...]

    def sample(self, n: int | None, *, seed: int = 0) -> tuple[Item, ...]:
        """Return at most `n` items of every cell and harm class, the same for the same seed, in the order of the set."""
        if n is None:
            return self.items
        groups: dict[tuple[str, bool], list[Item]] = {}
        for item in self.items:
            groups.setdefault((item.cell, item.harmful), []).append(item)
        rng = random.Random(seed)
        kept = {item.id for group in groups.values() for item in rng.sample(group, min(n, len(group)))}
        return tuple(item for item in self.items if item.id in kept)


@dataclass(frozen=True)
class Reader:
    """Reads one published set from a folder."""

    card: SuiteCard
    read: Callable[[Path], Iterable[Item]]

    def load(self, folder: Path) -> Suite:
        """Read the set.

        Raises:
            SuiteError: A file or a field is missing, or there is nothing to read; the error names what was looked for.
        """
        if not folder.is_dir():
            msg = f"{self.card.name}: there is no folder {folder}; get the set from {self.card.source}"
            raise SuiteError(msg)
        try:
            items = tuple(self.read(folder))
        except KeyError as error:
            msg = f"{self.card.name}: a row has no field {error}; expected layout: {self.card.layout}"
            raise SuiteError(msg) from error
        ids = [item.id for item in items]
        if not items or len(set(ids)) != len(ids):
            problem = "found nothing to read" if not items else "two rows have one id"
            msg = f"{self.card.name}: {problem} in {folder}; expected layout: {self.card.layout}"
            raise SuiteError(msg)
        return Suite(self.card, items)


def read_json(path: Path) -> Any:
    """Read JSON, or JSON lines where the name says so.

    Raises:
        SuiteError: There is no such file, or it is no JSON.
    """
    text = _text(path)
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except ValueError as error:
        msg = f"{path} is no JSON: {error}"
        raise SuiteError(msg) from error


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV with a header line.

    Raises:
        SuiteError: There is no such file.
    """
    return list(csv.DictReader(_text(path).splitlines()))


def read_lines(path: Path) -> list[str]:
    """Read the lines that are not blank.

    Raises:
        SuiteError: There is no such file.
    """
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def first_of(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of some files (patterns may be used) that is there.

    Raises:
        SuiteError: None is.
    """
    for found in (path for name in names for path in sorted(folder.glob(name))):
        return found
    msg = f"{folder} holds none of {', '.join(names)}"
    raise SuiteError(msg)


def picture(path: Path) -> Path:
    """Return the path of a picture that is there.

    Raises:
        SuiteError: It is not: a request without its picture would be another request.
    """
    if not path.is_file():
        msg = f"the picture {path} is missing: a request without its picture is another request"
        raise SuiteError(msg)
    return path


def numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield rows with their number as text, from 0."""
    return ((str(index), row) for index, row in enumerate(rows))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise SuiteError(msg) from error
