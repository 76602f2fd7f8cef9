import jsonschema
import pytest

from langchain_vlmguard import SafetyVerdict, to_acs, to_ogr
from langchain_vlmguard.verdict.exports import OGR_CATEGORIES, fingerprint
from langchain_vlmguard.verdict.hazards import HAZARDS

TRANSFORM_GOES_WITH_ITS_BODY = {
    "if": {"properties": {"decision": {"const": "transform"}}},
    "then": {"required": ["transform"]},
    "else": {"not": {"required": ["transform"]}},
}
TEXT = {"type": ["string", "null"]}
APPROVAL_LIFTS_A_DENY = {"if": {"required": ["approval"]}, "then": {"properties": {"decision": {"const": "deny"}}}}
EVIDENCE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"artefact": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}},
}


def contract(decisions, reserved, path, **more):
    """What the two contracts ask of a verdict, restated."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["decision"],
        "properties": {
            "decision": {"enum": decisions},
            "reason": {**TEXT, "pattern": f"^(?!{reserved}:).*"},
            "message": TEXT,
            "transform": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path", "value"],
                "properties": {"path": {"type": "string", "pattern": path}, "value": True},
            },
            "evidence": EVIDENCE,
            "result_labels": {"type": "array", "items": {"type": "string"}},
            **more,
        },
        "allOf": [TRANSFORM_GOES_WITH_ITS_BODY, APPROVAL_LIFTS_A_DENY],
    }


WARNING = {"type": "object", "additionalProperties": False, "properties": {"reason": TEXT, "message": TEXT}}
CONTRACTS = {
    "acs": contract(["allow", "deny", "warn", "escalate", "transform"], "runtime_error", r"^\$target(\.|\[|$)"),
    "agent_hooks": contract(
        ["allow", "deny", "transform"],
        "host_error",
        r"^\$(target|policy_target)(\.|\[|$)",
        warnings={"type": "array", "items": WARNING},
        approval={"type": "object"},
    ),
}
SPAN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["path", "start", "end", "replacement"],
    "properties": {
        "path": {"type": "string"},
        "start": {"type": "integer", "minimum": 0},
        "end": {"type": "integer", "minimum": 0},
        "replacement": {"type": "string"},
    },
}
FINDING = {
    "type": "object",
    "additionalProperties": False,
    "required": ["category"],
    "properties": {
        "category": {"type": "string", "pattern": r"^(safety|security|privacy|x)\.[a-z0-9_.]+$"},
        "severity": {"enum": ["low", "medium", "high", "critical"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "detector": {"type": "string"},
    },
}
OGR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["event_id", "provider", "decision"],
    "properties": {
        "event_id": {"type": "string", "minLength": 1},
        "provider": {"type": "string", "minLength": 1},
        "decision": {"enum": ["allow", "block"]},
        "latency_ms": {"type": "number", "minimum": 0},
        "findings": {"type": "array", "items": FINDING},
        "unjudged": {"type": "array", "items": {"type": "string"}},
        "modifications": {
            "type": "object",
            "additionalProperties": False,
            "required": ["spans"],
            "properties": {"spans": {"type": "array", "items": SPAN}},
        },
    },
}


def verdict(action="allow", **fields):
    return SafetyVerdict(
        action=action,
        rewritten_prompt="say it safely" if action == "rewrite" else None,
        provenance={"policy": "abc"},
        timings={"inspect": 0.01},
        **fields,
    )


HAZARD = {"id": "mlcommons:ipv", "channel": "visual", "rationale": "copies"}
VERDICTS = {
    "allow": verdict(answer="released"),
    "rewrite": verdict("rewrite", risk=0.8, severity="unsafe", hazards=[HAZARD]),
    "refuse": verdict("refuse", risk=0.9, severity="unsafe", hazards=[HAZARD], reason="Why."),
    "review": verdict("review", risk=0.5, severity="controversial"),
    "failed": verdict("refuse", failure={"stage": "rewrite", "error": "X"}),
    "unread": verdict("refuse", unjudged=[{"where": "messages[0]", "kind": "video", "reason": "no"}]),
    "attack": verdict("refuse", security=[{"kind": "prompt_injection", "channel": "tool_result"}]),
}


@pytest.mark.parametrize("kind", VERDICTS)
@pytest.mark.parametrize("name", CONTRACTS)
def test_every_verdict_is_valid_in_both_contracts(kind, name):
    exported = to_acs(VERDICTS[kind], contract=name)
    jsonschema.Draft202012Validator(CONTRACTS[name]).validate(exported)
    decisions = {"allow": "allow", "rewrite": "transform", "review": "escalate" if name == "acs" else "deny"}
    assert exported["decision"] == decisions.get(kind, "deny")
    assert ("approval" in exported) == (kind == "review" and name == "agent_hooks")
    assert exported == to_acs(VERDICTS[kind].to_state(), contract=name)


def test_a_host_can_name_the_place_of_the_prompt():
    for path in ("$target.text", "$policy_target"):
        assert to_acs(VERDICTS["rewrite"], path=path)["transform"] == {"path": path, "value": "say it safely"}


def test_reasons_tell_failures_from_decisions():
    reasons = {kind: to_acs(one)["reason"] for kind, one in VERDICTS.items()}
    assert (reasons["failed"], reasons["unread"]) == ("vlmguard:failed:rewrite", "vlmguard:unreadable")
    assert reasons["refuse"] == "vlmguard:refuse"


@pytest.mark.parametrize("kind", VERDICTS)
@pytest.mark.parametrize("prompt", [None, ("payload.messages.0.content", 12)])
def test_every_verdict_is_valid_in_ogr(kind, prompt):
    exported = to_ogr(VERDICTS[kind], event_id="e1", prompt=prompt)
    jsonschema.Draft202012Validator(OGR).validate(exported)
    assert (exported["decision"] == "allow") == (kind == "allow" or (kind == "rewrite" and prompt is not None))
    assert ("modifications" in exported) == (kind == "rewrite" and prompt is not None)
    assert exported["unjudged"] == (["messages[0]"] if kind == "unread" else [])


def test_a_hazard_without_a_counterpart_keeps_its_own_id():
    assert to_ogr(VERDICTS["refuse"], event_id="e")["findings"][0]["category"] == "x.mlcommons.ipv"
    assert set(HAZARDS) - set(OGR_CATEGORIES) == {"mlcommons:ipv"}


def test_the_evidence_is_the_verdict_and_not_its_seconds():
    slow = VERDICTS["allow"].model_copy(update={"timings": {"inspect": 9.0}})
    assert fingerprint(slow) == fingerprint(VERDICTS["allow"])
    assert fingerprint(VERDICTS["review"]) != fingerprint(VERDICTS["allow"])


def test_what_is_no_verdict_is_not_exported():
    with pytest.raises(ValueError, match="validation error"):
        to_acs({"action": "allow"})
    with pytest.raises(ValueError, match="id of the judged event"):
        to_ogr(VERDICTS["allow"], event_id="")
