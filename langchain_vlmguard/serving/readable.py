"""The one list of readable places of an answer, both ways.

A backend's choice becomes a message that the guard judges whole, and a message that was let out becomes the choice that is sent.
What is sent is made from the judged message and from nothing else. What this list does not know is left out.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from langchain_core.messages import AIMessage

from langchain_vlmguard.content.carriers import is_mark
from langchain_vlmguard.content.turn import blocks_of
from langchain_vlmguard.errors import UpstreamError
from langchain_vlmguard.serving.wire import sent_call, sent_picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langchain_core.messages.ai import UsageMetadata

    from langchain_vlmguard.verdict.records import Json

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields in which servers put what a model thought."""

FINISHED = frozenset({"stop", "length", "tool_calls", "content_filter"})
_SAME_END = {"function_call": "tool_calls", "eos": "stop", "max_tokens": "length"}

_LEAST = -9999.0
"""Stands for a log-probability that is no number."""

_BESIDE_TOKENS = "token_words"
"""Field that shows the guard what log-probabilities say beside the answer."""

_CITED = ("url", "title")


def message_of(choice: object, model: str, usage: UsageMetadata | None = None) -> AIMessage:
    """Return a choice of a backend as a message, every readable place in it.

    Args:
        choice: The choice as it came.
        model: What the model is called here.
        usage: Tokens of the whole answer.

    Raises:
        UpstreamError: The choice is none, or did not end.
    """
    given = _mapping(choice, "a choice")
    said = _mapping(given.get("message"), "its message")
    ended = given.get("finish_reason")
    end = _SAME_END.get(ended, ended) if isinstance(ended, str) else None
    if end not in FINISHED:
        msg = "the upstream's answer did not end"
        raise UpstreamError(msg)
    content, beside = _content(said.get("content")), _beside(said)
    calls, broken = _calls(said.get("tool_calls"))
    text = content if isinstance(content, str) else "".join(str(block.get("text", "")) for block in content)
    logprobs, words = _logprobs(given.get("logprobs"), text)
    return AIMessage(
        content=cast("str | list[str | dict[str, object]]", content),
        tool_calls=calls,
        invalid_tool_calls=broken,
        additional_kwargs={**beside, **({_BESIDE_TOKENS: words} if words else {})},
        response_metadata={"model_name": model, "finish_reason": end, **({"logprobs": logprobs} if logprobs else {})},
        usage_metadata=usage,
    )


def choice_of(message: AIMessage, index: int) -> Json:
    """Return a message that was let out as a choice, made from what was judged alone."""
    said: dict[str, object] = {"role": "assistant", "content": _said(message), "refusal": None}
    beside = message.additional_kwargs
    said.update({key: beside[key] for key in (*THOUGHTS, "refusal", "annotations") if beside.get(key)})
    if calls := [*map(sent_call, (*message.tool_calls, *message.invalid_tool_calls))]:
        said["tool_calls"] = calls
        said["content"] = said["content"] or None
    if pictures := [block for block in blocks_of(message) if block.get("type") == "image"]:
        said["images"] = [sent_picture(block) for block in pictures]
    end = message.response_metadata.get("finish_reason")
    end = end if end in FINISHED else "tool_calls" if message.tool_calls else "stop"
    logprobs, _ = _logprobs(message.response_metadata.get("logprobs"), message.text)
    return {"index": index, "message": said, "logprobs": logprobs, "finish_reason": end}


def usage_of(given: object) -> UsageMetadata | None:
    """Return the tokens that a backend counted."""
    if not isinstance(given, dict):
        return None
    asked, told = (_count(given.get(key)) for key in ("prompt_tokens", "completion_tokens"))
    return {"input_tokens": asked, "output_tokens": told, "total_tokens": asked + told}


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        msg = f"the upstream's answer has no form that is known: {what} is no object"
        raise UpstreamError(msg)
    return value


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _content(given: object) -> str | list[Json]:
    if given is None or isinstance(given, str):
        return given or ""
    if not isinstance(given, list):
        msg = "the upstream's answer has content that is neither text nor a list"
        raise UpstreamError(msg)
    return [block for part in given for block in _blocks(part)]


def _blocks(part: object) -> Iterator[Json]:
    """Yield what is known of a part of an answer's content."""
    if isinstance(part, str):
        yield {"type": "text", "text": part}
    if not isinstance(part, dict):
        return
    kind = part.get("type")
    if kind in ("text", "output_text") and isinstance(part.get("text"), str):
        yield {"type": "text", "text": part["text"]}
    elif kind == "refusal" and isinstance(part.get("refusal"), str):
        yield {"type": "text", "text": part["refusal"]}
    elif kind == "image_url":
        yield from _picture(part)


def _picture(part: Mapping[str, object]) -> Iterator[Json]:
    inner = part.get("image_url")
    url = inner.get("url") if isinstance(inner, dict) else inner
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    kind = head.removeprefix("data:").removesuffix(";base64")
    if comma and head.startswith("data:image/") and head.endswith(";base64") and is_mark(kind):
        yield {"type": "image", "base64": data, "mime_type": kind}


def _beside(said: Mapping[str, object]) -> Json:
    """Return the words that stand beside the content: thoughts, a refusal, citations; a sound, which nobody can judge."""
    found: dict[str, object] = {key: said[key] for key in (*THOUGHTS, "refusal") if isinstance(said.get(key), str)}
    cited = said.get("annotations")
    notes = [note for one in cited for note in _citation(one)] if isinstance(cited, list) else []
    if notes:
        found["annotations"] = notes
    if isinstance(said.get("audio"), dict):
        found["audio"] = {"data": "audio", "transcript": str(cast("Json", said["audio"]).get("transcript") or "")}
    return {key: value for key, value in found.items() if value}


def _citation(one: object) -> Iterator[Json]:
    inner = one.get("url_citation") if isinstance(one, dict) and one.get("type") == "url_citation" else None
    if isinstance(inner, dict):
        words = {key: inner[key] for key in _CITED if isinstance(inner.get(key), str)}
        places = {key: _count(inner.get(key)) for key in ("start_index", "end_index")}
        yield {"type": "url_citation", "url_citation": {**words, **places}}


def _calls(given: object) -> tuple[list[Json], list[Json]]:
    """Return calls whose arguments are a JSON object, and those whose arguments are not, as they came."""
    calls: list[Json] = []
    broken: list[Json] = []
    for one in given if isinstance(given, list) else ():
        function = one.get("function") if isinstance(one, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            msg = "the upstream's answer holds a tool call that is no function's"
            raise UpstreamError(msg)
        name, raw = function["name"], function.get("arguments")
        text = raw if isinstance(raw, str) else json.dumps(raw)
        call = {"name": name, "id": f"call_{uuid4().hex[:24]}"}  # ours: an id is a place like any other
        try:
            args = json.loads(text or "{}")
        except (ValueError, RecursionError):
            args = None
        if isinstance(args, dict):
            calls.append({**call, "args": args, "type": "tool_call"})
        else:
            broken.append({**call, "args": text, "error": None, "type": "invalid_tool_call"})
    return calls, broken


def _said(message: AIMessage) -> str:
    """Return the words of an answer's content."""
    return "".join(str(block["text"]) for block in blocks_of(message) if block.get("type") == "text")


def _logprobs(given: object, text: str) -> tuple[Json | None, list[str]]:
    """Return log-probabilities with their known fields alone, and what they say beside the answer: bytes and alternatives."""
    if not isinstance(given, dict):
        return None, []
    kept = {
        key: [_token(one) for one in given[key]] for key in ("content", "refusal") if isinstance(given.get(key), list)
    }
    if not kept:
        return None, []
    words = [said for tokens in kept.values() for said in _spelled(tokens)]
    return kept, [said for said in dict.fromkeys(words) if said.strip() and said not in text]


def _token(one: object) -> Json:
    given = _mapping(one, "a token")
    top = given.get("top_logprobs")
    chosen = _one_token(given)
    return {
        **chosen,
        "top_logprobs": [_one_token(_mapping(two, "a token")) for two in top] if isinstance(top, list) else [],
    }


def _one_token(given: Mapping[str, object]) -> Json:
    token, value, raw = given.get("token"), given.get("logprob"), given.get("bytes")
    if not isinstance(token, str):
        msg = "the upstream's answer has a token that is no text"
        raise UpstreamError(msg)
    number = float(value) if isinstance(value, int | float) and math.isfinite(value) else _LEAST
    whole = isinstance(raw, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in raw)  # noqa: PLR2004
    return {"token": token, "logprob": number, "bytes": raw if whole else None}


def _spelled(tokens: Sequence[Json]) -> Iterator[str]:
    """Yield what tokens spell: the chosen ones, their bytes, and the alternatives rank by rank."""
    yield from _both(tokens)
    most = max((len(one["top_logprobs"]) for one in tokens), default=0)
    for rank in range(most):
        yield from _both([one["top_logprobs"][rank] for one in tokens if rank < len(one["top_logprobs"])])


def _both(tokens: Sequence[Json]) -> Iterator[str]:
    yield "".join(one["token"] for one in tokens)
    yield b"".join(bytes(one["bytes"] or ()) for one in tokens).decode("utf-8", "replace")
