"""Structured answers are whole: one that was cut is an error, and neither `None` nor half of a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.runnables import RunnableGenerator

from langchain_vlmguard.errors import StructuredOutputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.messages import AIMessage


def whole_answers() -> RunnableGenerator[AIMessage, AIMessage]:
    """Return a step between a model and a parser: it hands answers on, streamed or not, and raises on one that was cut.

    Raises:
        StructuredOutputError: The answer reached `max_tokens`.
    """
    return RunnableGenerator(_checked, _achecked)


def _checked(chunks: Iterator[AIMessage]) -> Iterator[AIMessage]:
    for chunk in chunks:
        _check(chunk)
        yield chunk


async def _achecked(chunks: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    async for chunk in chunks:
        _check(chunk)
        yield chunk


def _check(chunk: AIMessage) -> None:
    """Raise if an answer, or the last chunk of one, says that it was cut; a call that was read is whole."""
    if chunk.response_metadata.get("finish_reason") != "length":
        return
    tokens = f" ({chunk.usage_metadata['output_tokens']})" if chunk.usage_metadata else ""
    msg = (
        f"the answer was cut at max_tokens{tokens} before it was whole: give more, e.g. .invoke(..., max_tokens=512), or a "
        "schema that asks for less; include_raw=True shows what was written"
    )
    raise StructuredOutputError(msg)
