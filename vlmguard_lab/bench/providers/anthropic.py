"""Anthropic through langchain-anthropic: Messages, with thinking, caching marks and the hosted search."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.providers.openai import halves
from vlmguard_lab.bench.providers.wire import as_events, as_json

if TYPE_CHECKING:
    from vlmguard_lab.bench.providers.script import Said
    from vlmguard_lab.bench.providers.wire import Wire

MARK = ({"type": "text", "text": "Remember that I live in Lima.", "cache_control": {"type": "ephemeral"}},)
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}


def model(wire: Wire) -> Any:
    """Return a model that thinks."""
    import anthropic
    import httpx2
    from langchain_anthropic import ChatAnthropic

    thinking = {"type": "enabled", "budget_tokens": 1024}
    named: dict[str, Any] = {"model": "claude-sonnet-4-5", "api_key": "none", "max_tokens": 2048}
    made = ChatAnthropic(**named, max_retries=0, thinking=thinking)
    sync, fleeting = (
        httpx2.Client(transport=wire.transport(httpx2)),
        httpx2.AsyncClient(transport=wire.transport(httpx2)),
    )
    # The package has no option for a client: these are where it keeps the ones that it makes.
    vars(made)["_client"] = anthropic.Client(api_key="none", http_client=sync)
    vars(made)["_async_client"] = anthropic.AsyncClient(api_key="none", http_client=fleeting)
    return made


def render(said: Said, number: str, streams: bool) -> tuple[str, bytes]:  # noqa: FBT001
    """Write an answer of Messages."""
    blocks = _blocks(said, number)
    ends = "tool_use" if said.calls else "end_turn"
    usage = {"input_tokens": 9, "output_tokens": 3, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    about: dict[str, Any] = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
    }
    about |= {"stop_sequence": None, "usage": usage}
    if not streams:
        return as_json({**about, "content": blocks, "stop_reason": ends})
    begun: dict[str, Any] = {**about, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for at, block in enumerate(blocks):
        start, deltas = _parts(block)
        events.append({"type": "content_block_start", "index": at, "content_block": start})
        events += [{"type": "content_block_delta", "index": at, "delta": one} for one in deltas]
        events.append({"type": "content_block_stop", "index": at})
    end = {"stop_reason": ends, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 3}})
    return as_events([*events, {"type": "message_stop"}], named=True)


def _blocks(said: Said, number: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.thought:
        blocks.append({"type": "thinking", "thinking": said.thought, "signature": "c2lnbmVk"})
    cited: dict[str, Any] = {}
    if said.searched:
        used = {"type": "server_tool_use", "id": f"srvtoolu_{number}", "name": "web_search"}
        blocks.append({**used, "input": {"query": "river in Paris"}})
        page: dict[str, Any] = {
            "title": "The Seine",
            "url": "https://example.com/seine",
            "encrypted_content": "c2VjcmV0",
        }
        page |= {"type": "web_search_result", "page_age": None}
        blocks.append({"type": "web_search_tool_result", "tool_use_id": f"srvtoolu_{number}", "content": [page]})
        where = {"type": "web_search_result_location", "url": page["url"], "title": page["title"]}
        cited = {"citations": [{**where, "cited_text": "The Seine", "encrypted_index": "aW5kZXg="}]}
    if said.text:
        blocks.append({"type": "text", "text": said.text, **cited})
    for at, (name, args) in enumerate(said.calls):
        blocks.append({"type": "tool_use", "id": f"toolu_{number}_{at}", "name": name, "input": args})
    return blocks


def _parts(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block as it starts in a stream, and what is added to it."""
    kind = block["type"]
    if kind == "text":
        cited = [{"type": "citations_delta", "citation": one} for one in block.get("citations", [])]
        texts = [{"type": "text_delta", "text": one} for one in halves(block["text"])]
        return {"type": "text", "text": "", **({"citations": []} if cited else {})}, [*cited, *texts]
    if kind == "thinking":
        thoughts = [{"type": "thinking_delta", "thinking": one} for one in halves(block["thinking"])]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {"type": "thinking", "thinking": "", "signature": ""}, [*thoughts, signed]
    if kind in ("tool_use", "server_tool_use"):
        parts = halves(json.dumps(block["input"]))
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": one} for one in parts]
    return block, []
