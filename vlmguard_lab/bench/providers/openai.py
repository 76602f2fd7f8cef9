"""OpenAI through langchain-openai: Chat Completions and Responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.providers.wire import as_events, as_json

if TYPE_CHECKING:
    from vlmguard_lab.bench.providers.script import Said
    from vlmguard_lab.bench.providers.wire import Wire

MARK = ({"type": "text", "text": "Remember that I live in Lima."},)
SEARCH = {"type": "web_search"}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chat(wire: Wire) -> Any:
    """Return a model that speaks Chat Completions."""
    return _model(wire, use_responses_api=False, stream_usage=True)


def responses(wire: Wire) -> Any:
    """Return a model that speaks Responses, with reasoning."""
    reasoning = {"effort": "low", "summary": "auto"}
    return _model(wire, use_responses_api=True, output_version="responses/v1", reasoning=reasoning)


def _model(wire: Wire, **options: Any) -> Any:
    import httpx2
    from langchain_openai import ChatOpenAI

    sync = httpx2.Client(transport=wire.transport(httpx2))
    fleeting = httpx2.AsyncClient(transport=wire.transport(httpx2))
    given: dict[str, Any] = {"api_key": "none", "http_client": sync, "http_async_client": fleeting, "max_retries": 0}
    return ChatOpenAI(model="gpt-5", **given, **options)


def render_chat(said: Said, number: str, streams: bool) -> tuple[str, bytes]:  # noqa: FBT001
    """Write an answer of Chat Completions."""
    calls: list[dict[str, Any]] = [
        {"index": at, "id": f"call_{number}_{at}", "type": "function", "function": _function(name, args)}
        for at, (name, args) in enumerate(said.calls)
    ]
    ends = "tool_calls" if calls else "stop"
    about = {"id": f"chatcmpl-{number}", "created": 1, "model": "gpt-5", "system_fingerprint": "fp"}
    if not streams:
        bare = [{key: value for key, value in one.items() if key != "index"} for one in calls]
        message = {"role": "assistant", "content": said.text or None, **({"tool_calls": bare} if bare else {})}
        choice = {"index": 0, "message": message, "finish_reason": ends}
        return as_json({**about, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": part} for part in halves(said.text)]
    for one in calls:
        first, *more = halves(one["function"]["arguments"])
        deltas.append({"tool_calls": [{**one, "function": {**one["function"], "arguments": first}}]})
        deltas += [{"tool_calls": [{"index": one["index"], "function": {"arguments": part}}]} for part in more]
    chunks: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"index": 0, "delta": {}, "finish_reason": ends})
    sent = [{**about, "object": "chat.completion.chunk", "choices": [one], "usage": None} for one in chunks]
    return as_events([*sent, {**about, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}], done=True)


def halves(text: str) -> list[str]:
    """Return a text in two parts, as streams do."""
    middle = len(text) // 2
    return [part for part in (text[:middle], text[middle:]) if part]


def _function(name: str, args: dict[str, Any]) -> dict[str, str]:
    return {"name": name, "arguments": json.dumps(args)}


def render_responses(said: Said, number: str, streams: bool) -> tuple[str, bytes]:  # noqa: FBT001
    """Write an answer of Responses."""
    items = _items(said, number)
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }
    about = {"id": f"resp_{number}", "object": "response", "created_at": 1, "model": "gpt-5", "error": None}
    about |= {"incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True}
    about |= {"tool_choice": "auto", "tools": [], "temperature": 1.0, "top_p": 1.0}
    whole = {**about, "status": "completed", "output": items, "usage": usage}
    if not streams:
        return as_json(whole)
    begun = {**about, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for at, item in enumerate(items):
        events += _item_events(at, item)
    events.append({"type": "response.completed", "response": whole})
    return as_events([{**one, "sequence_number": at} for at, one in enumerate(events)], named=True)


def _items(said: Said, number: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if said.thought:
        summary = [{"type": "summary_text", "text": said.thought}]
        items.append({"type": "reasoning", "id": f"rs_{number}", "summary": summary, "encrypted_content": "c2VjcmV0"})
    cited: list[dict[str, Any]] = []
    if said.searched:
        action = {"type": "search", "query": "river in Paris"}
        items.append({"type": "web_search_call", "id": f"ws_{number}", "status": "completed", "action": action})
        cited = [{"type": "url_citation", "url": "https://example.com/seine", "title": "The Seine"}]
        cited = [{**one, "start_index": 0, "end_index": 9} for one in cited]
    if said.text:
        part = {"type": "output_text", "text": said.text, "annotations": cited, "logprobs": []}
        message = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed"}
        items.append({**message, "content": [part]})
    for at, (name, args) in enumerate(said.calls):
        call = {"type": "function_call", "id": f"fc_{number}_{at}", "call_id": f"call_{number}_{at}"}
        items.append({**call, "status": "completed", **_function(name, args)})
    return items


def _item_events(at: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    here = {"output_index": at, "item_id": item["id"]}
    begun, inside = dict(item), []
    if item["type"] == "message":
        [part] = item["content"]
        here = {**here, "content_index": 0}
        begun = {**item, "content": [], "status": "in_progress"}
        empty = {**part, "text": "", "annotations": []}
        inside = [{"type": "response.content_part.added", **here, "part": empty}]
        inside += [
            {"type": "response.output_text.delta", **here, "delta": one, "logprobs": []} for one in halves(part["text"])
        ]
        inside += [
            {"type": "response.output_text.annotation.added", **here, "annotation_index": n, "annotation": one}
            for n, one in enumerate(part["annotations"])
        ]
        inside.append({"type": "response.output_text.done", **here, "text": part["text"], "logprobs": []})
        inside.append({"type": "response.content_part.done", **here, "part": part})
    elif item["type"] == "function_call":
        begun = {**item, "arguments": "", "status": "in_progress"}
        for one in halves(item["arguments"]):
            inside.append({"type": "response.function_call_arguments.delta", **here, "delta": one})
        done = {"arguments": item["arguments"], "name": item["name"]}
        inside.append({"type": "response.function_call_arguments.done", **here, **done})
    elif item["type"] == "reasoning":
        [part] = item["summary"]
        begun, here = {**item, "summary": []}, {**here, "summary_index": 0}
        inside = [{"type": "response.reasoning_summary_part.added", **here, "part": {**part, "text": ""}}]
        for one in halves(part["text"]):
            inside.append({"type": "response.reasoning_summary_text.delta", **here, "delta": one})
        inside.append({"type": "response.reasoning_summary_text.done", **here, "text": part["text"]})
        inside.append({"type": "response.reasoning_summary_part.done", **here, "part": part})
    first = {"type": "response.output_item.added", "output_index": at, "item": begun}
    return [first, *inside, {"type": "response.output_item.done", "output_index": at, "item": item}]
