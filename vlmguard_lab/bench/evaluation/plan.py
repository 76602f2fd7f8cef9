"""What the evaluation measures: targets, arms, counts, and the tasks that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.parts import Finished
from vlmguard_lab.evaluation.adaptive import EPS
from vlmguard_lab.evaluation.arms.registry import arm_named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WIDE = ("none", "full", "full_adaptive", "full_answer_first")
"""Arms that are asked the large sample; the others the first requests of it."""

CONVERSED = ("none", "steering", "rewriting", "full", "full_adaptive", "gate_refuses", "ecso", "shiftdc")
"""Arms that are also asked with many pictures and in conversations."""

SLOW = ("full_evidence",)
"""Arms that are measured only when they are named: OCR takes seconds a picture."""

CURVES = ("none", "steering", "gate_refuses", "full", "full_adaptive", "shiftdc", "nullsteer", "cast")
"""Arms attacked by pictures at every budget; the others at `ONE_EPS`."""

ONE_EPS = 16
ATTACKED_ONCE = ("full_answer_first", "full_fast", "rewriting", "inferaligner", "mars_style", "astra", "restore")
SUFFIXED = (
    "none",
    "steering",
    "gate_refuses",
    "rewriting",
    "full",
    "full_adaptive",
    "full_answer_first",
    "full_fast",
    "full_unjudged",
    "shiftdc",
)
JUDGES = ("oracle", "refusal_strings")
TUNED_PER_CELL = 4
"""Tuning requests a cell."""


@dataclass(frozen=True)
class Measurement:
    """What is measured, and where finished tasks lie."""

    work: Path
    targets: tuple[tuple[str, str], ...]
    """Name and folder; the testbed first."""

    arms: tuple[str, ...]
    wide: int = 50
    """Requests a cell and seed for `WIDE` arms; the first `narrow` of them for the others."""

    narrow: int = 10
    seeds: tuple[int, ...] = (0, 1)
    attacked: int = 48
    """Requests that are attacked by pictures."""

    suffixed: int = 12
    kinds: tuple[str, ...] | None = None
    """Kinds of task that are run, all when `None`; what others wait for is run in any case."""

    def first_tasks(self) -> Iterator[str]:
        """Yield the tasks that others wait for."""
        yield "pictures"
        for target, _ in self.targets:
            for arm in self.arms:
                yield f"tuning/{target}/{arm}"

    def other_tasks(self) -> Iterator[str]:
        """Yield the other tasks of the wanted kinds, longest kinds first."""
        yield from (name for name in self._others() if self.kinds is None or name.split("/")[0] in self.kinds)

    def _others(self) -> Iterator[str]:
        for target, _ in self.targets:
            yield from (f"cells/{target}/{arm}" for arm in self.arms)
        for arm in (name for name in CURVES if name in self.arms):
            yield from (f"attack/{arm}/{eps}" for eps in (0, *EPS))
        yield from (f"attack/{arm}/{ONE_EPS}" for arm in ATTACKED_ONCE if arm in self.arms)
        yield from (f"suffixes/{arm}" for arm in SUFFIXED if arm in self.arms)
        for target, _ in self.targets:
            yield from (f"conversations/{target}/{arm}" for arm in CONVERSED if arm in self.arms)
        yield from ("sweeps", "parts", "states", "transfer")
        yield from (f"latency/{arm}" for arm in self.arms)

    @property
    def finished(self) -> Finished:
        """The tasks that are finished."""
        return Finished(self.work / "tasks")

    def value(self, name: str) -> Any:
        """Return a finished task's result."""
        return self.finished.value(name)

    def answers(self, name: str) -> Path:
        """Return the folder of a task that asks a suite."""
        return self.work / "answers" / name.replace("/", "--")


_PRIOR = {"cells": 0.045, "conversations": 0.09, "latency": 0.2, "tuning": 0.03}
"""Seconds of one core a request, for the estimate before anything was measured."""

_SLOWNESS = {
    "none": 0.7,
    "rewriting": 1.6,
    "full": 1.6,
    "full_adaptive": 1.3,
    "full_answer_first": 1.2,
    "full_fast": 1.0,
    "ecso": 4.0,
    "shiftdc": 2.0,
    "full_evidence": 60.0,
}
_FIXED = {"pictures": 30.0, "sweeps": 40.0, "parts": 120.0, "states": 10.0, "transfer": 20.0}
_ATTACKS = {"attack": 0.65, "suffixes": 3.0}
"""Seconds of one core an attacked request."""


def prior(plan: Measurement, name: str) -> float:
    """Return about how many seconds of one core a task takes, before anything was measured."""
    kind, *rest = name.split("/")
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _ATTACKS:
        return 2 + _ATTACKS[kind] * (plan.attacked if kind == "attack" else plan.suffixed)
    arm = rest[-1]
    requests = 22 * len(plan.seeds) * (plan.wide if arm in WIDE else plan.narrow)
    counts = {"cells": requests, "conversations": 4 * plan.narrow * len(plan.seeds), "latency": 22}
    settings = len(arm_named(arm).grid)
    counts["tuning"] = 32 * (1 + settings) if settings > 1 else 0
    return 1 + counts[kind] * _PRIOR[kind] * _SLOWNESS.get(arm, 1.0)
