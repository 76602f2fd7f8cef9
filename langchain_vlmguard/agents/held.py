"""Review: parts that wait for a person lie in the guard's private state, and what is decided about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, ToolMessage, message_to_dict, messages_from_dict
from langgraph.types import interrupt

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.agents.options import AgentGuard

WAITS = "This waits for a person's review."

OPTIONS = ("approve", "edit", "reject")


def packed(message: BaseMessage) -> dict[str, Any]:
    """Return a message as plain values."""
    return message_to_dict(message)


def unpacked(message: dict[str, Any]) -> Any:
    """Return the message of plain values."""
    return messages_from_dict([message])[0]


def ask(guard: AgentGuard, held: dict[str, Any], **about: Any) -> tuple[str, str | None, dict[str, Any] | None]:
    """Stop the run until a person decides about what is held.

    Returns:
        What they said (anything that is no option is a rejection), the text of an edit, and the arguments of an edited call.
    """
    asked = {"stage": held["stage"], "guard": guard.name, "options": list(OPTIONS), **about}
    answered = interrupt(asked)
    said = answered.get("decision") if isinstance(answered, dict) else answered
    if said not in OPTIONS:
        return "reject", None, None
    given = answered if isinstance(answered, dict) else {}
    text = next(
        (given[key] for key in ("text", "prompt") if isinstance(given.get(key), str) and given[key].strip()), None
    )
    args = given.get("args") if isinstance(given.get("args"), dict) else None
    if said == "edit" and text is None and args is None:
        return "reject", None, None
    return said, text, args


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


def _emptied(block: dict[str, Any]) -> dict[str, Any]:
    return {
        key: ({} if key in ("input", "args") else "{}" if key == "arguments" else value) for key, value in block.items()
    }


def restored(result: dict[str, Any], text: str | None) -> ToolMessage:
    """Return a held tool result, or a person's version of it."""
    message: ToolMessage = unpacked(result)
    return message if text is None else message.model_copy(update={"content": text, "artifact": None})
