"""Rule C: what cannot be judged is a block that the caller cannot read as "go on". Cases 14 to 16, and the guard's own routes."""

import threading
import time

import pytest

from langchain_vlmguard import Guard
from tests.serving.rules import BADIMG, BLOCKME, BREAKME, GOODIMG, HOLDME, MASKME, SLEEPME, Rules
from tests.serving.running import asks, running, send
from tests.serving.upstream import completion, plays, whole

PATH = "/beta/litellm_basic_guardrail_api"


@pytest.fixture
def server(up, tmp_path):
    with running(up, tmp_path, limits={"guardrail_seconds": 2.0}) as found:
        yield found


def judged(server, **body):
    wire = send(server.port, body, PATH)
    assert wire.status == 200
    assert wire.json["action"] in ("NONE", "BLOCKED", "GUARDRAIL_INTERVENED")
    assert BLOCKME.encode() not in wire.raw
    return wire.json


def call(arguments):
    return {"id": "c", "type": "function", "function": {"name": "run", "arguments": arguments}}


@pytest.mark.parametrize("kind", ["request", "response"])
def test_words_pictures_calls_tools_and_messages_are_judged(up, server, kind):
    messages = [{"role": "user", "content": "hi"}]
    pictures = [GOODIMG] if kind == "request" else []  # nobody looks at pictures in answers here: they stay in
    fine = {
        "input_type": kind,
        "texts": ["hi"],
        "images": pictures,
        "tool_calls": [call('{"a": 1}')],
        "structured_messages": messages,
    }
    assert judged(server, **fine) == {"action": "NONE"}
    for bad in (
        {"texts": ["hi", f"x {BLOCKME}"]},
        {"images": [GOODIMG, BADIMG]},
        {"tool_calls": [call(f'{{"a": "{BLOCKME}"}}')]},
        {"tool_calls": [call(f"no JSON {BLOCKME}")]},
        {"images": ["http://127.0.0.1/a.png"]},
    ):
        assert judged(server, **{**fine, **bad})["action"] == "BLOCKED"
    if kind == "request":
        for bad in (
            {"structured_messages": [{"role": "system", "content": BLOCKME}, *messages]},
            {"structured_messages": [{"role": "alien", "content": BLOCKME}]},
            {"tools": [{"type": "function", "function": {"name": "f", "description": BLOCKME}}]},
            {"tools": [{"type": "code_interpreter", "hint": BLOCKME}]},
        ):
            assert judged(server, **{**fine, **bad})["action"] == "BLOCKED"
    assert not up.requests


def test_case_14_nothing_that_fails_reads_as_go_on(up, server):
    started = time.monotonic()
    for text in (BREAKME, SLEEPME, f"BREAKANSWER {BLOCKME}", HOLDME):
        found = judged(server, input_type="response" if "ANSWER" in text else "request", texts=[text])
        assert found["action"] == "BLOCKED"
        assert found["blocked_reason"]
    assert time.monotonic() - started < 8
    for body in (b"{", b"[]", b""):
        wire = send(server.port, body, PATH)
        assert (wire.status, wire.json["action"]) == (200, "BLOCKED")
    server.jobs.is_draining = True
    assert judged(server, texts=["hi"])["action"] == "BLOCKED"


def test_case_14_a_full_queue_is_a_block(up, tmp_path):
    go = threading.Event()
    up.script = whole(completion())
    up.script.steps.insert(0, go)
    with running(up, tmp_path, limits={"at_once": 1, "queue": 0}) as server:
        first = threading.Thread(target=send, args=(server.port, asks()))
        first.start()
        while not up.open:
            time.sleep(0.01)
        assert judged(server, texts=["hi"])["action"] == "BLOCKED"
        go.set()
        first.join()
        assert judged(server, texts=["hi"]) == {"action": "NONE"}


def test_case_14_a_queue_that_stands_still_is_a_block_in_time(up, tmp_path):
    up.script.steps.insert(0, 30.0)
    with running(up, tmp_path, limits={"at_once": 1, "queue": 5, "guardrail_seconds": 0.5}) as server:
        stuck = threading.Thread(target=send, args=(server.port, asks()), kwargs={"leave_after": 2.5})
        stuck.start()
        while not up.open:
            time.sleep(0.01)
        started = time.monotonic()
        assert judged(server, texts=["hi"])["action"] == "BLOCKED"
        assert time.monotonic() - started < 1.5
        stuck.join()


def test_case_14_a_deadline_is_shorter_than_litellm_waits(up, tmp_path):
    with running(up, tmp_path, limits={"guardrail_seconds": 0.5}) as server:
        started = time.monotonic()
        assert judged(server, texts=[SLEEPME])["action"] == "BLOCKED"
        assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    ("texts", "changed"),
    [
        (["a", MASKME, "", "a"], ["a", "[X]", "", "a"]),
        ([f"say {MASKME}"], ["say [X]"]),
        ([MASKME, MASKME], ["[X]", "[X]"]),
    ],
)
def test_case_15_texts_go_back_as_many_as_they_came(server, texts, changed):
    found = judged(server, input_type="request", texts=texts)
    assert found == {"action": "GUARDRAIL_INTERVENED", "texts": changed}


def test_case_15_in_a_conversation_the_last_turn_is_rewritten(server):
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": f"say {MASKME}"},
    ]
    texts = [one["content"] for one in messages]
    found = judged(server, input_type="request", texts=texts, structured_messages=messages)
    assert found == {"action": "GUARDRAIL_INTERVENED", "texts": [*texts[:3], "say [X]"]}


def test_case_15_an_answer_is_never_changed(server):
    """LiteLLM drops rewritten texts of a streamed answer: what would be masked there is blocked."""
    for texts in (["a", MASKME], [MASKME], ["a", "b"]):
        found = judged(server, input_type="response", texts=texts)
        assert found["action"] == ("BLOCKED" if MASKME in texts else "NONE")
        assert "texts" not in found


def test_case_16_unknown_forms_are_kept_and_judged(server):
    body = {
        "input_type": "request",
        "texts": ["hi"],
        "tools": [{"type": "code_interpreter"}, {"type": "file_search", "vector_store_ids": ["v"]}],
        "structured_messages": None,
        "request_data": {},
        "request_headers": {"a": "b"},
        "something_new": [1],
        "additional_provider_specific_params": {"mode": "off"},
    }
    assert judged(server, **body) == {"action": "NONE"}
    for odd in (
        {"texts": None},
        {"texts": "hi"},
        {"texts": [1, None]},
        {"images": {}},
        {"tool_calls": "x"},
        {"tool_calls": [1]},
        {},
    ):
        assert judged(server, **odd)["action"] == "NONE"


@pytest.mark.parametrize("kind", ["request", "response"])
def test_a_check_that_nobody_makes_is_a_block(up, tmp_path, kind):
    guard = Guard(Rules(), answer_judge=None) if kind == "response" else Guard(None, answer_judge=Rules())
    with running(up, tmp_path, guard=guard) as server:
        found = judged(server, input_type=kind, texts=["hi"])
        assert found["action"] == "BLOCKED"
        assert "Nobody in this guard judges this" in found["blocked_reason"]
        called = judged(server, input_type="response", tool_calls=[call('{"a": 1}')])
        assert called["action"] == ("BLOCKED" if kind == "response" else "NONE")


def test_mcp_calls_and_results_in_the_form_that_litellm_sends_are_judged(server):
    def asked(*arguments, about="Say a text again."):
        function = {"name": "echo", "description": about, "parameters": {"type": "object"}, "strict": False}
        tools = [{"type": "function", "function": function}]
        return judged(server, input_type="request", request_data={}, tools=tools, texts=[about, *arguments])

    assert asked("hi", "there") == {"action": "NONE"}
    assert asked("hi", BLOCKME)["action"] == asked("hi", about=BLOCKME)["action"] == "BLOCKED"
    assert asked("hi", f"say {MASKME}") == {
        "action": "GUARDRAIL_INTERVENED",
        "texts": ["Say a text again.", "hi", "say [X]"],
    }
    assert judged(server, input_type="response", texts=["a page", "a label"]) == {"action": "NONE"}
    assert judged(server, input_type="response", texts=["a page", BLOCKME])["action"] == "BLOCKED"


HOSTED = [{"type": "code_interpreter"}, {"type": "file_search", "vector_store_ids": ["v"]}]


def test_case_16_tools_of_the_upstream_reach_it_unchanged(up, server, way):
    up.script = plays(way.stream)
    assert way.ask(server, tools=HOSTED).said == "fine"
    assert up.last.json["tools"] == HOSTED
    assert "vector_store_ids" in "".join(server.rules.asked)
    before = len(up.requests)
    for hint in (BLOCKME, {"deep": [BLOCKME]}):
        wire = way.ask(server, tools=[{"type": "code_interpreter", "hint": hint}])
        assert wire.ends == ["content_filter"]
    wire = way.ask(server, tools=[{"type": "mcp", "server_url": "https://127.0.0.1/mcp"}])
    assert (wire.status, wire.json["error"]["param"]) == (400, "tools[0]")
    assert len(up.requests) == before


def test_case_16_an_operator_can_refuse_tools_of_the_upstream(up, tmp_path, way):
    backend = {"kind": "upstream", "url": up.url, "models": ["up"], "hosted_tools": False}
    with running(up, tmp_path, backend=backend) as server:
        wire = way.ask(server, tools=HOSTED)
        assert (wire.status, wire.json["error"]["param"]) == (400, "tools[0]")
        assert not up.requests


def test_the_guard_routes_judge_and_ask_no_model(up, server):
    found = send(server.port, asks(f"say {MASKME}"), "/v1/guard").json
    assert (found["verdict"]["action"], found["messages"]) == ("rewrite", [{"role": "user", "content": "say [X]"}])
    found = send(server.port, asks(BLOCKME), "/v1/guard").json
    assert (found["verdict"]["action"], found["messages"]) == ("refuse", [])
    found = send(server.port, {"text": ["hi", BLOCKME, MASKME]}, "/v1/guard/text").json["results"]
    assert [(one["verdict"]["action"], one["text"]) for one in found] == [
        ("allow", "hi"),
        ("refuse", None),
        ("rewrite", "[X]"),
    ]
    assert send(server.port, asks(BREAKME), "/v1/guard").json["error"]["code"] == "guard_failed"
    assert send(server.port, {"words": BLOCKME}, "/v1/guard/text").status == 400
    assert not up.requests
