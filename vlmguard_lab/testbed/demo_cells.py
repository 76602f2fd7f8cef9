"""The demo's answers, cell by cell: kept on disk as soon as they are there, so that a stopped demo goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vlmguard_lab.testbed.requests import Request


@dataclass(frozen=True)
class Turn:
    """One request, answered by the plain model and by the guard."""

    request: Request
    plain: str
    guarded: str
    verdict: dict[str, Any]
    rewritten: str | None = None
    """The guard's answer with the rewriter in front, where there is one."""

    rewritten_verdict: dict[str, Any] | None = None


@dataclass(frozen=True)
class CellAnswers:
    """What was said in one cell."""

    said: dict[str, list[str]]
    """Every answer of every arm."""

    verdicts: list[dict[str, Any]]
    """The guard's verdicts about the turns that are shown."""

    rewritten_verdicts: list[dict[str, Any]]
    """Those of the guard with the rewriter; empty without one."""

    seconds: float

    def turns(self, asked: Sequence[Request]) -> list[Turn]:
        """Return the turns that are shown."""
        rows = zip(asked, self.said["plain"], self.said["guarded"], self.verdicts, strict=False)
        turns = [Turn(*row) for row in rows]
        if not self.rewritten_verdicts:
            return turns
        both = zip(turns, self.said["guarded_rewriter"], self.rewritten_verdicts, strict=False)
        return [Turn(t.request, t.plain, t.guarded, t.verdict, text, verdict) for t, text, verdict in both]


class KeptCells:
    """Finished cells of one demo in a folder; a demo with other settings has another."""

    def __init__(self, folder: Path, settings: list[Any]) -> None:
        """Name the folder by what the answers depend on."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self._all, self._mine = folder, folder / digest

    def of(self, cell: str) -> CellAnswers | None:
        """Return what was said in a cell, `None` if it is not finished."""
        file = self._file(cell)
        return CellAnswers(**read_json(file)) if file.is_file() else None

    def keep(self, cell: str, answers: CellAnswers) -> None:
        """Write down what was said in a cell."""
        write_json(self._file(cell), asdict(answers), indent=None)

    def forget(self) -> None:
        """Remove the cells of a finished demo."""
        shutil.rmtree(self._mine, ignore_errors=True)
        if self._all.is_dir() and not any(self._all.iterdir()):
            self._all.rmdir()

    def _file(self, cell: str) -> Path:
        return self._mine / f"{cell.replace('/', '-').replace(' ', '-')}.json"
