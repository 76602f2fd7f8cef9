"""Hooks for one call alone: they last for a block and act only in the thread or task that opened it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_vlmguard.steering.activations import hooked, states_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextvars import ContextVar

    from torch import Tensor, nn
    from transformers import PreTrainedModel

Call = TypeVar("Call")


@contextmanager
def attached(
    active: ContextVar[Call | None], call: Call, hooks: Iterable[tuple[nn.Module, Callable[..., Any]]]
) -> Iterator[Call]:
    """Register forward hooks for the block, with `call` as the context's active one; all go however the block ends.

    A hook must do nothing unless `active.get()` is its own call: other threads run the same modules.
    """
    with hooked(hooks):
        token = active.set(call)
        try:
            yield call
        finally:
            active.reset(token)


def clean_prefill(
    active: ContextVar[Call | None], model: PreTrainedModel, inputs: dict[str, Tensor], layers: tuple[int, ...]
) -> dict[int, Tensor]:
    """Return the last prompt token's states by layer, `(rows, hidden)`, with no call of `active` taking part."""
    outer = active.set(None)
    try:
        return states_until(model, inputs, layers)
    finally:
        active.reset(outer)
