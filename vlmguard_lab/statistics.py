"""Statistics of an evaluation: shares with intervals, paired tests between arms, agreement between judges."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_vlmguard.audit.shares import Share

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

__all__ = ["PairedTest", "Share", "kappa"]


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test of two arms on the same prompts."""

    only_first: int
    """Prompts on which the first arm alone had the outcome."""

    only_second: int
    both: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
        """Compare two arms prompt by prompt.

        Raises:
            ValueError: They are not of one length.
        """
        counts = Counter(zip(first, second, strict=True))
        return cls(counts[True, False], counts[False, True], counts[True, True], counts[False, False])

    @property
    def p(self) -> float:
        """Two-sided exact p value: the discordant prompts against a fair coin. 1 where there are none."""
        n, fewer = self.only_first + self.only_second, min(self.only_first, self.only_second)
        tail = sum(math.comb(n, k) for k in range(fewer + 1))
        return min(1.0, tail / 2 ** (n - 1)) if n else 1.0

    def to_json(self) -> dict[str, object]:
        """Return the four counts and the p value."""
        counts = {"only_first": self.only_first, "only_second": self.only_second, "both": self.both}
        return {**counts, "neither": self.neither, "p": float(f"{self.p:.3g}")}


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return Cohen's kappa of two raters; 1 where both use one and the same label throughout.

    Raises:
        ValueError: The raters did not rate the same number of things, or none.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        msg = "agreement needs at least one thing that both have rated"
        raise ValueError(msg)
    n = len(pairs)
    observed = sum(one == other for one, other in pairs) / n
    ones, others = Counter(first), Counter(second)
    expected = sum(count * others[label] for label, count in ones.items()) / n**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)
