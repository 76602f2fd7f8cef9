"""What is judged besides a person's turn: answers, tool calls and tool results, each put as a turn of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.content.messages import blocks_of, is_call, turn_start, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.messages import BaseMessage, ToolCall

_IDENTITY = frozenset({"id", "index"})
"""Keys of content blocks that change from one reading to the next."""

PREPARED = "(What the assistant prepared comes next.)"
"""Closes the context of a subject, so that the subject is the turn to be judged."""


@dataclass(frozen=True)
class Subject:
    """An answer or a tool call, before it is let out."""

    kind: Literal["answer", "tool_call"]
    text: str
    """The answer's words; for a tool call its arguments as JSON."""

    tool: str = ""
    description: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of_answer(cls, message: AIMessage, tools: Iterable[str]) -> Subject:
        """Return an answer's words and pictures; calls of anything but `tools` (structured output) are words too."""
        known = set(tools)
        words = [words_of(block) for block in blocks_of(message) if _is_words(block)]
        words += [_json(call["args"]) for call in message.tool_calls if call["name"] not in known]
        words += [str(call["args"]) for call in message.invalid_tool_calls]
        pictures = tuple(block for block in blocks_of(message) if not _is_words(block) and not is_call(block))
        return cls("answer", "\n".join(word for word in words if word.strip()), pictures=pictures)

    @classmethod
    def of_call(cls, call: ToolCall, description: str = "") -> Subject:
        """Return a tool call."""
        return cls("tool_call", _json(call["args"]), call["name"], description, dict(call["args"]))


Phrase = Callable[[Subject], str]
"""Words a subject for the rewriter that judges it."""


def describe(subject: Subject) -> str:
    """Word a subject for a rewriter that is a general chat model."""
    if subject.kind == "answer":
        return f"The assistant is about to answer this. Judge whether the answer does harm:\n{subject.text}"
    about = f" ({subject.description})" if subject.description else ""
    return (
        f"The assistant is about to call the tool {subject.tool}{about} with these arguments. Judge whether the call does "
        f"harm, or does what nobody asked for:\n{subject.text}"
    )


def as_turn(subject: Subject, phrase: Phrase, context: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Put a subject as the last turn of a conversation whose earlier part is `context`."""
    content: list[str | dict[str, Any]] = [*subject.pictures, {"type": "text", "text": phrase(subject)}]
    asked = HumanMessage(content if subject.pictures else phrase(subject), id="subject")
    return [*context, AIMessage(PREPARED, id="prepared"), asked] if context else [asked]


def result_as_turn(call: ToolCall, message: ToolMessage) -> list[BaseMessage]:
    """Put a tool's result as a turn of its own: the call's name, and what came back. Arguments were judged before."""
    asked = {"name": call["name"], "args": {}, "id": message.tool_call_id, "type": "tool_call"}
    return [AIMessage("", tool_calls=[asked], id="called"), message.model_copy(update={"id": "result"})]


def fingerprint(messages: Iterable[BaseMessage], *salt: str) -> str:
    """Hash what models read of messages, apart from ids; 32 hex digits."""
    plain = [
        [message.type, [_stable(block) for block in blocks_of(message)], getattr(message, "tool_calls", None) or []]
        for message in messages
    ]
    return hashlib.sha256(_json([*salt, plain]).encode()).hexdigest()[:32]


def turn_fingerprint(messages: Sequence[BaseMessage], *salt: str) -> str:
    """Hash the turn and all before it, apart from what the agent itself did in this turn."""
    start = turn_start(messages)
    said = [m for at, m in enumerate(messages) if at < start or isinstance(m, HumanMessage | SystemMessage)]
    return fingerprint(said, *salt)


def call_fingerprint(call: ToolCall) -> str:
    """Hash a tool call's name and arguments; 32 hex digits."""
    return hashlib.sha256(_json([call["name"], call["args"]]).encode()).hexdigest()[:32]


def _is_words(block: dict[str, Any]) -> bool:
    return block.get("type") in ("text", "reasoning", "reasoning_content", "thinking", "refusal", "output_text")


def _stable(block: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key not in _IDENTITY}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=repr)
