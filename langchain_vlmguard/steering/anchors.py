"""Anchors: paired harmful and harmless prompts that safety directions are fitted on."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.verdict.hazards import known

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_SHIPPED = {"how_to": "how_to_pairs", "requests": "request_pairs"}


@dataclass(frozen=True)
class AnchorPair:
    """Two prompts of one form and topic, one harmful and one not."""

    harmful: str
    harmless: str
    hazard: str | None = None
    """MLCommons hazard id of the harmful one."""

    form: str | None = None
    """How both are worded, e.g. `"question"` or `"imperative"`."""


@dataclass(frozen=True)
class AnchorSet:
    """A named set of pairs.

    ??? example "A set of your own"

        ```python
        pair = AnchorPair("How to pick a lock?", "How to fit a lock?", "mlcommons:ncr")
        anchors = AnchorSet("locks", (pair,))
        ```
    """

    name: str
    pairs: tuple[AnchorPair, ...]

    def __post_init__(self) -> None:
        """Check the pairs.

        Raises:
            ValueError: There are none, one is empty or no text, its hazard is not in the taxonomy, its form is empty
                or no text, or one harmful prompt stands twice; the message names the pair.
        """
        if not self.pairs:
            msg = f"anchor set {self.name!r} is empty: it needs at least one pair"
            raise ValueError(msg)
        seen: set[str] = set()
        for index, pair in enumerate(self.pairs):
            problem = _problem(pair, seen)
            if problem:
                msg = f"pair {index} of anchor set {self.name!r} {problem}: {pair.harmful!r} / {pair.harmless!r}"
                raise ValueError(msg)
            seen.add(pair.harmful)

    @classmethod
    def from_json(cls, path: str | Path) -> AnchorSet:
        """Read `{"pairs": [{"harmful", "harmless", "hazard", "form"}]}`; hazard and form may be missing.

        Raises:
            ValueError: The file has another form, or a pair is not usable.
        """
        return _from_json(Path(path), Path(path).stem)

    @property
    def harmful(self) -> list[str]:
        """The harmful prompts, in order."""
        return [pair.harmful for pair in self.pairs]

    @property
    def harmless(self) -> list[str]:
        """The harmless prompts, in the order of their partners."""
        return [pair.harmless for pair in self.pairs]

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over all pairs; a form counts only where there is one."""
        rows = [[pair.harmful, pair.harmless, pair.hazard, *([pair.form] if pair.form else [])] for pair in self.pairs]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.pairs)

    def of_form(self, *forms: str) -> AnchorSet:
        """Return the pairs of these forms, in their order.

        ??? example "Long requests and questions only"

            ```python
            anchors = load_anchors("requests").of_form("long", "question")
            ```

        Args:
            forms: Names of forms, e.g. `"question"`.

        Raises:
            ValueError: No form is named, or no pair has one of them; the message lists the forms there are.
        """
        there = sorted({pair.form for pair in self.pairs if pair.form})
        wrong = [form for form in forms if form not in there]
        if wrong or not forms:
            msg = f"anchor set {self.name!r} has no pairs of form {', '.join(map(repr, wrong)) or 'none'}; its forms are: {there}"
            raise ValueError(msg)
        return AnchorSet(f"{self.name}/{'+'.join(forms)}", tuple(pair for pair in self.pairs if pair.form in forms))

    def split(self, fraction: float, *, seed: int = 0) -> tuple[AnchorSet, AnchorSet]:
        """Split into two sets, hazard by hazard and form by form; the first holds about `fraction` of the pairs.

        Args:
            fraction: Share of the first set, between 0 and 1.
            seed: Decides which pairs go where.

        Raises:
            ValueError: The fraction is no share, or one side would be empty.
        """
        if not 0 < fraction < 1:
            msg = f"anchors are split by a fraction between 0 and 1, not by {fraction}"
            raise ValueError(msg)
        first: list[AnchorPair] = []
        second: list[AnchorPair] = []
        rng = random.Random(seed)
        for hazard in sorted({pair.hazard or "" for pair in self.pairs}):
            group = [pair for pair in self.pairs if (pair.hazard or "") == hazard]
            rng.shuffle(group)
            seen = taken = 0
            for form in sorted({pair.form or "" for pair in group}):
                part = [pair for pair in group if (pair.form or "") == form]
                seen += len(part)
                cut = round(fraction * seen) - taken  # what rounding left over goes to the next form
                taken += cut
                first += part[:cut]
                second += part[cut:]
        if not first or not second:
            msg = f"a split at {fraction} leaves one side of the {len(self)} pairs of {self.name!r} empty"
            raise ValueError(msg)
        return AnchorSet(f"{self.name}/fit", tuple(first)), AnchorSet(f"{self.name}/held_out", tuple(second))


def load_anchors(name: str = "how_to") -> AnchorSet:
    """Return a shipped set of pairs, written for this package, without operational detail.

    ??? example "Requests of many forms"

        ```python
        anchors = load_anchors("requests")
        ```

    Args:
        name: `"how_to"` (short "How to" questions) or `"requests"` (requests of several forms: short and long questions,
            orders, role play, careless spelling, tasks for an agent, and harmless ones that sound dangerous), or `"all"`.

    Raises:
        ValueError: There is no shipped set of that name.
    """
    if name == "all":
        return AnchorSet("all", tuple(pair for one in _SHIPPED for pair in load_anchors(one).pairs))
    if name not in _SHIPPED:
        msg = f"there is no shipped anchor set {name!r}; there are: {', '.join(_SHIPPED)}, all"
        raise ValueError(msg)
    stem = _SHIPPED[name]
    return _from_json(files("langchain_vlmguard.steering") / "data" / f"{stem}.json", stem)


def _from_json(path: Path | Traversable, name: str) -> AnchorSet:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path} is no anchor set: it needs a JSON object with 'pairs' ({error!r})"
        raise ValueError(msg) from error
    if not isinstance(rows, list):
        msg = f"{path} is no anchor set: its 'pairs' are a {type(rows).__name__}, not a list"
        raise ValueError(msg)  # noqa: TRY004 - what is wrong is the file, not an argument
    return AnchorSet(name, tuple(_pair(row, f"pair {index} of {path}") for index, row in enumerate(rows)))


def _pair(row: Any, where: str) -> AnchorPair:
    try:
        return AnchorPair(row["harmful"], row["harmless"], row.get("hazard"), row.get("form"))
    except (KeyError, TypeError) as error:
        msg = f"{where} needs 'harmful' and 'harmless': {row!r}"
        raise ValueError(msg) from error


def _problem(pair: AnchorPair, seen: set[str]) -> str | None:
    if not _is_text(pair.harmful) or not _is_text(pair.harmless):
        return "has a prompt that is no text"
    if not pair.harmful.strip() or not pair.harmless.strip():
        return "has an empty prompt"
    if pair.harmful == pair.harmless:
        return "has twice the same prompt"
    if pair.form is not None and not (_is_text(pair.form) and pair.form.strip()):
        return f"has the form {pair.form!r}"
    return "repeats a harmful prompt" if pair.harmful in seen else _hazard_problem(pair.hazard)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _hazard_problem(hazard: str | None) -> str | None:
    try:
        return None if hazard is None or known(hazard) else "has an empty hazard"
    except (AttributeError, ValueError) as error:
        return f"has the hazard {hazard!r} ({error})"
