"""What waits for a person, and what was decided about tool calls: notes in the guard's private state."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.messages import AIMessage, ToolMessage, message_to_dict, messages_from_dict

from langchain_vlmguard.agents.prints import call_fingerprint
from langchain_vlmguard.content.carriers import CALLS, THOUGHTS, call_key, is_mark, repeats
from langchain_vlmguard.content.spellings import kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.content.turn import Block
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.records import Json

WAITS = "This waits for a person's review."

_TECHNICAL = (
    "model_name",
    "model_provider",
    "finish_reason",
    "stop_reason",
    "id",
    "service_tier",
    "system_fingerprint",
)
_TEXT_FIELDS = frozenset({"type", "text", "id", "index", "annotations", "citations", "extras"})


def packed(message: BaseMessage) -> Json:
    """Return a message as plain values."""
    return message_to_dict(message)


def unpacked(message: Json) -> Any:
    """Return the message of plain values."""
    return messages_from_dict([message])[0]


def new_id() -> str:
    """Return an id for a message of the guard's own."""
    return f"vlmguard-{uuid4()}"


def call_name(call: ToolCall) -> str:
    """Return the name of a call's note: its id, which may repeat, and what it says."""
    return f"{call['id']}/{call_fingerprint(call)}"


def call_note(draft: Draft) -> Json:
    """Return what the guard notes about a judged tool call."""
    return {"action": draft.action, "draft": draft.to_state()}


def with_calls(message: AIMessage, calls: Sequence[ToolCall]) -> AIMessage:
    """Return an answer with other calls, made anew of nothing but what is known to say nothing of the old ones.

    Words that were judged stay, and blocks of calls that stay as they are. Everything else goes: the provider's other spellings
    of the calls, log-probabilities, fields of its own. A call that is in `calls` and in no block is sent to providers from
    `tool_calls`.
    """
    content: Any = message.content
    if isinstance(content, list):
        content = [block for block in content if isinstance(block, str) or _stays(block, calls)]
    return AIMessage(
        content,
        id=message.id,
        name=message.name,
        tool_calls=[*calls],
        usage_metadata=message.usage_metadata,
        response_metadata=technical(message),
    )


def technical(message: AIMessage) -> Json:
    """Return those fields of an answer's metadata that name its model and how it ended."""
    known = {key: message.response_metadata.get(key) for key in _TECHNICAL}
    return {key: value for key, value in known.items() if is_mark(value)}


def with_own_ids(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """Return calls each of which has an id of its own; providers that count anew, or send none, let ids repeat."""
    times = Counter(call["id"] for call in calls)
    return [call if call["id"] and times[call["id"]] == 1 else {**call, "id": new_id()} for call in calls]


def _stays(block: Block, calls: Sequence[ToolCall]) -> bool:
    kind = kind_of(block)
    if kind in CALLS:
        ids = {block.get("id"), block.get("call_id")}
        return repeats(block, {call_key(call["name"], call["args"]) for call in calls if call["id"] in ids})
    return kind in THOUGHTS or (kind in ("text", "output_text") and block.keys() <= _TEXT_FIELDS)


def restored(message: ToolMessage, text: str | None) -> ToolMessage:
    """Return a held tool result, or a person's version of it."""
    return message if text is None else message.model_copy(update={"content": text, "artifact": None})
