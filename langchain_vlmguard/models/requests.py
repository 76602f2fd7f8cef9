"""What is asked of a model and what comes back: one request a row, each with its own settings and attachment."""

from __future__ import annotations

import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import GenerationTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.steering.attachment import Attachment, Trace


@dataclass(frozen=True)
class Settings:
    """How to decode one row."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""

    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    """Seeds this row's own generator; rows of other callers change nothing about the draw."""

    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it; they may span tokens."""

    logprobs: int | None = None
    """How many alternatives to report beside each token's log-probability, `None` for no log-probabilities."""

    grammar: str | None = None
    """An llguidance grammar that the answer must follow; see `models.structured`."""

    markers: bool = False
    """Keep the special tokens that open and close tool calls in the text."""

    adapter: str | None = None
    """A LoRA adapter loaded into the model, switched on for this row alone."""

    until_gate: bool = False
    """End the row after its first token if the gate opens, because its caller then wants another prompt answered."""

    timeout: float | None = None
    """Seconds from submission to the end of the answer."""


@dataclass(frozen=True)
class TokenLogprob:
    """One token of an answer with its log-probability at temperature 1, and the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Generated:
    """One row's answer."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str
    """`"stop"` or `"length"`."""

    steering: Trace | None = None
    """The row's steering trace, `None` when steering is off."""

    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(eq=False)
class Request:
    """One row on its way through the scheduler: what is wanted, and where the answer goes.

    `cancel` (or cancelling `future`) takes the row out within one token.
    """

    row: ChatRow
    settings: Settings
    attachment: Attachment | None = None
    """What acts on the row while it is answered."""

    batch_size: int = 16
    """Most rows that this one may run with, including itself."""

    client: Hashable = None
    """Whose request it is; clients take turns in the queue."""

    on_piece: Callable[[str], None] | None = None
    """Called in the scheduler's thread with each piece of text as soon as it cannot change any more."""

    future: Future[Generated] = field(default_factory=Future)
    emitted: int = 0
    """Characters handed to `on_piece` so far."""

    restarted: bool = False
    """Whether the row was started again after memory ran out."""

    def __post_init__(self) -> None:
        """Start the clock."""
        self._cancelled = Event()
        timeout = self.settings.timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout

    @property
    def kind(self) -> tuple[str | None, str | None]:
        """Attachment and adapter: rows that share both may decode in one batch."""
        return (self.attachment.identity if self.attachment else None, self.settings.adapter)

    @property
    def cancelled(self) -> bool:
        """Whether the caller has left."""
        return self._cancelled.is_set() or self.future.cancelled()

    def cancel(self) -> None:
        """Give up the answer."""
        self._cancelled.set()
        self.future.cancel()

    def expire(self) -> bool:
        """End the request if it is cancelled or out of time, and return whether it is."""
        if self.cancelled:
            self.future.cancel()
            return True
        if self._deadline is None or time.monotonic() < self._deadline:
            return False
        msg = f"no answer within {self.settings.timeout} s: raise timeout, lower max_tokens, or send less at once"
        self.fail(GenerationTimeoutError(msg))
        return True

    def fail(self, error: BaseException) -> None:
        """End with an error, unless the caller has left."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return

    def finish(self, generated: Generated) -> None:
        """End with the answer, unless the caller has left."""
        try:
            self.future.set_result(generated)
        except InvalidStateError:
            return

    def result(self) -> Generated:
        """Wait for the answer; a wait that is interrupted cancels the row.

        Raises:
            GenerationTimeoutError: The settings' timeout has passed.
            Exception: Whatever the model raised for this row.
        """
        try:
            return self.future.result()
        except BaseException:
            self.cancel()
            raise
