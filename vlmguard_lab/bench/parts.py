"""Long measurements in parts: each is kept as soon as it is finished, and a stopped run goes on from there."""

from __future__ import annotations

import json
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

import typer

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One part of a measurement."""

    name: str
    work: Callable[[], Any]
    """Returns plain JSON. It must be picklable if parts run in processes of their own."""

    expected: float = 1.0
    """Seconds it may take, for the first estimate."""


@dataclass(frozen=True)
class Finished:
    """The finished parts of a measurement: a folder with one JSON file each."""

    folder: Path

    def file(self, name: str) -> Path:
        """Return where a part's result is kept."""
        return self.folder / f"{name.replace('/', '--')}.json"

    def holds(self, name: str) -> bool:
        """Whether a part is finished."""
        return self.file(name).is_file()

    def value(self, name: str) -> Any:
        """Return a finished part's result."""
        return read_json(self.file(name))["value"]

    def seconds(self, name: str) -> float:
        """Return how long a finished part took."""
        return float(read_json(self.file(name))["seconds"])

    def finish(self, part: Part) -> float:
        """Run a part unless it is finished, keep its result, and return the seconds it took now."""
        if self.holds(part.name):
            return 0.0
        started = time.perf_counter()
        value = part.work()
        seconds = time.perf_counter() - started
        write_json(self.file(part.name), {"value": value, "seconds": round(seconds, 2)}, indent=None)
        return seconds


def measure(folder: Path, parts: Sequence[Part], *, settings: dict[str, Any], jobs: int = 1) -> list[Any]:
    """Run parts with progress and return their results in order.

    Args:
        folder: Keeps finished parts; given again after a stop, they are not run again.
        parts: What to run.
        settings: What the results depend on.
        jobs: Parts at a time, each on one core of its own; 1 runs them in this process.

    Raises:
        EvaluationError: The folder holds parts of another measurement.
    """
    keep_settings(folder, settings)
    finished = Finished(folder)
    run_parts(finished, parts, jobs=jobs)
    return [finished.value(part.name) for part in parts]


def keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write down what a folder's parts depend on.

    Raises:
        EvaluationError: The folder holds parts of another measurement.
    """
    file, settings = folder / "settings.json", json.loads(json.dumps(settings))
    if any(one != file for one in folder.glob("*.json")) and file.is_file() and (theirs := read_json(file)) != settings:
        raise EvaluationError(another_measurement(folder, theirs, settings))
    write_json(file, settings)


def another_measurement(folder: Path, theirs: Any, mine: Any) -> str:
    """Say that a folder holds parts of another measurement, and what to do."""
    return f"{folder} holds results of another measurement ({theirs}, not {mine}): choose another --work or delete it"


def forget(folder: Path) -> None:
    """Remove the parts of a measurement that is written to its results."""
    shutil.rmtree(folder, ignore_errors=True)


def run_parts(finished: Finished, *phases: Sequence[Part], jobs: int = 1) -> None:
    """Run all parts that are not finished, phase by phase, and say after each how long the rest may take."""
    clock = _Clock(finished, [part for phase in phases for part in phase], jobs)
    for phase in phases:
        waiting = [part for part in phase if not finished.holds(part.name)]
        for name, seconds in _run(finished, waiting, jobs):
            clock.tick(name, seconds)


def _run(finished: Finished, parts: Sequence[Part], jobs: int) -> Iterator[tuple[str, float]]:
    if jobs == 1:
        for part in parts:
            yield part.name, finished.finish(part)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_keep_to_one_core) as pool:
        with _deaf_to_interrupts():
            running = {pool.submit(finished.finish, part): part.name for part in parts}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except KeyboardInterrupt:
            for worker in active_children():
                worker.terminate()
            raise
        finally:
            for waiting in running:
                waiting.cancel()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: each would print an error of its own; this one ends them."""
    if current_thread() is not main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _keep_to_one_core() -> None:
    import torch

    torch.set_num_threads(1)


class _Clock:
    """Says how long the rest will take: the first estimates, scaled by how the finished parts compared with theirs."""

    def __init__(self, finished: Finished, parts: Sequence[Part], jobs: int) -> None:
        self._left = {part.name: part.expected for part in parts if not finished.holds(part.name)}
        self._jobs, self._started = jobs, time.monotonic()
        self._expected = self._taken = 0.0
        typer.echo(f"{len(self._left)} of {len(parts)} parts to run, {jobs} at a time")

    def tick(self, name: str, seconds: float) -> None:
        """Report a finished part."""
        self._expected += self._left.pop(name)
        self._taken += seconds
        left = self._taken / self._expected * sum(self._left.values()) / self._jobs / 60
        passed = (time.monotonic() - self._started) / 60
        typer.echo(
            f"{name}: {seconds:.0f} s; {passed:.0f} min so far, about {left:.0f} to go, {len(self._left)} parts left"
        )
