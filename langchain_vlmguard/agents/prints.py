"""Fingerprints, by which the guard knows again what it judged."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage, SystemMessage

from langchain_vlmguard.content.turn import blocks_of, turn_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.content.turn import Block

_IDENTITY = frozenset({"id", "index"})
"""Keys of content blocks that change from one reading to the next."""


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


def _stable(block: Block) -> Block:
    return {key: value for key, value in block.items() if key not in _IDENTITY}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=repr)
