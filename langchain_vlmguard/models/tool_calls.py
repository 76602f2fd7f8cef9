"""Tool calls as local models write them: JSON between `<tool_call>` tags (Hermes, Qwen and the testbed)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_core.messages.tool import invalid_tool_call, tool_call

if TYPE_CHECKING:
    from langchain_core.messages import InvalidToolCall, ToolCall

_CALL = re.compile(r"<tool_call>\s*(?P<body>.*?)\s*(?:</tool_call>|$)", re.DOTALL)


def parse_tool_calls(text: str) -> tuple[str, list[ToolCall], list[InvalidToolCall]]:
    """Split an answer into its words and its tool calls.

    Returns:
        The text outside the tags, the calls that parse, and those that do not (kept as written, with the reason).
    """
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for match in _CALL.finditer(text):
        call_id = f"call_{uuid4().hex[:12]}"
        try:
            body = json.loads(match["body"])
            calls.append(tool_call(name=body["name"], args=dict(body.get("arguments") or {}), id=call_id))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"not a tool call in JSON: {type(error).__name__}"
            invalid.append(invalid_tool_call(name=None, args=match["body"], id=call_id, error=reason))
    return _CALL.sub("", text).strip(), calls, invalid
