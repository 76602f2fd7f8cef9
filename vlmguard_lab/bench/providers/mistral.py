"""Mistral through langchain-mistralai."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.providers.openai import halves
from vlmguard_lab.bench.providers.wire import as_events, as_json

if TYPE_CHECKING:
    from vlmguard_lab.bench.providers.script import Said
    from vlmguard_lab.bench.providers.wire import Wire

MARK = ({"type": "text", "text": "Remember that I live in Lima."},)
_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def model(wire: Wire) -> Any:
    """Return a model."""
    import httpx
    from langchain_mistralai import ChatMistralAI

    given: dict[str, Any] = {"transport": wire.transport(httpx), "base_url": "https://api.mistral.ai/v1"}
    clients: dict[str, Any] = {"client": httpx.Client(**given), "async_client": httpx.AsyncClient(**given)}
    key: dict[str, Any] = {"api_key": "none"}
    return ChatMistralAI(model_name="mistral-large-latest", **key, **clients)


def render(said: Said, number: str, streams: bool) -> tuple[str, bytes]:  # noqa: FBT001
    """Write an answer of chat completions."""
    calls = [
        {"id": f"c{number:0>6}{at:0>2}", "index": at, "function": {"name": name, "arguments": json.dumps(args)}}
        for at, (name, args) in enumerate(said.calls)
    ]
    about = {"id": f"cmpl-{number}", "created": 1, "model": "mistral-large-latest"}
    ends = "tool_calls" if calls else "stop"
    called: dict[str, Any] = {"tool_calls": calls} if calls else {}
    if not streams:
        message = {"role": "assistant", "content": said.text, **called}
        choice = {"index": 0, "message": message, "finish_reason": ends}
        return as_json({**about, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    deltas = [{"role": "assistant", "content": ""}, *({"content": one} for one in halves(said.text))]
    chunks: list[dict[str, Any]] = [{"index": 0, "delta": one, "finish_reason": None} for one in deltas]
    chunks.append({"index": 0, "delta": {"content": "", **called}, "finish_reason": ends})
    sent = [{**about, "object": "chat.completion.chunk", "choices": [one]} for one in chunks]
    sent[-1]["usage"] = _USAGE
    return as_events(sent, done=True)
