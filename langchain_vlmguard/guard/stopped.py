"""Turns that were refused, or that wait for a person, in the history of a conversation: nobody let their words through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_vlmguard.content.turn import turn_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

Bare = TypeVar("Bare", bound="BaseMessage")

WITHHELD = "[this message was stopped and is not shown]"
"""What stands in for the words of a turn that did not go on."""


def without_stopped_turns(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """Return a conversation in which the words of stopped turns are left out, so that no model meets them as history.

    A stopped turn is told by the verdict on the message that stands in for its answer. A sender can forge that, and gains
    nothing: words are only ever left out. A client that sends the history without it sends words that are judged again, in
    the light of what follows.
    """
    stops = [at for at, message in enumerate(messages) if _stops_turn(message)]
    if not stops:
        return messages
    shown = [*messages]
    for stop in stops:
        for at in range(turn_start(messages[:stop]), stop):
            if isinstance(messages[at], HumanMessage | ToolMessage):
                shown[at] = bare(messages[at], WITHHELD)
    return shown


def bare(message: Bare, words: str) -> Bare:
    """Return a person's or a tool's message that says other words, and carries nothing else of its own."""
    kept: dict[str, object] = {"content": words, "additional_kwargs": {}, "response_metadata": {}}
    beside = {"artifact": None} if isinstance(message, ToolMessage) else {"name": None}
    return message.model_copy(update={**kept, **beside})


def _stops_turn(message: BaseMessage) -> bool:
    """Whether a message stands in for the answer to a turn that no model was shown."""
    if not isinstance(message, AIMessage):
        return False
    verdict = message.response_metadata.get("verdict")
    if not isinstance(verdict, Mapping):
        return False
    return verdict.get("action") in ("refuse", "review") and verdict.get("answer", "none") == "none"
