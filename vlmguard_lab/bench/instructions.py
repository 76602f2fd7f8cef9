"""The instructions of one decoded token under every intervention against none: a number that no neighbour changes.

A process of its own runs under callgrind, which counts between two marks alone. The model is the one of `performance` with two
layers instead of eight: the edit weighs four times as much as there.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer

from langchain_vlmguard import Steering
from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import read_json, write_json
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import INTERVENTIONS
from vlmguard_lab.bench import page
from vlmguard_lab.bench.wide_model import HIDDEN, decoding, random_directions, wide_model
from vlmguard_lab.testbed.checkpoint import load_testbed

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS, EDITED = 2, 1
MARKS = """
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_ZERO_STATS; CALLGRIND_START_INSTRUMENTATION; }
void end(const char *name) { CALLGRIND_STOP_INSTRUMENTATION; CALLGRIND_DUMP_STATS_AT(name); }
"""


def run() -> None:
    """Count, and write the counts and their ratios to no intervention beside what was measured by the clock.

    Raises:
        EvaluationError: valgrind or gcc is missing.
    """
    if missing := [tool for tool in ("valgrind", "gcc") if shutil.which(tool) is None]:
        msg = f"counting instructions needs {' and '.join(missing)}"
        raise EvaluationError(msg)
    rows = as_rows(counted())
    results = read_json(page.PERFORMANCE) if page.PERFORMANCE.is_file() else {}
    write_json(page.PERFORMANCE, {**results, "instructions": rows})
    for row in rows:
        typer.echo(row)


def counted() -> dict[str, int]:
    """Run `count_between_marks` under callgrind and read the counts from its dumps."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "marks.c", Path(folder) / "marks.so"
        source.write_text(MARKS)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library)], check=True)  # noqa: S603, S607
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(page.ROOT)}
        code = f"from {__name__} import count_between_marks; count_between_marks({str(library)!r})"
        subprocess.run([*valgrind, sys.executable, "-c", code], check=True, env=alone)  # noqa: S603
        return counts(Path(folder))


@torch.inference_mode()
def count_between_marks(library: str) -> None:
    """Decode one token under every intervention between marks; the first of each is for warming up."""
    marks = ctypes.CDLL(library)
    torch.set_num_threads(1)
    wide = wide_model(load_testbed(), layers=LAYERS)
    directions = random_directions(wide.model)
    for name in ("none", *INTERVENTIONS):
        steering = None
        if name != "none":
            steering = Steering(directions, layers=(EDITED,), intervention=INTERVENTIONS[name](), gate=AlwaysOpen())
        batch = decoding(wide, steering)
        batch.step()
        _mark(marks, name, batch.step)
        batch.close()


def _mark(marks: ctypes.CDLL, name: str, work: Callable[[], object]) -> None:
    marks.begin()
    work()
    marks.end(name.encode())


def counts(folder: Path) -> dict[str, int]:
    """Read the instructions between marks from callgrind's dumps, by the name of each mark."""
    found = {}
    for dump in folder.glob("out.*"):
        text = dump.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (\w+)", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)", text, re.MULTILINE)
        if name and total:
            found[name[1]] = int(total[1])
    return found


def as_rows(found: dict[str, int]) -> list[dict[str, Any]]:
    """Return the counts as rows, each with its ratio to no intervention."""
    return [
        {
            "intervention": name,
            "hidden_size": HIDDEN,
            "layers": LAYERS,
            "instructions": found[name],
            "ratio": round(found[name] / found["none"], 5),
        }
        for name in ("none", *INTERVENTIONS)
    ]
