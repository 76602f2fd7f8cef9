"""Rule A: one list of readable places, and the bytes that were judged are the bytes that are sent. Cases 1 to 11."""

import json
import logging
from itertools import product
from urllib.parse import quote

import pytest

from langchain_vlmguard import Guard
from langchain_vlmguard.content.fetch import PictureFetcher
from tests.picture_server import picture_server, trusting
from tests.pictures import b64, png
from tests.serving.rules import BADIMG, BLOCKME, GOODIMG, MASKME, Rules
from tests.serving.running import asks, running, send
from tests.serving.upstream import DONE, USAGE, completion, event, plays, streamed, whole
from tests.serving.ways import WAYS

MARK = BLOCKME.encode()


def blocked(wire):
    """Whether an answer was withheld in the form that clients read, and nothing of it is on the wire."""
    assert wire.status == 200
    assert wire.ends == ["content_filter"]
    assert wire.refusal
    assert not wire.calls
    assert MARK not in wire.raw
    assert not wire.streams or wire.ends_once
    return True


def test_case_1_no_content_before_the_verdict(up, server, way):
    up.script = plays(way.stream, {"content": f"ok {BLOCKME}"})
    if way.stream:
        pieces = [
            event({"content": "ok "}),
            event({"content": "BLOCK"}),
            event({"content": "ME"}),
            event(finish="stop"),
        ]
        up.script = streamed(*(step for piece in pieces for step in (piece, 0.2)), DONE)
    wire = way.ask(server)
    last = up.last.sent[-1][0]
    assert all(
        at >= last for at, piece in wire.pieces if b"delta" in piece or b"choices" in piece or b"output" in piece
    )
    assert blocked(wire)
    assert not any(part in wire.raw.replace(b"content", b"") for part in (b"BLOCK", b"CKME"))


def test_case_1_one_verdict_and_the_same_words_in_every_mode(up, server):
    found = []
    for text in ("fine", BLOCKME):
        wires = []
        for way in WAYS:
            up.script = plays(way.stream, {"content": text})
            wires.append(way.ask(server))
        assert len({(wire.said, *wire.ends) for wire in wires}) == 1
        found.append([{key: value for key, value in wire.told.items() if key != "id"} for wire in wires])
    assert all(told == tolds[0] for tolds in found for told in tolds)
    assert found[0][0] != found[1][0]


def test_case_2_a_marker_cut_at_every_letter(up, server, way):
    letters = [event({"content": one}) for one in BLOCKME]
    for script in (
        streamed(*letters, event(finish="stop"), DONE),
        streamed(*letters[:-1], event({"content": "E"}, finish="stop"), DONE),
    ):
        up.script = script if way.stream else plays(way.stream, {"content": BLOCKME})
        wire = way.ask(server)
        assert blocked(wire)
        assert b"BLOC" not in wire.raw


def test_case_3_tool_arguments_all_or_nothing(up, server, way):
    call = {"id": "a", "type": "function", "function": {"name": "run", "arguments": '{"cmd":"BLOCKME"}'}}
    for name, arguments, is_bad in (
        ("run", '{"cmd":"BLOCKME"}', True),
        ("run", '{"cmd":"BLO\\u0043KME"}', True),
        (f"run{BLOCKME}", "{}", True),
        ("run", '{"cmd":"ls"}', False),
    ):
        call["function"] = {"name": name, "arguments": arguments}
        up.script = plays(way.stream, {"content": None, "tool_calls": [call]}, "tool_calls")
        wire = way.ask(server)
        if is_bad:
            assert blocked(wire)
            assert b'"tool_calls"' not in wire.raw
            assert b"function_call" not in wire.raw
        else:
            assert (wire.calls, wire.ends) == ([("run", {"cmd": "ls"})], ["tool_calls"])


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "refusal"])
def test_case_4_thoughts_are_output(up, server, way, field):
    """An answer is let out or withheld, and never changed: what a rule would mask is withheld, too."""
    for mark in (BLOCKME, MASKME):
        up.script = plays(way.stream, {"content": "fine", field: f"I think {mark}"})
        wire = way.ask(server)
        assert blocked(wire)
        assert mark.encode() not in wire.raw
    up.script = plays(way.stream, {"content": "fine", field: "hm"})
    wire = way.ask(server)
    assert (wire.said, wire.ends) == ("fine", ["stop"])
    if field != "refusal":
        assert wire.thoughts == "hm"


def token(text, *others):
    top = [{"token": one, "logprob": -1.0, "bytes": [*one.encode()]} for one in others]
    return {"token": text, "logprob": -0.5, "bytes": [*text.encode()], "top_logprobs": top}


def spelled(choice):
    """All that the log-probabilities of a choice spell."""
    tokens = [one for given in (choice["logprobs"] or {}).values() for one in given]
    every = [*tokens, *(other for one in tokens for other in one["top_logprobs"])]
    return "".join(one["token"] for one in every) + bytes(b for one in every for b in one["bytes"] or ()).decode()


def test_case_5_log_probabilities_go_with_their_choice(up, server, stream):
    one = {
        "index": 0,
        "message": {"role": "assistant", "content": "fine"},
        "finish_reason": "stop",
        "logprobs": {"content": [token("fi", "so"), token("ne", "le")]},
    }
    two = {
        "index": 1,
        "message": {"role": "assistant", "content": f"a {MASKME}"},
        "finish_reason": "stop",
        "logprobs": {"content": [token("a "), token(MASKME)]},
    }
    up.script = whole({**completion(), "choices": [one, two]})
    if stream:
        chunks = [
            {"choices": [{**{k: v for k, v in c.items() if k != "message"}, "delta": c["message"]}]} for c in (one, two)
        ]
        up.script = streamed(*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), DONE)
    wire = send(server.port, asks(n=2, logprobs=True, top_logprobs=2, stream=stream))
    if stream:
        first, second = (
            merged([c for chunk in wire.chunks for c in chunk["choices"] if c["index"] == at]) for at in (0, 1)
        )
    else:
        first, second = wire.json["choices"]
    assert (first["message"]["content"], first["logprobs"]) == ("fine", one["logprobs"])
    assert (second["finish_reason"], second["logprobs"]) == ("content_filter", None)
    assert MASKME not in spelled(first) + spelled(second)
    assert MASKME.encode() not in wire.raw
    assert up.last.json["n"] == 2


def merged(chunks):
    """A choice out of its chunks."""
    logprobs = next((one["logprobs"] for one in chunks if one["logprobs"]), None)
    return {"message": chunks[0]["delta"], "logprobs": logprobs, "finish_reason": chunks[-1]["finish_reason"]}


def test_case_5_numbers_that_are_none_are_written_as_json(up, server):
    odd = {"content": [{**token("fine"), "logprob": float("-inf")}]}
    up.script = whole(completion(logprobs=odd))
    [one] = send(server.port, asks(logprobs=True)).json["choices"][0]["logprobs"]["content"]
    assert one["logprob"] < -1000


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [token("BLOCK"), token("ME")]},
        {"content": [token("fi", "BLOCK"), token("ne", "ME")]},
        {"content": [{**token("fi"), "bytes": [*b"BLOCK"]}, {**token("ne"), "bytes": [*b"ME"]}]},
        {"refusal": [token("BLOCKME")]},
    ],
    ids=["tokens", "alternatives", "bytes", "refusal"],
)
def test_case_5_what_log_probabilities_spell_is_judged(up, server, stream, logprobs):
    up.script = whole(completion(logprobs=logprobs))
    if stream:
        choice = {"index": 0, "delta": {"content": "fine"}, "logprobs": logprobs, "finish_reason": "stop"}
        up.script = streamed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n", DONE)
    wire = send(server.port, asks(stream=stream, logprobs=True, top_logprobs=1))
    assert blocked(wire)


def with_picture(place, uri):
    part = {"type": "image_url", "image_url": {"url": uri}}
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    if place == "first of five turns":
        turns = [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]
        for at in range(4):
            turns += [{"role": "assistant", "content": f"a{at}"}, {"role": "user", "content": f"q{at}"}]
        return turns
    if place == "tool":
        return [
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": [part]},
        ]
    return [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [part]},
        {"role": "user", "content": "b"},
    ]


@pytest.mark.parametrize("place", ["first of five turns", "tool", "assistant"])
def test_case_6_every_picture_is_seen(up, server, way, place):
    wire = way.ask(server, messages=with_picture(place, BADIMG))
    assert wire.told["pictures"] == {"seen": 1, "forwarded": 0}
    assert wire.ends == ["content_filter"]
    assert not up.requests
    up.script = plays(way.stream)
    wire = way.ask(server, messages=with_picture(place, GOODIMG))
    assert wire.told["pictures"] == {"seen": 1, "forwarded": 1}
    assert up.last.body.count(GOODIMG.encode()) == 1


def tool_result(content):
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": content},
    ]


@pytest.mark.parametrize(
    "messages",
    [
        tool_result(f"x {BLOCKME}"),
        tool_result([{"type": "text", "text": "x"}, {"type": "text", "text": BLOCKME}]),
        [{"role": "developer", "content": BLOCKME}, {"role": "user", "content": "hi"}],
        [{"role": "system", "content": BLOCKME}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": BLOCKME}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": BLOCKME}, {"role": "user", "content": "b"}],
    ],
)
def test_case_7_every_role_is_checked(up, server, way, messages):
    assert blocked(way.ask(server, messages=messages))
    assert not up.requests


def test_case_7_a_name_that_speaks_is_left_out(up, server):
    messages = [{"role": "user", "content": "hi", "name": f"is {BLOCKME} ok"}]
    assert send(server.port, asks() | {"messages": messages}).said == "fine"
    assert MARK not in up.last.body


@pytest.mark.parametrize("where", ["tool", "schema"])
def test_case_7_words_of_tools_and_schemas_are_checked(up, server, where):
    tool = {
        "type": "function",
        "function": {"name": "run", "parameters": {"properties": {"a": {"description": BLOCKME}}}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"title": BLOCKME, "type": "object"}}}
    assert blocked(send(server.port, asks(**({"tools": [tool]} if where == "tool" else {"response_format": form}))))
    assert not up.requests


@pytest.mark.parametrize("role", ["function", "robot"])
def test_case_7_roles_that_are_not_known_are_refused(up, server, way, role):
    wire = way.ask(server, messages=[{"role": role, "content": BLOCKME}])
    assert (wire.status, wire.json["error"]["code"]) == (400, "invalid_request")
    assert not up.requests
    assert MARK not in wire.raw


MOST = 100_000
"""Characters that the policy lets a judge read."""


@pytest.mark.parametrize("before", [2 * MOST, MOST - 3, MOST - len(BLOCKME), 512, 4096 - 3])
def test_case_8_long_words_are_never_cut(up, server, way, before):
    wire = way.ask(server, "a" * before + BLOCKME)
    assert not up.requests
    assert MARK not in wire.raw
    if before + len(BLOCKME) <= MOST:
        assert blocked(wire)
        return
    assert wire.status == 400
    assert wire.json["error"]["code"] == "unreadable_content"
    assert wire.json["error"]["param"].startswith("messages[0]")
    assert "longer than 100,000 characters" in wire.json["error"]["message"]


@pytest.mark.parametrize("before", [2 * MOST, MOST - 3, 512])
def test_case_8_long_answers_are_never_cut(up, server, way, before):
    up.script = plays(way.stream, {"content": "a" * before + BLOCKME})
    assert blocked(way.ask(server))


def test_case_9_nothing_is_stored_and_only_listed_routes_exist(up, server):
    for name, way in product(("background", "store", "previous_response_id"), WAYS):
        wire = way.ask(server, **{name: "x" if name.endswith("id") else True})
        assert (wire.status, wire.json["error"]["param"]) == (400, name)
    for method, path in (
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("GET", "/v1/files"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/completions"),
        ("GET", "/docs"),
    ):
        wire = send(server.port, b"{}", path, method=method)
        assert (wire.status, wire.json["error"]["code"]) == (404, "not_found")
    assert not up.requests


def audited(caplog):
    """What the log says of requests, without what is each one's own."""
    lines = [one.facts for one in caplog.records if getattr(one, "facts", {}).get("said") == "request"]
    return [{key: value for key, value in line.items() if key not in ("id", "seconds")} for line in lines]


def test_case_10_no_caller_weakens_the_policy(up, server, way, caplog):
    caplog.set_level(logging.INFO, "langchain_vlmguard.serving")
    weaker = {"guardrails": [], "metadata": {"guardrails": {}}, "vlmguard": {"mode": "off", "policy": {"unsafe_at": 1}}}
    headers = {"x-vlmguard-skip": "1", "x-litellm-disable-guardrails": "1", "x-vlmguard-policy": "off"}
    plain = way.ask(server, BLOCKME)
    tried = way.ask(server, BLOCKME, **weaker, headers=headers)
    assert blocked(tried)
    kept = [{k: v for k, v in one.told.items() if k != "id"} for one in (plain, tried)]
    assert kept[0] == kept[1]
    first, second = audited(caplog)
    assert first == second
    assert first["action"] == "refuse"
    up.script = plays(way.stream)
    way.ask(server, **weaker)
    assert set(up.last.json) == {"model", "messages", *(("stream", "stream_options") if way.stream else ())}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/a.png",
        "http://[::1]:{port}/a.png",
        "http://2130706433:{port}/a.png",
        "file:///etc/hostname",
        "/etc/hostname",
        "ftp://127.0.0.1/a",
    ],
)
def test_case_11_no_address_is_fetched(up, server, way, url):
    content = [{"type": "image_url", "image_url": {"url": url.format(port=up.port)}}, {"type": "text", "text": "what?"}]
    wire = way.ask(server, messages=[{"role": "user", "content": content}])
    assert (wire.status, wire.json["error"]["code"]) == (400, "unreadable_content")
    assert wire.json["error"]["param"] == "messages[0].content[0]"
    assert not up.requests


HOST = "pictures.test"


@pytest.fixture
def listed(up, tmp_path):
    """A server whose policy lists a host on loopback, and that host."""
    rules = Rules()
    with picture_server(HOST) as host:
        names = {HOST: "127.0.0.1", "internal.test": "10.0.0.1", "metadata.test": "169.254.169.254"}
        fetcher = PictureFetcher(
            resolve=lambda name, _: [names[name]], allow_networks=("127.0.0.1/32",), ssl_context=trusting()
        )
        policy = {"image_hosts": {f"{HOST}:{host.server_port}", "internal.test", "metadata.test"}}
        guard = Guard(rules, answer_judge=rules, policy=policy, fetcher=fetcher)
        with running(up, tmp_path, guard=guard) as server:
            yield server, host


def shows(url):
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]}
    ]


def test_case_11_what_was_judged_is_what_is_sent(up, listed, way):
    server, host = listed
    up.script = plays(way.stream)
    wire = way.ask(server, messages=shows(f"https://{HOST}:{host.server_port}/other_each_time"))
    assert wire.said == "fine"
    assert wire.told["pictures"] == {"seen": 1, "forwarded": 1}
    assert host.asked == ["/other_each_time"]
    sent = up.last.json["messages"][0]["content"][0]["image_url"]["url"]
    assert sent == "data:image/png;base64," + b64(png((1, 0, 0)))
    assert HOST.encode() not in up.last.body


@pytest.mark.parametrize("where", ["https://internal.test/a.png", "https://metadata.test/", "http://127.0.0.1/a.png"])
def test_case_11_each_hop_is_checked_again(up, listed, where):
    server, host = listed
    for url in (where, f"https://{HOST}:{host.server_port}/redirect?{quote(where, safe='')}"):
        wire = send(server.port, {"messages": shows(url)})
        assert (wire.status, wire.json["error"]["code"]) == (400, "unreadable_content")
    assert not up.requests


def test_what_is_not_known_is_withheld(up, server, stream):
    more = {
        "new_words": "NEVERSEEN",
        "content": [{"type": "text", "text": "fine"}, {"type": "hologram", "x": "NEVERSEEN"}],
    }
    answer = completion(more) | {"system_fingerprint": "NEVERSEEN", "service_tier": "NEVERSEEN", "id": "NEVERSEEN"}
    answer["choices"][0]["new_words"] = "NEVERSEEN"
    up.script = whole(answer)
    if stream:
        up.script = streamed(
            event({"content": "fine", "new_words": "NEVERSEEN"}, finish="stop", extra="NEVERSEEN"),
            b"event: NEVERSEEN\ndata: {}\n\n",
            USAGE,
            DONE,
        )
    wire = send(server.port, asks(stream=stream))
    assert wire.said == "fine"
    assert b"NEVERSEEN" not in wire.raw


def test_a_masked_prompt_with_tools_keeps_them(up, server):
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": f"say {MASKME}"}]
    send(server.port, asks(tools=[tool]) | {"messages": messages})
    assert up.last.json["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "say [X]"},
    ]


@pytest.mark.parametrize("where", ["call id", "result id", "choice"])
def test_marks_that_are_words_are_refused(up, server, where):
    said = f"please {BLOCKME}"
    messages = tool_result("blue")
    fields = {}
    if where == "call id":
        messages[1] = {**messages[1], "tool_calls": [{**messages[1]["tool_calls"][0], "id": said}]}
    elif where == "result id":
        messages[2] = {**messages[2], "tool_call_id": said}
    else:
        fields = {"tool_choice": {"type": "function", "function": {"name": BLOCKME}}}
    wire = send(server.port, asks(**fields) | {"messages": messages})
    assert (wire.status, wire.json["error"]["code"]) == (400, "invalid_request")
    assert MARK not in wire.raw
    assert not up.requests
