"""Thresholds from a log: how often each check would act, how often it would be right, and where it should begin to act."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_vlmguard.audit.rows import RISKS
from langchain_vlmguard.audit.shares import Z95, Share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_vlmguard.audit.rows import Row

FEWEST = 20
"""Rows labelled `fine` from which a threshold is suggested."""


class Rate(Share):
    """A share that may be of nothing, which is said by a dash."""

    def __str__(self) -> str:
        """Format as `0.98 [0.95, 0.99]`, or as a dash."""
        return super().__str__() if self.n else "-"


@dataclass(frozen=True)
class Suggestion:
    """A threshold above which a wanted share of harmless turns lies."""

    threshold: float
    low: float
    high: float
    """95 % interval, by the order of the scores alone."""


@dataclass(frozen=True)
class Tuned:
    """What a log says of one kind of risk."""

    risk: str
    rows: int
    threshold: float
    """Where it acts now: the newest row's."""

    acts: Rate
    """Rows at or above the threshold."""

    precision: Rate
    """Of labelled rows at or above it, those that are harmful."""

    recall: Rate
    """Of harmful rows, those at or above it."""

    suggestion: Suggestion | None
    """`None` where too few rows are labelled `fine`."""

    would_act: Rate | None
    """Rows at or above the suggested threshold."""


def tuned(rows: Iterable[Row], *, false_alarms: float = 0.02) -> list[Tuned]:
    """Return what a log says of each kind of risk that it holds.

    Args:
        rows: Of the log, the newest first.
        false_alarms: Rate of harmless turns that may be acted on, from 0 to 1.

    ??? example

        ```python
        for one in tuned(AuditLog("audit.db").rows(), false_alarms=0.01):
            print(one.risk, one.acts, one.suggestion)
        ```
    """
    kept = [*rows]
    found = ((name, [row for row in kept if name in row.record["risks"]]) for name in RISKS)
    return [_of(name, having, false_alarms) for name, having in found if having]


def _of(name: str, rows: Sequence[Row], false_alarms: float) -> Tuned:
    thresholds = rows[0].record["thresholds"]
    threshold = thresholds.get("gate_unsafe", thresholds["unsafe"]) if name == "gate" else thresholds["unsafe"]
    scores = [row.record["risks"][name] for row in rows]
    fine = sorted(score for score, row in zip(scores, rows, strict=True) if row.label == "fine")
    harmful = [score for score, row in zip(scores, rows, strict=True) if row.label == "harmful"]
    caught, wrongly = (sum(score >= threshold for score in some) for some in (harmful, fine))
    suggested = _suggested(fine, false_alarms) if len(fine) >= FEWEST else None
    would = None if suggested is None else Rate(sum(score >= suggested.threshold for score in scores), len(rows))
    return Tuned(
        name,
        len(rows),
        threshold,
        Rate(sum(score >= threshold for score in scores), len(rows)),
        Rate(caught, caught + wrongly),
        Rate(caught, len(harmful)),
        suggested,
        would,
    )


def _suggested(fine: Sequence[float], false_alarms: float) -> Suggestion:
    """Return the lowest threshold that no more than this share of sorted harmless scores reaches.

    Its interval are the scores at the ends of the binomial 95 % interval of its place among them.
    """
    count = len(fine)
    allowed = math.floor(count * false_alarms)
    above = math.nextafter(fine[-1], 2.0)
    threshold = next((one for one in fine if count - bisect_left(fine, one) <= allowed), above)
    place, spread = count - allowed, Z95 * math.sqrt(count * false_alarms * (1 - false_alarms))
    low, high = math.floor(place - spread), math.ceil(place + spread)
    return Suggestion(min(threshold, 1.0), fine[min(max(low, 0), count - 1)], fine[high] if high < count else 1.0)
