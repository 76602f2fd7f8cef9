"""Ctrl-C, as a real signal to a real process: code 130, one line at most, and what was finished is kept."""

import json
import time

import pytest

from tests.unit_tests.cli.programs import finished, lines_of, started, stopped_when


def in_a_moment(seconds):
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


@pytest.mark.parametrize("seconds", [0.4, 1.2])
@pytest.mark.parametrize(
    "words",
    [
        ("demo",),
        ("evaluate", "--suite", "testbed"),
        ("rewriter", "synthesize", "testbed", "out"),
        ("rewriter", "train", "out", "adapter"),
    ],
    ids=" ".join,
)
def test_while_it_starts(words, seconds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err, took = stopped_when(started("vlmguard", *words), in_a_moment(seconds))
    assert (code, out) == (130, "")
    assert err in ("", "stopped\n")
    assert took < 10


@pytest.mark.lab
def test_a_stopped_synthesis_keeps_its_calls(tmp_path):
    words = ("rewriter", "synthesize", "testbed", tmp_path, "--limit", "120")
    calls = tmp_path / "calls.jsonl"
    code, out, err, took = stopped_when(started("vlmguard", *words), lambda: lines_of(calls) > 40)
    assert (code, out, err) == (130, "", "stopped\n")
    assert took < 20
    kept = lines_of(calls) - 1
    code, out, _ = finished("vlmguard", *words)
    assert code == 0
    assert json.loads(out)["calls"]["remembered"] in (kept, kept - 1)  # the last line may be torn


@pytest.mark.lab
def test_a_stopped_demo_keeps_its_cells(tmp_path):
    words = ("demo", "--per-cell", "3", "--html", tmp_path / "index.html", "--json", tmp_path / "cells.json")
    code, out, err, _ = stopped_when(started("vlmguard", *words), lambda: len(list(tmp_path.rglob("*.json"))) > 2)
    assert (code, out, err) == (130, "", "stopped\n")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").rglob("*.json")}
    assert len(kept) >= 3
    again = started("vlmguard", *words)
    code, _, err, _ = stopped_when(again, lambda: len(list(tmp_path.rglob("*.json"))) > len(kept))
    assert (code, err) == (130, "stopped\n")
    assert kept.items() <= {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").rglob("*.json")}.items()
    code, _, err = finished("vlmguard", *words)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.json", "index.html", "pictures"]


@pytest.mark.lab
def test_a_stopped_evaluation_goes_on(tmp_path):
    words = ("evaluate", "--suite", "testbed", "--arms", "none,steering", "--limit", "2", "--out", tmp_path)
    steering = (tmp_path / "logs").glob
    code, out, err, _ = stopped_when(started("vlmguard", *words), lambda: any(steering("testbed-steering-*/*.eval")))
    assert (code, out, err) == (130, "", "stopped\n")
    assert not (tmp_path / "results.json").exists()
    first = {path: path.stat().st_mtime_ns for path in steering("testbed-none-*/*.eval")}
    code, out, err = finished("vlmguard", *words)
    assert (code, err) == (0, "")
    assert "complied with" in out
    assert first == {path: path.stat().st_mtime_ns for path in steering("testbed-none-*/*.eval")}


@pytest.mark.lab
def test_a_stopped_training_goes_on(tmp_path):
    data, work = tmp_path / "data", tmp_path / "work"
    assert finished("vlmguard", "rewriter", "synthesize", "testbed", data, "--limit", "60")[0] == 0
    words = ("rewriter", "train", data, tmp_path / "adapter", "--work", work, "--epochs", "0.2", "--batch", "2")
    code, out, err, _ = stopped_when(started("vlmguard", *words), (work / "run.json").exists)
    assert (code, out, err) == (130, "", "stopped\n")
    assert not (tmp_path / "adapter").exists()
    code, out, err = finished("vlmguard", *words)
    assert (code, err.splitlines()[-1].startswith("Wrote ")) == (0, True)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".tmp", ".old")] == []
    assert json.loads(out)
