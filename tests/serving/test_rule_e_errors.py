"""Rule E: a decision is final, a shortage says when to come back, and every error has one shape. Case 25."""

import threading

import openai
import pytest

from tests.serving.rules import BLOCKME
from tests.serving.running import asks, running, send
from tests.serving.upstream import completion, whole


def one_shape(wire):
    """Whether an error has the one shape, and a shortage its time."""
    assert wire.headers["content-type"] == "application/json"
    error = wire.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)
    if wire.status in (429, 503):
        assert 1 <= int(wire.headers["retry-after"]) <= 60
    else:
        assert wire.headers["x-should-retry"] == "false"
    return True


ERRORS = {
    "no JSON": ({"body": b"{"}, 400),
    "an array": ({"body": b"[]"}, 400),
    "nothing": ({"body": b""}, 400),
    "not UTF-8": ({"body": b'{"a": "\xff"}'}, 400),
    "a name twice": ({"body": b'{"model": "up", "model": "up"}'}, 400),
    "NaN": ({"body": b'{"temperature": NaN}'}, 400),
    "deep": ({"body": b"[" * 100_000}, 400),
    "deep object": ({"body": b'{"a":' * 100 + b"1" + b"}" * 100}, 400),
    "no messages": ({"body": {"model": "up", "messages": []}}, 400),
    "unknown model": ({"body": asks() | {"model": "other"}}, 404),
    "unknown field": ({"body": asks(colour="red")}, 400),
    "bad field": ({"body": asks(temperature="hot")}, 400),
    "too many choices": ({"body": asks(n=100)}, 400),
    "unknown path": ({"body": {}, "path": "/v1/nothing"}, 404),
    "wrong method": ({"body": b"", "method": "GET"}, 405),
    "wrong method elsewhere": ({"body": b"", "method": "DELETE", "path": "/v1/models"}, 405),
    "wrong type": ({"body": b"a=1", "headers": {"content-type": "text/plain"}}, 415),
    "no type": ({"body": b"{}", "headers": {"content-type": None}}, 415),
    "wrong coding": ({"body": b"{}", "headers": {"content-encoding": "br"}}, 415),
    "no review": ({"body": b"", "method": "GET", "path": "/v1/reviews/review_1"}, 404),
}


@pytest.mark.parametrize("name", ERRORS)
def test_case_25_one_shape(up, server, name):
    given, status = ERRORS[name]
    wire = send(server.port, **given)
    assert wire.status == status
    assert one_shape(wire)
    assert not up.requests


def test_case_25_a_block_is_final(up, server):
    client = openai.OpenAI(base_url=server.url, api_key="x", max_retries=2)
    up.script = whole(completion({"content": BLOCKME}))
    found = client.chat.completions.create(model="up", messages=[{"role": "user", "content": "hi"}])
    assert found.choices[0].finish_reason == "content_filter"
    assert len(up.requests) == 1
    assert [one.strip() for one in server.rules.asked] == ["hi", BLOCKME]  # the turn once, and its answer once
    server.rules.asked.clear()
    found = client.responses.create(model="up", input=BLOCKME)
    assert found.incomplete_details.reason == "content_filter"
    assert ([one.strip() for one in server.rules.asked], len(up.requests)) == ([BLOCKME], 1)
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="up", messages=[{"role": "user", "content": "a" * 200_000}])
    assert raised.value.code == "unreadable_content"
    assert len(up.requests) == 1


def test_case_25_upstream_refusals_are_final_and_shortages_are_not(up, tmp_path):
    with running(up, tmp_path, limits={"retry_after": 1}) as server:
        client = openai.OpenAI(base_url=server.url, api_key="x", max_retries=1)
        messages = [{"role": "user", "content": "hi"}]
        up.script = whole({"error": {"message": "m"}}, 400)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="up", messages=messages)
        assert len(up.requests) == 1
        for status, kind in (
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (401, openai.InternalServerError),
        ):
            up.script, before = whole({"error": {"message": "m"}}, status, retry_after=1), len(up.requests)
            with pytest.raises(kind):
                client.chat.completions.create(model="up", messages=messages)
            assert len(up.requests) == before + 2
        up.scripts, up.script = [whole({}, 503)], whole(completion())
        assert client.chat.completions.create(model="up", messages=messages).choices[0].message.content == "fine"


def test_case_25_a_full_queue_says_when_to_come_back(up, tmp_path):
    go = threading.Event()
    up.script = whole(completion())
    up.script.steps.insert(0, go)
    with running(up, tmp_path, limits={"at_once": 1, "queue": 1, "retry_after": 3}) as server:
        found = []
        threads = [threading.Thread(target=lambda: found.append(send(server.port, asks()))) for _ in range(2)]
        for at, thread in enumerate(threads):
            thread.start()
            while server.jobs.running + server.jobs.waiting <= at:
                pass
        full = send(server.port, asks())
        go.set()
        for thread in threads:
            thread.join()
        assert (full.status, full.json["error"]["code"], full.headers["retry-after"]) == (429, "queue_full", "3")
        assert one_shape(full)
        assert [one.status for one in found] == [200, 200]
        assert server.idle()


KEYS = [
    {"name": "one", "key": {"value": "k-one"}, "requests_per_minute": 2},
    {
        "name": "two",
        "key": {"value": "k-two"},
        "policy": {"unsafe_at": 1.0, "controversial_at": 1.0, "on_unsafe_answer": "keep"},
    },
]


def test_keys_are_asked_for_and_never_break_anything(up, tmp_path):
    with running(up, tmp_path, keys=KEYS) as server:
        for headers in (
            {},
            {"authorization": "Bearer no"},
            {"authorization": "Bearer käse"},
            {"authorization": "Basic k-one"},
            {"authorization": "Bearer "},
            {"x-api-key": "k-on"},
        ):
            wire = send(server.port, asks(), headers=headers)
            assert (wire.status, wire.json["error"]["code"]) == (401, "invalid_api_key")
            assert one_shape(wire)
        assert send(server.port, b"", "/v1/models", method="GET").status == 401
        assert send(server.port, b"", "/healthz", method="GET").status == 200
        good = {"authorization": "Bearer k-one"}
        assert [send(server.port, asks(), headers=good).status for _ in range(3)] == [200, 200, 429]
        assert send(server.port, asks(), headers={"x-api-key": "k-two"}).status == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=server.url, api_key="x").models.list()


def test_a_key_may_have_a_policy_of_its_own(up, tmp_path):
    up.script = whole(completion({"content": BLOCKME}))
    with running(up, tmp_path, keys=KEYS) as server:
        ends = [
            send(server.port, asks(), headers={"authorization": f"Bearer k-{name}"}).ends for name in ("one", "two")
        ]
    assert ends == [["content_filter"], ["stop"]]
