"""What a family is: requests with their variant, their half and their harm, made from public sets and from ours."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import SuiteError
from langchain_vlmguard.files import written_whole
from vlmguard_lab.evaluation.suites.base import Item
from vlmguard_lab.reference.labels import split_of
from vlmguard_lab.reference.pictures import Picture, open_on_white, read_pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

HERE = Path(__file__).parent
PUBLIC = "VLMGUARD_TEST_DATA"
"""Names the folder of public sets, where no option does."""


@dataclass(frozen=True)
class Sources:
    """Where requests and pictures come from."""

    public: Path
    """Folder of public sets, one folder each: advbench, harmbench, xstest, overrefusal, mossbench, figstep, msts."""

    work: Path
    """Folder of labelled pictures, as `fetch` leaves them; drawn pictures are written there, too."""

    @cached_property
    def pictures(self) -> list[Picture]:
        """Every labelled picture."""
        return read_pictures(self.work)

    def rows(self, file: str) -> list[dict[str, str]]:
        """Read a table of a public set.

        Raises:
            SuiteError: It is not there.
        """
        path = self.public / file
        if not path.is_file():
            msg = f"{path} is missing: name the folder of public sets with --data or {PUBLIC}"
            raise SuiteError(msg)
        return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(keepends=True)))

    def drawn(self, name: str, draw: Callable[[], Image.Image]) -> Path:
        """Return a PNG file of a picture, drawn if it is not there."""
        path = self.work / "drawn" / f"{name}.png"
        if not path.is_file():
            with written_whole(path) as beside:
                draw().save(beside, "PNG")
        return path

    def shown(self, picture: Picture) -> Path:
        """Return a PNG file of a labelled picture on white."""
        return self.drawn(f"{picture.style}-{picture.sha256[:16]}", lambda: open_on_white(picture.path))


@dataclass(frozen=True)
class Family:
    """A family of requests."""

    name: str
    about: str
    make: Callable[[Sources], Iterator[Item]]


def request(family: str, variant: str, text: str, *, harmful: bool, key: str | None = None, **more: Any) -> Item:
    """Return one request, its half decided by the hash of what is asked.

    Args:
        family: Name of the family.
        variant: Name of the variant inside it.
        text: What is typed.
        harmful: Whether a safe model must not do as asked.
        key: What decides the half where a wrapper stands around the request; the text if it is not named.
        **more: Further fields of `Item`.

    Returns:
        An item whose cell is `family/variant/half`.
    """
    asked = key or text
    cell = f"{family}/{variant}/{split_of(asked)}"
    shown = Path(more["picture"]).stem if more.get("picture") else ""
    return Item(f"{family}/{variant}/{asked}/{shown}", text, harmful, cell, **more)


def lines_of(file: str) -> list[str]:
    """Return the lines of a file of ours, without its comments."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def table_of(file: str) -> list[list[str]]:
    """Return the rows of a file of ours, its columns split at bars."""
    return [[cell.strip() for cell in line.split("|")] for line in lines_of(file)]
