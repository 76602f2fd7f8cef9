"""Tokens of the model inside a guarded chat model: they are counted by its own run, and not once more by the run around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.outputs import ChatGeneration, LLMResult

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

_KEY = "inner_usage"
"""Where the run around it tells the tokens in its metadata; counters read another field."""


def told_beside(message: AIMessage) -> tuple[AIMessage, dict[str, object]]:
    """Return a message without its usage, and the information of a generation that tells it instead."""
    if message.usage_metadata is None:
        return message, {}
    return message.model_copy(update={"usage_metadata": None}), {_KEY: message.usage_metadata}


def with_usage(message: Any) -> Any:
    """Return a message with its usage where everybody looks for it."""
    usage = message.response_metadata.get(_KEY)
    if usage is None:
        return message
    metadata = {key: value for key, value in message.response_metadata.items() if key != _KEY}
    return message.model_copy(update={"usage_metadata": usage, "response_metadata": metadata})


def result_with_usage(result: LLMResult) -> LLMResult:
    """Return a result whose messages have their usage; the observers' own copy stays as they were told."""
    generations: list[Any] = [[_with_usage(one) for one in batch] for batch in result.generations]
    return LLMResult(generations=generations, llm_output=result.llm_output, run=result.run)


def _with_usage(one: Any) -> ChatGeneration:
    return ChatGeneration(message=with_usage(one.message), generation_info=_without(one.generation_info))


def _without(info: dict[str, object] | None) -> dict[str, object] | None:
    return {key: value for key, value in (info or {}).items() if key != _KEY} or None
