"""What is generated on the pages: tables between marks, and the results they are made of."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from langchain_vlmguard.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parents[2]
"""The checkout: results and pages lie in its `docs`."""

DOCS, README = ROOT / "docs", ROOT / "README.md"
RESULTS, IMAGES = DOCS / "results", DOCS / "images"
PERFORMANCE = RESULTS / "performance.json"
"""Holds what `performance`, `instructions` and `peers` measure, each under its own keys."""

SERVING = RESULTS / "serving.json"
"""Holds what `serving` measures of the endpoint."""

AGENTS = RESULTS / "agents.json"
"""Holds what `agents` measures, and the short of what `providers` does."""

WORK = ROOT / "build" / "bench"
"""Where stopped measurements keep their finished parts, a folder each."""


def marked(name: str, text: str) -> str:
    """Return a generated text between its marks."""
    return f"<!-- begin {name} -->\n{text}\n<!-- end {name} -->"


def place(page: Path, parts: dict[str, str]) -> None:
    """Write generated texts between their marks on a page, indented as the mark is.

    Raises:
        ValueError: The page has no marks for one of them. It stays as it was.
    """
    written = page.read_text(encoding="utf-8")
    for name, text in parts.items():
        marks = rf"^( *)<!-- begin {re.escape(name)} -->$.*?<!-- end {re.escape(name)} -->$"
        found = re.search(marks, written, flags=re.DOTALL | re.MULTILINE)
        if found is None:
            msg = f"{page} has no place for {name!r}: write <!-- begin {name} --> and <!-- end {name} --> there"
            raise ValueError(msg)
        written = written[: found.start()] + indent(marked(name, text), found[1]) + written[found.end() :]
    write_text(page, written)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join([_row(head), "|" + " --- |" * len(head), *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
