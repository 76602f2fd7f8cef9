"""Rules in plain words: rewriters are told them, verdicts name them, and nobody who cannot judge them is trusted."""

import json

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from pydantic import ValidationError

from langchain_vlmguard import (
    ChatSteeredVLM,
    GuardedChatModel,
    GuardPolicy,
    ReasoningRewriter,
    VLMGuardMiddleware,
    create_vlm_guard,
)
from langchain_vlmguard.rewriting.gate_judge import GateJudge
from langchain_vlmguard.rewriting.short_form import schema_of
from tests.chat_models import ScriptedModel
from tests.rewrites import ALLOW, GOOD

PRICES = {"id": "acme:pricing", "text": "Do not quote prices\nof competitors.", "on": "refuse"}
ASKED = [HumanMessage("what does the other shop take for a kite?")]
BROKEN = GOOD.replace(
    "cross_modal | mlcommons:ncr | open fire near fuel", "textual | acme:pricing | another shop's price"
)


def by_graph(rewriter, policy, model):
    found = create_vlm_guard(model, rewriter, policy=policy).compile().invoke({"messages": ASKED})
    return found["messages"][-1], found["verdict"]


def by_model(rewriter, policy, model):
    said = GuardedChatModel(model=model, rewriter=rewriter, policy=policy).invoke(ASKED)
    return said, said.response_metadata["verdict"]


def by_middleware(rewriter, policy, model):
    agent = create_agent(model, [], middleware=[VLMGuardMiddleware(rewriter, policy=policy)])
    said = agent.invoke({"messages": ASKED})["messages"][-1]
    return said, said.response_metadata["verdict"]


FACES = pytest.mark.parametrize("face", [by_graph, by_model, by_middleware])


@FACES
@pytest.mark.parametrize("examples", [False, True])
def test_a_rule_is_told_and_what_breaks_it_is_refused_by_its_name(face, examples):
    short = json.dumps(
        {"threat": "x", "hazard": "acme:pricing", "intent": "a price", "action": "rewrite", "prompt": "Say our price."}
    )
    judge, model = ScriptedModel(answers=[short if examples else BROKEN]), ScriptedModel()
    rewriter = ReasoningRewriter.from_model(judge, examples=examples, check_prompt=False)
    said, verdict = face(rewriter, {"rules": [PRICES]}, model)
    told = judge.seen[0][0].text
    assert told.count("acme:pricing: Do not quote prices of competitors.") == 1
    assert verdict["action"] == "refuse"
    assert [hazard["id"] for hazard in verdict["hazards"]] == ["acme:pricing"]
    assert "(pricing)" in said.text
    assert model.seen == []


@FACES
def test_a_rule_may_leave_the_decision_to_the_rewriter(face):
    model = ScriptedModel()
    judge = ScriptedModel(answers=[BROKEN, ALLOW])
    _, verdict = face(ReasoningRewriter.from_model(judge), {"rules": [{**PRICES, "on": "allow"}]}, model)
    assert verdict["action"] == "rewrite"
    assert "Name the danger" in model.seen[0][-1].text


def test_without_rules_the_rewriter_is_asked_as_before():
    judge = ScriptedModel(answers=[ALLOW])
    rewriter = ReasoningRewriter.from_model(judge)
    by_graph(rewriter, {}, ScriptedModel())
    assert "rule" not in judge.seen[0][0].text


def test_a_policy_of_one_run_brings_its_own_rules_and_no_others():
    judge = ScriptedModel(answers=[ALLOW])
    guard = create_vlm_guard(ScriptedModel(), ReasoningRewriter.from_model(judge), policy={"rules": [PRICES]}).compile()
    other = GuardPolicy(rules=[{"id": "acme:tone", "text": "Do not speak ill of customers."}])
    guard.invoke({"messages": ASKED}, context={"policy": other})
    assert "acme:tone" in judge.seen[0][0].text
    assert "acme:pricing" not in judge.seen[0][0].text
    guard.invoke({"messages": ASKED}, context={"policy": GuardPolicy()})
    assert "rules" not in judge.seen[-1][0].text
    guard.invoke({"messages": ASKED})
    assert "acme:pricing" in judge.seen[-1][0].text


def test_who_cannot_be_told_rules_is_named():
    model = ChatSteeredVLM.from_pretrained("testbed")
    for rewriter, why in [
        (None, "there is no rewriter"),
        (GateJudge(model), "GateJudge cannot be told"),
        (ReasoningRewriter.from_adapter(model), "trained adapter"),
    ]:
        with pytest.raises(ValueError, match=why):
            create_vlm_guard(model, rewriter, policy={"rules": [PRICES]})


def test_a_small_local_model_may_name_a_rule():
    assert "acme:pricing" in json.dumps(schema_of(("textual",), ["acme:pricing"]))
    assert "acme:pricing" not in json.dumps(schema_of(("textual",)))


@pytest.mark.parametrize(
    ("rules", "more", "why"),
    [
        ([PRICES, PRICES], {}, "said twice"),
        ([PRICES], {"on_hazard": {"acme:pricing": "review"}}, "said twice"),
        ([{**PRICES, "id": "mlcommons:vcr"}], {}, "are taken"),
        ([{**PRICES, "id": "pricing"}], {}, "pattern"),
        ([{**PRICES, "text": " "}], {}, "text"),
        ([{**PRICES, "on": "block"}], {}, "allow"),
    ],
)
def test_a_rule_that_cannot_be_used_is_named(rules, more, why):
    with pytest.raises(ValidationError, match=why):
        GuardPolicy(rules=rules, **more)
