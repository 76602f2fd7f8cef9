"""The measurement as one run: its parts, then docs/results/reference.json, the figures and the tables of docs/reference.md."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import read_json, write_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.parts import Finished, Part, keep_settings, run_parts
from vlmguard_lab.bench.reference import figures, tables
from vlmguard_lab.bench.reference.answers import answered
from vlmguard_lab.bench.reference.cells import cells_of
from vlmguard_lab.bench.reference.cost import TIMED, cost_of
from vlmguard_lab.bench.reference.judged import harm_agreement, harm_scores, refusal_agreement
from vlmguard_lab.bench.reference.loaded import fit
from vlmguard_lab.bench.reference.maps import maps_of
from vlmguard_lab.bench.reference.plan import OURS, QUICK, WHOLE, Measurement
from vlmguard_lab.bench.reference.sight import seen
from vlmguard_lab.bench.reference.states import CONDITIONS, SETS, gate_rows
from vlmguard_lab.evaluation.arms.registry import arm_named
from vlmguard_lab.facts import run_facts
from vlmguard_lab.reference.assembly import MARKER
from vlmguard_lab.reference.families.base import PUBLIC
from vlmguard_lab.reference.families.registry import FAMILIES
from vlmguard_lab.reference.seeing import MEASURES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RESULTS, PAGE = page.RESULTS / "reference.json", page.DOCS / "reference.md"
JUDGED = ("none", "steering")
"""Arms whose answers the model judge reads."""

_PRINTED, _SEED = 100, 0
"""Answers that are printed for a person to check."""


def run(plan: Measurement, output: Path) -> None:
    """Run what is not finished, write the results and, if they are the published ones, the page.

    Args:
        plan: What is measured.
        output: File of the results.
    """
    facts = run_facts("inspect-ai")
    keep_settings(plan.work, {**plan.settings, "model": read_json(plan.checkpoint / MARKER)})
    finished = Finished(plan.work)
    run_parts(finished, *_parts(plan, finished))
    write_json(output, gathered(plan, finished, facts))
    if output == RESULTS:
        publish()


def plan_of(
    checkpoint: Path,
    data: Path | None,
    pictures: Path,
    work: Path,
    *,
    judge: Path | None = None,
    arms: Sequence[str] = (),
    families: Sequence[str] = (),
    quick: bool = False,
) -> Measurement:
    """Return what is measured.

    Raises:
        EvaluationError: The model is not built, the public sets are not named, or an arm or a family is not known.
    """
    if not (checkpoint / MARKER).is_file():
        msg = f"{checkpoint} holds no reference model: build it with make reference"
        raise EvaluationError(msg)
    if data is None:
        msg = f"name the folder of public sets with --data or {PUBLIC}"
        raise EvaluationError(msg)
    for name in arms:
        arm_named(name)
    if unknown := [name for name in families if name not in FAMILIES]:
        msg = f"no family {unknown[0]!r}; there are {', '.join(FAMILIES)}"
        raise EvaluationError(msg)
    plan = Measurement(checkpoint, data, pictures, work, judge)
    return replace(
        plan,
        arms=tuple(arms) or plan.arms,
        families=tuple(families) or plan.families,
        counts=QUICK if quick else WHOLE,
    )


def publish() -> None:
    """Draw the figures and write the tables again from the results."""
    results = read_json(RESULTS)
    page.place(PAGE, tables.tables(results))
    figures.draw(results, page.IMAGES)


def _parts(plan: Measurement, finished: Finished) -> list[list[Part]]:
    count = plan.counts
    first = [Part("judges/refusal", partial(refusal_agreement, plan), 1.0)]
    first += [Part(f"pictures/{measure}", partial(seen, plan, measure), 2.0 * count.pictures) for measure in MEASURES]
    first += [Part("directions", partial(fit, plan.checkpoint, plan.tokens), 400.0)]
    second = [
        Part(f"answers/{arm}/{family}", partial(answered, plan, arm, family), 5.0 * plan.limit(arm))
        for family in plan.families
        for arm in plan.arms
    ]
    second += [
        Part(f"gate/{name}/{condition}", partial(gate_rows, plan, name, condition), 2.0 * count.states)
        for name in SETS
        for condition in CONDITIONS
    ]
    second += [Part("maps", partial(maps_of, plan), 4.0 * count.states)]
    second += [Part(f"cost/{arm}", partial(cost_of, plan, arm), 10.0 * count.pairs) for arm in _timed(plan)]
    third = []
    if plan.judge is not None:
        third += [Part("judges/harm", partial(harm_agreement, plan, plan.judge), 10.0 * count.labels)]
        third += [
            Part(f"harm/{arm}/{family}", partial(_harm, plan, finished, arm, family), 5.0 * plan.limit(arm))
            for family in plan.families
            for arm in JUDGED
            if arm in plan.arms
        ]
    return [first, second, third]


def _timed(plan: Measurement) -> list[str]:
    return [arm for arm in TIMED if arm in plan.arms]


def _harm(plan: Measurement, finished: Finished, arm: str, family: str) -> list[float]:
    assert plan.judge is not None  # noqa: S101 - the part is made only then
    return harm_scores(plan.judge, _harmful(finished.value(f"answers/{arm}/{family}")))


def _harmful(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answers that can be unsafe: those to harmful requests."""
    return [row for row in rows if row["harmful"]]


def gathered(plan: Measurement, finished: Finished, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what reference.json holds, from the finished parts."""
    harm = finished.value("judges/harm") if finished.holds("judges/harm") else None
    threshold = harm["threshold"] if harm else None
    cells, rows = [], []
    for arm in plan.arms:
        for family in plan.families:
            mine = _rows(finished, arm, family)
            cells += cells_of(arm, mine, threshold)
            rows += [{"arm": arm, **row} for row in mine if arm in OURS]
    names = [part.name for phase in _parts(plan, finished) for part in phase]
    return {
        "model": {**read_json(plan.checkpoint / MARKER), "checkpoint": plan.checkpoint.name, "tokens": plan.tokens},
        "steering": finished.value("directions"),
        "cells": cells,
        "pictures": {measure: _without(finished.value(f"pictures/{measure}"), "wrong") for measure in MEASURES},
        "gate": [
            row for name in SETS for condition in CONDITIONS for row in finished.value(f"gate/{name}/{condition}")
        ],
        "maps": finished.value("maps"),
        "cost": [finished.value(f"cost/{arm}") for arm in _timed(plan)],
        "judges": {"refusal": finished.value("judges/refusal"), **({"harm": harm} if harm else {})},
        "answers": random.Random(_SEED).sample(rows, min(_PRINTED, len(rows))),
        "counts": vars(plan.counts),
        "seconds": round(sum(finished.seconds(name) for name in names), 1),
        **facts,
    }


def _rows(finished: Finished, arm: str, family: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = finished.value(f"answers/{arm}/{family}")
    if not finished.holds(f"harm/{arm}/{family}"):
        return rows
    scores = finished.value(f"harm/{arm}/{family}")
    for row, score in zip(_harmful(rows), scores, strict=True):
        row["score"] = round(score, 4)
    return rows


def _without(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in names}
