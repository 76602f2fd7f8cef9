"""How far an evaluation is, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inspect_ai.solver import Generate, Solver, TaskState, chain, solver

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Meter:
    """Counts the answered requests of a plan."""

    told: Callable[[str, int, int], None]
    """Told the name of the task under way, and how many requests of how many are answered."""

    of: int
    """Requests of the whole plan."""

    task: str = ""
    _before: int = 0
    """Requests of the tasks that are finished."""

    _answered: int = 0

    def begin(self, task: str) -> None:
        """Begin a task."""
        self.task, self._answered = task, 0
        self._tell()

    def answered(self) -> None:
        """Count one answer."""
        self._answered += 1
        self._tell()

    def end(self, requests: int) -> None:
        """End a task; answers that an earlier run gave count too."""
        self._before, self._answered = self._before + requests, 0
        self._tell()

    def counting(self, defence: Solver) -> Solver:
        """Return a solver that counts the answers of another one."""

        @solver
        def answered() -> Solver:
            async def solve(state: TaskState, generate: Generate) -> TaskState:  # noqa: ARG001 - the interface
                self.answered()
                return state

            return solve

        return chain(defence, answered())

    def _tell(self) -> None:
        self.told(self.task, min(self._before + self._answered, self.of), self.of)
