import json

import pytest
from pydantic import ValidationError

from langchain_vlmguard.verdict.hazards import HAZARDS, title_of
from langchain_vlmguard.verdict.policy import GuardPolicy
from langchain_vlmguard.verdict.records import (
    Hazard,
    Provenance,
    SafetyVerdict,
    SteeringTrace,
    Unjudged,
    verdict_schema,
)

TRACE = SteeringTrace(
    intervention="restore",
    gate="relu",
    score=1.5,
    threshold=0.5,
    open=True,
    strength=0.7,
    risk=0.9,
    layers=[3],
    picture=True,
)


def verdict(**fields):
    return SafetyVerdict(**{"action": "allow", "provenance": Provenance(policy="p"), **fields})


def test_round_trip_through_state_and_json():
    whole = verdict(
        action="rewrite",
        rewritten_prompt="name the danger",
        answer="released",
        risk=0.9,
        severity="unsafe",
        hazards=[Hazard(id="mlcommons:iwp", channel="cross_modal", rationale="weapon", score=0.8, native={"x": "S9"})],
        steering=TRACE,
        usage={"input_tokens": 3},
    )
    state = whole.to_state()
    assert SafetyVerdict.from_state(json.loads(json.dumps(state))) == whole


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"action": "refuse", "answer": "released"}, "cannot release"),
        ({"action": "review", "answer": "released"}, "cannot release"),
        ({"action": "rewrite"}, "goes with action 'rewrite'"),
        ({"rewritten_prompt": "x"}, "goes with action 'rewrite'"),
        ({"answer": "released", "unjudged": [Unjudged(where="w", kind="image", reason="r")]}, "unread"),
        ({"risk": 1.5}, "less than or equal to 1"),
        ({"risk": float("nan")}, "finite"),
        ({"forged": True}, "Extra inputs"),
    ],
)
def test_contradictions_are_errors(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        verdict(**fields)


@pytest.mark.parametrize("bare", ["S9", "iwp", "MLCommons:iwp", "mlcommons:", "a b:c"])
def test_hazard_ids_are_namespaced(bare):
    with pytest.raises(ValidationError):
        Hazard(id=bare, channel="textual")


def test_an_id_in_the_namespace_of_mlcommons_must_be_in_its_list():
    with pytest.raises(ValidationError, match="not one of MLCommons' hazards"):
        Hazard(id="mlcommons:weapons", channel="textual")
    assert Hazard(id="ours:weapons", channel="textual").id == "ours:weapons"


def test_the_taxonomy_has_the_twelve_categories_of_ailuminate():
    assert len(HAZARDS) == 12
    assert HAZARDS["mlcommons:iwp"].alias == "llamaguard4:S9"
    assert title_of("mlcommons:prv") == "privacy"
    assert title_of("other:x") == "other:x"


def test_the_schema_is_published():
    schema = verdict_schema()
    assert {"action", "risk", "severity", "hazards", "unjudged", "steering", "provenance"} <= set(schema["properties"])


@pytest.mark.parametrize("schema", [verdict_schema(), GuardPolicy.model_json_schema()], ids=["verdict", "policy"])
def test_every_field_says_what_it_means(schema):
    classes = [schema, *(one for one in schema["$defs"].values() if "properties" in one)]
    silent = [name for one in classes for name, field in one["properties"].items() if not field.get("description")]
    assert not silent


class TestPolicy:
    def test_severity(self):
        policy = GuardPolicy(controversial_at=0.2, unsafe_at=0.6)
        assert [policy.severity(risk) for risk in (0.0, 0.2, 0.59, 0.6, 1.0)] == [
            "safe",
            "controversial",
            "controversial",
            "unsafe",
            "unsafe",
        ]

    @pytest.mark.parametrize(
        ("proposed", "risk", "hazards", "action"),
        [
            ("allow", 0.1, [], "allow"),
            ("allow", 0.9, [], "refuse"),
            ("rewrite", 0.9, [], "rewrite"),
            ("rewrite", 0.9, ["mlcommons:spc"], "review"),
            ("refuse", 0.1, ["mlcommons:spc"], "refuse"),
            ("review", 0.1, [], "review"),
        ],
    )
    def test_the_policy_can_only_be_stricter_than_the_rewriter(self, proposed, risk, hazards, action):
        assert GuardPolicy(on_hazard={"mlcommons:spc": "review"}).decide(proposed, risk, hazards) == action

    def test_a_disabled_hazard_decides_nothing(self):
        policy = GuardPolicy(on_hazard={"mlcommons:spc": "refuse"}, enabled_hazards=frozenset({"mlcommons:iwp"}))
        assert policy.decide("allow", 0.1, ["mlcommons:spc"]) == "allow"

    def test_a_controversial_prompt_can_need_a_person(self):
        policy = GuardPolicy(on_controversial="review")
        assert [policy.decide("allow", risk, []) for risk in (0.1, 0.5, 0.9)] == ["allow", "review", "refuse"]
        assert policy.decide("rewrite", 0.5, []) == "rewrite"

    def test_hash_changes_with_content_and_not_with_order(self):
        one = GuardPolicy(enabled_hazards=frozenset({"mlcommons:iwp", "mlcommons:spc"}))
        other = GuardPolicy(enabled_hazards=frozenset({"mlcommons:spc", "mlcommons:iwp"}))
        assert one.hash == other.hash != GuardPolicy().hash

    @pytest.mark.parametrize(
        "fields",
        [
            {"controversial_at": 0.8, "unsafe_at": 0.2},
            {"on_error": "allow"},
            {"on_unreadable": "allow"},
            {"refusal": "{who}"},
            {"rewrite": "sometimes"},
            {"on_hazard": {"mlcommons:typo": "refuse"}},
            {"on_controversial": "refuse", "on_unsafe": "allow"},
        ],
    )
    def test_a_policy_that_would_fail_open_or_fail_later_is_an_error(self, fields):
        with pytest.raises(ValidationError):
            GuardPolicy(**fields)
