"""A whole answer as the only chunk of a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage


def whole_chunk(message: AIMessage) -> AIMessageChunk:
    """Return a whole answer as one chunk; its tool calls can be merged and parsed like any others."""
    fields = message.model_dump(exclude={"type", "tool_calls", "invalid_tool_calls"})
    chunks = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
        for index, call in enumerate(message.tool_calls)
    ]
    return AIMessageChunk(**fields, tool_call_chunks=chunks)
