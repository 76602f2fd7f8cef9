"""Seconds of computing and by the clock; and pairs that take turns, so that a neighbour's load falls on both."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        """Start."""
        self._computing, self._clock = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Return the seconds that this process has computed, and those that have passed by the clock."""
        return time.process_time() - self._computing, time.perf_counter() - self._clock


def paired(one: Callable[[], object], other: Callable[[], object], pairs: int) -> list[float]:
    """Return the ratios other/one of turns taken in random order."""
    ratios = []
    order = random.Random(0)
    for _ in range(pairs):
        first_is_one = order.getrandbits(1)
        times = {}
        for step in (one, other) if first_is_one else (other, one):
            started = time.perf_counter()
            step()
            times[step] = time.perf_counter() - started
        ratios.append(times[other] / times[one])
    return ratios


def summary(ratios: list[float]) -> dict[str, float | int]:
    """Return the median of paired ratios with its 95 % bootstrap interval."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(500))
    return {
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(medians[12], 4),
        "ratio_max": round(medians[487], 4),
        "runs": len(ratios),
    }
