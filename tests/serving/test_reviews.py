"""What waits for a person lies in a file, is bound to its request, and passes once. Case 30."""

import os
import signal

import openai
import pytest

from langchain_vlmguard.errors import ReviewDatabaseError
from tests.postgres import postgres_server
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


def test_a_held_answer_may_be_edited_too(up, tmp_path, stream):
    up.script = whole(completion({"content": f"first {BLOCKME}"}))
    with running(up, tmp_path, policy={"on_unsafe_answer": "review"}) as server:
        path = path_of(send(server.port, asks(stream=stream)))
        assert send(server.port, {"decision": "edit", "text": "a kite"}, path).json["decision"] == "edit"
        assert send(server.port, asks(stream=stream)).said == "a kite"
        assert len(up.requests) == 1


@pytest.fixture
def failed(up, tmp_path, stream):
    """A request whose answer no judge could look at, and where a person decides about it."""
    up.script = whole(completion({"content": "first BREAKANSWER"}))
    with running(up, tmp_path, policy={"on_error": "review"}) as server:
        body = asks(stream=stream)
        yield server, body, path_of(send(server.port, body))


@pytest.mark.parametrize("second", ["second", f"second {BLOCKME}"])
def test_after_a_judge_failed_an_edited_prompt_is_asked_anew_and_judged(up, failed, second):
    server, body, path = failed
    shown = send(server.port, b"", path, method="GET").json
    assert shown["request"]["review_configs"][0]["allowed_decisions"] == ["approve", "edit", "reject"]
    assert send(server.port, {"decision": "edit", "prompt": "edited"}, path).json["state"] == "decided"
    up.script = whole(completion({"content": second}))
    wire = send(server.port, body)
    assert up.last.json["messages"] == [{"role": "user", "content": "edited"}]
    assert len(up.requests) == 2
    assert b"first" not in wire.raw
    if BLOCKME in second:
        assert wire.ends == ["content_filter"]
        assert BLOCKME.encode() not in wire.raw
    else:
        assert wire.said == second


def test_after_a_judge_failed_again_the_edit_waits_for_the_next_try(up, failed):
    server, body, path = failed
    send(server.port, {"decision": "edit", "prompt": "edited"}, path)
    wire = send(server.port, body)
    assert (wire.status, wire.json["error"]["code"]) == (503, "guard_failed")
    up.script = whole(completion({"content": "second"}))
    assert send(server.port, body).said == "second"
    assert len(up.requests) == 3


def test_an_approval_is_not_lost_when_a_judge_fails(up, tmp_path):
    with running(up, tmp_path) as server:
        path = path_of(send(server.port, asks(HOLDME)))
        send(server.port, {"decision": "approve"}, path)
        up.scripts = [whole(completion({"content": "first BREAKANSWER"}))]
        assert send(server.port, asks(HOLDME)).json["error"]["code"] == "guard_failed"
        assert send(server.port, asks(HOLDME)).said == "fine"


def test_after_a_judge_failed_an_approval_is_for_the_answer_that_waits(up, tmp_path, stream):
    up.script = whole(completion({"content": "first words"}))
    with running(up, tmp_path, policy={"on_error": "review"}) as server:
        judge, server.rules.judge_texts = server.rules.judge_texts, lambda _: 1 / 0
        path = path_of(send(server.port, asks(stream=stream)))
        server.rules.judge_texts = judge
        send(server.port, {"decision": "approve"}, path)
        assert send(server.port, asks(stream=stream)).said == "first words"
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


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    with postgres_server(tmp_path_factory.mktemp("logs") / "postgres.log") as address:
        yield address


def test_servers_that_share_a_postgres_share_their_reviews(up, tmp_path, postgres):
    up.script = whole(completion({"content": f"first {BLOCKME}"}))
    policy = {"on_unsafe_answer": "review"}
    with running(up, tmp_path, reviews=postgres, policy=policy) as first:
        prompt = path_of(send(first.port, asks(f"{HOLDME} \u0000 é")))
        answer = path_of(send(first.port, asks("hi")))
        with running(up, tmp_path, reviews=postgres, policy=policy) as second:
            assert path_of(send(second.port, asks("hi"))) == answer
            assert send(second.port, {"decision": "approve"}, answer).json["state"] == "decided"
            again = send(first.port, {"decision": "reject"}, answer)
            assert (again.status, again.json["error"]["code"]) == (409, "review_decided")
        assert send(first.port, asks("hi")).said == f"first {BLOCKME}"
        assert send(first.port, b"", answer, method="GET").json["state"] == "used"
    with running(up, tmp_path, reviews=postgres, policy=policy) as third:  # what waits outlives its server
        assert send(third.port, b"", prompt, method="GET").json["state"] == "pending"
        send(third.port, {"decision": "edit", "prompt": "say b"}, prompt)
        up.scripts = [whole({}, 500)]
        assert send(third.port, asks(f"{HOLDME} \u0000 é")).status == 503
        up.script = whole(completion())
        assert send(third.port, asks(f"{HOLDME} \u0000 é")).said == "fine"
        assert up.last.json["messages"] == [{"role": "user", "content": "say b"}]
        assert path_of(send(third.port, asks(f"{HOLDME} \u0000 é"))) != prompt  # once
    assert not [*tmp_path.glob("*.sqlite")]


def test_a_postgres_that_is_away_stops_the_start_and_its_password_is_told_nobody(up, tmp_path, caplog):
    address = "postgresql://me:very-secret@127.0.0.1:9/db"
    with pytest.raises(ReviewDatabaseError, match="cannot be used") as raised, running(up, tmp_path, reviews=address):
        pass
    assert "very-secret" not in f"{raised.value}{raised.value.__cause__}{caplog.text}"


def test_connections_that_a_postgres_closed_are_made_again(up, tmp_path, postgres):
    import psycopg

    with running(up, tmp_path, reviews=postgres) as server:
        path = path_of(send(server.port, asks(f"{HOLDME} again")))
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        assert path_of(send(server.port, asks(f"{HOLDME} again"))) == path


def test_a_postgres_that_goes_away_is_a_shortage(up, tmp_path):
    with postgres_server(tmp_path / "log") as address, running(up, tmp_path, reviews=address) as server:
        assert send(server.port, asks()).said == "fine"
        server.app.state.service.reviews._db._pool.close()
        wire = send(server.port, asks())
        assert (wire.status, wire.json["error"]["code"]) == (503, "internal_error")
        assert 1 <= int(wire.headers["retry-after"]) <= 60
        assert len(up.requests) == 1


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
