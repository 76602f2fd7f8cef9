"""Run suites through arms on inspect_ai; what was finished before a kill is not run again."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from inspect_ai import Task, eval_set
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries

from langchain_vlmguard.cli.program import plain_interrupts
from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import write_json, write_text
from vlmguard_lab.evaluation.arms.registry import arm_named, load_target
from vlmguard_lab.evaluation.judges import MODEL_JUDGES, RULE_JUDGES
from vlmguard_lab.evaluation.progress import Meter
from vlmguard_lab.evaluation.provider import as_inspect_model
from vlmguard_lab.evaluation.results import rows_of, summarise
from vlmguard_lab.evaluation.suites.registry import check_suite, load_suite
from vlmguard_lab.evaluation.tasks import dataset
from vlmguard_lab.facts import run_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inspect_ai.log import EvalLog
    from inspect_ai.scorer import Scorer
    from langchain_core.language_models import BaseChatModel

    from vlmguard_lab.evaluation.arms.base import Defence, Target
    from vlmguard_lab.evaluation.results import Row
    from vlmguard_lab.evaluation.suites.base import Suite, SuiteCard

RESULTS, PLAN = "results.json", "plan.json"


@dataclass(frozen=True)
class Plan:
    """What to evaluate."""

    suites: Sequence[str | Suite]
    """By name, or read already."""

    model: str = "testbed"
    arms: Sequence[str] = ("none", "steering")
    judges: Sequence[str] = ()
    """Judges by name; the oracle for the testbed, refusal strings for other suites when empty."""

    judge_model: BaseChatModel | None = None
    seeds: Sequence[int] = (0,)
    limit: int | None = None
    """Most items of a cell and harm class."""

    against: str = ""
    """The arm that others are compared with; the first when empty."""

    max_tokens: int | None = None
    concurrency: int = 64
    cost_limit: float | None = None
    """Passed to inspect_ai: stops a sample that costs more."""

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of single arms, e.g. `{"amplify": {"alpha": 2.0}}`."""


def evaluate(
    plan: Plan,
    out: Path,
    *,
    target: Target | None = None,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _all: None,
) -> tuple[dict[str, Any], list[Row]]:
    """Run a plan and write `results.json`, `answers.jsonl` and inspect_ai's logs (`inspect view --log-dir OUT/logs`).

    Args:
        plan: Suites, target, arms, judges, seeds.
        out: Folder for everything; given again, finished tasks are read from its logs and the rest is run.
        target: A target in memory, instead of the plan's model.
        progress: Told the name of the task under way, and how many requests of how many of the whole plan are answered.

    Returns:
        The results as written, and every row.

    Raises:
        EvaluationError: The plan names what there is not, or `out` holds another plan's logs.
        RuntimeError: A task did not finish.
    """
    measured, seconds = run_facts("inspect-ai"), 0.0
    _check_names(plan)
    mine = _checked_plan(plan, out)
    asked = [
        (seed, load_suite(spec, out, limit=plan.limit, seed=seed) if isinstance(spec, str) else spec)
        for spec in plan.suites
        for seed in plan.seeds
    ]
    meter = Meter(progress, sum(len(suite.items) for _, suite in asked) * len(plan.arms))
    target = target or load_target(plan.model, max_tokens=plan.max_tokens)
    write_json(out / PLAN, mine, indent=None)
    rows: list[Row] = []
    arms: dict[str, dict[str, Any]] = {}
    cards: dict[str, SuiteCard] = {suite.card.name: suite.card for _, suite in asked}
    for seed, suite in asked:
        for name in plan.arms:
            meter.begin(f"{suite.card.name} / {name} / seed {seed}")
            found, took = _run(suite, name, seed, plan, target, out, arms, meter)
            meter.end(len(suite.items))
            rows += found
            seconds += took
    facts = {
        "date": measured["date"],
        "machine": measured["machine"],
        "seconds": round(seconds, 1),
        "versions": measured["versions"],
        "target": target.name,
        "suites": {name: vars(card) for name, card in cards.items()},
        "arms": arms,
        "seeds": list(plan.seeds),
    }
    results = summarise(rows, against=plan.against or plan.arms[0], facts=facts)
    write_text(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "answers.jsonl", "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in rows))
    return results, rows


def _run(
    suite: Suite,
    name: str,
    seed: int,
    plan: Plan,
    target: Target,
    out: Path,
    arms: dict[str, dict[str, Any]],
    meter: Meter,
) -> tuple[list[Row], float]:
    arm = arm_named(name)
    defence = arm.around(target, **plan.options.get(name, {}))
    settings = hashlib.sha256(json.dumps(defence.options, sort_keys=True).encode()).hexdigest()[:8]
    task_name = f"{suite.card.name}-{name}-{seed}-{settings}"
    arms[name] = {**vars(arm.card), "options": defence.options}
    logs = out / "logs" / task_name
    log = _finished(logs, suite)
    if log is None:
        log = _asked(_task(plan, suite, defence, f"{target.name}@{name}", task_name, meter), logs, plan)
    return rows_of(log, suite, name, seed), _seconds(log)


def _finished(logs: Path, suite: Suite) -> EvalLog | None:
    """Return the log of a task that was finished over the same items, if there is one."""
    for file in sorted(logs.glob("*.eval"), reverse=True):
        if read_eval_log(str(file), header_only=True).status == "success":
            log = read_eval_log(str(file))
            if {str(sample.id) for sample in log.samples or ()} == {item.id for item in suite.items}:
                return log
    return None


def _task(plan: Plan, suite: Suite, defence: Defence, model: str, name: str, meter: Meter) -> Task:
    """Return the inspect_ai task that asks a suite of a defence."""
    return Task(
        dataset=dataset(suite.items, suite.card.name),
        solver=meter.counting(defence.solver()),
        scorer=_scorers(plan, suite),
        model=as_inspect_model(model, defence.build, concurrency=plan.concurrency),
        name=name,
        cost_limit=plan.cost_limit,
    )


def _asked(task: Task, logs: Path, plan: Plan) -> EvalLog:
    with plain_interrupts():
        done, found = eval_set(
            task,
            log_dir=str(logs),
            display="none",
            log_level="warning",
            max_samples=plan.concurrency,
            log_images=False,
            log_model_api=False,
            log_realtime=False,
            score_display=False,
            retry_attempts=1,
            fail_on_error=True,
        )
    if not found or any(log.status == "cancelled" for log in found):
        raise KeyboardInterrupt  # inspect_ai may keep it for itself
    if not done:
        error = found[0].error.message if found and found[0].error else "no log was written"
        msg = f"{task.name} did not finish: {error}"
        raise RuntimeError(msg)
    return read_eval_log(found[0].location)


def _seconds(log: EvalLog) -> float:
    """Return how long a task ran, from its log, so that a resumed run does not forget it."""
    started, ended = (datetime.fromisoformat(str(at)) for at in (log.stats.started_at, log.stats.completed_at))
    return (ended - started).total_seconds()


def _scorers(plan: Plan, suite: Suite) -> list[Scorer]:
    return _judges_of(
        plan.judges or (["oracle"] if suite.card.name.startswith("testbed") else ["refusal_strings"]), plan
    )


def _judges_of(names: Sequence[str], plan: Plan) -> list[Scorer]:
    found: list[Scorer] = []
    for name in names:
        if name in RULE_JUDGES:
            found.append(RULE_JUDGES[name]())
        elif name in MODEL_JUDGES and plan.judge_model is not None:
            found.append(MODEL_JUDGES[name](plan.judge_model))
        else:
            missing = "needs a judge model" if name in MODEL_JUDGES else "is not known"
            msg = f"the judge {name!r} {missing}; there are {', '.join([*RULE_JUDGES, *MODEL_JUDGES])}"
            raise EvaluationError(msg)
    return found


def _check_names(plan: Plan) -> None:
    """Check every name of a plan before anything is loaded or written."""
    if not plan.arms:
        msg = "name at least one arm"
        raise EvaluationError(msg)
    for name in plan.arms:
        arm_named(name)
    for spec in plan.suites:
        if isinstance(spec, str):
            check_suite(spec)
    _judges_of(plan.judges, plan)


def _checked_plan(plan: Plan, out: Path) -> dict[str, Any]:
    """Return what a folder of answers is of; refuse to mix two plans' answers. Arms and seeds may be added."""
    file, logs = out / PLAN, out / "logs"
    mine = {"model": plan.model, "limit": plan.limit, "max_tokens": plan.max_tokens, "judges": list(plan.judges)}
    if file.is_file() and logs.is_dir() and (theirs := json.loads(file.read_text())) != mine:
        if _holds_answers(logs):
            msg = f"{out} holds answers of another plan ({theirs}, not {mine}): choose another folder or delete it"
            raise EvaluationError(msg)
        shutil.rmtree(logs)
    return mine


def _holds_answers(logs: Path) -> bool:
    """Whether any request was answered; a log that cannot be read may hold some."""
    for file in logs.rglob("*.eval"):
        try:
            if any(summary.error is None for summary in read_eval_log_sample_summaries(file)):
                return True
        except (OSError, ValueError, KeyError, BadZipFile):
            return file.stat().st_size > 0
    return False
