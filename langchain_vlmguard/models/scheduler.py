"""Serve concurrent calls together: rows join the running batch as they come and leave it as they finish."""

from __future__ import annotations

import atexit
from threading import Condition, Thread
from typing import TYPE_CHECKING
from weakref import WeakSet

from langchain_core.exceptions import ContextOverflowError

from langchain_vlmguard.errors import ModelMemoryError
from langchain_vlmguard.models.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_vlmguard.models.batch import Batch
    from langchain_vlmguard.models.requests import Request
    from langchain_vlmguard.models.runtime import Runtime

IDLE = 5.0
"""Seconds after which a scheduler without work lets its thread go."""

GATHERED = 4
"""Tokens that running rows decode while newcomers wait for each other: a prefill costs several, however few rows it has."""


class Scheduler:
    """Continuous batching for one model.

    One thread runs the model while there is work. Between tokens it admits waiting rows, once they are a quarter as many as the
    running ones or have waited `GATHERED` tokens: they are prefilled together (those with pictures apart from those without,
    similar lengths together) and then decode in one batch with the rows that run already, each under its own settings and
    steering trace. Rows of another steering or adapter, and rows of a family whose cache cannot be joined, run as a batch of
    their own, token by token in turn, so that nobody waits for a long answer of somebody else.
    """

    def __init__(self, runtime: Runtime, max_waiting: int = 512) -> None:
        """Start idle; at most `max_waiting` requests may wait for the model."""
        self._runtime = runtime
        self._waiting = Waiting(max_waiting)
        self._changed = Condition()
        self._thread: Thread | None = None
        self._batches: list[Batch] = []
        self._starting: list[Request] = []
        self._gathered = 0
        self._leaving = False
        _EVERY.add(self)

    @property
    def max_waiting(self) -> int:
        """Most requests that may wait for the model."""
        return self._waiting.limit

    @max_waiting.setter
    def max_waiting(self, limit: int) -> None:
        self._waiting.limit = limit

    @property
    def idle(self) -> bool:
        """Whether nobody waits and nothing runs."""
        return not (self._waiting or self._batches or self._starting)

    def submit(self, *requests: Request, bounded: bool = True) -> None:
        """Queue requests; each one's future brings its answer or its error.

        Raises:
            BusyError: The queue is full (unless `bounded` is off, for a caller that holds its own rows anyway).
        """
        with self._changed:
            self._waiting.add(requests, bounded=bounded)
            if self._thread is None:
                self._thread = Thread(target=self._work, name="vlmguard-scheduler", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        import torch

        with torch.inference_mode():
            while self._has_work():
                try:
                    self._round()
                except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
                    self._fail_all(error)

    def _has_work(self) -> bool:
        """Wait for work; return `False` after `IDLE` seconds without any, so that the thread ends."""
        with self._changed:
            if self.idle and not self._leaving:
                self._changed.wait_for(lambda: self._leaving or not self.idle, IDLE)
            if self.idle:
                self._thread = None
                return False
            return True

    def leave(self) -> None:
        """Cancel everything and wait for the thread: one that is inside torch when Python exits crashes the process."""
        with self._changed:
            self._leaving = True
            thread = self._thread
            for request in self._take_all():
                request.cancel()
            self._changed.notify()
        if thread is not None:
            thread.join(IDLE)

    def _round(self) -> None:
        """Admit waiting requests, then decode one token in every batch."""
        with self._changed:
            self._waiting.drop()
            running = sum(len(batch.active) for batch in self._batches)
            self._starting = [] if self._should_gather(running) else self._waiting.take(running)
        decoding = list(self._batches)
        for rows in self._prefills(self._starting):
            self._batches += self._start(rows)
        self._starting = []
        for batch in decoding:
            self._step(batch)
        over = [row for batch in self._batches for row in batch.pop_over()]
        try:
            self._batches = self._join(self._batches)
        finally:  # last, when a batch that is over has left no hook on the model
            for row in over:
                row.deliver()

    def _prefills(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Group requests by prefill: no pictures, pictures whose features are kept, new pictures; similar lengths together."""
        knows = self._runtime.features.knows
        seen = {request: (bool(request.row.pictures), not knows(request)) for request in requests}
        parts: list[list[Request]] = []
        for request in sorted(requests, key=lambda one: (*seen[one], len(one.row.text))):
            first = parts[-1][0] if parts else None
            if first is None or seen[first] != seen[request] or len(request.row.text) > 2 * len(first.row.text) + 256:
                parts.append([])
            parts[-1].append(request)
        return parts

    def _should_gather(self, running: int) -> bool:
        """Whether newcomers keep waiting so that more of them share a prefill."""
        waits = 0 < len(self._waiting) < running / 4 and self._gathered < GATHERED
        self._gathered = self._gathered + 1 if waits else 0
        return waits

    def _step(self, batch: Batch) -> None:
        batch.drop()
        if not batch.active:
            return
        try:
            with self._runtime.lock:
                batch.step()
        except Exception as error:  # noqa: BLE001 - raised again in the callers' own threads
            requests = [row.request for row in batch.active]
            batch.close()
            batch.rows = []
            self._recover(requests, error)

    def _join(self, batches: list[Batch]) -> list[Batch]:
        """Join batches of one kind if they can be joined, thin them out, and close finished ones."""
        running: list[Batch] = []
        for batch in batches:
            if not batch.active:
                batch.close()
                continue
            host = next((other for other in running if other.joins(batch)), None)
            if host is None:
                running.append(batch)
            else:
                host.join(batch)
        for batch in running:
            batch.thin()
        return running

    def _start(self, requests: Sequence[Request], *, last_try: bool = False) -> list[Batch]:
        """Prefill requests as one batch, or as several if that fails.

        A batch that does not fit into memory is halved once. A batch that fails otherwise is tried again row by row, so that
        one caller's bad input is nobody else's error.
        """
        from langchain_vlmguard.models.batch import Batch

        batch = None
        try:
            inputs = self._runtime.encode(requests)
            fitting = self._within_context(requests, inputs["attention_mask"].sum(dim=1).tolist())
            if len(fitting) < len(requests):
                return self._start(fitting, last_try=last_try) if fitting else []
            batch = Batch(self._runtime, requests, inputs)
            with self._runtime.lock:
                batch.prefill()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's own thread
            if batch is not None:
                batch.close()
            return self._split(requests, error, last_try=last_try)
        return [batch]

    def _within_context(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Request]:
        """Fail requests whose prompt leaves no room for an answer, and return the others."""
        longest, fitting = self._runtime.context_length, []
        for request, length in zip(requests, lengths, strict=True):
            if length < longest:
                fitting.append(request)
                continue
            msg = f"the prompt has {int(length)} tokens and the model reads {longest}: shorten the conversation"
            request.fail(ContextOverflowError(msg))
        return fitting

    def _split(self, requests: Sequence[Request], error: Exception, *, last_try: bool) -> list[Batch]:
        memory = _out_of_memory(error)
        if len(requests) == 1 or (last_try and memory):
            for request in requests:
                request.fail(_memory_error(len(requests), error) if memory else error)
            return []
        size = (len(requests) + 1) // 2 if memory else 1
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        return [batch for part in parts for batch in self._start(part, last_try=memory)]

    def _recover(self, requests: list[Request], error: Exception) -> None:
        """Restart rows in smaller batches if memory ran out while they decoded; pass any other error on."""
        again = [request for request in requests if _out_of_memory(error) and _can_restart(request)]
        for request in requests:
            if request not in again:
                request.fail(error)
        if len(again) == 1:
            again[0].fail(_memory_error(1, error))
        elif again:
            for request in again:
                request.batch_size = max(1, len(again) // 2)
                request.restarted = True
            with self._changed:
                self._waiting.add(again, bounded=False)

    def _take_all(self) -> list[Request]:
        """Empty the queue and return all requests, waiting and running."""
        running = (row.request for batch in self._batches for row in batch.active)
        return [*self._waiting.clear(), *self._starting, *running]

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            lost = self._take_all()
        for request in lost:
            request.fail(error)
        for batch in self._batches:
            batch.close()
        self._batches, self._starting = [], []


_EVERY: WeakSet[Scheduler] = WeakSet()


@atexit.register
def _leave() -> None:
    for scheduler in list(_EVERY):
        scheduler.leave()


def _can_restart(request: Request) -> bool:
    """Whether a row can be restarted once: it will repeat its text, or has released none yet."""
    same = request.settings.temperature == 0 or request.settings.seed is not None
    return not request.restarted and (same or not request.emitted)


def _out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _memory_error(rows: int, error: Exception) -> ModelMemoryError:
    failure = ModelMemoryError(
        f"{rows} row(s) do not fit into the device's memory: lower batch_size or max_tokens, send smaller pictures, or load "
        "the model in a smaller dtype"
    )
    failure.__cause__ = error
    return failure
