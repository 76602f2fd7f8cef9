"""What waits for a person lies in a file, is bound to its request, and passes once. Case 30."""

import os
import signal

import openai
import pytest

from tests.serving.rules import BLOCKME, HOLDME
from tests.serving.running import asks, running, send, started, write_config
from tests.serving.upstream import completion, whole


def path_of(held):
    assert (held.status, held.json["error"]["code"]) == (409, "review_required")
    return f"/v1/reviews/{held.json['vlmguard']['review']}"


def test_case_30_a_request_that_waits_passes_once_when_it_was_approved(up, tmp_path, stream):
    body = asks(f"{HOLDME} please", stream=stream)
    with running(up, tmp_path) as server:
        path = path_of(send(server.port, body))
        assert path_of(send(server.port, body)) == path  # the same review, and no judge was asked again
        assert len(server.rules.asked) == 1
        assert not up.requests
        shown = send(server.port, b"", path, method="GET").json
        assert shown["state"] == "pending"
        assert shown["request"]["action_requests"][0]["args"]["prompt"] == f"{HOLDME} please"
    with running(up, tmp_path) as server:  # another process, the same file
        assert path_of(send(server.port, body)) == path
        assert send(server.port, {"decision": "approve"}, path).json["state"] == "decided"
        again = send(server.port, {"decision": "reject"}, path)
        assert (again.status, again.json["error"]["code"]) == (409, "review_decided")
        assert path_of(send(server.port, asks(f"{HOLDME} please!", stream=stream))) != path
        passed = send(server.port, body)
        assert passed.said == "fine"
        told = passed.chunks[-1]["vlmguard"] if stream else passed.json["vlmguard"]
        assert (told["reviewed"], told["answer"]) == ("approve", "released")
        assert send(server.port, b"", path, method="GET").json["state"] == "used"
        assert path_of(send(server.port, body)) != path  # once
        assert len(up.requests) == 1


def test_a_rejected_request_is_refused_and_an_edited_one_is_asked_as_edited(up, tmp_path):
    with running(up, tmp_path) as server:
        path = path_of(send(server.port, asks(f"{HOLDME} a")))
        send(server.port, {"decisions": [{"type": "reject"}]}, path)
        refused = send(server.port, asks(f"{HOLDME} a"))
        assert refused.ends == ["content_filter"]
        assert "A person rejected this turn." in refused.said
        path = path_of(send(server.port, asks(f"{HOLDME} b")))
        assert send(server.port, {"decision": "edit"}, path).status == 400
        send(server.port, {"decision": "edit", "prompt": "say b"}, path)
        assert send(server.port, asks(f"{HOLDME} b")).said == "fine"
        assert up.last.json["messages"] == [{"role": "user", "content": "say b"}]


def test_case_30_an_approved_answer_is_that_very_answer(up, tmp_path, stream):
    up.script = whole(completion({"content": f"first {BLOCKME}"}))
    with running(up, tmp_path, policy={"on_unsafe_answer": "review"}) as server:
        held = send(server.port, asks(stream=stream))
        path = path_of(held)
        assert BLOCKME.encode() not in held.raw
        assert BLOCKME in send(server.port, b"", path, method="GET").json["answer"]
        up.script = whole(completion({"content": f"second {BLOCKME}"}))
        send(server.port, {"decision": "approve"}, path)
        assert send(server.port, asks(stream=stream)).said == f"first {BLOCKME}"
        assert len(up.requests) == 1


def test_an_approval_is_not_lost_when_the_model_fails(up, tmp_path):
    with running(up, tmp_path) as server:
        path = path_of(send(server.port, asks(HOLDME)))
        send(server.port, {"decision": "approve"}, path)
        up.scripts = [whole({}, 500)]
        assert send(server.port, asks(HOLDME)).status == 503
        assert send(server.port, asks(HOLDME)).said == "fine"


def test_clients_do_not_try_again_by_themselves(up, tmp_path):
    with running(up, tmp_path) as server:
        client = openai.OpenAI(base_url=server.url, api_key="x", max_retries=2)
        with pytest.raises(openai.ConflictError) as raised:
            client.chat.completions.create(model="up", messages=[{"role": "user", "content": HOLDME}])
        assert raised.value.code == "review_required"
        assert len(server.rules.asked) == 1


def test_several_answers_never_wait(up, tmp_path):
    with running(up, tmp_path) as server:
        wire = send(server.port, asks(HOLDME, n=2))
        assert [one["finish_reason"] for one in wire.json["choices"]] == ["content_filter", "content_filter"]
        assert not up.requests


def test_a_decision_that_is_none_and_a_review_that_is_none(up, tmp_path):
    with running(up, tmp_path) as server:
        path = path_of(send(server.port, asks(HOLDME)))
        for wrong in ({}, {"decision": "maybe"}, {"decisions": []}):
            assert send(server.port, wrong, path).status == 400
        assert send(server.port, {"decision": "approve"}, "/v1/reviews/review_0").status == 404


def test_case_30_a_review_outlives_kill_9(up, tmp_path):
    config = write_config(tmp_path, up)
    first, port = started(config)
    path = path_of(send(port, asks(HOLDME)))
    os.kill(first.pid, signal.SIGKILL)
    first.wait(10)
    second, port = started(config)
    try:
        assert send(port, b"", path, method="GET").json["state"] == "pending"
        send(port, {"decision": "approve"}, path)
        assert send(port, asks(HOLDME)).said == "fine"
        assert send(port, {"decision": "approve"}, path).status == 409
        assert path_of(send(port, asks(f"{HOLDME}!"))) != path
        assert path_of(send(port, asks(HOLDME))) != path  # an approval is for one time
    finally:
        second.send_signal(signal.SIGTERM)
        assert second.wait(15) == 0
