"""Every family by name, and their requests as suites."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

from langchain_vlmguard.errors import EvaluationError
from vlmguard_lab.evaluation.suites.base import Suite, SuiteCard
from vlmguard_lab.reference.families.sights import SIGHT_FAMILIES
from vlmguard_lab.reference.families.words import WORD_FAMILIES

if TYPE_CHECKING:
    from vlmguard_lab.evaluation.suites.base import Item
    from vlmguard_lab.reference.families.base import Family, Sources
    from vlmguard_lab.reference.labels import Split

FAMILIES: dict[str, Family] = {family.name: family for family in (*WORD_FAMILIES, *SIGHT_FAMILIES)}


def suite_of(
    name: str, sources: Sources, *, split: Split | Literal["both"] = "held_out", limit: int | None = None, seed: int = 0
) -> Suite:
    """Return a family's requests as a suite.

    Args:
        name: The family.
        sources: Where requests and pictures come from.
        split: The half; `seen` is for choosing thresholds and layers, `held_out` for figures. Neither is for training.
        limit: Most requests of a family that are harmful, and most that are not, as evenly from its variants as they reach.
        seed: Decides which.

    Raises:
        EvaluationError: There is no such family.
        SuiteError: A public set is missing.
    """
    if name not in FAMILIES:
        msg = f"no family {name!r}; there are {', '.join(FAMILIES)}"
        raise EvaluationError(msg)
    items = [item for item in FAMILIES[name].make(sources) if split == "both" or item.cell.endswith(f"/{split}")]
    unique = list({item.id: item for item in items}.values())
    kept = unique if limit is None else _evenly(unique, limit, seed)
    card = SuiteCard(
        f"reference-{name}", FAMILIES[name].about, "see the sets' own", "test only", "vlmguard_lab.reference"
    )
    return Suite(card, tuple(kept))


def _evenly(items: list[Item], limit: int, seed: int) -> list[Item]:
    rng = random.Random(seed)
    kept: set[str] = set()
    for harmful in (True, False):
        groups: dict[str, list[Item]] = {}
        for item in items:
            if item.harmful == harmful:
                groups.setdefault(item.cell, []).append(item)
        queues = [rng.sample(group, len(group)) for group in groups.values()]
        taken = 0
        while taken < limit and any(queues):
            for queue in queues:
                if queue and taken < limit:
                    kept.add(queue.pop().id)
                    taken += 1
    return [item for item in items if item.id in kept]
