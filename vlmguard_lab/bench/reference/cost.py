"""What a defence costs: seconds of the same requests with and without it, in turns."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from vlmguard_lab.bench.reference.loaded import target
from vlmguard_lab.bench.reference.sight import showing
from vlmguard_lab.evaluation.arms.registry import arm_named
from vlmguard_lab.evaluation.provider import messages_for
from vlmguard_lab.reference.families.registry import suite_of
from vlmguard_lab.reference.pictures import open_on_white

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from vlmguard_lab.bench.reference.plan import Measurement

TIMED = ("steering", "gate_refuses", "inferaligner", "cmrm", "nullsteer")
"""Arms whose cost lies in the model's own call; prompts and captions cost what their tokens cost."""


def cost_of(plan: Measurement, arm: str) -> dict[str, Any]:
    """Return `{"arm", "n", "ratio_to_plain_median", "ratio_of_totals"}`, one request at a time, half of them pictured."""
    around = target(plan.checkpoint, plan.tokens)
    plain, defended = (arm_named(name).around(around).build([]) for name in ("none", arm))
    ratios, totals = [], [0.0, 0.0]
    for number, messages in enumerate(_requests(plan)):
        pair = ((0, plain), (1, defended))
        taken = [0.0, 0.0]
        for which, runnable in pair if number % 2 else pair[::-1]:
            began = time.perf_counter()
            runnable.invoke(messages_for(runnable, messages))
            taken[which] = time.perf_counter() - began
            totals[which] += taken[which]
        ratios.append(taken[1] / taken[0])
    return {
        "arm": arm,
        "n": len(ratios),
        "ratio_to_plain_median": round(statistics.median(ratios), 3),
        "ratio_of_totals": round(totals[1] / totals[0], 3),
    }


def _requests(plan: Measurement) -> list[list[BaseMessage]]:
    half = max(1, plan.counts.pairs // 2)
    found: list[list[BaseMessage]] = []
    for family in ("harmless", "harmless_shown"):
        for item in suite_of(family, plan.sources, limit=half).items:
            seen = open_on_white(item.picture) if item.picture else None
            found.append([showing(seen, item.text) if seen else HumanMessage(item.text)])
    return found
