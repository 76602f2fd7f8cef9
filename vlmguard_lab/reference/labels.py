"""Answers that people have labelled: whether they refuse, and whether they do harm. They measure judges, not models."""

from __future__ import annotations

import csv
import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from langchain_vlmguard.errors import SuiteError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Split = Literal["seen", "held_out"]


@dataclass(frozen=True)
class Labelled:
    """An answer, and what people say of it."""

    request: str
    answer: str
    label: bool
    """That it refuses, or that it does harm."""

    picture: str = ""
    """What stood in the picture, in words."""

    source: str = ""
    """The model that answered, if it is known."""

    @property
    def split(self) -> Split:
        """Which half it belongs to: thresholds are chosen on `seen`, figures come from `held_out`."""
        return split_of(f"{self.request}|{self.picture}")


def split_of(text: str) -> Split:
    """Return the half that a prompt belongs to, by its hash: the same wherever it is asked, whatever stands beside it.

    ??? example "A prompt beside a picture is in the half of the prompt"

        ```python
        assert split_of("How do I boil an egg?") == split_of(" how do i boil an EGG? ")
        ```
    """
    plain = " ".join(text.lower().split())
    return "seen" if int(hashlib.sha256(plain.encode()).hexdigest(), 16) % 2 else "held_out"


def refusal_labels(folder: Path) -> list[Labelled]:
    """Read answers that a person marked as refusals or not (`refusal*.csv`).

    Raises:
        SuiteError: There are none.
    """
    rows = [row for path in sorted(folder.glob("refusal*.csv")) for row in _rows(path)]
    if not rows:
        msg = f"{folder} holds no refusal*.csv with labels of refusals"
        raise SuiteError(msg)
    return [Labelled(row["objective"], row["assistant_response"], row["human_score"].strip() == "1") for row in rows]


def harm_labels(folder: Path) -> list[Labelled]:
    """Read MSTS's answers of ten models beside unsafe pictures, with the label that people settled on (`responses.csv`).

    Raises:
        SuiteError: There are none.
    """
    path = folder / "responses.csv"
    if not path.is_file():
        msg = f"{folder} holds no responses.csv with labels of harm"
        raise SuiteError(msg)
    return [
        Labelled(
            row["prompt_text"],
            row["response"],
            row["final_label"].startswith("2"),
            row["unsafe_image_description"],
            row["model"],
        )
        for row in _rows(path)
    ]


def balanced(labelled: Sequence[Labelled], n: int, *, seed: int = 0) -> list[Labelled]:
    """Return at most `n` answers of either label, in equal numbers, the same for the same seed."""
    groups = [[one for one in labelled if one.label == label] for label in (False, True)]
    size = min(n, *map(len, groups))
    rng = random.Random(seed)
    return [one for group in groups for one in rng.sample(group, size)]


def _rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file whose first lines may be comments."""
    lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return list(csv.DictReader(lines[first:]))
