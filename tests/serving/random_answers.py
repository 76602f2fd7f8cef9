"""Random answers of an upstream, in random framings and modes, with a mark in a random place; and what must come out of each."""

import json
import re
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from langchain_vlmguard.content.signatures import may_be_picture
from tests.serving.rules import BLOCKME
from tests.serving.upstream import completion
from tests.serving.ways import WAYS, Way

HARMLESS = "harmless"
# What begins as an encoded picture does is taken for one, and stays in unless somebody can look at it.
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: BLOCKME not in text and not may_be_picture(text + HARMLESS)
)
JUDGED = (
    "content",
    "part",
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "tool name",
    "arguments",
    "citation",
    "token",
    "alternative",
    "bytes",
)
"""Places whose words come out, and are judged."""

LEFT_OUT = (
    "id",
    "model",
    "system_fingerprint",
    "new field",
    "finish_reason",
    "delta field",
    "event name",
    "comment",
    "unknown field",
    "call id",
    "part field",
    "token field",
)
"""Places whose words never come out, and are not judged."""

BETWEEN = (": comment", "id: 7", "retry: 100", "foo: bar", "event: ping", "event: ping\ndata: {}", "data:", "data", ":")
"""What a stream may hold between its events."""


@dataclass(frozen=True)
class Answer:
    """What is asked and what the upstream plays."""

    way: Way
    place: str
    is_bad: bool
    words: str
    kind: str
    pieces: list

    @property
    def said(self):
        return self.words + (HARMLESS if self.place in ("content", "part") else "")


def _message(words, place, mark):
    """An answer of some words, with a mark in some place."""
    said = {"role": "assistant", "content": words}
    if place in ("content", "reasoning_content", "reasoning", "thinking", "refusal"):
        said[place] = f"{said.get(place, '')}{mark}"
    elif place == "part":
        said["content"] = [{"type": "text", "text": words}, {"type": "text", "text": mark}]
    elif place == "part field":
        said["content"] = [{"type": "text", "text": words, "note": mark}, {"type": "hologram", "text": mark}]
    elif place == "citation":
        url = {"url": f"https://example.com/{mark}", "title": "t", "start_index": 0, "end_index": 1}
        said["annotations"] = [{"type": "url_citation", "url_citation": url}]
    elif place in ("tool name", "arguments", "call id"):
        name = f"run{mark}" if place == "tool name" else "run"
        arguments = json.dumps({"a": mark if place == "arguments" else "b"})
        number = mark if place == "call id" else "c1"
        said["tool_calls"] = [
            {"index": 0, "id": number, "type": "function", "function": {"name": name, "arguments": arguments}}
        ]
    elif place == "delta field":
        said["novelty"] = mark
    return said


def _logprobs(words, place, mark):
    token = {"token": words, "logprob": -1, "bytes": [*words.encode()], "top_logprobs": []}
    if place == "token":
        token["token"] = mark
    elif place == "alternative":
        token["top_logprobs"] = [{"token": mark, "logprob": -2, "bytes": None}]
    elif place == "bytes":
        token["bytes"] = [*mark.encode()]
    elif place == "token field":
        token["note"] = mark
    else:
        return None
    return {"content": [token]}


def _deltas(said, cut):
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


def _framed(chunks, *, ends, split, extra, between, ascii_only):
    """Chunks as an event stream in one of the standard's spellings."""
    data = ""
    for at, chunk in enumerate(chunks):
        text = json.dumps(chunk, ensure_ascii=ascii_only, indent=1 if split else None)
        lines = [f"data:{' ' if split else ''}{line}" for line in text.split("\n")]
        if at < len(between):
            data += between[at].replace("\n", ends) + ends * 2
        data += ends.join([*extra, *lines]) + ends * 2
    return (data + "data: [DONE]" + ends * 2).encode()


@st.composite
def answers(draw):
    way, place = draw(st.sampled_from(WAYS)), draw(st.sampled_from(JUDGED + LEFT_OUT))
    streams = way.stream and draw(st.integers(0, 9)) > 0  # some servers stream only when they feel like it
    if place in ("part", "part field"):
        streams = False
    words, is_bad = draw(WORDS), draw(st.booleans())
    mark = BLOCKME if is_bad else HARMLESS
    said, spelled = _message(words, place, mark), _logprobs(words, place, mark)
    ends = mark if place == "finish_reason" else "tool_calls" if "tool_calls" in said else "stop"
    beside = {key: mark for key in ("id", "model", "system_fingerprint") if key == place}
    beside |= {"novelty": {"deep": [mark]}} if place == "new field" else {}
    if streams:
        data = _stream(draw, said, spelled, ends, beside, place, mark)
    else:
        data = json.dumps({**completion(said, ends, logprobs=spelled), **beside}).encode()
    at = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=6))})
    pieces = [data[a:b] for a, b in pairwise(at)]
    return Answer(way, place, is_bad, words, "text/event-stream" if streams else "application/json", pieces)


def _stream(draw, said, spelled, ends, beside, place, mark):
    deltas = [*_deltas(said, draw(st.integers(0, 40)))]
    choices = [{"index": 0, "delta": one, "finish_reason": None} for one in deltas]
    choices[-1]["logprobs"] = spelled
    choices.append({"index": 0, "delta": {}, "finish_reason": ends})
    extra = {"event name": [f"event: {mark}"], "comment": [f": {mark}", "id: 1"], "unknown field": [f"{mark}: {mark}"]}
    mark_of_order = "\ufeff" if draw(st.booleans()) else ""
    data = _framed(
        [{**beside, "object": "chat.completion.chunk", "choices": [one]} for one in choices],
        ends=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        split=draw(st.booleans()),
        extra=extra.get(place, []),
        between=draw(st.lists(st.sampled_from(BETWEEN), max_size=3)),
        ascii_only=draw(st.booleans()),
    )
    return mark_of_order.encode() + data


def bytes_in(wire):
    """The bytes of every token on the wire."""
    return [json.loads(found) for found in re.findall(r'"bytes":(\[[\d,]+\])', wire.body.decode())]


def check_answer(app, drawn):
    """Ask for one answer, look at all that comes out, and return whether it was withheld."""
    app.plays(drawn.pieces, drawn.kind)
    asked = {"top_logprobs": 1} if drawn.way.path == "/v1/responses" else {"logprobs": True, "top_logprobs": 1}
    wire = app.send(drawn.way.body(**asked), drawn.way.path)
    assert BLOCKME.encode() not in wire.raw
    assert [*BLOCKME.encode()] not in bytes_in(wire)
    if drawn.place == "finish_reason":  # an end that nobody knows is no end
        assert wire.status == 503
        return True
    assert wire.status == 200
    assert not wire.streams or wire.ends_once
    if drawn.is_bad and drawn.place in JUDGED:
        assert wire.ends == ["content_filter"]
        assert wire.refusal
        assert not wire.calls
        return True
    assert wire.said == drawn.said
    assert wire.ends[0] in ("stop", "tool_calls")
    return False
