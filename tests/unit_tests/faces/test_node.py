import operator
from typing import Annotated

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from langchain_vlmguard import (
    GuardContext,
    GuardPolicy,
    VLMGuardMiddleware,
    VLMGuardNode,
    create_vlm_guard,
    route_on_verdict,
)
from tests.agent_models import AgentModel, WordJudge, both, call, calling
from tests.pictures import UNREADABLE

BOTH = pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
THREAD = {"configurable": {"thread_id": "1"}}


class State(MessagesState):
    verdict: dict


def own_graph(judge=None, checkpointer=None, **options):
    guard, model = VLMGuardNode(judge or WordJudge(), **options), AgentModel(answers=["an answer"])
    graph = StateGraph(State)
    graph.add_node("guard", guard)
    graph.add_node("answer", lambda state: {"messages": [model.invoke(guard.for_model(state))]})
    graph.add_edge(START, "guard")
    graph.add_conditional_edges("guard", route_on_verdict, {"allow": "answer", "rewrite": "answer", "refuse": END})
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=checkpointer), model


@BOTH
@pytest.mark.parametrize(
    ("asked", "seen", "said"),
    [
        ("a kite", "a kite", "an answer"),
        ("a knife", "how do i stay safe?", "an answer"),
        ("a bomb", None, "can't help"),
        ([UNREADABLE["https address"][0]], None, "is an address"),
    ],
)
async def test_a_node_and_the_branch_after_it(asked, seen, said, use_async):
    graph, model = own_graph()
    state = await both(graph, {"messages": [HumanMessage(asked)]}, use_async=use_async)
    assert [messages[-1].text for messages in model.seen] == ([seen] if seen else [])
    assert said in state["messages"][-1].text
    assert len(state["messages"]) == 2


@BOTH
@pytest.mark.parametrize(("decision", "asked"), [("approve", 1), ("reject", 0)])
async def test_a_review_inside_the_node_is_decided_once(decision, asked, use_async):
    judge = WordJudge()
    graph, model = own_graph(judge, InMemorySaver())
    stopped = await both(graph, {"messages": [HumanMessage("maybe")]}, THREAD, use_async=use_async)
    assert stopped["__interrupt__"][0].value["review_configs"][0]["allowed_decisions"] == ["approve", "edit", "reject"]
    judge.actions["maybe"] = "allow"
    state = await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    assert (len(model.seen), len(judge.seen)) == (asked, 1)
    assert state["verdict"]["reviewed"] == decision


def test_no_verdict_or_a_broken_one_is_refusal():
    for state in ({}, {"verdict": {}}, {"verdict": {"action": "allow"}}, {"verdict": "allow"}):
        assert route_on_verdict(state) == "refuse"
    with pytest.raises(ValueError, match="a key `verdict: dict`"):
        VLMGuardNode(WordJudge()).for_model({"messages": []})
    with pytest.raises(TypeError, match="must be a LangChain Runnable"):
        VLMGuardNode("gpt")


@BOTH
async def test_policies_of_tenants_reach_the_node(use_async):
    judge = WordJudge()
    judge.actions = {"x": "allow"}
    graph = StateGraph(State, context_schema=GuardContext)
    graph.add_node("guard", VLMGuardNode(judge))
    graph.add_edge(START, "guard")
    given = {"messages": [HumanMessage("x")]}
    state = await both(graph.compile(), given, use_async=use_async, context={"policy": GuardPolicy(rewrite="never")})
    assert judge.seen == []
    assert state["verdict"]["provenance"]["policy"] == GuardPolicy(rewrite="never").hash


@BOTH
async def test_branches_sent_in_parallel_each_have_their_verdict(use_async):
    class Many(TypedDict):
        requests: list[str]
        answers: Annotated[list[tuple[str, str]], operator.add]

    worker = create_vlm_guard(AgentModel(), WordJudge()).compile()

    def guarded(state):
        done = worker.invoke({"messages": [HumanMessage(state["text"])]})
        return {"answers": [(state["text"], done["verdict"]["action"])]}

    graph = StateGraph(Many)
    graph.add_node("guarded", guarded)
    graph.add_conditional_edges(START, lambda state: [Send("guarded", {"text": one}) for one in state["requests"]])
    graph.add_edge("guarded", END)
    requests = ["kite", "bomb", "knife", "cake"]
    done = await both(graph.compile(), {"requests": requests, "answers": []}, use_async=use_async)
    assert dict(done["answers"]) == {"kite": "allow", "bomb": "refuse", "knife": "rewrite", "cake": "allow"}


@BOTH
async def test_the_guard_graph_itself_as_the_target_of_send(use_async):
    class Many(TypedDict):
        requests: list[str]
        messages: Annotated[list, operator.add]

    graph = StateGraph(Many)
    graph.add_node("guard", create_vlm_guard(AgentModel(answers=["helped"]), WordJudge()).compile())
    graph.add_conditional_edges(
        START, lambda state: [Send("guard", {"messages": [HumanMessage(one)]}) for one in state["requests"]]
    )
    graph.add_edge("guard", END)
    done = await both(graph.compile(), {"requests": ["kite", "bomb"], "messages": []}, use_async=use_async)
    answers = [message.text for message in done["messages"] if isinstance(message, AIMessage)]
    assert answers[0] == "helped"
    assert "can't help" in answers[1]


def worker(name, judge, answers=("worked",)):
    return create_agent(
        AgentModel(answers=list(answers)), middleware=[VLMGuardMiddleware(judge, name=f"guard of {name}")], name=name
    )


@BOTH
@pytest.mark.parametrize(("asked", "said"), [("a kite", "worked"), ("a bomb", "can't help")])
async def test_a_supervisor_hands_over_to_a_guarded_worker(asked, said, use_async):
    supervisor = pytest.importorskip("langgraph_supervisor", reason="needs langgraph-supervisor")
    judge = WordJudge()
    boss = AgentModel(answers=[calling(call("transfer_to_maker")), "all done"])
    graph = supervisor.create_supervisor([worker("maker", judge)], model=boss).compile()
    state = await both(graph, {"messages": [HumanMessage(asked)]}, use_async=use_async)
    assert any(
        said in message.text for message in state["messages"] if message.name == "maker" or "help" in message.text
    )
    assert state["messages"][-1].text == "all done"
    assert judge.seen


@BOTH
async def test_a_swarm_hands_over_to_a_guarded_worker_and_back(use_async):
    swarm = pytest.importorskip("langgraph_swarm", reason="needs langgraph-swarm")
    to_maker = swarm.create_handoff_tool(agent_name="maker")
    front = create_agent(
        AgentModel(answers=[calling(call("transfer_to_maker"))]),
        [to_maker],
        middleware=[VLMGuardMiddleware(WordJudge(), name="front guard")],
        name="front",
    )
    judge = WordJudge()
    maker = worker("maker", judge, ["worked", "take a bomb"])
    graph = swarm.create_swarm([front, maker], default_active_agent="front").compile(checkpointer=InMemorySaver())
    state = await both(graph, {"messages": [HumanMessage("make a kite")]}, THREAD, use_async=use_async)
    assert state["active_agent"] == "maker"
    assert state["messages"][-1].text == "worked"
    state = await both(graph, {"messages": [HumanMessage("and more")]}, THREAD, use_async=use_async)
    assert "can't help" in state["messages"][-1].text
    assert "bomb" not in str(state)
