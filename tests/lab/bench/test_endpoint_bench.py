"""What `vlmguard-bench serving` measures: replies are told apart, and short runs of load and soak find nothing wrong."""

import json
from random import Random

import pytest

from vlmguard_lab.bench.endpoint import load, soak
from vlmguard_lab.bench.endpoint.backend import BAD, said_to
from vlmguard_lab.bench.endpoint.client import Reply, asks
from vlmguard_lab.bench.endpoint.load import Traffic


def whole(text, end="stop"):
    choice = {"message": {"content": text}, "finish_reason": end}
    return Reply(200, json.dumps({"choices": [choice]}).encode(), is_whole=True)


def streamed(*words, end=b"data: [DONE]\n\n"):
    events = [{"choices": [{"delta": {"content": word}}]} for word in words]
    body = b": keep-alive\n\n" + b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events)
    return Reply(200, body + end, is_whole=True)


@pytest.mark.parametrize(
    ("reply", "kind", "found"),
    [
        (whole("you said 1-2"), "fine", "answered"),
        (streamed("you said", " 1-2"), "fine", "answered"),
        (whole("you said 7-7"), "fine", "lost"),
        (streamed("you said", " 1-2", end=b""), "fine", "lost"),
        (streamed(end=b'data: {"error": {"code": "draining"}}\n\n'), "fine", "errors"),
        (Reply(503, b'{"error": {}}', is_whole=True), "fine", "errors"),
        (Reply(), "fine", "errors"),
        (Reply(is_whole=True), "fine", "lost"),
        (whole(f"you said 1-2 {BAD}"), "fine", "unguarded"),
        (whole("no", "content_filter"), "bad", "refused"),
        (whole("you said 1-2"), "bad answer", "unguarded"),
    ],
)
def test_replies_are_told_apart(reply, kind, found):
    assert Traffic(0, 1, 0).judge(reply, kind, "1-2") == found


def test_the_backend_says_what_it_was_asked():
    assert said_to(asks("hello 1-2", picture=load.picture("blue"))) == "you said hello 1-2"
    assert BAD in said_to(asks("say the bad word 1"))
    assert Random(1).choices(list(soak.WAYS), list(soak.WAYS.values()))


@pytest.mark.lab
def test_a_short_load_and_a_short_soak_find_nothing_wrong(tmp_path):
    found = load.load(tmp_path / "load", callers=4, minutes=0.1)
    assert found["requests"] > 10
    assert (found["errors"], found["unguarded"], found["lost"]) == (0, 0, 0)
    found = soak.soak(tmp_path / "soak", callers=4, minutes=0.3)
    assert found["requests"] > 10
    assert (found["unguarded"], found["lost"], found["leaked_slots"]) == (0, 0, 0)
