"""The decision route: how harmful a state is, in vLLM's form; what cannot be judged is an error, never "safe"."""

import jsonschema
import pytest

from langchain_vlmguard import Guard
from tests.serving.rules import BADIMG, BLOCKME, BREAKME, GOODIMG, HOLDME, MASKME, Rules
from tests.serving.running import running, send

PATH = "/v1/systemone"
HARMFUL = {"harmful": {"type": "noul", "instructions": "Is it harmful?", "criteria": {"true": "it hurts people"}}}
SHARES = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
ANSWER = {  # as vLLM documents it
    "type": "object",
    "required": ["id", "object", "created", "model", "answers", "usage", "diagnostics"],
    "properties": {
        "object": {"const": "structured_decision"},
        "answers": {
            "additionalProperties": {
                "required": ["type", "probabilities", "confidence"],
                "properties": {"type": {"enum": ["noul", "choice", "score"]}, "probabilities": SHARES},
            }
        },
        "usage": {"required": ["input_tokens", "output_tokens"]},
        "diagnostics": {"additionalProperties": {"required": ["label_mass", "argmax_is_label"]}},
    },
}


@pytest.fixture
def server(up, tmp_path):
    with running(up, tmp_path) as found:
        yield found


def ask(server, state, questions=None, **fields):
    return send(server.port, {"state": state, "questions": questions or HARMFUL, **fields}, PATH)


def risk(server, state, **fields):
    wire = ask(server, state, **fields)
    assert wire.status == 200, wire.raw
    jsonschema.validate(wire.json, ANSWER)
    return wire.json["answers"]["harmful"]["noul"]


def test_each_kind_of_question_is_answered_the_way_round_that_it_asks(up, server):
    questions = {
        **HARMFUL,
        "safe": {"type": "noul", "instructions": "", "criteria": None},
        "which": {"type": "choice", "criteria": {"safe": "fine", "unsafe": None}},
        "gate": {"type": "choice", "criteria": {"block": None, "allow": None}},
        "risk": {"type": "score", "criteria": ["none", "some", "much"]},
    }
    for state, bad in (("hi", 0.0), (f"x {BLOCKME}", 0.9)):
        wire = ask(server, state, questions, model="up", chat_template_kwargs={"enable_thinking": False})
        jsonschema.validate(wire.json, ANSWER)
        found = wire.json["answers"]
        assert [*found] == [*questions]
        assert (found["harmful"]["noul"], found["safe"]["noul"]) == (bad, pytest.approx(1 - bad))
        assert found["which"]["choice"] == ("unsafe" if bad else "safe")
        assert found["gate"]["choice"] == ("block" if bad else "allow")
        assert found["risk"]["score"] == pytest.approx(2 * bad)
        assert found["risk"]["legend"] == {"0": "none", "1": "some", "2": "much"}
        for one in found.values():
            assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert BLOCKME.encode() not in wire.raw
        assert wire.json["vlmguard"]["action"] == ("refuse" if bad else "allow")
    assert not up.requests


def test_what_the_policy_does_not_let_pass_is_never_called_safe(server):
    assert risk(server, HOLDME) >= 0.5
    assert risk(server, f"say {MASKME}") >= 0.5
    wire = ask(server, MASKME, {"a": {"type": "choice", "criteria": {"unsafe": None, "safe": None}}})
    assert wire.json["answers"]["a"]["choice"] == "unsafe"


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        ({"ticket": {"words": [BLOCKME]}}, {}),
        ([{"role": "user", "content": BLOCKME}], {}),
        (["what is it?", {"type": "image_url", "image_url": {"url": BADIMG}}], {}),
        (["what is it?", {"type": "input_image", "image_url": BADIMG}], {}),
        ("what is it?", {"images": [GOODIMG, BADIMG]}),
        ("what is it?", {"images": [{"content_type": "image/png", "base64": BADIMG.partition(",")[2]}]}),
        ("hi", {"instructions": BLOCKME}),
    ],
)
def test_every_place_of_a_state_is_judged(server, state, fields):
    assert risk(server, state, **fields) == 0.9


@pytest.mark.parametrize(
    ("state", "fields", "status"),
    [
        (BREAKME, {}, 503),
        ("hi", {"images": ["http://127.0.0.1/a.png"]}, 400),
        ("hi", {"images": ["data:image/png;base64,AAAA"]}, 400),
        ("hi", {"audio": ["data:audio/wav;base64,AAAA"]}, 400),
        ("hi", {"model": "no-such"}, 404),
        ("hi", {"questions": {}}, 400),
        ("hi", {"questions": {"spam": {"type": "noul", "instructions": "Is it spam?"}}}, 400),
        ("hi", {"questions": {"harmful": {"type": "noul", "criteria": {"yes": "it is fine"}}}}, 400),
        ("hi", {"questions": {"a": {"type": "choice", "criteria": {"safe": None, "unsafe": None, "spam": None}}}}, 400),
        ("hi", {"questions": {"a": {"type": "choice", "criteria": {"safe": None, "harmless": None}}}}, 400),
        ("hi", {"questions": {"calm": {"type": "score", "criteria": ["calm", "angry"]}}}, 400),
        ("hi", {"questions": {"risk": {"type": "score", "criteria": ["none"]}}}, 400),
        ("hi", {"questions": {"harmful": {"type": "box", "instructions": "where?"}}}, 400),
        ("hi", {"questions": {"harmful": {"type": "noul", "threshold": 2}}}, 400),
        (7, {}, 400),
        ("", {}, 400),
    ],
)
def test_what_cannot_be_judged_is_an_error(up, server, state, fields, status):
    wire = send(server.port, {"state": state, "questions": HARMFUL, **fields}, PATH)
    assert (wire.status, "answers" in wire.json) == (status, False)
    assert wire.json["error"]["message"]
    assert not up.requests


def test_a_state_that_nobody_judges_has_no_answer(up, tmp_path):
    with running(up, tmp_path, guard=Guard(None, answer_judge=Rules())) as server:
        wire = ask(server, "hi")
        assert (wire.status, wire.json["error"]["code"]) == (400, "unreadable_content")
