"""Rule B: what was judged bad is in no error, header, log, number, span or review listing. Cases 12 and 13."""

import gzip
import io
import json
import logging

import pytest

from langchain_vlmguard.serving.logs import ContentFreeFormatter, set_up_logs
from tests.serving.rules import BLOCKME, BREAKME, HOLDME
from tests.serving.running import asks, running, send
from tests.serving.upstream import completion, plays, streamed, whole

MARK = BLOCKME.encode()


@pytest.fixture
def logged(capfd):
    """All that this process logs, as the server sets it up, and all that it prints."""
    before, stream = logging.getLogger().handlers[:], io.StringIO()
    set_up_logs(stream)
    yield lambda: stream.getvalue() + "".join(capfd.readouterr())
    logging.getLogger().handlers[:] = before
    logging.getLogger().setLevel(logging.WARNING)


@pytest.mark.parametrize(
    ("said", "script"),
    [
        ("hi", whole(completion({"content": BLOCKME}))),
        ("hi", plays("stream", {"content": BLOCKME})),
        ("hi", streamed(b'data: {"error": {"message": "BLOCKME", "code": "BLOCKME"}}\n\n')),
        (BLOCKME, whole(completion())),
        (f"{BREAKME} {BLOCKME}", whole(completion())),
        ("hi", whole(completion({"content": f"BREAKANSWER {BLOCKME}"}))),
        ("hi", whole({"error": {"message": BLOCKME, "type": BLOCKME, "code": BLOCKME}}, 400, x_note=BLOCKME)),
        ("hi", whole({"error": {"message": BLOCKME}}, 500)),
        ("hi", whole(BLOCKME.encode())),
        ("hi", whole(completion(finish=BLOCKME))),
        ("hi", whole({**completion(), "choices": BLOCKME})),
        ("hi", whole(completion({"tool_calls": [{"id": BLOCKME, "function": {"name": 1, "arguments": BLOCKME}}]}))),
    ],
)
def test_case_12_the_marker_is_nowhere(up, server, logged, way, said, script):
    up.script = script
    wire = way.ask(server, said)
    assert MARK not in wire.raw
    assert MARK not in send(server.port, b"", "/metrics", method="GET").raw
    log = logged()
    assert '"said": "request"' in log
    assert BLOCKME not in log


def test_case_12_not_in_what_a_caller_hears_of_wrong_parameters(up, server):
    for body in (
        asks(**{BLOCKME: 1}),
        asks(temperature=BLOCKME),
        asks() | {"messages": [{"role": "user", "content": "hi", BLOCKME: 1}]},
        asks() | {"messages": [{"role": "user", "content": [{"type": BLOCKME}]}]},
        asks(tools=[{"type": "function", "function": {"name": f"{BLOCKME} x"}}]),
        asks() | {"model": BLOCKME},
        f'{{"a": "{BLOCKME}"'.encode(),
    ):
        wire = send(server.port, body)
        assert wire.status in (400, 404)
        assert wire.json["error"]["message"]
        assert MARK not in wire.raw


def test_case_12_a_held_request_is_shown_to_reviewers_alone(up, tmp_path):
    keys = [
        {"name": "asks", "key": {"value": "a"}},
        {"name": "other", "key": {"value": "b"}},
        {"name": "reviews", "key": {"value": "c"}, "reviewer": True},
    ]
    with running(up, tmp_path, keys=keys) as server:
        held = send(server.port, asks(f"{HOLDME} secret"), headers={"authorization": "Bearer a"})
        assert held.status == 409
        path = f"/v1/reviews/{held.json['vlmguard']['review']}"
        seen = {
            key: send(server.port, b"", path, method="GET", headers={"authorization": f"Bearer {key}"}) for key in "abc"
        }
        assert (seen["a"].json["state"], b"secret" in seen["a"].raw) == ("pending", False)
        assert seen["b"].status == 404
        assert b"secret" in seen["c"].raw
        no = send(server.port, {"decision": "approve"}, path, headers={"authorization": "Bearer a"})
        assert (no.status, no.json["error"]["code"]) == (403, "not_allowed")


def test_case_13_headers_go_through_lists_both_ways(up, server, way):
    names = (
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "cookie",
        "proxy-authorization",
        "x-custom-secret",
        "x-forwarded-for",
    )
    up.script = plays(way.stream)
    up.script.steps[0] = up.script.steps[0].replace(
        b"connection", b"set-cookie: a=CANARY2\r\nx-internal: CANARY2\r\nconnection", 1
    )
    for _ in range(2):  # a cookie would come back with the second request
        wire = way.ask(server, headers=dict.fromkeys(names, "CANARY"))
        assert wire.said == "fine"
        assert "CANARY" not in str(up.last.headers)
        assert up.last.headers["authorization"] == "Bearer up-secret"
        assert b"CANARY2" not in wire.raw
    assert set(up.last.headers) <= {
        "authorization",
        "accept",
        "content-type",
        "content-length",
        "host",
        "user-agent",
        "accept-encoding",
        "connection",
    }


def test_case_13_a_coding_of_the_upstream_is_not_passed_on(up, server):
    data = gzip.compress(json.dumps(completion()).encode())
    up.script = whole(data, content_encoding="gzip")
    wire = send(server.port, asks(), headers={"accept-encoding": "gzip"})
    assert wire.said == "fine"
    assert "content-encoding" not in wire.headers
    assert int(wire.headers["content-length"]) == len(wire.body)


def test_case_12_errors_are_logged_by_class_and_place_alone():
    record = logging.LogRecord("some.library", logging.ERROR, "f.py", 1, f"failed on {BLOCKME}", (), None)
    assert BLOCKME not in ContentFreeFormatter().format(record)
    with pytest.raises(ValueError, match=BLOCKME) as raised:
        int(f"no {BLOCKME}")
    told = (raised.type, raised.value, raised.tb)
    record = logging.LogRecord("langchain_vlmguard", logging.ERROR, "f.py", 1, BLOCKME, (), told)
    line = ContentFreeFormatter().format(record)
    assert BLOCKME not in line
    assert '"error": "ValueError"' in line
    assert "test_rule_b_no_leak.py" in line
