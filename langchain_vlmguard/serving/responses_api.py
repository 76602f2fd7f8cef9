"""OpenAI's Responses, for text, pictures and function tools: another spelling of a chat, behind the same guard.

A request becomes a chat request and a completion becomes a response, so that nothing is judged here. Nothing is stored: the whole
conversation comes with every request, and there is no route by id.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_vlmguard.serving.chat_request import ACCOUNTS, chat_request, refuse_known
from langchain_vlmguard.serving.http_errors import HttpError, as_json
from langchain_vlmguard.serving.readable import THOUGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_vlmguard.serving.chat_request import ChatRequest
    from langchain_vlmguard.verdict.records import Json

_SAME = ("model", "stream", "temperature", "top_p", "parallel_tool_calls", "top_logprobs")
_DROPPED = ACCOUNTS | {"include", "stream_options"}
_READ = frozenset({*_SAME, "input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning"})
_REFUSED = {
    "background": "answers come at once, judged",
    "previous_response_id": "nothing is stored here: send the whole conversation",
    "conversation": "nothing is stored here: send the whole conversation",
    "prompt": "nothing is stored here: send the prompt itself",
    "max_tool_calls": "tools of the server's own are not run here",
}


def responses_request(body: Json) -> ChatRequest:
    """Return a request for a response as the chat request that it is.

    Raises:
        HttpError: Naming the parameter, if it is one that we know.
    """
    refuse_known(body, _REFUSED)
    if body.get("store") is True:
        raise HttpError(400, "invalid_request", "nothing is stored here: send store: false, or leave it out", "store")
    if body.get("truncation") not in (None, "disabled"):
        raise HttpError(400, "invalid_request", "nothing is cut off unseen: leave truncation out", "truncation")
    beside = {"store", "truncation", *_REFUSED}
    if body.keys() - _READ - _DROPPED - beside:
        raise HttpError(400, "invalid_request", "the body holds a parameter that is not known here")
    chat: Json = {name: body[name] for name in _SAME if body.get(name) is not None}
    if chat.get("top_logprobs"):
        chat["logprobs"] = True
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    chat |= _tools(body)
    chat |= _format(body.get("text"))
    instructions = body.get("instructions")
    first = [] if instructions is None else [{"role": "system", "content": instructions}]
    chat["messages"] = [*first, *_messages(body.get("input"))]
    return chat_request(chat)


def response_of(whole: Json, wanted: ChatRequest) -> Json:
    """Return a chat completion as a response."""
    [choice] = whole["choices"]
    message, end = choice["message"], choice["finish_reason"]
    output = [*_output(message, end, choice["logprobs"])]
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(end)
    usage = whole["usage"]
    response = {
        "id": "resp_" + whole["id"].removeprefix("chatcmpl-"),
        "object": "response",
        "created_at": whole["created"],
        "model": whole["model"],
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": cut} if cut else None,
        "error": None,
        "output": output,
        "parallel_tool_calls": wanted.parallel_tool_calls is not False,
        "tool_choice": "auto",
        "tools": [],
        "store": False,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }
    return {**response, **({"vlmguard": whole["vlmguard"]} if "vlmguard" in whole else {})}


def response_events(response: Json) -> Iterator[bytes]:
    """Yield a response as the events of a stream; each carries its name, as this API wants it, and its number."""
    number = -1

    def event(kind: str, **fields: object) -> bytes:
        nonlocal number
        number += 1
        data = as_json({"type": kind, "sequence_number": number, **fields})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    begun.pop("vlmguard", None)
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for at, item in enumerate(response["output"]):
        place = {"output_index": at, "item_id": item["id"]}
        empty: Json = {
            key: [] if key == "content" else "" if key == "arguments" else value for key, value in item.items()
        }
        yield event("response.output_item.added", output_index=at, item={**empty, "status": "in_progress"})
        for index, part in enumerate(item.get("content") or []):
            kind = part["type"]
            key = {"output_text": "text"}.get(kind, kind if kind == "refusal" else "text")
            where = {**place, "content_index": index}
            bare = {**part, key: ""}
            yield event("response.content_part.added", **where, part=bare)
            name = {"output_text": "response.output_text", "refusal": "response.refusal"}.get(
                kind, "response.reasoning_text"
            )
            beside: Json = {"logprobs": []} if kind == "output_text" else {}
            yield event(f"{name}.delta", **where, delta=part[key], **beside)
            yield event(f"{name}.done", **where, **{key: part[key]}, **beside)
            yield event("response.content_part.done", **where, part=part)
        if item["type"] == "function_call":
            yield event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            yield event(
                "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
            )
        yield event("response.output_item.done", output_index=at, item=item)
    yield event(f"response.{response['status']}", response=response)


def error_event(error: HttpError) -> bytes:
    """Return what ends a stream of this API that has no answer."""
    given = {"type": "error", "code": error.code, "message": error.message, "param": error.param, "sequence_number": 0}
    return b"event: error\ndata: " + as_json(given) + b"\n\n"


def _output(message: Json, end: str, logprobs: Json | None) -> Iterator[Json]:
    thoughts = [{"type": "reasoning_text", "text": message[key]} for key in THOUGHTS if message.get(key)]
    if thoughts:
        yield {"id": _id("rs"), "type": "reasoning", "summary": [], "content": thoughts, "status": "completed"}
    parts = []
    if end == "content_filter" or (message.get("refusal") and not message.get("content")):
        parts = [{"type": "refusal", "refusal": message.get("refusal") or ""}]
    elif message.get("content"):
        notes = [{"type": "url_citation", **one["url_citation"]} for one in message.get("annotations") or ()]
        tokens = (logprobs or {}).get("content") or []
        parts = [{"type": "output_text", "text": message["content"], "annotations": notes, "logprobs": tokens}]
    if parts:
        done = "incomplete" if end in ("length", "content_filter") else "completed"
        yield {"id": _id("msg"), "type": "message", "role": "assistant", "status": done, "content": parts}
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield {
            "id": _id("fc"),
            "type": "function_call",
            "call_id": call["id"],
            "name": function["name"],
            "arguments": function["arguments"],
            "status": "completed",
        }


def _id(kind: str) -> str:
    return f"{kind}_{uuid4().hex}"


def _tools(body: Json) -> Json:
    tools = body.get("tools")
    if not tools:
        return {}
    if not isinstance(tools, list) or any(not isinstance(one, dict) for one in tools):
        raise HttpError(400, "invalid_request", "tools must be a list of objects", "tools")
    kept = [_tool(one) if one.get("type") == "function" else one for one in tools]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return {"tools": kept, **({} if choice is None else {"tool_choice": choice})}


def _tool(given: Json) -> Json:
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: given[key] for key in names if key in given}}


def _format(text: object) -> Json:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") == "text":
        return {}
    if wanted.get("type") == "json_schema":
        inner = {key: value for key, value in wanted.items() if key != "type"}
        return {"response_format": {"type": "json_schema", "json_schema": inner}}
    return {"response_format": wanted}


def _messages(given: object) -> list[Json]:
    """Return the items of an input as chat messages; calls that follow one another are one message."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise HttpError(400, "invalid_request", "input must be text or a list of items", "input")
    messages: list[Json] = []
    for at, item in enumerate(given):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message":
            messages.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "function_call":
            call = {"id": item.get("call_id"), "type": "function"}
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append({**call, "function": function})
            else:
                calls = [{**call, "function": function}]
                messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        elif kind == "function_call_output":
            output = item.get("output")
            said = output if isinstance(output, str | list) else json.dumps(output)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": said})
        elif kind != "reasoning":  # thoughts of earlier turns are left out, as they are in a chat
            msg = f"input[{at}] is neither a message nor a function call nor its output"
            raise HttpError(400, "invalid_request", msg, f"input[{at}]")
    return messages
