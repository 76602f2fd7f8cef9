"""What waits for a person, and what was decided about tool calls: notes in the guard's private state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.messages import AIMessage, ToolMessage, message_to_dict, messages_from_dict

from langchain_vlmguard.agents.prints import call_fingerprint

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.records import Json

WAITS = "This waits for a person's review."


def packed(message: BaseMessage) -> Json:
    """Return a message as plain values."""
    return message_to_dict(message)


def unpacked(message: Json) -> Any:
    """Return the message of plain values."""
    return messages_from_dict([message])[0]


def new_id() -> str:
    """Return an id for a message of the guard's own."""
    return f"vlmguard-{uuid4()}"


def call_note(call: ToolCall, draft: Draft) -> Json:
    """Return what the guard notes about a judged tool call."""
    return {"action": draft.action, "print": call_fingerprint(call), "draft": draft.to_state()}


def with_calls(message: AIMessage, calls: list[ToolCall], emptied: set[str]) -> AIMessage:
    """Return the message with other calls; arguments of `emptied` calls vanish from provider blocks too."""
    content: Any = message.content
    if isinstance(content, list):
        content = [
            _emptied(block) if isinstance(block, dict) and block.get("id") in emptied else block for block in content
        ]
    beside = {
        key: value for key, value in message.additional_kwargs.items() if key not in ("tool_calls", "function_call")
    }
    return message.model_copy(update={"content": content, "tool_calls": calls, "additional_kwargs": beside})


def _emptied(block: Json) -> Json:
    return {
        key: ({} if key in ("input", "args") else "{}" if key == "arguments" else value) for key, value in block.items()
    }


def restored(message: ToolMessage, text: str | None) -> ToolMessage:
    """Return a held tool result, or a person's version of it."""
    return message if text is None else message.model_copy(update={"content": text, "artifact": None})
