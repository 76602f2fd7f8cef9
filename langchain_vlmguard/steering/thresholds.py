"""Place a probe's thresholds by the scores of turns that its weights did not see."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from langchain_vlmguard.steering.logistic import Logistic

UNSAFE, SAFE = 0.7, 0.3
"""Risks at which the default policy's severities change: up to `SAFE` lie harmless answers, from `UNSAFE` harmful ones."""

NARROWEST = 0.5
"""Least distance, in log-odds, over which risk rises from `SAFE` to `UNSAFE`."""

FURTHER = 1.0
"""How far (in log-odds) below the first harmful answer an early score must lie to be final."""


@dataclass(frozen=True, eq=False)
class ScoredKinds:
    """Left-out scores of each kind of turn."""

    harmful: list[Tensor]
    harmless: list[Tensor]

    @classmethod
    def of(cls, kinds: Sequence[tuple[bool, str]], scores: Tensor) -> ScoredKinds:
        """Sort scores by whether their turns are harmful, and of what kind."""
        rows: dict[tuple[bool, str], list[int]] = {}
        for at, kind in enumerate(kinds):
            rows.setdefault(kind, []).append(at)
        return cls(*([scores[own] for (harm, _), own in rows.items() if harm is wanted] for wanted in (True, False)))

    def ends(self, share: float) -> tuple[float, float]:
        """Return where the harmful ones begin and the harmless ones end, but for a share of any kind."""
        low = min(float(scores.quantile(share)) for scores in self.harmful)
        return low, max(float(scores.quantile(1 - share)) for scores in self.harmless)

    def harmless_below(self, score: float) -> float:
        """Return the share of harmless ones below a score, mean over kinds."""
        return sum(float((scores < score).float().mean()) for scores in self.harmless) / len(self.harmless)


def cut(whole: Logistic, kinds: ScoredKinds, missed: float) -> tuple[Logistic, float]:
    """Place a threshold: where harmful turns begin, or half way to the harmless ones if the classes do not touch.

    Returns:
        The head with its threshold, and the share of harmless turns below it.
    """
    low, high = kinds.ends(missed)
    threshold = min(low, (low + high) / 2)
    return replace(whole, threshold=torch.tensor([threshold])), kinds.harmless_below(threshold)


def graded(whole: Logistic, kinds: ScoredKinds, missed: float) -> tuple[Logistic, float]:
    """Stretch the scores: risk `SAFE` and `UNSAFE` where one class begins and the other ends, whichever way they overlap."""
    safe, unsafe = sorted(kinds.ends(missed))
    lower, upper = _log_odds(SAFE), _log_odds(UNSAFE)
    factor = (upper - lower) / max(unsafe - safe, NARROWEST)
    bias = (whole.bias - (safe + unsafe) / 2) * factor + (lower + upper) / 2
    found = replace(whole, weights=whole.weights * factor, bias=bias, threshold=torch.tensor([upper]))
    return found, kinds.harmless_below(safe)


def early(whole: Logistic, kinds: ScoredKinds, missed: float) -> tuple[Logistic, float]:
    """Move the scores: risk `SAFE`, the threshold, lies `FURTHER` below where harmful answers begin."""
    placed, _ = cut(whole, kinds, missed)
    last, lower = float(placed.threshold) - FURTHER, _log_odds(SAFE)
    found = replace(whole, bias=whole.bias - last + lower, threshold=torch.tensor([lower]))
    return found, kinds.harmless_below(last)


def _log_odds(risk: float) -> float:
    return math.log(risk / (1 - risk))
