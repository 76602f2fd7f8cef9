"""What acts on one generation call: the protocol of steering, screening, adapters and peers, and hooks for one call alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from contextvars import ContextVar
    from typing import Self

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    Hook = Callable[[nn.Module, tuple[object, ...], object], object]
    """A forward hook: takes module, positional inputs and output; returns another output, or `None` to leave it."""

Call = TypeVar("Call")

QueryForm = Literal["text", "request"]
"""What an attachment may read beside the prompt: the conversation without its pictures, or the typed request alone, without
system prompt, tools and history."""


Reads = Literal["input", "query", "both", "request"]
"""What a gate reads, see `Steering.reads`."""


class Trace(TypedDict):
    """What was read and done for one row, as plain values; `verdict.records.SteeringTrace` is its checked form."""

    intervention: str
    gate: str
    score: float
    """What the gate read: a coordinate on a direction, or a probe's log-odds."""

    threshold: float
    open: bool
    strength: float
    """0 leaves the row as it was, 1 is the full intervention."""

    risk: float
    """In [0, 1]."""

    layers: list[int]
    picture: bool
    """Whether the row shows a picture."""

    reads: Reads
    calibration: str
    """What the gate's threshold was placed on."""


class AttachedCall(ABC):
    """The state of one attachment during one generation call of several rows."""

    @property
    def edits_decoding(self) -> bool:
        """Whether the tokens after the prompt are acted on too; if not, the hooks may go after the prefill."""
        return True

    @property
    def must_repeat(self) -> bool:
        """Whether the last prompt token must run again after the prefill (only with `attach(repeatable=True)`)."""
        return False

    def repeat(self) -> None:
        """Prepare for the last prompt token to run again.

        Raises:
            RuntimeError: This kind of call never needs that.
        """
        msg = f"a {type(self).__name__} has nothing to repeat"
        raise RuntimeError(msg)

    @abstractmethod
    def trace(self) -> Sequence[Trace | None]:
        """Return one trace a row, `None` for rows of attachments that have no gate to report."""

    @abstractmethod
    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; called after the prefill."""

    @abstractmethod
    def absorb(self, other: Self) -> None:
        """Append the rows of another call of the same attachment; called after both prefills."""


class Attachment(ABC):
    """Something that acts on generation calls: it steers them, reads them, or adds an adapter to the weights.

    `ChatSteeredVLM(steering=...)` takes any. One attachment serves any number of calls at once; what belongs to a single
    call lies in the `AttachedCall` that `attach` yields.

    ??? example "An attachment by hand"

        ```python
        with attachment.attach(model, pictured=torch.tensor([False]), inputs=inputs) as call:
            model.generate(**inputs)
        call.trace()
        ```
    """

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hash of everything that changes an answer: a part of cache keys, and only rows of one identity share a batch."""

    @property
    def needs_text_query(self) -> bool:
        """Whether `attach` wants the rows as text alone, too."""
        return False

    @property
    def query_form(self) -> QueryForm:
        """The form of that text."""
        return "text"

    @property
    def edits_pictures(self) -> bool:
        """Whether it changes what the vision tower or the projector makes of a picture."""
        return False

    @property
    def provenance(self) -> Mapping[str, str]:
        """What an answer with a trace says about where its reading comes from: hashes by name."""
        return {}

    @abstractmethod
    def attach(
        self,
        model: PreTrainedModel,
        *,
        pictured: Tensor,
        inputs: dict[str, Tensor] | None = None,
        text_inputs: dict[str, Tensor] | None = None,
        repeatable: bool = False,
    ) -> AbstractContextManager[AttachedCall]:
        """Act on what this thread (or task) runs on the model inside the block, and on nothing else.

        Args:
            model: The model.
            pictured: Which rows show a picture, `(rows,)` bool.
            inputs: The encoded rows, left-padded.
            text_inputs: The same rows in the attachment's `query_form`, for one with `needs_text_query`; `inputs` itself where
                that is what they are already.
            repeatable: Whether the caller runs the last prompt token again if `must_repeat` asks for it.

        Raises:
            ValueError: An input is missing that this attachment needs.
        """


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Register forward hooks for the block; all are removed however it ends."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attached(active: ContextVar[Call | None], call: Call, hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[Call]:
    """Register forward hooks for the block and make `call` the active one of this thread or task.

    A hook must do nothing unless `active.get()` is its own call, because other threads run the same modules.
    """
    with hooked(hooks):
        token = active.set(call)
        try:
            yield call
        finally:
            active.reset(token)
