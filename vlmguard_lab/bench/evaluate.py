"""Measure every arm on testbeds of several architectures: docs/results/evaluation.json, its figures, docs/evaluation.md's tables.

python bench/evaluate.py                      # the shipped testbed; stopped and started again, it goes on where it was
python bench/evaluate.py --target testbed=testbed --target qwen2_vl=FOLDER --target gemma3=FOLDER
python bench/evaluate.py --again full,full_fast --kinds cells   # these arms' answers anew, all else as it is in the file
python bench/evaluate.py --publish-only       # figures and tables again, from docs/results/evaluation.json
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench import evaluation_page as page
from vlmguard_lab.bench.evaluation_tasks import (
    CONVERSED,
    JUDGES,
    SLOW,
    WIDE,
    Measurement,
    prior,
    run,
    start_worker,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmguard_lab.evaluation.results import Row

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/results/evaluation.json"


def main() -> None:
    """Run what is not there yet, then publish."""
    given = _options()
    if not given.publish_only:
        plan = _plan(given)
        measure(plan, given.jobs)
        found = renewed(json.loads(RESULTS.read_text()), plan) if given.again else gather(plan)
        RESULTS.write_text(page.as_json(found), encoding="utf-8")
    page.publish(json.loads(RESULTS.read_text()))


def measure(plan: Measurement, jobs: int) -> None:
    """Run every task that has no result yet, some at a time; each result is kept as soon as it is there."""
    _check_same_counts(plan)
    first, other = list(plan.first_tasks()), list(plan.other_tasks())
    clock = _Clock(plan, [*first, *other], jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=start_worker) as pool:
        for names in (first, other):
            waiting = {pool.submit(run, plan, name): name for name in names if not plan.file(name).is_file()}
            for done in as_completed(waiting):
                clock.tick(waiting[done], done.result())


def _check_same_counts(plan: Measurement) -> None:
    """Refuse to go on from results of other counts or other weights; targets and arms may be added."""
    mine = {
        "counts": [plan.wide, plan.narrow, list(plan.seeds), plan.attacked, plan.suffixed],
        "targets": dict(plan.targets),
    }
    file = plan.work / "plan.json"
    theirs = json.loads(file.read_text()) if file.is_file() else mine
    moved = [name for name, folder in mine["targets"].items() if theirs["targets"].get(name, folder) != folder]
    if theirs["counts"] != mine["counts"] or moved:
        msg = f"{plan.work} holds results of another measurement ({theirs}, not {mine}): choose another --work or delete it"
        raise SystemExit(msg)
    plan.work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**mine, "targets": theirs["targets"] | mine["targets"]}))


class _Clock:
    """Says how long the rest will take: the prior estimate, scaled by how the finished tasks compared with theirs."""

    def __init__(self, plan: Measurement, names: Sequence[str], jobs: int) -> None:
        self._plan, self._jobs, self._started = plan, jobs, time.monotonic()
        self._left = {name: prior(plan, name) for name in names if not plan.file(name).is_file()}
        self._expected = self._taken = 0.0
        minutes = sum(self._left.values()) / jobs / 60
        print(
            f"{len(self._left)} of {len(names)} tasks to run on {jobs} cores, about {minutes:.0f} minutes", flush=True
        )

    def tick(self, name: str, seconds: float) -> None:
        """Report a finished task."""
        self._expected += self._left.pop(name)
        self._taken += seconds
        scale = self._taken / self._expected if self._expected else 1.0
        left = scale * sum(self._left.values()) / self._jobs / 60
        passed = (time.monotonic() - self._started) / 60
        print(f"{name}: {seconds:.0f} s; {passed:.0f} min so far, about {left:.0f} to go", flush=True)


def gather(plan: Measurement) -> dict[str, Any]:
    """Put every task's result together."""
    return {
        **_circumstances(plan),
        "seeds": list(plan.seeds),
        "per_cell": {"wide": plan.wide, "narrow": plan.narrow},
        "wide": [arm for arm in WIDE if arm in plan.arms],
        "distinct": plan.value("pictures"),
        **_answers(plan),
        "latency": {arm: plan.value(f"latency/{arm}") for arm in plan.arms},
        "attacks": _attacks(plan),
        **{name: plan.value(name) for name in ("sweeps", "parts", "states", "transfer")},
    }


def _circumstances(plan: Measurement) -> dict[str, Any]:
    from vlmguard_lab.evaluation.results import machine, versions

    tasks = [*plan.first_tasks(), *plan.other_tasks()]
    seconds = sum(json.loads(plan.file(name).read_text())["seconds"] for name in tasks)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return {"date": date, "machine": machine(), "seconds": round(seconds), "versions": versions()}


def _answers(plan: Measurement) -> dict[str, Any]:
    """Return what the arms answered."""
    found = {name: {arm: _rows(plan, f"cells/{name}/{arm}") for arm in plan.arms} for name, _ in plan.targets}
    talked = [arm for arm in CONVERSED if arm in plan.arms and (plan.kinds is None or "conversations" in plan.kinds)]
    talks = {name: {arm: _rows(plan, f"conversations/{name}/{arm}") for arm in talked} for name, _ in plan.targets}
    return {
        "targets": {name: _of_target(plan, name, found[name]) for name, _ in plan.targets},
        "arms": {arm: _card(arm) for arm in plan.arms},
        **_over_targets(found),
        "conversations": _over_targets(talks)["pooled"] if talked else [],
    }


def _attacks(plan: Measurement) -> dict[str, list[dict[str, Any]]]:
    tasks = list(plan.other_tasks())
    return {
        "pictures": [plan.value(name) for name in tasks if name.startswith("attack/")],
        "suffixes": [plan.value(name) for name in tasks if name.startswith("suffixes/")],
    }


def renewed(old: dict[str, Any], plan: Measurement) -> dict[str, Any]:
    """Return earlier results with those of some arms in their place; `again` says which, when and where."""
    from vlmguard_lab.evaluation.arms.registry import ARMS

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

    new, attacks = _answers(plan), _attacks(plan)
    targets = {}
    for name, was in old["targets"].items():
        now = new["targets"][name]
        targets[name] = was | {
            key: by_arm(was[key], now[key]) for key in ("options", "skipped", "tuning", "perplexity")
        }
        targets[name] |= {key: rows(was[key], now[key]) for key in ("pooled", "cells")}
    arms = by_arm(old["arms"], new["arms"])
    renewal = {"arms": [arm for arm in plan.arms if arm != "none"], "kinds": plan.kinds, **_circumstances(plan)}
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
    from vlmguard_lab.evaluation.arms.registry import arm_named

    return vars(arm_named(arm).card)


def _of_target(plan: Measurement, name: str, rows: dict[str, list[Row]]) -> dict[str, Any]:
    """Return what is published of one target."""
    from vlmguard_lab.evaluation.results import summarise

    every = [row for found in rows.values() for row in found]
    exact = [row for row in every if row.judge == JUDGES[0]]
    summary = summarise(exact, against="none", facts={}, seconds=0)
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


def _over_targets(found: dict[str, dict[str, list[Row]]]) -> dict[str, Any]:
    """Pool every target's answers; prompts are compared within a target."""
    from dataclasses import replace

    from vlmguard_lab.evaluation.results import summarise

    rows = [
        replace(row, item=f"{name}:{row.item}") for name, arms in found.items() for arm in arms.values() for row in arm
    ]
    exact = [row for row in rows if row.judge == JUDGES[0]]
    summary = summarise(exact, against="none", facts={}, seconds=0)
    agreement = summarise(rows, against="none", facts={}, seconds=0)["agreement"]
    return {"pooled": summary["pooled"], "cells": summary["cells"], "pairs": summary["pairs"], "agreement": agreement}


def _rows(plan: Measurement, name: str) -> list[Row]:
    """Return the answers of a task that asked a suite, none where the arm was skipped."""
    from vlmguard_lab.evaluation.results import Row

    if "skipped" in plan.value(name):
        return []
    return [Row(**json.loads(line)) for line in (plan.answers(name) / "answers.jsonl").read_text().splitlines()]


def _plan(given: argparse.Namespace) -> Measurement:
    from vlmguard_lab.evaluation.arms.registry import ARMS

    targets = tuple(tuple(one.split("=", 1)) for one in given.target) or (("testbed", "testbed"),)
    if targets[0] != ("testbed", "testbed") or len(dict(targets)) != len(targets):
        msg = "the first target is testbed=testbed, which attacks and sweeps are made on; the others have names of their own"
        raise SystemExit(msg)
    arms = tuple(given.arms.split(",")) if given.arms else tuple(name for name in ARMS if name not in SLOW)
    if given.again:
        arms = ("none", *given.again.split(","))
    elif missing := {"none", "steering", *page.GUARDS} - set(arms):
        msg = f"the page compares with {', '.join(sorted(missing))}: name it in --arms too"
        raise SystemExit(msg)
    return Measurement(
        given.work,
        targets,
        arms,
        wide=given.wide,
        narrow=min(given.narrow, given.wide),
        seeds=tuple(int(seed) for seed in given.seeds.split(",")),
        attacked=given.attacked,
        suffixed=given.suffixed,
        kinds=tuple(dict.fromkeys(("cells", *given.kinds.split(",")))) if given.again else None,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build/evaluation", help="answers, logs and finished tasks")
    parser.add_argument("--target", action="append", default=[], metavar="NAME=FOLDER", help="the testbed first")
    parser.add_argument("--jobs", type=int, default=2, help="tasks at a time, a core each")
    parser.add_argument("--wide", type=int, default=50, help="requests a cell and seed for " + ", ".join(WIDE))
    parser.add_argument("--narrow", type=int, default=10, help="requests a cell and seed for the other arms")
    parser.add_argument("--attacked", type=int, default=48, help="requests attacked by pictures")
    parser.add_argument("--suffixed", type=int, default=12, help="requests attacked by suffixes")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--arms", default="", help="comma-separated; all when empty")
    parser.add_argument("--again", default="", help="comma-separated arms: measure their answers anew, keep all else")
    parser.add_argument("--kinds", default="cells,conversations", help="with --again: attack and suffixes, too")
    parser.add_argument("--publish-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
