"""Put a rewritten prompt in the place of what people wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_vlmguard.content.turn import blocks_of
from langchain_vlmguard.errors import RewriteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_vlmguard.content.turn import Block


def with_prompt(
    messages: Sequence[BaseMessage], start: int, prompt: str, *, keep_pictures: bool = True
) -> list[BaseMessage]:
    """Put the prompt in place of all that people wrote since `start`; their pictures stay, or go with the words.

    Raises:
        RewriteError: Nobody wrote anything.
    """
    people = [at for at, message in enumerate(messages) if at >= start and isinstance(message, HumanMessage)]
    if not people:
        msg = "the turn holds no human message whose prompt could be rewritten"
        raise RewriteError(msg)
    changed = {index: _pictures(messages[index]) if keep_pictures else [] for index in people}
    changed[people[-1]].append({"type": "text", "text": prompt})
    return [
        message.model_copy(update={"content": _plain(changed[index])}) if index in changed else message
        for index, message in enumerate(messages)
        if changed.get(index, True)
    ]


def _pictures(message: BaseMessage) -> list[Block]:
    return [block for block in blocks_of(message) if block["type"] == "image"]


def _plain(content: list[Block]) -> str | list[str | Block]:
    """Return content that is a single text as a string, which every model takes."""
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else [*content]
