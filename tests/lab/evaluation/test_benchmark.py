"""The command that regenerates docs/testbed_results.md: its tasks, what it keeps, and that a second run goes on where it was."""

import json
import os
from dataclasses import replace

import pytest

from langchain_vlmguard.errors import EvaluationError
from tests.chat_models import ScriptedModel
from vlmguard_lab.bench.evaluation import gather, run, tasks
from vlmguard_lab.bench.evaluation.plan import Measurement, prior
from vlmguard_lab.evaluation.arms.base import Target

ARMS = ("none", "full")
FACTS = {"date": "2026-01-01", "machine": "a machine", "versions": {}}


def plan(tmp_path, **settings):
    targets = (("testbed", "testbed"), ("sibling", "folder"))
    return Measurement(tmp_path, targets, ARMS, **{"wide": 1, "narrow": 1, "seeds": (3,), **settings})


def finish(measurement, name):
    return measurement.finished.finish(tasks.part(measurement, name))


def test_every_target_and_arm_is_a_task_of_its_own(tmp_path):
    names = [*plan(tmp_path).first_tasks(), *plan(tmp_path).other_tasks()]
    assert len(set(names)) == len(names)
    for target in ("testbed", "sibling"):
        for arm in ARMS:
            assert {f"tuning/{target}/{arm}", f"cells/{target}/{arm}", f"conversations/{target}/{arm}"} <= set(names)
    assert {f"attack/full/{eps}" for eps in (0, 4, 8, 16, 32, 64)} <= set(names)
    assert "suffixes/full" in names
    assert all(prior(plan(tmp_path), name) > 0 for name in names)


def test_a_finished_task_is_not_run_again(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(tasks.TASKS, "sweeps", lambda _plan: calls.append(1) or {"found": 1})
    first = finish(plan(tmp_path), "sweeps")
    assert (finish(plan(tmp_path), "sweeps"), len(calls)) == (0.0, 1)
    assert first > 0
    assert plan(tmp_path).value("sweeps") == {"found": 1}


def test_a_first_try_that_answered_nothing_blocks_no_other(tmp_path):
    run.check_same_counts(plan(tmp_path, wide=2))
    run.check_same_counts(plan(tmp_path))


def test_a_folder_keeps_one_measurement_but_targets_may_be_added(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "sweeps", lambda _plan: {"found": 1})
    run.check_same_counts(plan(tmp_path))
    more = Measurement(tmp_path, (("testbed", "testbed"), ("third", "other")), ARMS, 1, 1, (3,))
    run.check_same_counts(more)
    run.check_same_counts(plan(tmp_path))
    finish(plan(tmp_path), "sweeps")
    with pytest.raises(EvaluationError, match="another measurement"):
        run.check_same_counts(plan(tmp_path, wide=2))
    moved = Measurement(tmp_path, (("testbed", "testbed"), ("sibling", "elsewhere")), ARMS, 1, 1, (3,))
    with pytest.raises(EvaluationError, match="another measurement"):
        run.check_same_counts(moved)


def test_a_task_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "sweeps", lambda _plan: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finish(plan(tmp_path), "sweeps")
    assert not list(tmp_path.rglob("*.json"))


def test_an_arm_that_cannot_be_put_on_a_target_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_loaded", lambda _plan, name: Target(name, ScriptedModel()))
    one = plan(tmp_path)
    finish(one, "tuning/sibling/full")
    assert "needs a local model" in one.value("tuning/sibling/full")["skipped"]
    finish(one, "cells/sibling/full")
    assert one.value("cells/sibling/full") == {"skipped": True}
    assert gather.rows_of(one, "cells/sibling/full") == []


def test_answers_are_pooled_by_target_and_prompts_compared_within_one(tmp_path):
    one = plan(tmp_path)
    for target, shift in (("testbed", 0), ("sibling", 1)):
        for arm in ARMS:
            folder = one.answers(f"cells/{target}/{arm}")
            folder.mkdir(parents=True)
            rows = [answer(arm, index, unsafe=arm == "none" and index >= shift) for index in range(4)]
            (folder / "answers.jsonl").write_text("".join(json.dumps(row) + os.linesep for row in rows))
            one.finished.file(f"cells/{target}/{arm}").parent.mkdir(exist_ok=True)
            one.finished.file(f"cells/{target}/{arm}").write_text('{"value": {}}')
    found = {target: {arm: gather.rows_of(one, f"cells/{target}/{arm}") for arm in ARMS} for target, _ in one.targets}
    pooled = gather.over_targets(found)
    unsafe = {row["arm"]: (row["unsafe"]["hits"], row["n"]) for row in pooled["pooled"]}
    assert unsafe == {"none": (7, 8), "full": (0, 8)}
    (pair,) = [pair for pair in pooled["pairs"] if pair["measure"] == "unsafe"]
    assert (pair["only_second"], pair["neither"]) == (7, 1)


def test_some_arms_can_be_measured_again_in_place_of_what_they_were(tmp_path, monkeypatch):
    old = json.loads(run.RESULTS.read_text())
    again = Measurement(tmp_path, (("testbed", "testbed"),), ("none", "full"), 1, 1, (3,), kinds=("cells",))
    assert {name.split("/")[0] for name in again.other_tasks()} == {"cells"}

    def only(rows):
        return [{**row, "fresh": True} for row in rows if row["arm"] in again.arms]

    lists = ("pooled", "cells", "pairs", "conversations")
    fresh = {key: only(old[key]) for key in lists} | {"arms": {arm: old["arms"][arm] for arm in again.arms}}
    fresh["targets"] = {
        name: {key: only(value) if key in lists else {} for key, value in target.items()}
        for name, target in old["targets"].items()
    }
    monkeypatch.setattr(gather, "answers", lambda _plan: fresh)
    monkeypatch.setattr(gather, "_seconds", lambda _plan: 1)
    new = gather.renewed(old, again, FACTS)
    for before, after in ((old, new), (old["targets"]["testbed"], new["targets"]["testbed"])):
        for row in after["pooled"]:
            assert row.pop("fresh", False) is (row["arm"] == "full")
            assert row in before["pooled"]
        assert len(after["pooled"]) == len(before["pooled"])
    assert new["attacks"] == old["attacks"]
    assert new["again"][-1] == {"arms": ["full"], "kinds": ("cells",), **FACTS, "seconds": 1}
    assert {key: new[key] for key in ("date", "machine", "latency")} == {
        key: old[key] for key in ("date", "machine", "latency")
    }


def answer(arm, index, *, unsafe):
    marks = {"unsafe": unsafe, "refused": not unsafe, "useful": False, "unread": False}
    where = {"suite": "testbed", "arm": arm, "seed": 3, "item": f"textual/text:{index}", "cell": "textual/text"}
    return {**where, "harmful": True, "judge": "oracle", "marks": marks, "text": "q", "answer": "a"}


@pytest.mark.slow
def test_a_small_measurement_is_made_whole_and_goes_on_where_it_was(tmp_path, capsys):
    testbed = (("testbed", "testbed"),)
    one = Measurement(tmp_path, testbed, ("none", "shiftdc", "full"), 1, 1, (3,), 2, 1)
    run.measure(one, 1)
    results = gather.gather(one, FACTS)
    assert len(results["attacks"]["pictures"]) == 18
    assert {row["n"] for row in results["pooled"]} == {10, 12}
    assert [
        row["policy"]["on_gate_open_rewritten"] for row in results["parts"] if "gate_unsafe_at" in row["policy"]
    ] == ["keep"]
    assert results["transfer"][0]["auroc"] == results["transfer"][0]["auroc_turned"] > 0.9
    capsys.readouterr()
    run.measure(one, 1)
    assert "0 of " in capsys.readouterr().out
    again = gather.renewed(results, replace(one, arms=("none", "full"), kinds=("cells", "conversations")), FACTS)
    assert {**again, "again": []} == {**results, "again": []}
