"""Read strangers' picture files as the guard does, each in a process of its own, and say what became of them."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import typer
from rich.progress import track

from langchain_vlmguard.content.checking import check_frames
from langchain_vlmguard.errors import EvaluationError, UnreadableContentError
from langchain_vlmguard.files import write_json
from langchain_vlmguard.verdict.limits import ImageLimits
from vlmguard_lab.facts import run_facts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, SpawnContext

SLOW = 2.0
"""Seconds of computing from which a file is slow."""

LONGEST = 60
"""Seconds by the clock after which a file is given up."""


_PROCESSES: ForkServerContext | SpawnContext = (
    get_context("forkserver") if "forkserver" in get_all_start_methods() else get_context("spawn")
)
if _PROCESSES.get_start_method() == "forkserver":
    _PROCESSES.set_forkserver_preload(["vlmguard_lab.bench.pictures"])


class Row(TypedDict):
    """What became of one file."""

    file: str
    outcome: str
    """`decoded`, `refused`, `crashed`, or `given up`."""

    why: str
    seconds: float
    mb: float
    """Megabytes that reading it added to the process."""


def run(folder: Path, output: Path) -> None:
    """Read every file under a folder, and write what became of each.

    Args:
        folder: Files of any kind.
        output: The results, as JSON.

    Raises:
        EvaluationError: There are no files, or one broke the reader.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        msg = f"there are no files in {folder}"
        raise EvaluationError(msg)
    rows = [_read_apart(path, folder) for path in track(files, "pictures")]
    outcomes = Counter(row["outcome"] for row in rows)
    slow = [row["file"] for row in rows if row["seconds"] > SLOW]
    found = {
        "files": len(rows),
        **{name: outcomes[name] for name in ("decoded", "refused", "crashed", "given up")},
        "slow": slow,
        "slowest_seconds": max(row["seconds"] for row in rows),
        "most_mb": max(row["mb"] for row in rows),
        "refusals": dict(Counter(row["why"] for row in rows if row["outcome"] == "refused").most_common()),
        "broken": [row for row in rows if row["outcome"] in ("crashed", "given up")],
        **run_facts("pillow"),
    }
    write_json(output, found)
    typer.echo(json.dumps({key: value for key, value in found.items() if key not in ("refusals", "broken")}, indent=1))
    if found["broken"]:
        msg = f"{len(rows) - outcomes['decoded'] - outcomes['refused']} of {len(rows)} files broke the reader: see {output}"
        raise EvaluationError(msg)


def read(path: Path) -> Row:
    """Read one file in this process, within the limits that a policy has by default."""
    limits, data, before = ImageLimits(frames="first", heif=_can_heif()), path.read_bytes(), _peak_mb()
    started, outcome, why = time.process_time(), "decoded", ""
    try:
        check_frames(data, limits)
    except UnreadableContentError as error:
        outcome, why = "refused", str(error)
    except Exception as error:  # noqa: BLE001 - a file that gets through to here is what is looked for
        outcome, why = "crashed", type(error).__name__
    seconds = round(time.process_time() - started, 3)
    return {"file": path.name, "outcome": outcome, "why": why, "seconds": seconds, "mb": round(_peak_mb() - before, 1)}


def _read_apart(path: Path, folder: Path) -> Row:
    name = str(path.relative_to(folder))
    here, there = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_send, args=(path, there), daemon=True)
    process.start()
    there.close()
    try:
        row: Row = here.recv() if here.poll(LONGEST) else _lost(name, "given up", "", float(LONGEST))
    except EOFError:
        process.join()
        row = _lost(name, "crashed", f"exit {process.exitcode}")
    process.kill()
    process.join()
    return {**row, "file": name}


def _lost(name: str, outcome: str, why: str, seconds: float = 0.0) -> Row:
    return {"file": name, "outcome": outcome, "why": why, "seconds": seconds, "mb": 0.0}


def _send(path: Path, to: Connection[Row, None]) -> None:
    warnings.simplefilter("ignore")
    to.send(read(path))


def _can_heif() -> bool:
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


def _peak_mb() -> float:
    """Return the most memory this process has taken; 0 on systems that do not say."""
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024 if status.exists() else 0.0
