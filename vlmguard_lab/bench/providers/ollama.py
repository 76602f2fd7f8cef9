"""Ollama through langchain-ollama, which always streams."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.providers.openai import halves

if TYPE_CHECKING:
    from vlmguard_lab.bench.providers.script import Said
    from vlmguard_lab.bench.providers.wire import Wire

MARK = ({"type": "text", "text": "Remember that I live in Lima."},)


def model(wire: Wire) -> Any:
    """Return a model that thinks."""
    import httpx
    from langchain_ollama import ChatOllama

    transport = {"transport": wire.transport(httpx)}
    return ChatOllama(model="qwen3", reasoning=True, sync_client_kwargs=transport, async_client_kwargs=transport)


def render(said: Said, _number: str, _streams: bool) -> tuple[str, bytes]:  # noqa: FBT001
    """Write an answer of /api/chat, a line a part."""
    about = {"model": "qwen3", "created_at": "2026-11-28T09:00:00Z"}
    parts: list[dict[str, Any]] = [{"content": "", "thinking": one} for one in halves(said.thought)]
    parts += [{"content": one} for one in halves(said.text)]
    if said.calls:
        calls = [{"function": {"name": name, "arguments": args}} for name, args in said.calls]
        parts.append({"content": "", "tool_calls": calls})
    lines = [{**about, "message": {"role": "assistant", **one}, "done": False} for one in parts]
    counts = {"total_duration": 4, "load_duration": 1, "prompt_eval_count": 9, "prompt_eval_duration": 1}
    counts |= {"eval_count": 3, "eval_duration": 2}
    end = {**about, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **counts}
    return "application/x-ndjson", "".join(json.dumps(one) + "\n" for one in [*lines, end]).encode()
