"""Fingerprints, by which the guard knows again what it judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_vlmguard.content.checking import digest_of
from langchain_vlmguard.content.turn import blocks_of, turn_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.messages import BaseMessage, ToolCall

_LONG = 50_000
"""Letters from which a text goes in by its own hash, which is remembered of pictures."""

_IDENTITY = frozenset({"id", "index"})
"""Keys of content blocks that change from one reading to the next."""


def fingerprint(messages: Iterable[BaseMessage], *salt: str) -> str:
    """Hash what models read of messages, apart from ids; 32 hex digits."""
    digest = hashlib.sha256(_json(salt))
    for message in messages:
        digest.update(message.type.encode())
        content = message.content
        if isinstance(content, str):
            _add_text(digest, content)
        else:
            for block in blocks_of(message):
                _add(digest, {key: value for key, value in block.items() if key not in _IDENTITY})
        if isinstance(message, AIMessage) and message.tool_calls:
            digest.update(_json(message.tool_calls))
    return digest.hexdigest()[:32]


def turn_fingerprint(messages: Sequence[BaseMessage], *salt: str) -> str:
    """Hash the turn and all before it, apart from what the agent itself did in this turn."""
    start = turn_start(messages)
    said = [m for at, m in enumerate(messages) if at < start or isinstance(m, HumanMessage | SystemMessage)]
    return fingerprint(said, *salt)


def call_fingerprint(call: ToolCall) -> str:
    """Hash a tool call's name and arguments; 32 hex digits."""
    return hashlib.sha256(_json([call["name"], call["args"]])).hexdigest()[:32]


def _add(digest: hashlib._Hash, value: object) -> None:
    """Add a value; long texts in it, such as pictures, are not copied into JSON first."""
    if isinstance(value, str):
        _add_text(digest, value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(_json(key))
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(b"[%d]" % len(value))
        for one in value:
            _add(digest, one)
    else:
        digest.update(_json(value))


def _add_text(digest: hashlib._Hash, text: str) -> None:
    if len(text) > _LONG:
        digest.update(b"%d#" % len(text))
        digest.update(digest_of(text))
        return
    encoded = text.encode("utf-8", "surrogatepass")
    digest.update(b"%d:" % len(encoded))
    digest.update(encoded)


_ENCODER = json.JSONEncoder(ensure_ascii=True, sort_keys=True, default=repr)


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode()
