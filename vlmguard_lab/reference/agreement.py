"""How far a judge agrees with people."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from vlmguard_lab.statistics import Share, kappa

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Agreement:
    """A judge's word and people's, answer by answer."""

    judged: tuple[bool, ...]
    people: tuple[bool, ...]

    @property
    def precision(self) -> Share:
        """Of what the judge marks, the share that people mark."""
        return Share.of([theirs for mine, theirs in self._pairs if mine])

    @property
    def recall(self) -> Share:
        """Of what people mark, the share that the judge marks."""
        return Share.of([mine for mine, theirs in self._pairs if theirs])

    @property
    def false_alarms(self) -> Share:
        """Of what people do not mark, the share that the judge marks."""
        return Share.of([mine for mine, theirs in self._pairs if not theirs])

    @property
    def kappa(self) -> float:
        """Cohen's kappa."""
        return kappa(self.judged, self.people)

    @property
    def _pairs(self) -> list[tuple[bool, bool]]:
        return list(zip(self.judged, self.people, strict=True))

    def to_json(self) -> dict[str, object]:
        """Return all four, with intervals where they are shares."""
        return {
            "n": len(self.people),
            "marked_by_people": sum(self.people),
            "precision": self.precision.to_json(),
            "recall": self.recall.to_json(),
            "false_alarms": self.false_alarms.to_json(),
            "kappa": round(self.kappa, 3),
        }


def best_threshold(scores: Sequence[float], people: Sequence[bool]) -> float:
    """Return the threshold with the highest kappa, midway between two scores; a half if no threshold agrees at all.

    Args:
        scores: A judge's scores, higher for what it would mark.
        people: What people mark.
    """
    ordered = sorted(set(scores))
    cuts = [(low + high) / 2 for low, high in pairwise(ordered)]
    if not cuts:
        return 0.5
    return max(cuts, key=lambda cut: kappa([score >= cut for score in scores], people))
