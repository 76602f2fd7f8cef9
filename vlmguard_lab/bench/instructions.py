"""Count the instructions of one decoded token under every intervention against none: a number that no neighbour changes.

    python vlmguard_lab/bench/instructions.py    # adds "instructions" to docs/results/performance.json; needs valgrind and gcc

The process runs itself again under callgrind, which counts between two marks alone. The model is the one of `serving.py` with
two layers instead of eight: the edit weighs four times as much as there.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from langchain_vlmguard import Steering
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import INTERVENTIONS
from vlmguard_lab.bench import serving
from vlmguard_lab.testbed.checkpoint import load_testbed

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS, EDITED = 2, 1
MARKS = """
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_ZERO_STATS; CALLGRIND_START_INSTRUMENTATION; }
void end(const char *name) { CALLGRIND_STOP_INSTRUMENTATION; CALLGRIND_DUMP_STATS_AT(name); }
"""


@torch.inference_mode()
def count(marks: ctypes.CDLL) -> None:
    """Decode one token under every intervention between marks; the first of each is for warming up."""
    torch.set_num_threads(1)
    serving.LAYERS, serving.EDITED = LAYERS, EDITED
    wide = serving.wide_model(load_testbed())
    directions = serving.random_directions(wide.model)
    for name in ("none", *INTERVENTIONS):
        steering = None
        if name != "none":
            steering = Steering(directions, layers=(EDITED,), intervention=INTERVENTIONS[name](), gate=AlwaysOpen())
        batch = serving.running(wide, steering)
        batch.step()
        _marked(marks, name, batch.step)
        batch.close()


def _marked(marks: ctypes.CDLL, name: str, work: Callable[[], object]) -> None:
    marks.begin()
    work()
    marks.end(name.encode())


def measured() -> dict[str, int]:
    """Run this file under callgrind and read the counts from its dumps."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "marks.c", Path(folder) / "marks.so"
        source.write_text(MARKS)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library)], check=True)  # noqa: S603, S607
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*valgrind, sys.executable, __file__, str(library)], check=True, env=alone)  # noqa: S603
        return counts(Path(folder))


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


def main() -> None:
    """Count, and add the counts to what was measured by the clock."""
    if len(sys.argv) > 1:
        count(ctypes.CDLL(sys.argv[1]))
        return
    publish(measured())


def publish(found: dict[str, int]) -> None:
    """Write the counts and their ratios to no intervention beside what was measured by the clock."""
    rows: list[dict[str, Any]] = [
        {
            "intervention": name,
            "hidden_size": serving.HIDDEN,
            "layers": LAYERS,
            "instructions": found[name],
            "ratio": round(found[name] / found["none"], 5),
        }
        for name in ("none", *INTERVENTIONS)
    ]
    results = json.loads(serving.RESULTS.read_text()) if serving.RESULTS.is_file() else {}
    serving.RESULTS.write_text(json.dumps({**results, "instructions": rows}, indent=1) + "\n")
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
