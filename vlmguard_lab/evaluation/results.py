"""What an evaluation found: answers as rows, and shares, paired tests and agreement computed from them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmguard_lab.evaluation.judges import MEASURES
from vlmguard_lab.statistics import PairedTest, Share, kappa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from inspect_ai.log import EvalLog, EvalSample

    from vlmguard_lab.evaluation.suites.base import Item, Suite


ALL = "all"


@dataclass(frozen=True)
class Row:
    """One answer under one judge."""

    suite: str
    arm: str
    seed: int
    item: str
    cell: str
    harmful: bool
    judge: str
    marks: dict[str, bool | None]
    """The judge's four measures; `None` where it cannot tell."""

    seconds: float = 0.0
    """Time from question to answer; rows that are batched together wait for each other."""

    text: str = ""
    answer: str = ""
    picture: str | None = None
    label: str = ""


class Where(NamedTuple):
    """What a log is about."""

    suite: str
    arm: str
    seed: int


def rows_of(log: EvalLog, suite: Suite, arm: str, seed: int) -> list[Row]:
    """Return the rows of one finished log.

    Raises:
        RuntimeError: The log is not a success, or an answer in it has no score; half a result is no result.
    """
    if log.status != "success" or log.samples is None:
        msg = f"{suite.card.name}/{arm} (seed {seed}) did not finish: {log.error.message if log.error else log.status}"
        raise RuntimeError(msg)
    items = {item.id: item for item in suite.items}
    where = Where(suite.card.name, arm, seed)
    return [row for sample in log.samples for row in _sample_rows(sample, items[str(sample.id)], where)]


def _sample_rows(sample: EvalSample, item: Item, where: Where) -> Iterable[Row]:
    if not sample.scores:
        why = sample.error.message if sample.error else "no score"
        msg = f"{where.suite}/{where.arm}: the answer to {sample.id!r} was not judged: {why}"
        raise RuntimeError(msg)
    for judge, score in sample.scores.items():
        value: Any = score.value
        yield Row(
            *where,
            item.id,
            item.cell,
            item.harmful,
            judge,
            {name: None if math.isnan(float(value[name])) else bool(value[name]) for name in MEASURES},
            _seconds(sample),
            item.text,
            score.answer or "",
            str(item.picture) if item.picture else None,
            score.explanation or "",
        )


def _seconds(sample: EvalSample) -> float:
    """Return the seconds of every question that was put to the model for one request."""
    asked = [event.output.time or 0.0 for event in sample.events if event.event == "model"]
    return sum(asked) if asked else sample.total_time or 0.0


def summarise(rows: Sequence[Row], *, against: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return everything `results.json` holds.

    Args:
        rows: Every answer under every judge.
        against: The arm that the others are compared with, prompt by prompt.
        facts: When and on what it was measured, and what was asked for: arms with their cards, suites, seeds, target.
    """
    return {
        **facts,
        "cells": _shares(rows, lambda row: row.cell),
        "pooled": _shares(rows, lambda _: ALL),
        "pairs": _pairs(rows, against),
        "agreement": _agreement(rows),
    }


def _shares(rows: Sequence[Row], cell: Callable[[Row], str]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, bool, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.suite, cell(row), row.harmful, row.arm, row.judge].append(row)
    return [
        {
            **dict(zip(("suite", "cell", "harmful", "arm", "judge"), key, strict=True)),
            "n": len(found),
            **{name: share.to_json() for name in MEASURES if (share := share_of(found, name)).n},
            "seconds_each": round(sum(row.seconds for row in found) / len(found), 4),
        }
        for key, found in groups.items()
    ]


def share_of(rows: Iterable[Row], measure: str) -> Share:
    """Return the share of rows with a mark, of those on which the judge can tell."""
    return Share.of([mark for row in rows if (mark := row.marks[measure]) is not None])


def _pairs(rows: Sequence[Row], against: str) -> list[dict[str, Any]]:
    """Compare every arm with one, on the same prompts of the same seeds."""
    marks: dict[tuple[str, str, str], dict[tuple[int, str, bool], Row]] = defaultdict(dict)
    for row in rows:
        marks[row.suite, row.judge, row.arm][row.seed, row.item, row.harmful] = row
    found = []
    for (suite, judge, arm), first in marks.items():
        second = marks.get((suite, judge, against), {})
        for harmful, measure in ((True, "unsafe"), (True, "useful"), (False, "useful"), (False, "refused")):
            shared = [
                key
                for key in first
                if key in second
                and key[2] == harmful
                and None not in (first[key].marks[measure], second[key].marks[measure])
            ]
            if arm == against or not shared:
                continue
            test = PairedTest.of(
                [bool(first[k].marks[measure]) for k in shared], [bool(second[k].marks[measure]) for k in shared]
            )
            found.append(
                {"suite": suite, "judge": judge, "arm": arm, "against": against, "harmful": harmful, "measure": measure}
                | test.to_json()
            )
    return found


def _agreement(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compare judges that judged the same answers."""
    by_judge: dict[str, dict[tuple[str, str, int, str], Row]] = defaultdict(dict)
    for row in rows:
        by_judge[row.judge][row.suite, row.arm, row.seed, row.item] = row
    found = []
    for one, other in combinations(by_judge, 2):
        for measure in ("unsafe", "refused", "useful"):
            pairs = [
                (mine, theirs)
                for key, row in by_judge[one].items()
                if key in by_judge[other]
                and (mine := row.marks[measure]) is not None
                and (theirs := by_judge[other][key].marks[measure]) is not None
            ]
            if pairs:
                agreed = kappa(*zip(*pairs, strict=True))
                found.append({"judges": [one, other], "measure": measure, "n": len(pairs), "kappa": round(agreed, 4)})
    return found
