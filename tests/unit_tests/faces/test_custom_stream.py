"""The custom stream tells the verdict of graph and node, as it tells the middleware's."""

import json

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from langchain_vlmguard import VLMGuardMiddleware, VLMGuardNode, create_vlm_guard, route_on_verdict
from langchain_vlmguard.agents.events import VerdictTransformer
from tests.agent_models import BOTH, THREAD, AgentModel, WordJudge


class State(MessagesState):
    verdict: dict


def graph(model, saver):
    return create_vlm_guard(model, WordJudge()).compile(checkpointer=saver)


def graph_as_a_node(model, saver):
    outer = StateGraph(State)
    outer.add_node("guard", create_vlm_guard(model, WordJudge()).compile())
    outer.add_edge(START, "guard")
    return outer.compile(checkpointer=saver)


def node(model, saver):
    guard, outer = VLMGuardNode(WordJudge(), model=model), StateGraph(State)
    outer.add_node("guard", guard)
    outer.add_node("answer", lambda state: {"messages": [model.invoke(guard.for_model(state))]})
    outer.add_node("judge", guard.judge_answer)
    outer.add_edge(START, "guard")
    outer.add_conditional_edges("guard", route_on_verdict, {"allow": "answer", "rewrite": "answer", "refuse": END})
    outer.add_edge("answer", "judge")
    return outer.compile(checkpointer=saver)


def middleware(model, saver):
    return create_agent(model, [], middleware=[VLMGuardMiddleware(WordJudge())], checkpointer=saver)


async def events(compiled, given, *, use_async, subgraphs=None):
    """Return what the custom stream shows; LangGraph shows what a graph inside a graph writes to those who ask for it."""
    subgraphs = bool(list(compiled.get_subgraphs())) if subgraphs is None else subgraphs
    options = {"stream_mode": "custom", "subgraphs": subgraphs}
    if use_async:
        seen = [event async for event in compiled.astream(given, THREAD, **options)]
    else:
        seen = list(compiled.stream(given, THREAD, **options))
    return [event for _, event in seen] if subgraphs else seen


GRAPHS = pytest.mark.parametrize("face", [graph, graph_as_a_node], ids=lambda face: face.__name__)
ALL = pytest.mark.parametrize("face", [graph, graph_as_a_node, node, middleware], ids=lambda face: face.__name__)
CASES = {
    "a kite ?": ("fine", [("output", "allow", "released")]),
    "a knife ?": ("fine", [("output", "rewrite", "released")]),
    "a bomb ?": ("fine", [("input", "refuse", "none")]),
    "hello": ("take the bomb", [("output", "refuse", "withheld")]),
    "crash": ("fine", [("input", "refuse", "none")]),
    "hi": (RuntimeError("the model is ill"), [("output", "refuse", "none")]),
}


def told(seen):
    return [(one["stage"], one["verdict"]["action"], one["verdict"]["answer"]) for one in seen]


@BOTH
@pytest.mark.parametrize("asked", CASES)
@GRAPHS
async def test_a_graph_tells_its_verdict_once(face, asked, use_async):
    answer, expected = CASES[asked]
    compiled = face(AgentModel(answers=[answer]), InMemorySaver())
    seen = await events(compiled, {"messages": [HumanMessage(asked)]}, use_async=use_async)
    assert told(seen) == expected
    assert (seen[0]["type"], seen[0]["guard"]) == ("vlmguard.verdict", "create_vlm_guard")
    assert seen[0]["verdict"] == compiled.get_state(THREAD).values["verdict"]
    assert "take the bomb" not in json.dumps(seen)


@BOTH
@pytest.mark.parametrize("subgraphs", [False, True])
async def test_a_node_tells_the_verdict_on_the_turn_and_then_on_the_answer(subgraphs, use_async):
    given, compiled = (
        {"messages": [HumanMessage("hello")]},
        node(AgentModel(answers=["take the bomb"]), InMemorySaver()),
    )
    seen = await events(compiled, given, use_async=use_async, subgraphs=subgraphs)
    assert told(seen) == [("input", "allow", "none"), ("output", "refuse", "withheld")]
    assert [one["guard"] for one in seen] == ["VLMGuardNode", "judge_answer"]


@BOTH
@ALL
async def test_a_review_is_told_when_it_waits_and_when_it_is_decided(face, use_async):
    compiled = face(AgentModel(answers=["fine"]), InMemorySaver())
    waits = await events(compiled, {"messages": [HumanMessage("maybe ?")]}, use_async=use_async)
    assert [(action, answer) for _, action, answer in told(waits)] == [("review", "none")]
    decided = await events(compiled, Command(resume={"decisions": [{"type": "reject"}]}), use_async=use_async)
    assert [one["verdict"]["reviewed"] for one in decided] == ["reject"]
    assert told(decided) == [("input", "refuse", "none")]


@BOTH
@ALL
async def test_every_face_tells_the_custom_stream_and_a_harmful_turn_tells_the_same(face, use_async):
    given = {"messages": [HumanMessage("a bomb ?")]}
    seen = await events(face(AgentModel(answers=["fine"]), InMemorySaver()), given, use_async=use_async)
    assert told(seen) == [("input", "refuse", "none")]
    assert seen[0].keys() == {"type", "stage", "guard", "tool", "call_id", "verdict"}


@BOTH
async def test_a_review_that_cannot_wait_is_told_once_as_the_refusal_it_became(use_async):
    seen = await events(
        graph(AgentModel(answers=["fine"]), None), {"messages": [HumanMessage("maybe ?")]}, use_async=use_async
    )
    assert told(seen) == [("input", "refuse", "none")]
    assert "no checkpointer" in seen[0]["verdict"]["reason"]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_v3_events_of_a_graph_have_the_verdicts_if_it_was_compiled_so():
    compiled = create_vlm_guard(AgentModel(answers=["fine"]), WordJudge()).compile(transformers=[VerdictTransformer])
    run = compiled.stream_events({"messages": [HumanMessage("a bomb ?")]}, version="v3")
    assert [one["verdict"]["action"] for one in run.extensions["verdicts"]] == ["refuse"]
