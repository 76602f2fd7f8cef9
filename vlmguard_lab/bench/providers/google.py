"""Gemini through langchain-google-genai, with thoughts, their signatures and the grounding of its hosted search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.providers.openai import halves
from vlmguard_lab.bench.providers.wire import as_events, as_json

if TYPE_CHECKING:
    from vlmguard_lab.bench.providers.script import Said
    from vlmguard_lab.bench.providers.wire import Wire

MARK = ({"type": "text", "text": "Remember that I live in Lima."},)
_USAGE = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}


def model(wire: Wire) -> Any:
    """Return a model that shows its thoughts."""
    import httpx
    from langchain_google_genai import ChatGoogleGenerativeAI

    given: dict[str, Any] = {"api_key": "none", "max_retries": 1, "include_thoughts": True}
    return ChatGoogleGenerativeAI(
        model="gemini-2.5-flash", vertexai=False, client_args={"transport": wire.transport(httpx)}, **given
    )


def render(said: Said, number: str, streams: bool) -> tuple[str, bytes]:  # noqa: FBT001
    """Write an answer of generateContent."""
    thoughts = [{"text": one, "thought": True} for one in halves(said.thought)]
    texts = [{"text": one} for one in halves(said.text)]
    calls = [
        {"functionCall": {"id": f"call_{number}_{at}", "name": name, "args": args}, "thoughtSignature": "c2lnbmVk"}
        for at, (name, args) in enumerate(said.calls)
    ]
    about = {"modelVersion": "gemini-2.5-flash", "responseId": f"resp-{number}"}
    end: dict[str, Any] = {"index": 0, "finishReason": "STOP"}
    if said.searched:
        page = {"web": {"uri": "https://example.com/seine", "title": "The Seine"}}
        segment = {"startIndex": 0, "endIndex": 9, "text": said.text[:9]}
        support = {"segment": segment, "groundingChunkIndices": [0]}
        queries = {"webSearchQueries": ["river in Paris"]}
        end["groundingMetadata"] = {**queries, "groundingChunks": [page], "groundingSupports": [support]}
    if not streams:
        whole = [{"text": said.thought, "thought": True}] * bool(said.thought) + [{"text": said.text}] * bool(said.text)
        parts = [*whole, *calls]
        found = {**end, "content": {"role": "model", "parts": parts}}
        return as_json({**about, "candidates": [found], "usageMetadata": _USAGE})
    written: list[dict[str, Any]] = [*thoughts, *texts, *calls]
    *first, last = written
    sent = [{"index": 0, "content": {"role": "model", "parts": [one]}} for one in first]
    sent.append({**end, "content": {"role": "model", "parts": [last]}})
    return as_events([{**about, "candidates": [one], "usageMetadata": _USAGE} for one in sent])
