"""Rule D: a real parser on the way in, the plainest dialect on the way out, one true end. Cases 17 to 24."""

import json
import time

import openai
import pytest

from tests.serving.rules import BLOCKME, DOZEME
from tests.serving.running import asks, running, send
from tests.serving.upstream import DONE, USAGE, Script, completion, event, head, plays, streamed, whole
from tests.serving.ways import WAYS

FINE = [event({"content": "fine"}), event(finish="stop"), DONE]


@pytest.fixture(scope="module")
def standing_server(standing_up, tmp_path_factory):
    with running(standing_up, tmp_path_factory.mktemp("streams"), keep_alive={"seconds": 0.3}) as found:
        yield found


def test_case_17_keep_alives_are_comments_that_the_real_client_reads(up, server):
    up.script = streamed(1.2, *FINE)
    client = openai.OpenAI(base_url=server.url, api_key="x")
    parts = client.chat.completions.create(model="up", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert "".join(c.delta.content or "" for one in parts for c in one.choices) == "fine"
    wire = send(server.port, asks(stream=True))
    lines = {line.partition(":")[0] for line in wire.body.decode().split("\n") if line}
    assert lines == {"", "data"}
    assert wire.body.count(b": keep-alive\n\n") >= 3
    assert "data: \n" not in wire.body.decode()


def test_case_17_the_chunk_form_is_for_clients_that_cannot_read_comments(up, server):
    up.script = streamed(b": up says hello\n\n", 1.0, *FINE)
    wire = send(server.port, asks(stream=True), headers={"x-vlmguard-keep-alive": "chunk"})
    blocks = [one for one in wire.body.decode().split("\n\n") if one]
    assert all(one.startswith("data: ") for one in blocks)
    parsed = [json.loads(one[6:]) for one in blocks if one != "data: [DONE]"]
    assert len({one["id"] for one in parsed}) == 1
    assert sum(not c["delta"] for one in parsed for c in one["choices"]) >= 3
    assert "up says hello" not in wire.body.decode()
    assert wire.said == "fine"
    off = send(server.port, asks(stream=True), headers={"x-vlmguard-keep-alive": "off"})
    assert off.body.startswith(b"data: ")


STREAMED = pytest.mark.parametrize("way", [one for one in WAYS if one.stream], ids=str)


@STREAMED
def test_case_18_the_timer_is_our_own(up, server, way):
    up.script = Script([1.0, head(content_type="text/event-stream"), *FINE])
    started = time.monotonic()
    wire = way.ask(server, headers={"accept-encoding": "gzip"})
    assert wire.pieces[0][0] - started < 0.35
    assert wire.headers["x-accel-buffering"] == "no"
    assert "no-cache" in wire.headers["cache-control"]
    assert "content-encoding" not in wire.headers
    assert wire.said == "fine"


@STREAMED
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_case_19_chunk_borders_mean_nothing(up, server, way, size):
    data = event({"content": "é😀 and "}) + event({"content": "fine"}, finish="stop") + USAGE + DONE
    data = data.replace(b"\\u00e9\\ud83d\\ude00", "é😀".encode())
    up.script = streamed(*(data[at : at + size] for at in range(0, len(data), size)))
    wire = way.ask(server, stream_options={"include_usage": True})
    assert wire.said == "é😀 and fine"
    assert [one["total_tokens"] for one in wire.usages] == [5]


@pytest.mark.parametrize("text", ["hi", BLOCKME, "answer"])
@pytest.mark.parametrize("asked", [True, False, None])
def test_case_20_usage_once_if_asked_for(up, server, text, asked):
    up.script = streamed(
        event({"content": BLOCKME if text == "answer" else "fine"}),
        event(finish="stop", usage={"prompt_tokens": 1}),
        USAGE,
        DONE,
    )
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    wire = send(server.port, asks(text, stream=True, **options))
    assert len(wire.usages) == int(asked is True)
    if asked:
        assert wire.data[-1] == "[DONE]"
        assert wire.chunks[-1]["usage"] == wire.usages[0]
        assert wire.chunks[-1]["choices"] == []
    response = send(server.port, {"model": "up", "input": text, "stream": True}, "/v1/responses")
    assert len(response.usages) == 1  # this API always tells it, with the end


@STREAMED
@pytest.mark.parametrize("second", ["BLOCKME", "fine"])
def test_case_21_a_new_id_is_a_new_call(up, server, way, second):
    def piece(number, arguments):
        return event({"tool_calls": [{"index": 0, "id": number, "function": {"name": "run", "arguments": arguments}}]})

    up.script = streamed(
        piece("call_a", '{"p":"ok"}'), piece("call_b", f'{{"p":"{second}"}}'), event(finish="tool_calls"), DONE
    )
    wire = way.ask(server)
    if second == BLOCKME:
        assert wire.ends == ["content_filter"]
        assert not wire.calls
        return
    assert wire.calls == [("run", {"p": "ok"}), ("run", {"p": "fine"})]
    if wire.response:
        assert len({one["call_id"] for one in wire.response["output"]}) == 2
        return
    found = [call for one in wire.chunks for c in one["choices"] for call in c["delta"].get("tool_calls", ())]
    assert [one["index"] for one in found] == [0, 1]
    assert len({one["id"] for one in found}) == 2


CUTS = {
    "error event": [b'data: {"error":{"message":"m","code":400}}\n\n'],
    "closes": [event({"content": "half"}), event({"content": " an"})],
    "closes inside JSON": [event({"content": "half"}), b'data: {"choices": [{"ind'],
    "closes inside a finish": [event({"content": "half"}), event(finish="stop")[:-2]],
    "no stream at all": [],
}


@STREAMED
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("late", [False, True])
def test_case_22_a_cut_answer_is_never_a_whole_one(up, tmp_path, way, cut, late):
    up.script = streamed(*([0.5] if late else []), *CUTS[cut])
    with running(up, tmp_path, keep_alive={"seconds": 0.3 if late else 20}) as server:
        wire = way.ask(server)
        ended = time.monotonic()
    assert ended - up.last.sent[-1][0] < 1  # the connection is closed: nobody waits for an end that does not come
    assert b"half" not in wire.raw
    if not late:
        assert (wire.status, wire.json["error"]["code"]) == (503, "upstream_failed")
        assert 1 <= int(wire.headers["retry-after"]) <= 60
        return
    assert wire.status == 200
    [said] = map(json.loads, wire.data)
    assert (said if way.path == "/v1/responses" else said["error"])["code"] == "upstream_failed"
    assert not wire.body.endswith(DONE)


def test_case_22_a_whole_answer_that_broke_off(up, server):
    data = json.dumps(completion()).encode()
    for script in (
        Script([head(content_type="application/json", content_length=len(data)) + data[:40]]),
        whole(data[:40]),
        whole(completion(finish=None)),
        whole({"error": {"message": "m"}}),
        whole({"choices": []}),
        Script([]),
        whole(b"", 302, location="http://127.0.0.1/elsewhere"),
    ):
        up.script = script
        wire = send(server.port, asks())
        assert (wire.status, wire.json["error"]["code"]) == (503, "upstream_failed")


@STREAMED
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("bad", ["prompt", "answer"])
def test_case_23_a_block_has_the_envelope_of_the_request(up, server, way, bad, late):
    up.script = streamed(*([0.8] if late else []), event({"content": BLOCKME}), event(finish="stop"), DONE)
    wire = way.ask(server, ({True: f"{DOZEME} ", False: ""}[late] + BLOCKME) if bad == "prompt" else "hi")
    assert wire.status == 200
    assert wire.headers["content-type"].startswith("text/event-stream")
    assert wire.body.startswith(b": keep-alive") == late
    assert wire.ends_once
    assert wire.ends == ["content_filter"]
    assert wire.said == wire.refusal
    assert wire.said


FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "run", "parameters": {}}}


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL]}, {"response_format": FORM}])
@pytest.mark.parametrize("bad", ["prompt", "answer"])
def test_case_24_a_block_can_be_read(up, server, way, bad, fields):
    up.script = plays(way.stream, {"content": BLOCKME})
    wire = way.ask(server, BLOCKME if bad == "prompt" else "hi", **fields)
    assert wire.refusal
    assert not wire.calls
    assert wire.ends == ["content_filter"]
    if wire.response:
        return
    message = wire.chunks[0]["choices"][0]["delta"] if way.stream else wire.json["choices"][0]["message"]
    assert "tool_calls" not in message
    assert (message.get("content") == message["refusal"]) == (not fields)
    if not way.stream:
        assert "content" in message


def test_case_24_the_real_client_raises_what_it_should(server):
    client = openai.OpenAI(base_url=server.url, api_key="x")
    messages = [{"role": "user", "content": BLOCKME}]
    with pytest.raises(openai.ContentFilterFinishReasonError):
        client.chat.completions.parse(model="up", messages=messages, response_format=FORM)
    with client.chat.completions.stream(model="up", messages=messages) as stream:
        ends = [one for one in stream if one.type == "refusal.done"]
    assert ends[0].refusal
