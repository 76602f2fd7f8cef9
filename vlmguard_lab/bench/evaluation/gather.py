"""The evaluation's results, put together from its finished tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.evaluation.plan import CONVERSED, JUDGES, WIDE
from vlmguard_lab.evaluation.arms.registry import ARMS, arm_named
from vlmguard_lab.evaluation.results import Row, summarise

if TYPE_CHECKING:
    from vlmguard_lab.bench.evaluation.plan import Measurement


def gather(plan: Measurement, facts: dict[str, Any]) -> dict[str, Any]:
    """Put every task's result together, with the facts of the run."""
    return {
        **facts,
        "seconds": _seconds(plan),
        "seeds": list(plan.seeds),
        "per_cell": {"wide": plan.wide, "narrow": plan.narrow},
        "wide": [arm for arm in WIDE if arm in plan.arms],
        "distinct": plan.value("pictures"),
        **answers(plan),
        "latency": {arm: plan.value(f"latency/{arm}") for arm in plan.arms},
        "attacks": _attacks(plan),
        **{name: plan.value(name) for name in ("sweeps", "parts", "states", "transfer")},
    }


def _seconds(plan: Measurement) -> int:
    """Return how long all tasks took on one core."""
    return round(sum(map(plan.finished.seconds, [*plan.first_tasks(), *plan.other_tasks()])))


def answers(plan: Measurement) -> dict[str, Any]:
    """Return what the arms answered."""
    found = {name: {arm: rows_of(plan, f"cells/{name}/{arm}") for arm in plan.arms} for name, _ in plan.targets}
    talked = [arm for arm in CONVERSED if arm in plan.arms and (plan.kinds is None or "conversations" in plan.kinds)]
    talks = {name: {arm: rows_of(plan, f"conversations/{name}/{arm}") for arm in talked} for name, _ in plan.targets}
    return {
        "targets": {name: _of_target(plan, name, found[name]) for name, _ in plan.targets},
        "arms": {arm: _card(arm) for arm in plan.arms},
        **over_targets(found),
        "conversations": over_targets(talks)["pooled"] if talked else [],
    }


def _attacks(plan: Measurement) -> dict[str, list[dict[str, Any]]]:
    tasks = list(plan.other_tasks())
    return {
        "pictures": [plan.value(name) for name in tasks if name.startswith("attack/")],
        "suffixes": [plan.value(name) for name in tasks if name.startswith("suffixes/")],
    }


def renewed(old: dict[str, Any], plan: Measurement, facts: dict[str, Any]) -> dict[str, Any]:
    """Return earlier results with those of some arms in their place; `again` says which, when and where."""
    order = list(ARMS)

    def rows(before: list[Any], after: list[Any]) -> list[Any]:
        new = [row for row in after if row["arm"] != "none"]
        fresh = {(row["arm"], row.get("eps")) for row in new}
        both = [*(row for row in before if (row["arm"], row.get("eps")) not in fresh), *new]
        arms = dict.fromkeys(row["arm"] for row in [*before, *new])
        return [row for arm in arms for row in both if row["arm"] == arm]

    def by_arm(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        both = before | {arm: value for arm, value in after.items() if arm != "none"}
        return {arm: both[arm] for arm in order if arm in both}

    new, attacks = answers(plan), _attacks(plan)
    targets = {}
    for name, was in old["targets"].items():
        now = new["targets"][name]
        targets[name] = was | {
            key: by_arm(was[key], now[key]) for key in ("options", "skipped", "tuning", "perplexity")
        }
        targets[name] |= {key: rows(was[key], now[key]) for key in ("pooled", "cells")}
    arms = by_arm(old["arms"], new["arms"])
    renewal = {
        "arms": [arm for arm in plan.arms if arm != "none"],
        "kinds": plan.kinds,
        **facts,
        "seconds": _seconds(plan),
    }
    return {
        **old,
        "again": [*old.get("again", []), renewal],
        "wide": [arm for arm in WIDE if arm in arms],
        "targets": targets,
        "arms": arms,
        **{key: rows(old[key], new[key]) for key in ("pooled", "cells", "pairs", "conversations")},
        "attacks": {key: rows(old["attacks"][key], attacks[key]) for key in attacks},
    }


def _card(arm: str) -> dict[str, Any]:
    return vars(arm_named(arm).card)


def _of_target(plan: Measurement, name: str, rows: dict[str, list[Row]]) -> dict[str, Any]:
    """Return what is published of one target."""
    every = [row for found in rows.values() for row in found]
    exact = [row for row in every if row.judge == JUDGES[0]]
    summary = summarise(exact, against="none", facts={})
    asked = {arm: plan.value(f"cells/{name}/{arm}") for arm in plan.arms}
    tuning = {arm: plan.value(f"tuning/{name}/{arm}") for arm in plan.arms}
    plain = asked["none"]
    return {
        "model": plain["model"],
        "parameters": plain["parameters"],
        "options": {arm: one["options"] for arm, one in asked.items() if "skipped" not in one},
        "skipped": {arm: one["skipped"] for arm, one in tuning.items() if "skipped" in one},
        "tuning": {arm: one["trials"] for arm, one in tuning.items() if one.get("trials")},
        "perplexity": {arm: one["perplexity"] for arm, one in asked.items() if "skipped" not in one},
        "pooled": summary["pooled"],
        "cells": [row for row in summary["cells"] if row["arm"] in WIDE],
    }


def over_targets(found: dict[str, dict[str, list[Row]]]) -> dict[str, Any]:
    """Pool every target's answers; prompts are compared within a target."""
    rows = [
        replace(row, item=f"{name}:{row.item}") for name, arms in found.items() for arm in arms.values() for row in arm
    ]
    exact = [row for row in rows if row.judge == JUDGES[0]]
    summary = summarise(exact, against="none", facts={})
    agreement = summarise(rows, against="none", facts={})["agreement"]
    return {"pooled": summary["pooled"], "cells": summary["cells"], "pairs": summary["pairs"], "agreement": agreement}


def rows_of(plan: Measurement, name: str) -> list[Row]:
    """Return the answers of a task that asked a suite, none where the arm was skipped."""
    if "skipped" in plan.value(name):
        return []
    return [Row(**json.loads(line)) for line in (plan.answers(name) / "answers.jsonl").read_text().splitlines()]


def as_json(results: dict[str, Any]) -> str:
    """Return results as JSON with one line for every row of every list."""
    lines = []
    for key, value in results.items():
        body = _lines(value, "  ") if isinstance(value, dict) else _listed(value, " ")
        lines.append(f" {json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: dict[str, Any], indent: str) -> str:
    inside = [
        f"{indent}{json.dumps(key)}: {_lines(one, indent + ' ') if isinstance(one, dict) else _listed(one, indent)}"
        for key, one in value.items()
    ]
    return "{\n" + ",\n".join(inside) + f"\n{indent[:-1]}}}" if inside else "{}"


def _listed(value: Any, indent: str) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = (f"{indent} {json.dumps(row, ensure_ascii=False)}" for row in value)
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
