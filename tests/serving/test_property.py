"""Random answers in random framings: a marker that is judged bad is never on the wire, harmless words come out whole and once."""

import json
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_vlmguard.content.signatures import may_be_picture
from tests.serving.rules import BLOCKME
from tests.serving.running import asks, running, send
from tests.serving.upstream import Script, Upstream, completion, head, whole

QUICK, SLOW = 300, 2_000
"""Requests of one run; each goes over two sockets."""

# What begins as an encoded picture does is taken for one, and stays in unless somebody can look at it.
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: BLOCKME not in text and not may_be_picture(text + "harmless")
)
PLACES = (
    "content",
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "tool name",
    "arguments",
    "token",
    "alternative",
    "bytes",
)
UNKNOWN = (
    "id",
    "model",
    "system_fingerprint",
    "new field",
    "finish_reason",
    "delta field",
    "event name",
    "comment",
    "call id",
)


@pytest.fixture(scope="module")
def both():
    with Upstream() as up, running(up, Path(tempfile.mkdtemp()), keep_alive={"seconds": 20}) as server:
        yield up, server


def message(words, place, mark):
    """An answer of some words, with a mark in some place."""
    said = {"role": "assistant", "content": words}
    if place in ("content", "reasoning_content", "reasoning", "thinking", "refusal"):
        said[place] = f"{said.get(place, '')}{mark}"
    name = f"run{mark}" if place == "tool name" else "run"
    arguments = json.dumps({"a": mark if place == "arguments" else "b"})
    if place in ("tool name", "arguments", "call id"):
        number = mark if place == "call id" else "c1"
        said["tool_calls"] = [
            {"index": 0, "id": number, "type": "function", "function": {"name": name, "arguments": arguments}}
        ]
    if place == "delta field":
        said["novelty"] = mark
    return said


def logprobs(words, place, mark):
    token = {"token": words, "logprob": -1, "bytes": [*words.encode()], "top_logprobs": []}
    if place == "token":
        token["token"] = mark
    elif place == "alternative":
        token["top_logprobs"] = [{"token": mark, "logprob": -2, "bytes": None}]
    elif place == "bytes":
        token["bytes"] = [*mark.encode()]
    else:
        return None
    return {"content": [token]}


def pieces_of(said, cut):
    """The deltas of a message, its texts cut in two."""
    for key, value in said.items():
        if isinstance(value, str) and key != "role":
            at = cut % (len(value) + 1)
            yield {key: value[:at]}
            yield {key: value[at:]}
        elif key == "tool_calls":
            [call] = value
            function = call["function"]
            at = cut % (len(function["arguments"]) + 1)
            yield {key: [{**call, "function": {"name": function["name"], "arguments": function["arguments"][:at]}}]}
            yield {key: [{"index": 0, "function": {"arguments": function["arguments"][at:]}}]}
        else:
            yield {key: value}


def framed(chunks, *, ends, split, extra, ascii_only):
    """Chunks as an event stream in one of the standard's spellings."""
    data = b""
    for chunk in chunks:
        text = json.dumps(chunk, ensure_ascii=ascii_only, indent=1 if split else None)
        lines = [f"data:{' ' if split else ''}{line}" for line in text.split("\n")]
        lines = [*extra, *lines]
        data += (ends.join(lines) + ends * 2).encode()
    return data + b"data: [DONE]" + (ends * 2).encode()


@st.composite
def answers(draw):
    place = draw(st.sampled_from(PLACES + UNKNOWN))
    streams = draw(st.booleans())
    words = draw(WORDS)
    is_bad = draw(st.booleans())
    mark = BLOCKME if is_bad else "harmless"
    said, spelled = message(words, place, mark), logprobs(words, place, mark)
    ends = mark if place == "finish_reason" else "tool_calls" if "tool_calls" in said else "stop"
    beside = {key: mark for key in ("id", "model", "system_fingerprint") if key == place}
    beside |= {"novelty": mark} if place == "new field" else {}
    if not streams:
        return place, is_bad, words, streams, whole({**completion(said, ends, logprobs=spelled), **beside})
    deltas = [*pieces_of(said, draw(st.integers(0, 40)))]
    choices = [{"index": 0, "delta": one, "finish_reason": None} for one in deltas]
    choices[-1]["logprobs"] = spelled
    choices.append({"index": 0, "delta": {}, "finish_reason": ends})
    extra = [f"event: {mark}"] if place == "event name" else [f": {mark}", "id: 1"] if place == "comment" else []
    data = framed(
        [{**beside, "object": "chat.completion.chunk", "choices": [one]} for one in choices],
        ends=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        split=draw(st.booleans()),
        extra=extra,
        ascii_only=draw(st.booleans()),
    )
    at = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=6))})
    steps = [data[a:b] for a, b in pairwise(at)]
    return place, is_bad, words, streams, Script([head(content_type="text/event-stream"), *steps])


def ends_once(wire, asked):
    """Whether a stream has one end, and it is the last thing."""
    if not asked:
        return True
    return wire.data.count("[DONE]") == 1 and wire.data[-1] == "[DONE]" and len(wire.ends) == 1


def bytes_in(wire):
    """The bytes of every token on the wire."""
    return [json.loads(found) for found in re.findall(r'"bytes":(\[[\d,]+\])', wire.body.decode())]


def check(both, drawn):
    """Send one answer through the server and look at all that came out."""
    up, server = both
    place, is_bad, words, streams, up.script = drawn
    wire = send(server.port, asks(stream=streams, logprobs=True, top_logprobs=1))
    assert BLOCKME.encode() not in wire.raw
    assert [*BLOCKME.encode()] not in bytes_in(wire)
    if place == "finish_reason":  # an end that nobody knows is no end
        assert wire.status == 503
        return
    assert wire.status == 200
    assert ends_once(wire, streams)
    if is_bad and place in PLACES:
        assert wire.ends == ["content_filter"]
        return
    said = words + ("harmless" if place == "content" else "")
    assert wire.said == said
    assert wire.ends[0] in ("stop", "tool_calls")


KEPT = {"deadline": None, "suppress_health_check": [*HealthCheck], "derandomize": True, "database": None}


@settings(max_examples=QUICK, **KEPT)
@given(answers())
def test_a_marker_is_never_on_the_wire_and_harmless_words_come_out_once(both, drawn):
    check(both, drawn)


@pytest.mark.slow
@settings(max_examples=SLOW, **KEPT)
@given(answers())
def test_the_same_with_more_examples(both, drawn):
    check(both, drawn)
