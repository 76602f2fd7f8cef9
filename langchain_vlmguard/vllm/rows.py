"""The rows of a worker: which slot each has, what a step's tokens follow, and the stamps. Position and request id decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.errors import RowSettingsError
from langchain_vlmguard.vllm.settings import OP_VERSION
from langchain_vlmguard.vllm.stamps import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_vlmguard.vllm.programmes import DirectionSets
    from langchain_vlmguard.vllm.settings import RowSettings
    from langchain_vlmguard.vllm.tables import Tables


@dataclass(frozen=True)
class Span:
    """The tokens of one request in a step, in the order in which rows lie in the batch."""

    request: str
    start: int
    """Absolute position of the first one."""

    count: int


@dataclass(eq=False)
class Row:
    """One request with settings, from its first step until the engine says that it is finished."""

    settings: RowSettings
    prompt: int
    """Tokens of the original prompt."""

    slot: int
    ready: bool = False
    """Whether the last prompt token was run, so that gate and strength stand."""

    tokens: int = 0
    """Tokens that followed the row's programme so far."""

    error: str | None = None


@dataclass(eq=False)
class Rows:
    """The bookkeeping beside the tables; one object a worker.

    Args:
        tables: What the op reads.
        sets: Directions of the engine.
        runner: Kind of model runner, for the stamps.
    """

    tables: Tables
    sets: DirectionSets
    runner: str
    _rows: dict[str, Row] = field(default_factory=dict)
    _touched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with every slot free; slot 0 is never given away."""
        self._free = list(range(len(self.tables.strength) - 1, 0, -1))

    def __len__(self) -> int:
        """Return how many rows hold a slot."""
        return len(self._rows)

    def begin(self, request: str, settings: RowSettings, prompt: int) -> None:
        """Take in a request; one that is known already (it was preempted) keeps its slot, its gate and its settings."""
        if request in self._rows or settings.do == "nothing":
            return
        if not self._free:
            self._rows[request] = Row(settings, prompt, 0, error="the worker has no free slot for it")
            return
        row = self._rows[request] = Row(settings, prompt, self._free.pop())
        try:
            programme = self.sets.programme(settings)
        except RowSettingsError as error:
            row.error = str(error)
            return
        tables, slot = self.tables, row.slot
        tables.clear(slot)
        for name in ("own", "add", "gate"):
            table = getattr(tables, name)
            table[:, slot] = getattr(programme, name).to(table.device)
        tables.threshold[slot], tables.slope[slot] = programme.threshold, programme.slope
        tables.strength[slot] = programme.strength

    def fill(self, spans: Sequence[Span]) -> None:
        """Say which programme each token of the coming step follows.

        The map is made aside and published whole: a step is never half filled.

        Args:
            spans: Every request of the batch in order, those without settings, too.
        """
        tables = self.tables
        slots = torch.zeros_like(tables.slot, device="cpu")
        watch = torch.zeros_like(tables.watch, device="cpu")
        touched, at = [], 0
        for span in spans:
            row = self._rows.get(span.request)
            if row is not None:
                followed = self._followed(row, span)
                if len(followed) and row.error is None:
                    slots[[at + one for one in followed]] = row.slot
                    watch[row.slot] = not row.ready
                    row.tokens += len(followed)
                    row.ready = True
                if len(followed) or row.error is not None:
                    touched.append(span.request)
            at += span.count
        tables.slot.copy_(slots)
        tables.watch.copy_(watch)
        self._touched = touched

    def _followed(self, row: Row, span: Span) -> range:
        """Return which tokens of a span follow the row's programme, counted from the span's first.

        That is the last prompt token until its gate stands, and with `decode` every one after it. After a preemption they are
        run again, some or all in one step, and are edited as before.
        """
        last = row.prompt - 1 - span.start
        if row.settings.do == "read":
            return range(last, last + 1) if 0 <= last < span.count and not row.ready else range(0)
        if last < 0 and not row.ready:
            row.error = "its last prompt token was never run here, so its gate is not known"
        end = span.count if row.settings.decode else min(last + 1, span.count)
        return range(max(last, 0), max(end, 0)) if last < span.count else range(0)

    def collect(self) -> dict[str, Stamp]:
        """Return the stamps of the rows that the last step touched, and leave nothing to do for the next one."""
        found = {request: self._stamp(self._rows[request]) for request in self._touched}
        tables = self.tables
        tables.slot.zero_()
        tables.watch.zero_()
        for request in self._touched:
            tables.gate[:, self._rows[request].slot] = False  # read once
        self._touched = []
        return found

    def _stamp(self, row: Row) -> Stamp:
        tables, settings = self.tables, row.settings
        seen = tables.seen[:, row.slot].tolist()
        error = row.error
        if error is None and set(seen) != {row.tokens}:
            error = f"{row.tokens} tokens of it should have passed the edit at every layer, and {seen} did"
        strength = float(tables.strength[row.slot])
        if error is None and not 0 <= strength <= 1:
            error = f"its strength is {strength}"
        found = self.sets.sets.get(settings.directions)
        columns = slice(0, 0) if found is None else self.sets.columns(settings)
        return Stamp(
            version=OP_VERSION,
            identity=settings.identity,
            directions="" if found is None else found.hash,
            do=settings.do,
            score=float(tables.score[row.slot]) if settings.do in ("read", "gated") else None,
            strength=strength,
            tokens=row.tokens,
            edited=int(tables.edited[:, row.slot].sum()),
            coordinates=[]
            if error is not None
            else [tables.coordinates[layer, row.slot, columns].tolist() for layer in settings.layers],
            runner=self.runner,
            error=error,
        )

    def finish(self, requests: Iterable[str]) -> None:
        """Free the slots of requests that the engine is done with."""
        for request in requests:
            row = self._rows.pop(request, None)
            if row is not None and row.slot:
                self.tables.clear(row.slot)
                self._free.append(row.slot)
