"""Checks as events of the custom stream."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from langgraph.config import get_stream_writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langgraph.types import StreamWriter

    from langchain_vlmguard.guard.state import CheckRecord

EVENT = "vlmguard.verdict"
"""`type` of the custom event that carries a check."""


_around: ContextVar[StreamWriter | None] = ContextVar("vlmguard_stream_writer", default=None)


def stream_writer() -> StreamWriter:
    """Return what writes to the custom stream of the run around this call; without a run it writes nowhere."""
    writer = _around.get()
    if writer is not None:
        return writer
    try:
        return get_stream_writer()
    except (KeyError, RuntimeError):
        return lambda _: None


@contextmanager
def as_one_node() -> Iterator[None]:
    """Send the events of a graph that runs inside this block as those of the node around it.

    LangGraph shows what a graph inside a node writes only to those who ask for subgraphs.
    """
    token = _around.set(stream_writer())
    try:
        yield
    finally:
        _around.reset(token)


def publish(writer: StreamWriter, records: Sequence[CheckRecord]) -> None:
    """Send each check as a custom event (`stream_mode="custom"`)."""
    for record in records:
        writer({"type": EVENT, **record})
