"""The evaluation as one run: its tasks, then docs/results/evaluation.json, the figures and the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import read_json, write_json, write_text
from vlmguard_lab.bench import page, result_lines
from vlmguard_lab.bench.evaluation import figures, tables
from vlmguard_lab.bench.evaluation.gather import as_json, gather, renewed
from vlmguard_lab.bench.evaluation.plan import SLOW, Measurement
from vlmguard_lab.bench.evaluation.tasks import part
from vlmguard_lab.bench.parts import another_measurement, run_parts
from vlmguard_lab.evaluation.arms.registry import ARMS
from vlmguard_lab.facts import run_facts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RESULTS, PAGE = page.RESULTS / "evaluation.json", page.DOCS / "testbed_results.md"
WORK = page.ROOT / "build" / "evaluation"
TESTBED = ("testbed", "testbed")


def run(plan: Measurement, *, jobs: int, again: bool) -> None:
    """Run what is not finished, write the results and publish them.

    Args:
        plan: What is measured.
        jobs: Tasks at a time, a core each.
        again: Whether the plan's arms take the place of what is published of them, and all else is kept.
    """
    facts = run_facts("inspect-ai")
    measure(plan, jobs)
    found = renewed(read_json(RESULTS), plan, facts) if again else gather(plan, facts)
    write_text(RESULTS, as_json(found))
    publish()


def measure(plan: Measurement, jobs: int) -> None:
    """Run every task that has no result yet, some at a time."""
    check_same_counts(plan)
    first, others = ([part(plan, name) for name in names] for names in (plan.first_tasks(), plan.other_tasks()))
    run_parts(plan.finished, first, others, jobs=jobs)


def publish() -> None:
    """Draw the figures and write the tables again from the results."""
    results = read_json(RESULTS)
    page.place(PAGE, tables.tables(results))
    page.place(page.DOCS / "results.md", {"evaluation": tables.summary(results)})
    result_lines.run()
    figures.draw(results, page.IMAGES)


def check_same_counts(plan: Measurement) -> None:
    """Refuse to go on from results of other counts or other weights; targets and arms may be added.

    Raises:
        EvaluationError: The plan's folder holds another measurement.
    """
    mine: dict[str, Any] = {
        "counts": [plan.wide, plan.narrow, list(plan.seeds), plan.attacked, plan.suffixed],
        "targets": dict(plan.targets),
    }
    file = plan.work / "plan.json"
    theirs = read_json(file) if file.is_file() else mine
    known: dict[str, str] = theirs["targets"]
    moved = [name for name, folder in plan.targets if known.get(name, folder) != folder]
    answered = any(plan.finished.folder.glob("*.json")) or any(plan.work.glob("answers/*/logs/*/*.eval"))
    if answered and (theirs["counts"] != mine["counts"] or moved):
        raise EvaluationError(another_measurement(plan.work, theirs, mine))
    write_json(file, {**mine, "targets": known | dict(plan.targets)})


def checked_targets(given: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the targets, the testbed alone if none is given.

    Raises:
        EvaluationError: The testbed is not the first, or two have one name.
    """
    targets = tuple(given) or (TESTBED,)
    if targets[0] != TESTBED or len(dict(targets)) != len(targets):
        msg = "the first target is testbed=testbed, which attacks and sweeps are made on; the others have names of their own"
        raise EvaluationError(msg)
    return targets


def checked_arms(given: Sequence[str]) -> tuple[str, ...]:
    """Return the arms of a whole measurement, all but the slow ones if none is given.

    Raises:
        EvaluationError: One that the page compares with is missing.
    """
    arms = tuple(given) or tuple(name for name in ARMS if name not in SLOW)
    if missing := {"none", "steering", *tables.GUARDS} - set(arms):
        msg = f"the page compares with {', '.join(sorted(missing))}: name it in --arms too"
        raise EvaluationError(msg)
    return arms


def plan_of(
    work: Path,
    targets: Sequence[tuple[str, str]],
    arms: Sequence[str],
    *,
    again: Sequence[str] = (),
    kinds: Sequence[str] = (),
    wide: int = 50,
    narrow: int = 10,
    seeds: Sequence[int] = (0, 1),
    attacked: int = 48,
    suffixed: int = 12,
) -> Measurement:
    """Return what is measured; `again` names arms whose answers take the place of the published ones, by `kinds` of task."""
    return Measurement(
        work,
        checked_targets(targets),
        ("none", *again) if again else checked_arms(arms),
        wide=wide,
        narrow=min(narrow, wide),
        seeds=tuple(seeds),
        attacked=attacked,
        suffixed=suffixed,
        kinds=tuple(dict.fromkeys(("cells", *kinds))) if again else None,
    )
