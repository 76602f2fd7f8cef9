"""Rule A: one list of readable places, and the bytes that were judged are the bytes that are sent. Cases 1 to 11."""

import json

import pytest

from tests.serving.rules import BADIMG, BLOCKME, GOODIMG, MASKME
from tests.serving.running import asks, running, send
from tests.serving.upstream import DONE, USAGE, completion, event, streamed, whole

MARK = BLOCKME.encode()


@pytest.fixture
def server(up, tmp_path):
    with running(up, tmp_path, keep_alive={"seconds": 10}) as found:
        yield found


def blocked(wire):
    """Whether an answer was withheld in the form that clients read, and nothing of it is on the wire."""
    assert wire.status == 200
    assert wire.ends == ["content_filter"]
    assert MARK not in wire.raw
    if "event-stream" in wire.headers["content-type"]:
        assert wire.data[-1] == "[DONE]"
    return True


def test_case_1_no_content_before_the_verdict(up, server):
    up.script = streamed(
        event({"content": "ok "}),
        0.2,
        event({"content": "BLOCK"}),
        0.2,
        event({"content": "ME"}),
        0.2,
        event(finish="stop"),
        DONE,
    )
    wire = send(server.port, asks(stream=True))
    last = up.last.sent[-1][0]
    assert all(at >= last for at, piece in wire.pieces if b"delta" in piece)
    assert b"BLOCK" not in wire.raw.replace(b"content", b"")
    assert blocked(wire)


def test_case_2_a_marker_cut_at_every_letter(up, server):
    letters = [event({"content": one}) for one in BLOCKME]
    for script in (
        streamed(*letters, event(finish="stop"), DONE),
        streamed(*letters[:-1], event({"content": "E"}, finish="stop"), DONE),
    ):
        up.script = script
        wire = send(server.port, asks(stream=True))
        assert blocked(wire)
        assert b"BLOC" not in wire.raw


def test_case_3_tool_arguments_all_or_nothing(up, server, stream):
    call = {"id": "a", "type": "function", "function": {"name": "run", "arguments": '{"cmd":"BLOCKME"}'}}
    up.script = whole(completion({"content": None, "tool_calls": [call]}, "tool_calls"))
    if stream:
        pieces = [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "run", "arguments": '{"cmd":"BLO'}},
            {"index": 0, "function": {"arguments": 'CKME"}'}},
        ]
        up.script = streamed(*(event({"tool_calls": [one]}) for one in pieces), event(finish="tool_calls"), DONE)
    wire = send(server.port, asks(stream=stream))
    assert blocked(wire)
    assert b"tool_calls" not in wire.raw


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "refusal"])
def test_case_4_thoughts_are_output(up, server, stream, field):
    said = {"content": "fine", field: f"I think {BLOCKME}"}
    up.script = whole(completion(said))
    if stream:
        up.script = streamed(
            event({field: "I think BLO"}),
            event({field: "CKME"}),
            event({"content": "fine"}),
            event(finish="stop"),
            DONE,
        )
    assert blocked(send(server.port, asks(stream=stream)))
    up.script = whole(completion({"content": "fine", field: "hm"}))
    if stream:
        up.script = streamed(event({field: "h"}), event({field: "m", "content": "fine"}), event(finish="stop"), DONE)
    wire = send(server.port, asks(stream=stream))
    message = wire.chunks[0]["choices"][0]["delta"] if stream else wire.json["choices"][0]["message"]
    assert (message["content"], message[field]) == ("fine", "hm")


def token(text, *others):
    top = [{"token": one, "logprob": -1.0, "bytes": [*one.encode()]} for one in others]
    return {"token": text, "logprob": -0.5, "bytes": [*text.encode()], "top_logprobs": top}


def spelled(choice):
    """All that the log-probabilities of a choice spell."""
    tokens = [one for given in (choice["logprobs"] or {}).values() for one in given]
    every = [*tokens, *(other for one in tokens for other in one["top_logprobs"])]
    return "".join(one["token"] for one in every) + bytes(b for one in every for b in one["bytes"] or ()).decode()


def test_case_5_log_probabilities_go_with_their_choice(up, server):
    one = {
        "index": 0,
        "message": {"role": "assistant", "content": "fine"},
        "finish_reason": "stop",
        "logprobs": {"content": [token("fi", "so"), token("ne", "le")]},
    }
    two = {
        "index": 1,
        "message": {"role": "assistant", "content": f"a {BLOCKME}"},
        "finish_reason": "stop",
        "logprobs": {"content": [token("a "), token(BLOCKME)]},
    }
    up.script = whole({**completion(), "choices": [one, two]})
    wire = send(server.port, asks(n=2, logprobs=True, top_logprobs=2))
    first, second = wire.json["choices"]
    assert (first["message"]["content"], first["logprobs"]) == ("fine", one["logprobs"])
    assert (second["finish_reason"], second["logprobs"]) == ("content_filter", None)
    assert BLOCKME not in spelled(first) + spelled(second)
    assert MARK not in wire.raw
    assert up.last.json["n"] == 2


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
def test_case_6_every_picture_is_seen(up, server, stream, place):
    wire = send(server.port, asks(stream=stream) | {"messages": with_picture(place, BADIMG)})
    told = wire.chunks[-1]["vlmguard"] if stream else wire.json["vlmguard"]
    assert told["pictures"] == {"seen": 1, "forwarded": 0}
    assert wire.ends == ["content_filter"]
    assert not up.requests
    wire = send(server.port, asks() | {"messages": with_picture(place, GOODIMG)})
    assert wire.json["vlmguard"]["pictures"] == {"seen": 1, "forwarded": 1}
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
def test_case_7_every_role_is_checked(up, server, stream, messages):
    wire = send(server.port, asks(stream=stream) | {"messages": messages})
    assert blocked(wire)
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
def test_case_7_roles_that_are_not_known_are_refused(up, server, role):
    wire = send(server.port, asks() | {"messages": [{"role": role, "name": "f", "content": BLOCKME}]})
    assert (wire.status, wire.json["error"]["code"]) == (400, "invalid_request")
    assert not up.requests
    assert MARK not in wire.raw


def test_case_8_long_words_are_never_cut(up, server, stream):
    wire = send(server.port, asks("a" * 200_000 + BLOCKME, stream=stream))
    assert wire.status == 400
    assert wire.json["error"]["code"] == "unreadable_content"
    assert wire.json["error"]["param"].startswith("messages[0]")
    assert "longer than 100,000 characters" in wire.json["error"]["message"]
    assert not up.requests


def test_case_9_nothing_is_stored_and_only_listed_routes_exist(up, server):
    for name in ("background", "store", "previous_response_id"):
        wire = send(server.port, asks(**{name: "x" if name.endswith("id") else True}))
        assert (wire.status, wire.json["error"]["param"]) == (400, name)
    for method, path in (
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/files"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/completions"),
        ("GET", "/docs"),
    ):
        wire = send(server.port, b"{}", path, method=method)
        assert (wire.status, wire.json["error"]["code"]) == (404, "not_found")
    assert not up.requests


def test_case_10_no_caller_weakens_the_policy(up, server):
    weaker = {"guardrails": [], "metadata": {"guardrails": {}}, "vlmguard": {"mode": "off", "policy": {"unsafe_at": 1}}}
    plain = send(server.port, asks(BLOCKME))
    tried = send(
        server.port, asks(BLOCKME, **weaker), headers={"x-vlmguard-skip": "1", "x-litellm-disable-guardrails": "1"}
    )
    assert blocked(tried)
    kept = [{k: v for k, v in one.json["vlmguard"].items() if k != "id"} for one in (plain, tried)]
    assert kept[0] == kept[1]
    send(server.port, asks(**weaker))
    assert set(up.last.json) == {"model", "messages"}


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
def test_case_11_no_address_is_fetched(up, server, stream, url):
    content = [{"type": "image_url", "image_url": {"url": url.format(port=up.port)}}, {"type": "text", "text": "what?"}]
    wire = send(server.port, asks(stream=stream) | {"messages": [{"role": "user", "content": content}]})
    assert (wire.status, wire.json["error"]["code"]) == (400, "unreadable_content")
    assert wire.json["error"]["param"] == "messages[0].content[0]"
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
