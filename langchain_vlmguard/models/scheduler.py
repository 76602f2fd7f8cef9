"""Serve concurrent calls together: whoever gets the model next answers for everybody who waits."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from langchain_vlmguard.models.generation import Generated, generate_rows

if TYPE_CHECKING:
    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.models.generation import Settings
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.steering.steering import Steering


@dataclass(frozen=True, eq=False)
class _Waiting:
    row: ChatRow
    settings: Settings
    steering: Steering | None
    answer: Future[Generated] = field(default_factory=Future)

    def fits(self, other: _Waiting) -> bool:
        """Whether two calls may share a batch: same decoding, same steering, both with pictures or both without."""
        same_steering = (self.steering and self.steering.identity) == (other.steering and other.steering.identity)
        return same_steering and self.settings == other.settings and bool(self.row.pictures) == bool(other.row.pictures)


class Scheduler:
    """Micro-batches of whatever waits; a call that finds the model idle runs at once.

    There is no window and no background thread: under load the batches fill by themselves.
    """

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._queue: list[_Waiting] = []
        self._queue_lock = Lock()
        self._turn = Lock()

    def answer(
        self, loaded: LoadedVLM, row: ChatRow, settings: Settings, steering: Steering | None, *, batch_size: int
    ) -> Generated:
        """Answer one row, together with fitting rows of other callers, at most `batch_size` at a time.

        Raises:
            Exception: Whatever the model raised for the batch this row was in; a batch that fails is retried row by row, so
                that one caller's bad input is nobody else's error.
        """
        call = _Waiting(row, settings, steering)
        with self._queue_lock:
            self._queue.append(call)
        while not call.answer.done():
            with self._turn:
                if not call.answer.done():
                    self._serve(loaded, self._take(batch_size))
        return call.answer.result()

    def _take(self, batch_size: int) -> list[_Waiting]:
        """Take the longest waiting call and those that fit it, oldest first."""
        with self._queue_lock:
            first = self._queue[0]
            taken = [call for call in self._queue if call.fits(first)][:batch_size]
            self._queue = [call for call in self._queue if call not in taken]
        return taken

    def _serve(self, loaded: LoadedVLM, calls: list[_Waiting]) -> None:
        head = calls[0]
        try:
            answers = generate_rows(
                loaded, [call.row for call in calls], head.settings, head.steering, batch_size=len(calls)
            )
        except Exception as error:  # noqa: BLE001 - raised again in the caller's own thread
            if len(calls) == 1:
                head.answer.set_exception(error)
                return
            for call in calls:
                self._serve(loaded, [call])
            return
        except BaseException as error:
            for call in calls:
                call.answer.set_exception(error)
            raise
        for call, answer in zip(calls, answers, strict=True):
            call.answer.set_result(answer)
