"""What of an AI message carries content, and what the guard does about each: judged, or named as unjudged.

Whatever a provider invents, its words are judged: a block is read to its last string. What nobody can read (sound, encoded
files) decides the answer as unread; what only its provider can read (encrypted reasoning) is named as unjudged and goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_vlmguard.content.images import holds_picture
from langchain_vlmguard.content.signatures import may_be_picture
from langchain_vlmguard.content.spellings import FILES, NESTED, PICTURES, kind_of
from langchain_vlmguard.content.turn import blocks_of
from langchain_vlmguard.content.walk import is_prose, texts_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.turn import Block

Treatment = Literal["words", "picture", "call", "encrypted", "unread", "prose", "tokens", "mark", "own"]
"""What is done about a carrier, as `TREATMENTS` says."""

TREATMENTS: Mapping[Treatment, str] = MappingProxyType(
    {
        "words": "judged, every word of it",
        "picture": "judged, as a picture",
        "call": "judged by itself, as a call; what repeats a blocked call goes with it",
        "encrypted": "named in `unjudged`: only its provider can read it",
        "unread": "named in `unjudged`, and the answer stays in: nobody can read it",
        "prose": "judged where it says more than single short words",
        "tokens": "judged where the tokens say more than the answer; tokens that were not chosen are not read",
        "mark": "not judged: it says nothing to people, and goes with what it belongs to",
        "own": "stripped: the guard's own takes its place",
    }
)

CALLS = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call", "custom_tool_call", "input_json_delta"})
"""Block types that repeat a call of `tool_calls`."""

ENCRYPTED = frozenset({"redacted_thinking"})
"""Block types that only their provider can read."""

THOUGHTS = frozenset(
    {"reasoning", "reasoning_content", "thinking", "redacted_thinking", "refusal", "invalid_tool_call"}
)
_HOSTED = re.compile(
    r"[a-z0-9_]+_(call|call_chunk|call_output|tool_use|tool_result|execution_result|list_tools)|executable_code|search_result"
)
"""Block types of tools that the provider runs: calls, and what came back."""

SOUNDS_AND_FILMS = frozenset({"audio", "input_audio", "output_audio", "video", "input_video"})

TECHNICAL = frozenset(
    {"type", "id", "index", "status", "call_id", "tool_use_id", "tool_call_id", "item_id", "role", "phase", "signature"}
    | {"thought_signature", "thoughtSignature", "encrypted_content", "encrypted_index", "encrypted_stdout"}
    | {"mime_type", "media_type", "caller", "cache_control"}
)
"""Fields of blocks that say nothing to people: marks, names of things, and what only the provider can read."""

_SECRET = ("encrypted_content", "encrypted_index", "encrypted_stdout")
_ARGUMENTS = ("input", "args", "arguments", "partial_json")

TRANSPORT = frozenset({"headers", "ResponseMetadata"})
"""Fields of `response_metadata` in which the connection speaks, not the model."""

_MARK = re.compile(r"[\w./:;+@-]{1,128}", re.ASCII)
_BLOB = re.compile(r"[A-Za-z0-9+/_=-]{1000,}")
"""Encoded data: a thousand letters without a space or a full stop."""


@dataclass(frozen=True)
class Carried:
    """What an AI message carries besides its tool calls."""

    words: tuple[str, ...] = ()
    """Everything that can be read, part by part."""

    pictures: tuple[Block, ...] = ()
    """Blocks that hold no words: pictures, and what nobody can read."""


def treatment(block: Block, calls: Collection[tuple[str, str]] = ()) -> Treatment:
    """Return what is done about a block of an AI message.

    Args:
        block: The block, in any provider's form.
        calls: The message's tool calls, as `call_key` writes them.
    """
    kind = kind_of(block)
    if kind in PICTURES:
        return "picture"
    if kind in FILES | SOUNDS_AND_FILMS or kind == "list":
        return "unread"
    if kind in ENCRYPTED:
        return "encrypted"
    if kind in CALLS and repeats(block, calls):
        return "call"
    if any(_BLOB.search(leaf) for leaf in leaves(block) if not may_be_picture(leaf)):
        return "unread"
    return "words"


def field_treatment(field: str, key: str) -> Treatment:
    """Return what is done about a key of a field beside an answer's content.

    Args:
        field: `"additional_kwargs"` or `"response_metadata"`.
        key: The key.
    """
    if field == "additional_kwargs":
        if key in ("tool_calls", "function_call"):
            return "call"
        return "unread" if key == "audio" else "mark" if "signature" in key else "words"
    if key == "verdict":
        return "own"
    return "mark" if key in TRANSPORT else "tokens" if key == "logprobs" else "prose"


def is_authored(block: Block) -> bool:
    """Whether a block is of a type that only models write and that holds words: thoughts, calls, results of hosted tools."""
    inner = block.get("value") if block.get("type") == "non_standard" else block
    kind = kind_of(inner)
    if kind in PICTURES | FILES | NESTED | SOUNDS_AND_FILMS:
        return False
    return kind in THOUGHTS | CALLS or _HOSTED.fullmatch(kind) is not None


def carried_by(message: AIMessage, tools: Collection[str] | None = None) -> Carried:
    """Return what an answer carries besides the calls that can run.

    Args:
        message: The answer.
        tools: Names of the tools that can run; calls of anything else (structured output) are words of the answer. Every
            call can run if it is `None`.
    """
    calls = {call_key(call["name"], call["args"]) for call in message.tool_calls}
    words: list[str] = []
    pictures: list[Block] = []
    for block in blocks_of(message):
        what = treatment(block, calls)
        if what == "words":
            words += _words(block)
            pictures += pictures_in(block)
        elif what in ("picture", "unread"):
            pictures.append(block)
    words += [as_json(call["args"]) for call in message.tool_calls if tools is not None and call["name"] not in tools]
    for call in message.invalid_tool_calls:
        words += [f"{call['name']} {call['args']}", call["error"] or ""]
    beside, sounds = _beside(message, calls, words)
    return Carried(tuple(word for word in [*words, *beside] if word.strip()), (*pictures, *sounds))


def encrypted_in(message: AIMessage) -> list[str]:
    """Return the types of an answer's blocks that only their provider can read, in whole or in part."""
    if isinstance(message.content, str):
        return []
    blocks = (block for block in message.content if isinstance(block, dict))
    return [kind_of(block) for block in blocks if kind_of(block) in ENCRYPTED or any(block.get(key) for key in _SECRET)]


def says_beside(message: BaseMessage) -> bool:
    """Whether words stand beside a message's content that the content does not hold."""
    beside = [getattr(message, "artifact", None), message.additional_kwargs, message.response_metadata]
    said = "\n".join(texts_in(message.content))
    return any(one not in said for one in prose_in(beside))


def call_key(name: object, arguments: object) -> tuple[str, str]:
    """Return a tool call in one form, whatever form its arguments came in."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return str(name), arguments if isinstance(arguments, str) else ""
    return str(name), as_json(arguments)


def repeats(block: Block, calls: Collection[tuple[str, str]]) -> bool:
    """Whether everything that a block says is a call that the message has in `tool_calls` too."""
    given = [block[key] for key in _ARGUMENTS if block.get(key) not in (None, "", {}, "{}")] or [{}]
    rest = {key: value for key, value in block.items() if key not in (*_ARGUMENTS, "name", "namespace", "extras")}
    said = any(leaves(rest)) or any(map(is_prose, texts_in(rest)))
    return all(call_key(block.get("name"), one) in calls for one in given) and not said


def leaves(value: object) -> Iterator[str]:
    """Yield the strings in a value, in order, those of technical fields left out."""
    return texts_in(value, without=TECHNICAL)


def prose_in(value: object, known: Collection[str] = ()) -> list[str]:
    """Return what a program's value says to people, pictures and what is known already left out.

    Args:
        value: Anything, however deep, and with circles.
        known: Texts that were judged.
    """
    return [one for one in texts_in(value) if one not in known and is_prose(one) and not may_be_picture(one)]


def as_json(value: object) -> str:
    """Return a value as JSON with sorted keys; what JSON has no form for is written as Python shows it."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=repr)


def is_mark(value: object) -> bool:
    """Whether a value is a short mark, such as a name, a version or a hash, that says nothing to people."""
    return isinstance(value, str) and _MARK.fullmatch(value) is not None


def _words(block: Block) -> list[str]:
    if kind_of(block) in ("text", "output_text") and isinstance(block.get("text"), str):
        said = block["text"]
        beside = {key: one for key, one in block.items() if key not in ("text", "logprobs")}
        return [said, *prose_in(beside), *_tokens_beyond(block.get("logprobs"), said)]
    read = [leaf for leaf in leaves(block) if not may_be_picture(leaf)]
    return ["\n".join([*read, *prose_in(block, read)])]


def pictures_in(value: object) -> list[Block]:
    """Return the pictures whose data stands somewhere in a value, as blocks that can be read."""
    if not holds_picture(value, declared=False):
        return []
    found = (leaf for leaf in texts_in(value) if may_be_picture(leaf))
    return [{"type": "image", "url" if leaf.lstrip()[:5].lower() == "data:" else "base64": leaf} for leaf in found]


def _beside(
    message: AIMessage, calls: Collection[tuple[str, str]], said: Iterable[str]
) -> tuple[list[str], list[Block]]:
    """Return the words and the sounds that stand beside a message's content."""
    known = "\n".join(said)
    words: list[str] = []
    sounds: list[Block] = []
    for key, value in message.additional_kwargs.items():
        what = field_treatment("additional_kwargs", key)
        if what == "unread" and isinstance(value, Mapping) and value.get("data"):
            sounds.append({"type": "audio"})
            words.append(str(value.get("transcript") or ""))
        elif what == "call":
            raw = value if isinstance(value, list) else [value]
            words += [as_json(call) for call in raw if not _is_raw_call(call, calls, message)]
        elif what == "mark":
            words += [leaf for leaf in texts_in(value) if is_prose(leaf) and leaf not in known]
        elif not (key == "parsed" and _same_json(value, known)):
            words += [leaf for leaf in leaves(value) if leaf not in known]
    for key, value in message.response_metadata.items():
        what = field_treatment("response_metadata", key)
        if what == "tokens":
            words += _tokens_beyond(value, known)
        elif what == "prose":
            words += [leaf for leaf in texts_in(value) if is_prose(leaf) and leaf not in known]
    words += [message.name] if message.name and is_prose(message.name) else []
    if isinstance(message, AIMessageChunk) and not message.tool_calls and not message.invalid_tool_calls:
        words += [str(chunk["args"]) for chunk in message.tool_call_chunks if chunk.get("args")]
    return words, sounds


def _is_raw_call(call: object, calls: Collection[tuple[str, str]], message: AIMessage) -> bool:
    """Whether a call in a provider's own form is one that the message has in a standard field too."""
    if not isinstance(call, Mapping):
        return False
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        return False
    name, arguments = function.get("name"), function.get("arguments")
    invalid = {(one["name"], one["args"]) for one in message.invalid_tool_calls}
    return call_key(name, arguments) in calls or (name, arguments) in invalid


def _same_json(value: object, text: str) -> bool:
    plain = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    try:
        return bool(json.loads(text) == plain)
    except ValueError:
        return False


def _tokens_beyond(logprobs: object, known: str) -> list[str]:
    """Return the words of log-probabilities that the answer does not say anyway."""
    text = "".join(_tokens(logprobs))
    beside = [leaf for leaf in texts_in(logprobs, without=("token", "bytes")) if is_prose(leaf)]
    return [one for one in (text, *beside) if one.strip() not in known]


def _tokens(logprobs: object) -> Iterator[str]:
    """Yield the tokens that were chosen, in order, in any provider's form; alternatives are left out."""
    if isinstance(logprobs, Mapping):
        if isinstance(token := logprobs.get("token"), str):
            yield token
            return
        for key, one in logprobs.items():
            if not str(key).startswith("top_"):
                yield from _tokens(one)
    elif isinstance(logprobs, list | tuple):
        for one in logprobs:
            yield from _tokens(one)
