"""`Guard`: one value behind every face; what it is given is checked at once."""

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_vlmguard import Guard, GuardPolicy, VLMGuardMiddleware, create_vlm_guard, route_on_verdict
from langchain_vlmguard.verdict.limits import ReadLimits
from langchain_vlmguard.verdict.policy import GatePolicy
from tests.agent_models import AgentModel, WordJudge, new_shop

ASKED = {"messages": [HumanMessage("a bomb")]}


class State(MessagesState):
    verdict: dict


def test_one_value_makes_every_face():
    guard = Guard(WordJudge(), policy={"refusal": "No{about}.{safe_way}", "safe_way": ""})
    model = AgentModel(answers=["fine"])
    own = StateGraph(State)
    node = guard.node()
    own.add_node("guard", node)
    own.add_node("answer", lambda state: {"messages": [model.invoke(node.for_model(state))]})
    own.add_node("judge", node.judge_answer)
    own.add_edge(START, "guard")
    own.add_conditional_edges("guard", route_on_verdict, {"allow": "answer", "rewrite": "answer", "refuse": END})
    own.add_edge("answer", "judge")
    said = {
        create_agent(model, [], middleware=[guard.middleware()]).invoke(ASKED)["messages"][-1].text,
        guard.graph(model).compile().invoke(ASKED)["messages"][-1].text,
        own.compile().invoke(ASKED)["messages"][-1].text,
        guard.wrap(model).invoke(ASKED["messages"]).text,
    }
    assert said == {"No (indiscriminate weapons)."}
    assert model.seen == []


def test_a_policy_is_a_dict_or_an_object_everywhere():
    for policy in ({"rewrite": "never"}, GuardPolicy(rewrite="never")):
        assert Guard(WordJudge(), policy=policy).policy == GuardPolicy(rewrite="never")
        graph = create_vlm_guard(AgentModel(answers=["fine"]), WordJudge(), policy=policy).compile()
        assert graph.invoke(ASKED)["verdict"]["answer"] == "released"


def test_what_cannot_be_is_an_error_that_says_so():
    guard = Guard(WordJudge())
    with pytest.raises(TypeError, match=r"brings its own policy: give them to Guard"):
        VLMGuardMiddleware(guard, policy=GuardPolicy(rewrite="never"))
    order, _ = new_shop()
    for no_list in ("order", order, order.func, {"name": "order"}):
        with pytest.raises(TypeError, match=r"write tools=\['order'\]"):
            VLMGuardMiddleware(WordJudge(), tools=no_list)
    with pytest.raises(TypeError, match=r"a tool, or the name of one, is expected, not int"):
        VLMGuardMiddleware(WordJudge(), tools=[order, 3])
    with pytest.raises(ValueError, match=r"polcy|extra"):
        Guard(WordJudge(), policy={"polcy": 1})
    misspelt = create_agent(AgentModel(), [new_shop()[0]], middleware=[guard.middleware(tools=["ordr"])])
    with pytest.raises(ValueError, match=r"'ordr' that this agent does not have: is 'order' meant\?"):
        misspelt.invoke(ASKED)
    with pytest.raises(ValueError, match=r"GuardContext\s+polcy\s+Extra inputs"):
        guard.graph(AgentModel()).compile().invoke(ASKED, context={"polcy": GuardPolicy()})


def test_short_names_and_groups_say_the_same_and_contradictions_are_errors():
    short = GuardPolicy(rewrite="adaptive", on_gate_open="refuse", max_images=2, max_pixels=9, image_hosts=["a.test"])
    grouped = GuardPolicy(
        rewriting={"when": "adaptive"},
        gate=GatePolicy(on_open="refuse"),
        reading=ReadLimits(max_images=2, hosts={"a.test"}, image={"max_pixels": 9}),
    )
    assert (short, short.hash) == (grouped, grouped.hash)
    assert GuardPolicy(reading={"max_images": 2}, max_pixels=9) == GuardPolicy(max_images=2, max_pixels=9)
    with pytest.raises(ValueError, match=r"rewrite is short for rewriting\.when"):
        GuardPolicy(rewrite="never", rewriting={"when": "always"})


def test_a_copy_of_a_policy_takes_short_names_and_checks_them():
    policy = GuardPolicy(max_images=2, rewrite="never")
    copied = policy.model_copy(update={"rewrite": "adaptive", "unsafe_at": 0.8, "max_pixels": 9})
    assert copied == GuardPolicy(max_images=2, rewrite="adaptive", unsafe_at=0.8, max_pixels=9)
    assert policy.model_copy() == policy
    for wrong in ({"polcy": 1}, {"rewrite": "sometimes"}):
        with pytest.raises(ValueError, match=r"polcy|when"):
            policy.model_copy(update=wrong)
