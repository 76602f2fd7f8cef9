"""Every place in which a model, a tool or a person can put words: each takes some words and returns what carries them.

The words are "bomb" and a secret. A place that `judges` must show them to the judge; what only stands beside words that were
blocked must go with them.
"""

import io
import json

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from PIL import Image, PngImagePlugin

from tests.agent_models import call
from tests.pictures import b64

CALL_ID = "call_1"


def tokens(words):
    """Return log-probabilities of some words, cut into tokens of three letters."""
    cut = [words[at : at + 3] for at in range(0, len(words), 3)]
    listed = [{"token": one, "logprob": -0.1, "bytes": list(one.encode())} for one in cut]
    return {"content": [{**one, "top_logprobs": [one]} for one in listed]}


def picture(words):
    """Return a PNG whose metadata says something, as base64."""
    notes, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    notes.add_text("Description", words)
    Image.new("RGB", (8, 8), "blue").save(buffer, "PNG", pnginfo=notes)
    return b64(buffer.getvalue())


def text(words="Here it is."):
    return {"type": "text", "text": words}


BLOCKS = {
    "text": text,
    "output_text": lambda w: {"type": "output_text", "text": w},
    "reasoning": lambda w: {"type": "reasoning", "reasoning": w},
    "reasoning summary": lambda w: {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": w}],
    },
    "reasoning content": lambda w: {"type": "reasoning_content", "reasoning_content": {"text": w, "signature": "s"}},
    "thinking": lambda w: {"type": "thinking", "thinking": w, "signature": "c2ln"},
    "refusal": lambda w: {"type": "refusal", "refusal": w},
    "citation": lambda w: {**text(), "citations": [{"type": "char_location", "cited_text": w, "document_title": "a"}]},
    "annotation": lambda w: {
        **text(),
        "annotations": [{"type": "url_citation", "title": w, "url": "https://a.example"}],
    },
    "extras": lambda w: {**text(), "extras": {"note": w}},
    "server_tool_use": lambda w: {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": w}},
    "server_tool_use, streamed": lambda w: {"type": "server_tool_use", "id": "s1", "name": "x", "partial_json": w},
    "web_search_tool_result": lambda w: {
        "type": "web_search_tool_result",
        "tool_use_id": "s1",
        "content": [{"type": "web_search_result", "title": w, "url": "https://a.example", "encrypted_content": "x"}],
    },
    "web_search_call": lambda w: {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": w}},
    "file_search_call": lambda w: {"type": "file_search_call", "id": "f", "queries": ["a"], "results": [{"text": w}]},
    "code_interpreter_call": lambda w: {
        "type": "code_interpreter_call",
        "id": "c",
        "code": "print(1)",
        "outputs": [{"type": "logs", "logs": w}],
    },
    "computer_call": lambda w: {"type": "computer_call", "id": "c", "action": {"type": "type", "text": w}},
    "local_shell_call": lambda w: {"type": "local_shell_call", "id": "l", "action": {"command": ["echo", w]}},
    "mcp_call": lambda w: {"type": "mcp_call", "id": "m", "name": "x", "arguments": "{}", "output": w, "error": None},
    "mcp_list_tools": lambda w: {"type": "mcp_list_tools", "id": "m", "tools": [{"name": "a", "description": w}]},
    "mcp_approval_request": lambda w: {"type": "mcp_approval_request", "id": "m", "name": "x", "arguments": w},
    "executable_code": lambda w: {"type": "executable_code", "executable_code": w, "language": 1},
    "code_execution_result": lambda w: {"type": "code_execution_result", "code_execution_result": w, "outcome": 1},
    "server_tool_call": lambda w: {"type": "server_tool_call", "id": "s", "name": "x", "args": {"q": w}},
    "server_tool_result": lambda w: {
        "type": "server_tool_result",
        "tool_call_id": "s",
        "status": "success",
        "output": w,
    },
    "search_result": lambda w: {"type": "search_result", "title": w, "source": "a", "content": [text("a")]},
    "non_standard": lambda w: {"type": "non_standard", "value": {"type": "new", "says": w}},
    "invalid_tool_call": lambda w: {"type": "invalid_tool_call", "name": "x", "args": w, "id": "1", "error": "no"},
    "unknown": lambda w: {"type": "brand_new", "deep": [{"deeper": {"says": w}}]},
    "image_generation_call": lambda w: {"type": "image_generation_call", "id": "i", "revised_prompt": w, "result": ""},
    "other call": lambda w: {"type": "tool_use", "id": "other", "name": "order", "input": {"item": w}},
}
"""Content blocks of answers, by what they are."""

BESIDE = {
    "reasoning_content": lambda w: {"additional_kwargs": {"reasoning_content": w}},
    "reasoning": lambda w: {"additional_kwargs": {"reasoning": {"summary": [{"type": "summary_text", "text": w}]}}},
    "refusal": lambda w: {"additional_kwargs": {"refusal": w}},
    "function_call": lambda w: {"additional_kwargs": {"function_call": {"name": "order", "arguments": w}}},
    "raw tool_calls": lambda w: {
        "additional_kwargs": {"tool_calls": [{"id": "9", "function": {"name": "order", "arguments": w}}]}
    },
    "parsed": lambda w: {"additional_kwargs": {"parsed": {"item": w}}},
    "unknown": lambda w: {"additional_kwargs": {"brand_new": [{"says": w}]}},
    "invalid_tool_calls": lambda w: {
        "invalid_tool_calls": [{"name": "order", "args": w, "id": "8", "error": None, "type": "invalid_tool_call"}]
    },
    "invalid_tool_calls' error": lambda w: {
        "invalid_tool_calls": [{"name": "order", "args": "{", "id": "8", "error": w, "type": "invalid_tool_call"}]
    },
    "log-probabilities": lambda w: {"response_metadata": {"logprobs": tokens(w)}},
    "log-probabilities, another shape": lambda w: {
        "response_metadata": {"logprobs_result": {"chosen": [{"token": w}]}}
    },
    "log-probabilities, a list": lambda w: {
        "response_metadata": {"logprobs": [{"token": one} for one in w.split(" ")]}
    },
    "citations": lambda w: {"response_metadata": {"citations": [{"title": w}]}},
    "citations as addresses": lambda w: {
        "response_metadata": {"citations": ["https://a.example/" + w.replace(" ", "-")]}
    },
    "grounding": lambda w: {
        "response_metadata": {"grounding_metadata": {"grounding_chunks": [{"web": {"title": w, "uri": "https://a"}}]}}
    },
    "grounding's page": lambda w: {
        "response_metadata": {"grounding_metadata": {"search_entry_point": {"rendered_content": f"<p>{w}</p>"}}}
    },
    "output": lambda w: {"response_metadata": {"output": [{"type": "message", "content": [{"text": w}]}]}},
    "unknown metadata": lambda w: {"response_metadata": {"brand_new": {"says": w}}},
    "stop sequence": lambda w: {"response_metadata": {"stop_sequence": w}},
    "safety ratings": lambda w: {"response_metadata": {"safety_ratings": [{"category": "X", "explanation": w}]}},
    "prompt feedback": lambda w: {"response_metadata": {"prompt_feedback": {"block_reason_message": w}}},
    "provenance": lambda w: {"response_metadata": {"provenance": {"directions": w}}},
    "a verdict of its own": lambda w: {"response_metadata": {"verdict": {"action": "allow", "reason": w}}},
    "model name": lambda w: {"response_metadata": {"model_name": w}},
    "finish reason": lambda w: {"response_metadata": {"finish_reason": w}},
}
"""Fields beside an answer's content."""

MARKS = ("provenance", "model name", "finish reason")
"""Fields whose words are judged, and whose marks (one short word of plain letters) are kept."""

SILENT = {
    "thought signature": lambda w: {"content": [text(), {"type": "thinking", "thinking": "hm", "signature": w}]},
    "encrypted reasoning": lambda w: {
        "content": [text(), {"type": "reasoning", "summary": [], "encrypted_content": w}]
    },
    "redacted thinking": lambda w: {"content": [text(), {"type": "redacted_thinking", "data": w}]},
    "signatures beside": lambda w: {"additional_kwargs": {"__gemini_function_call_thought_signatures__": {CALL_ID: w}}},
    "sound": lambda w: {"additional_kwargs": {"audio": {"id": "a", "data": b64(w.encode()), "transcript": w}}},
    "a picture's metadata": lambda w: {
        "content": [text(), {"type": "image", "base64": picture(w), "mime_type": "image/png"}]
    },
    "a text's log-probabilities": lambda w: {"content": [{**text(), "logprobs": tokens(w)["content"]}]},
    "headers": lambda w: {"response_metadata": {"headers": {"x-note": w}}},
    "one of the token's alternatives": lambda w: {
        "response_metadata": {"logprobs": {"content": [{"token": "Here", "top_logprobs": tokens(w)["content"]}]}}
    },
}
"""What no judge reads, or not in this form: it goes with the answer that it belongs to."""


def answer(fields, words="Here it is."):
    """Return an answer that says something, with a carrier beside it."""
    return AIMessage(**{"content": words, **fields})


def block_answer(block):
    return AIMessage([text(), block])


def _with_call(words, content="", **fields):
    return AIMessage(content, tool_calls=[call("order", CALL_ID, item=words)], **fields)


def _json(words):
    return json.dumps({"item": words})


COPIES = {
    "alone": _with_call,
    "function_call": lambda w: _with_call(
        w,
        [{"type": "function_call", "id": "fc_1", "call_id": CALL_ID, "name": "order", "arguments": _json(w)}],
    ),
    "tool_use": lambda w: _with_call(
        w, [text(), {"type": "tool_use", "id": CALL_ID, "name": "order", "input": {"item": w}}]
    ),
    "tool_use, streamed": lambda w: _with_call(
        w, [{"type": "tool_use", "id": CALL_ID, "name": "order", "input": {}, "partial_json": _json(w), "index": 0}]
    ),
    "input_json_delta": lambda w: _with_call(w, [{"type": "input_json_delta", "partial_json": _json(w), "index": 0}]),
    "tool_call": lambda w: _with_call(
        w, [{"type": "tool_call", "id": CALL_ID, "name": "order", "args": {"item": w}, "extras": {"caller": "x"}}]
    ),
    "tool_call_chunk": lambda w: _with_call(
        w, [{"type": "tool_call_chunk", "id": CALL_ID, "name": "order", "args": _json(w), "index": 0}]
    ),
    "raw tool_calls": lambda w: _with_call(
        w,
        additional_kwargs={
            "tool_calls": [{"id": CALL_ID, "type": "function", "function": {"name": "order", "arguments": _json(w)}}]
        },
    ),
    "raw function_call": lambda w: _with_call(
        w, additional_kwargs={"function_call": {"name": "order", "arguments": _json(w)}}
    ),
    "log-probabilities": lambda w: _with_call(w, response_metadata={"logprobs": tokens(_json(w))}),
    "a chunk": lambda w: AIMessageChunk(
        "", tool_call_chunks=[{"name": "order", "args": _json(w), "id": CALL_ID, "index": 0, "type": "tool_call_chunk"}]
    ),
    "signatures": lambda w: _with_call(w, additional_kwargs={"__thought_signatures__": {CALL_ID: w}}),
    "two of one id": lambda w: AIMessage("", tool_calls=[call("order", "1", item=w), call("order", "1", item="kite")]),
    "beside a harmless one": lambda w: AIMessage(
        [
            {"type": "tool_use", "id": "1", "name": "order", "input": {"item": w}},
            {"type": "tool_use", "id": "2", "name": "order", "input": {"item": "kite"}},
        ],
        tool_calls=[call("order", "1", item=w), call("order", "2", item="kite")],
    ),
    "deep inside": lambda w: AIMessage("", tool_calls=[call("order", CALL_ID, item="kite", how={"a": [{"b": w}]})]),
    "as a key": lambda w: AIMessage("", tool_calls=[call("order", CALL_ID, item="kite", how={w: 1})]),
}
"""A call, and the other forms in which a provider repeats it."""

RESULTS = {
    "text": lambda w: {"content": w},
    "text block": lambda w: {"content": [text(w)]},
    "two blocks": lambda w: {"content": [text(), text(w)]},
    "search_result": lambda w: {"content": [BLOCKS["search_result"](w)]},
    "MCP's resource": lambda w: {"content": [{"type": "text", "text": w, "id": "lc_1"}]},
    "a plain text file": lambda w: {"content": [{"type": "text-plain", "text": w, "mime_type": "text/plain"}]},
}
"""What a tool returns for the model to read."""

BESIDE_RESULTS = {
    "artifact": lambda w: {"artifact": {"rows": [{"says": w}]}},
    "MCP's structured content": lambda w: {"artifact": {"structured_content": {"says": w}}},
    "additional_kwargs": lambda w: {"additional_kwargs": {"says": w}},
    "response_metadata": lambda w: {"response_metadata": {"says": w}},
    "a picture's metadata": lambda w: {
        "content": [text("a bomb"), {"type": "image", "base64": picture(w), "mime_type": "image/png"}]
    },
}
"""What stands beside a result that is blocked."""


def result(fields, words="bomb"):
    """Return a tool's result, for a call id."""
    return lambda call_id: ToolMessage(**{"content": words, **fields}, tool_call_id=call_id, name="fetch")


REQUESTS = {
    "text": HumanMessage,
    "text block": lambda w: HumanMessage([text(w)]),
    "two blocks": lambda w: HumanMessage([text("hello"), text(w)]),
    "a block beside": lambda w: HumanMessage([text("a bomb"), {"type": "video", "base64": b64(w.encode())}]),
    "additional_kwargs": lambda w: HumanMessage("a bomb", additional_kwargs={"note": w}),
    "response_metadata": lambda w: HumanMessage("a bomb", response_metadata={"note": w}),
    "a name": lambda w: HumanMessage("a bomb", name=w.replace(" ", "_")),
    "fields of a text": lambda w: HumanMessage([{**text("a bomb"), "note": w}]),
    "a picture's metadata": lambda w: HumanMessage(
        [text("a bomb"), {"type": "image", "base64": picture(w), "mime_type": "image/png"}]
    ),
}
"""What a person sends."""
