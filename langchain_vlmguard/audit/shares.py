"""A share of some rows, and how far chance alone could have moved it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Z95 = 1.959964
"""Standard deviations of a 95 % interval."""


@dataclass(frozen=True)
class Share:
    """A share of `n` with its Wilson 95 % interval."""

    hits: int
    n: int

    @classmethod
    def of(cls, found: Sequence[bool]) -> Share:
        """Count the true ones."""
        return cls(sum(found), len(found))

    @property
    def value(self) -> float:
        """The share in [0, 1]; 0 of nothing is 0."""
        return self.hits / self.n if self.n else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson score interval at 95 %."""
        if not self.n:
            return 0.0, 1.0
        z2 = Z95**2
        centre = (self.hits + z2 / 2) / (self.n + z2)
        half = Z95 / (self.n + z2) * math.sqrt(self.hits * (self.n - self.hits) / self.n + z2 / 4)
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_json(self) -> dict[str, object]:
        """Return `{"hits", "n", "value", "ci95"}`, shares rounded to four places."""
        return {
            "hits": self.hits,
            "n": self.n,
            "value": round(self.value, 4),
            "ci95": [round(x, 4) for x in self.ci95],
        }

    def __str__(self) -> str:
        """Format as `0.98 [0.95, 0.99]`."""
        low, high = self.ci95
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"
