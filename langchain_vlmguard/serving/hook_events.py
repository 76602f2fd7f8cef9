"""What coding agents hand to a hook, as a request in the form of LiteLLM's generic guardrail API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_vlmguard.content.carriers import is_mark, pictures_in
from langchain_vlmguard.content.signatures import may_be_picture
from langchain_vlmguard.content.walk import texts_in, walk

if TYPE_CHECKING:
    from langchain_vlmguard.verdict.records import Json

PROMPT, CALL, RESULT = "UserPromptSubmit", "PreToolUse", "PostToolUse"
"""Events that are judged: what a person wrote, a tool call on its way, what a tool returned."""

_CALL_ID = "call_0"
_DATA = ("base64", "data", "blob", "bytes")
_MEDIA = ("mime_type", "mimeType", "media_type", "mediaType")


@dataclass(frozen=True)
class HookEvent:
    """An event of an agent."""

    name: str
    """The agent's own name of it."""

    body: Json
    """What the guard is asked."""

    result: object = field(default=None, repr=False)
    """What the tool returned, as it came."""


def read_event(raw: bytes) -> HookEvent:
    """Read what an agent wrote on stdin.

    Raises:
        ValueError: It is none of the events that are judged, or a part of it cannot be read.
    """
    try:
        given = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        msg = "what came on stdin is no JSON"
        raise ValueError(msg) from error
    name = given.get("hook_event_name") if isinstance(given, dict) else None
    if name == PROMPT and isinstance(given.get("prompt"), str):
        return HookEvent(PROMPT, _request(texts=[given["prompt"]]))
    tool = given.get("tool_name") if isinstance(given, dict) else None
    if name not in (CALL, RESULT) or not isinstance(tool, str) or not tool or "tool_input" not in given:
        msg = f"this hook judges {PROMPT}, {CALL} and {RESULT}, each with its documented fields"
        raise ValueError(msg)
    call = _call(tool, given["tool_input"])
    if name == CALL:
        shown = _pictures(given["tool_input"])
        return HookEvent(CALL, _request(input_type="response", tool_calls=[call], images=shown))
    if "tool_response" not in given:
        msg = f"{RESULT} came without its tool_response"
        raise ValueError(msg)
    result = given["tool_response"]
    return HookEvent(RESULT, _about(call, result), result)


def _about(call: Json, result: object) -> Json:
    """Return the request about what a tool returned: words, and every picture wherever it stands."""
    texts, pictures = _texts(result), _pictures(result)
    parts: list[Json] = [{"type": "text", "text": "\n".join(texts)}] if texts else []
    parts += [{"type": "image_url", "image_url": {"url": one}} for one in pictures]
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": _CALL_ID, "content": parts},
    ]
    said = ["\n".join(texts)] if texts else []
    return _request(texts=said, images=pictures, structured_messages=messages)


def _request(**fields: object) -> Json:
    return {"input_type": "request", "request_data": {}, **fields}


def _call(tool: str, arguments: object) -> Json:
    given = arguments if isinstance(arguments, dict) else {"input": arguments}
    named = tool if is_mark(tool) else "tool"
    kept = given if named == tool else {"tool": tool, **given}
    function = {"name": named, "arguments": json.dumps(kept, ensure_ascii=False)}
    return {"id": _CALL_ID, "type": "function", "function": function}


def _texts(value: object) -> list[str]:
    """Return the words in a value, pictures apart.

    Raises:
        ValueError: It holds a file that is no picture.
    """
    for one in walk(value):
        if isinstance(one, Mapping) and _holds_file(one):
            msg = "the tool returned a file that is no picture, which cannot be judged here"
            raise ValueError(msg)
    return [text for text in texts_in(value) if text.strip() and not may_be_picture(text)]


def _holds_file(value: Mapping[str, object]) -> bool:
    """Whether a part holds a file's data that is neither text nor a picture."""
    kind = str(next((value[key] for key in _MEDIA if value.get(key)), value.get("type") or ""))
    data = [value[key] for key in _DATA if isinstance(value.get(key), str) and value[key]]
    return "/" in kind and not kind.startswith("text/") and any(not may_be_picture(one) for one in data)


def _pictures(value: object) -> list[str]:
    """Return the pictures in a value as addresses that hold their data."""
    found = [str(block.get("url") or f"data:image/png;base64,{block['base64']}") for block in pictures_in(value)]
    return [*dict.fromkeys(found)]
