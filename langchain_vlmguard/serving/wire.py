"""A conversation that the guard let through, in OpenAI's form: what an upstream gets, and nothing beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.content.turn import blocks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.verdict.records import Json


def to_wire(messages: Sequence[BaseMessage]) -> list[Json]:
    """Return messages in OpenAI's form.

    Raises:
        ValueError: A message, or a part of one, has no form there.
    """
    return [_message(one) for one in messages]


def pictures_in_messages(messages: Sequence[BaseMessage]) -> int:
    """Count the pictures in the contents of messages."""
    return sum(block.get("type") in ("image", "image_url") for message in messages for block in blocks_of(message))


def sent_call(call: Mapping[str, object]) -> Json:
    """Return a tool call, or one whose arguments are no JSON object, in OpenAI's form."""
    args = call["args"]
    arguments = args if isinstance(args, str) else json.dumps(args)
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def sent_picture(block: Mapping[str, object]) -> Json:
    """Return a picture that was read, with its bytes, in OpenAI's form."""
    return {"type": "image_url", "image_url": {"url": f"data:{block['mime_type']};base64,{block['base64']}"}}


def _message(message: BaseMessage) -> Json:
    content = _content(message)
    named = {} if message.name is None else {"name": message.name}
    if isinstance(message, ToolMessage):
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": content}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": content, **named}
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": content, **named}
    if not isinstance(message, AIMessage):
        msg = f"{type(message).__name__} has no form that an upstream takes"
        raise ValueError(msg)  # noqa: TRY004 - the value is what is wrong, whoever gave it
    calls = [*map(sent_call, message.tool_calls)]
    said = {"tool_calls": calls, "content": content or None} if calls else {"content": content}
    return {"role": "assistant", **said, **named}


def _content(message: BaseMessage) -> str | list[Json]:
    if isinstance(message.content, str):
        return message.content
    return [_part(block) for block in blocks_of(message)]


def _part(block: Mapping[str, object]) -> Json:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    if kind == "image" and isinstance(block.get("base64"), str):
        return sent_picture(block)
    if kind == "image_url" and isinstance(block.get("image_url"), dict):
        return {"type": "image_url", "image_url": block["image_url"]}
    msg = "a part of the conversation has no form that an upstream takes"
    raise ValueError(msg)
