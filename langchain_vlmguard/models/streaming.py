"""Streaming pieces for `generate`: a streamer that fills a queue, and a criterion that stops on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria, TextStreamer

if TYPE_CHECKING:
    from queue import SimpleQueue
    from threading import Event

    from transformers import PreTrainedTokenizerBase

    from langchain_vlmguard.steering.steering import SteeredCall


class QueueStreamer(TextStreamer):  # type: ignore[misc]
    """Puts pieces of text on a queue as soon as they cannot change any more.

    Text that could be the beginning of a stop string is held back, so that no part of a stop string leaves.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, queue: SimpleQueue[Any], stop: tuple[str, ...] = ()) -> None:
        """Stream to `queue`; nothing after the first of the `stop` strings leaves."""
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._queue, self._stop = queue, stop
        self._held, self._started, self._stopped = "", False, False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - interface
        """Release what is safe to release."""
        self._held += text if self._started else text.lstrip()
        self._started = self._started or bool(self._held)
        cut = min((at for stop in self._stop if (at := self._held.find(stop)) >= 0), default=None)
        if cut is not None:
            self._put(self._held[:cut])
            self._stopped, self._held = True, ""
            return
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        keep = max(keep, len(self._held) - len(self._held.rstrip()))
        self._put(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]

    def flush(self) -> None:
        """Release what was held back once the answer is over, without the blanks at its end."""
        self._put(self._held.rstrip())
        self._held = ""

    def _put(self, text: str) -> None:
        if text and not self._stopped:
            self._queue.put(text)


class CancelCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops every row at the next token once the event is set."""

    def __init__(self, cancelled: Event) -> None:
        """Watch `cancelled`."""
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.BoolTensor:
        """Return one flag a row."""
        return torch.full((input_ids.shape[0],), self._cancelled.is_set(), device=input_ids.device)  # type: ignore[return-value]


class OpenGateCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops the rows whose steering gate is open, as soon as the prefill has read it."""

    def __init__(self, call: SteeredCall) -> None:
        """Watch a steered call."""
        self._call = call

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.BoolTensor:
        """Return one flag a row."""
        reading = self._call.reading
        assert reading is not None  # noqa: S101 - the prefill has run
        return (reading.strength > 0).to(input_ids.device)  # type: ignore[return-value]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
