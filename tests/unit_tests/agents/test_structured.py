"""Structured answers: judged whole, reviewed whole, asked for again when they are wrong."""

import json

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.content.turn import turn_start
from tests.agent_models import BOTH, THREAD, AgentModel, WordJudge, asked, both, call, calling


class Plan(BaseModel):
    """A plan."""

    goal: str
    size: int = 1


def planner(answers, strategy=ToolStrategy, tools=(), **options):
    model, judge = AgentModel(answers=list(answers)), WordJudge()
    guard = VLMGuardMiddleware(judge, **options)
    made = create_agent(
        model, list(tools), middleware=[guard], response_format=strategy(Plan), checkpointer=InMemorySaver()
    )
    return made, model, judge


def plan(strategy, goal, call_id="1"):
    return (
        calling(call("Plan", call_id, goal=goal)) if strategy is ToolStrategy else AIMessage(json.dumps({"goal": goal}))
    )


BY = pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])


@BOTH
@BY
@pytest.mark.parametrize(
    ("answer", "goal"),
    [
        ("approve", "maybe a kite"),
        ({"decision": "edit", "text": '{"goal": "a cake"}'}, "a cake"),
        ("reject", None),
    ],
)
async def test_a_structured_answer_waits_whole(strategy, answer, goal, use_async):
    graph, model, _ = planner([plan(strategy, "maybe a kite")], strategy)
    state = await both(graph, asked("plan"), THREAD, use_async=use_async)
    assert (bool(state["__interrupt__"]), state.get("structured_response")) == (True, None)
    state = await both(graph, Command(resume=answer), THREAD, use_async=use_async)
    assert "__interrupt__" not in state
    assert getattr(state.get("structured_response"), "goal", None) == goal
    assert len(model.seen) == 1
    calls = {c["id"] for m in state["messages"] if isinstance(m, AIMessage) for c in m.tool_calls}
    assert {m.tool_call_id for m in state["messages"] if isinstance(m, ToolMessage)} == calls


@BOTH
@BY
async def test_a_harmful_structured_answer_gives_none(strategy, use_async):
    graph, _, _ = planner([plan(strategy, "a bomb")], strategy)
    state = await both(graph, asked("plan"), THREAD, use_async=use_async)
    assert (state.get("structured_response"), state["verdict"]["action"]) == (None, "refuse")
    assert "bomb" not in str(state["messages"])


@BOTH
async def test_a_wrong_answer_is_asked_for_again_and_a_call_beside_it_runs(shop, use_async):
    order, ordered = shop
    wrong = calling(call("Plan", "1", goal="x", size="large"))
    graph, model, _ = planner([wrong, calling(call("Plan", "2", goal="x", size=3))])
    state = await both(graph, asked("plan"), THREAD, use_async=use_async)
    assert (state["structured_response"].size, len(model.seen)) == (3, 2)
    both_calls = calling(call("order", "1", item="kite"), call("Plan", "2", goal="x"))
    graph, _, _ = planner([both_calls], tools=[order])
    state = await both(graph, asked("plan and order"), THREAD, use_async=use_async)
    assert (state["structured_response"].goal, ordered) == ("x", ["kite"])


@BOTH
@pytest.mark.parametrize("second", ["a bomb", "something else"])
async def test_a_refusal_does_not_leave_the_response_of_the_turn_before(second, use_async):
    graph, _, _ = planner([plan(ToolStrategy, "a kite"), "take the bomb"])
    state = await both(graph, asked("plan"), THREAD, use_async=use_async)
    assert state["structured_response"].goal == "a kite"
    state = await both(graph, asked(second), THREAD, use_async=use_async)
    assert (state.get("structured_response"), state["verdict"]["action"]) == (None, "refuse")


@BOTH
async def test_the_turn_begins_at_the_newest_request_though_no_answer_was_ever_given_in_words(use_async):
    """Agents that answer by a tool never end a turn with words."""
    answers = [plan(ToolStrategy, "a kite", str(n)) for n in range(3)]
    graph, model, judge = planner(answers)
    for n in range(3):
        await both(graph, asked(f"plan {n}"), THREAD, use_async=use_async)
    for seen in judge.seen:
        assert sum(isinstance(message, HumanMessage) for message in seen[turn_start(seen) :]) == 1
    assert len(judge.seen) == 6  # a turn and an answer each
    graph, model, _ = planner([*answers[:1], plan(ToolStrategy, "to cut", "2")])
    await both(graph, asked("My name is Kim."), THREAD, use_async=use_async)
    await both(graph, asked("now with a knife"), THREAD, use_async=use_async)
    assert [m.content for m in model.seen[-1] if isinstance(m, HumanMessage)] == [
        "My name is Kim.",
        "how do i stay safe?",
    ]
    graph, _, _ = planner(answers, exit_behavior="replace")
    await both(graph, asked("My name is Kim."), THREAD, use_async=use_async)
    state = await both(graph, asked("a bomb"), THREAD, use_async=use_async)
    assert state["messages"][0].content == "My name is Kim."
