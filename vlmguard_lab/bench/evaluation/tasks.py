"""The tasks of the evaluation: each returns plain JSON and can run in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from statistics import median
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.verdict.policy import GuardPolicy
from vlmguard_lab.bench.evaluation import studies
from vlmguard_lab.bench.evaluation.plan import JUDGES, TUNED_PER_CELL, WIDE, Measurement, prior
from vlmguard_lab.bench.parts import Part
from vlmguard_lab.evaluation.adaptive import attack_by_pictures, attack_by_suffixes, picture_requests
from vlmguard_lab.evaluation.arms.registry import arm_named, load_target
from vlmguard_lab.evaluation.attacks.suffixes import SuffixBudget
from vlmguard_lab.evaluation.perplexity import perplexity
from vlmguard_lab.evaluation.runner import Plan, evaluate
from vlmguard_lab.evaluation.suites.registry import load_suite
from vlmguard_lab.evaluation.tuning import tune, tuning_requests
from vlmguard_lab.testbed.requests import Cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from vlmguard_lab.evaluation.arms.base import Target

PIXEL_STEPS, TIMED_SEED = 30, 5
_SUFFIX_STEPS, _SUFFIX_TRIES = 15, 32


def part(plan: Measurement, name: str) -> Part:
    """Return a task by its name, to be run and kept."""
    return Part(name, partial(value_of, plan, name), prior(plan, name))


def value_of(plan: Measurement, name: str) -> Any:
    """Run a task and return its result."""
    kind, *rest = name.split("/")
    return TASKS[kind](plan, *rest)


@cache
def _target(name: str, folder: str) -> Target:
    return replace(load_target(folder), name=name)


def _loaded(plan: Measurement, name: str) -> Target:
    return _target(name, dict(plan.targets)[name])


def _pictures(plan: Measurement) -> int:
    """Draw every picture that suites show once, for all arms; return how many different attack prompts there are."""
    plan.work.mkdir(parents=True, exist_ok=True)
    suites = [load_suite("testbed", plan.work, limit=plan.wide, seed=seed) for seed in plan.seeds]
    for seed in (*plan.seeds, TIMED_SEED):
        load_suite("testbed-conversations", plan.work, limit=plan.narrow, seed=seed)
        load_suite("testbed", plan.work, limit=1, seed=seed)
    return len({(item.cell, item.text, item.picture) for suite in suites for item in suite.items if item.harmful})


def _tuning(plan: Measurement, target: str, arm: str) -> dict[str, Any]:
    """Choose an arm's open options on requests of the seen split; `skipped` says why an arm cannot be put there."""
    tried = arm_named(arm)
    try:
        if len(tried.grid) == 1:
            tried.around(_loaded(plan, target))
            return {"trials": []}
        found = tune(tried, _loaded(plan, target), tuning_requests(TUNED_PER_CELL))
    except EvaluationError as error:
        return {"skipped": str(error)}
    return {"trials": [{"options": t.options, "safe": round(t.safe, 4), "kept": round(t.kept, 4)} for t in found]}


def chosen(plan: Measurement, target: str, arm: str) -> dict[str, Any] | None:
    """Return an arm's tuned options on a target, `None` where it cannot be put there."""
    tuning = plan.value(f"tuning/{target}/{arm}")
    if "skipped" in tuning:
        return None
    return tuning["trials"][0]["options"] if tuning["trials"] else {}


def _cells(plan: Measurement, target: str, arm: str) -> dict[str, Any]:
    """Ask an arm the held-out cells."""
    per_cell = plan.wide if arm in WIDE else plan.narrow
    return _asked(plan, f"cells/{target}/{arm}", target, arm, suites=["testbed"], limit=per_cell, seeds=plan.seeds)


def _conversations(plan: Measurement, target: str, arm: str) -> dict[str, Any]:
    """Ask an arm with many pictures and in conversations."""
    suites = ["testbed-conversations"]
    name = f"conversations/{target}/{arm}"
    return _asked(plan, name, target, arm, suites=suites, limit=plan.narrow, seeds=plan.seeds, judges=JUDGES[:1])


def _asked(plan: Measurement, name: str, target: str, arm: str, **settings: Any) -> dict[str, Any]:
    options = chosen(plan, target, arm)
    if options is None:
        return {"skipped": True}
    out = plan.answers(name)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "pictures").exists():
        (out / "pictures").symlink_to((plan.work / "pictures").resolve())
    asked: Plan = Plan(**{"judges": JUDGES, **settings}, arms=[arm], options={arm: options})
    loaded = _loaded(plan, target)
    found, rows = evaluate(asked, out, target=loaded)
    notice = GuardPolicy().refusal.partition("{")[0]
    said = [row.answer for row in rows if row.judge == JUDGES[0] and not row.answer.startswith(notice)]
    model = loaded.weights.model
    return {
        "options": found["arms"][arm]["options"],
        "perplexity": round(perplexity(loaded.weights, said), 2) if any(map(str.strip, said)) else None,
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _latency(plan: Measurement, arm: str) -> dict[str, Any]:
    """Ask one request of every cell, one after the other, and return the median seconds of an answer."""
    options = chosen(plan, "testbed", arm)
    if options is None:
        return {"skipped": True}
    out = plan.answers(f"latency/{arm}")
    asked = Plan(
        ["testbed"], arms=[arm], judges=JUDGES[:1], limit=1, seeds=[TIMED_SEED], concurrency=1, options={arm: options}
    )
    _, rows = evaluate(asked, out, target=_loaded(plan, "testbed"))
    return {"median": round(median(row.seconds for row in rows), 3), "n": len(rows)}


def _attack(plan: Measurement, arm: str, eps: str) -> dict[str, Any]:
    """Attack an arm of the testbed by PGD on the picture."""
    asked, options = picture_requests(plan.attacked), chosen(plan, "testbed", arm) or {}
    return attack_by_pictures(arm_named(arm), _loaded(plan, "testbed"), asked, int(eps), PIXEL_STEPS, **options)


def _suffixes(plan: Measurement, arm: str) -> dict[str, Any]:
    """Attack an arm of the testbed by words behind the request."""
    asked = Cell("textual", "text", harmful=True).sample(plan.suffixed, seed=11)
    budget, options = SuffixBudget(steps=_SUFFIX_STEPS, candidates=_SUFFIX_TRIES), chosen(plan, "testbed", arm) or {}
    return attack_by_suffixes(arm_named(arm), _loaded(plan, "testbed"), asked, budget, **options)


def _sweeps(plan: Measurement) -> Any:
    return studies.sweeps(_loaded(plan, "testbed"))


def _parts(plan: Measurement) -> Any:
    return studies.policies(_loaded(plan, "testbed"))


def _states(plan: Measurement) -> Any:
    return studies.states(_loaded(plan, "testbed"))


def _transfer(plan: Measurement) -> Any:
    return studies.transfer({name: _loaded(plan, name) for name, _ in plan.targets})


TASKS: dict[str, Callable[..., Any]] = {
    "pictures": _pictures,
    "tuning": _tuning,
    "cells": _cells,
    "conversations": _conversations,
    "latency": _latency,
    "attack": _attack,
    "suffixes": _suffixes,
    "sweeps": _sweeps,
    "parts": _parts,
    "states": _states,
    "transfer": _transfer,
}
