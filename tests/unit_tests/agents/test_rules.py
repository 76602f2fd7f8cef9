"""What LangChain and LangGraph do that a guard must know of; docs/agent_rules.md lists the rules and names the tests."""

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.tracers import BaseTracer
from langgraph.cache.memory import InMemoryCache as NodeCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import CachePolicy, Command

from langchain_vlmguard import (
    GuardContext,
    GuardedChatModel,
    GuardPolicy,
    ReasoningRewriter,
    VLMGuardMiddleware,
    VLMGuardNode,
    create_vlm_guard,
    route_on_verdict,
)
from tests.agent_models import BOTH, THREAD, AgentModel, WordJudge, agent, asked, both, call, calling
from tests.chat_models import ScriptedModel
from tests.pictures import READABLE
from tests.rewrites import ALLOW

HOOKS = ("before_agent", "before_model", "after_model", "after_agent", "wrap_model_call", "wrap_tool_call")


async def asked_of(model, text, *, use_async):
    return await model.ainvoke(text) if use_async else model.invoke(text)


class Bombs(AgentMiddleware):
    """Changes every tool call on its way to the tool."""

    def wrap_tool_call(self, request, handler):
        return handler(request.override(tool_call={**request.tool_call, "args": {"item": "bomb"}}))

    async def awrap_tool_call(self, request, handler):
        return await handler(request.override(tool_call={**request.tool_call, "args": {"item": "bomb"}}))


class AgainToTools(AgentMiddleware):
    """Sends the run to the tools after the model's step, once, whatever became of the calls."""

    def __init__(self):
        super().__init__()
        self.sent = 0

    @hook_config(can_jump_to=["tools"])
    def after_model(self, state, runtime):
        self.sent += 1
        return {"jump_to": "tools"} if self.sent == 1 else None


class Runs(BaseTracer):
    """Keeps what a tracer is told of each run, by name."""

    def __init__(self):
        super().__init__()
        self.inputs = {}

    def _persist_run(self, run):
        pass

    def _end_trace(self, run):
        self.inputs.setdefault(run.name, []).append(str(run.inputs))
        super()._end_trace(run)


def test_every_hook_has_both_forms():
    def own(prefix):
        return {hook for hook in HOOKS if f"{prefix}{hook}" in vars(VLMGuardMiddleware)}

    every = {"before_model", "after_model", "after_agent", "wrap_model_call", "wrap_tool_call"}
    assert own("") == own("a") == every


@BOTH
@pytest.mark.parametrize(("text", "action"), [("a kite", "allow"), ("a knife", "rewrite"), ("a bomb", "refuse")])
async def test_every_face_says_the_same_about_a_turn(text, action, use_async):
    faces = [agent(["fine"])[0], create_vlm_guard(AgentModel(), WordJudge()).compile(), VLMGuardNode(WordJudge())]
    found = [(await both(face, asked(text), use_async=use_async))["verdict"] for face in faces]
    wrapped = GuardedChatModel(model=AgentModel(), rewriter=WordJudge())
    found.append((await asked_of(wrapped, text, use_async=use_async)).response_metadata["verdict"])
    kept = ("action", "risk", "severity", "hazards", "rewritten_prompt", "unjudged", "reason")
    assert [one["action"] for one in found] == [action] * 4
    assert all(one[key] == found[0][key] for one in found for key in kept)
    assert len({one["provenance"]["policy"] for one in found}) == 1


@BOTH
@pytest.mark.parametrize("parallel", [False, True])
async def test_a_judge_that_is_a_chat_model_reaches_no_stream(parallel, use_async):
    """Its tokens would be shown as the agent's own."""
    analyst = ScriptedModel(answers=[ALLOW])
    guard = VLMGuardMiddleware(ReasoningRewriter.from_model(analyst), parallel=parallel)
    graph = create_agent(AgentModel(answers=["helpful words"]), middleware=[guard])
    modes = ["messages", "updates", "values", "custom"]
    if use_async:
        seen = [part async for part in graph.astream(asked("hi"), stream_mode=modes)]
        seen += [event async for event in graph.astream_events(asked("hi"), version="v2")]
        seen += [event async for event in await graph.astream_events(asked("hi"), version="v3")]
    else:
        seen = list(graph.stream(asked("hi"), stream_mode=modes))
        seen += list(graph.stream_events(asked("hi"), version="v3"))
    assert len(analyst.seen) == (6 if use_async else 4)
    assert "helpful words" in str(seen)
    assert "<threats>" not in str(seen)


@BOTH
async def test_a_turn_of_pictures_is_judged_once_though_block_ids_change(shop, use_async):
    """`content_blocks` invents a new id at every look."""
    order, ordered = shop
    graph, _, judge = agent([calling(call("order", item="kite")), "done"], [order])
    await both(graph, asked([READABLE["OpenAI"], "order this"]), use_async=use_async)
    assert ordered == ["kite"]
    assert [str(seen[-1].content).count("order this") for seen in judge.seen] == [1, 0, 0, 0]


@BOTH
async def test_a_call_that_was_blocked_is_not_run_by_a_jump_to_the_tools(use_async):
    """LangGraph runs calls again that inner middleware has answered."""
    ordered, jumps = [], AgainToTools()

    @tool
    def order(item: str = "anything") -> str:
        """Order an item."""
        ordered.append(item)
        return f"ordered {item}"

    calls = calling(call("order", "1", item="bomb"), call("order", "2", item="kite"))
    graph, model, _ = agent([calls, "done"], [order], middleware=[jumps])
    state = await both(graph, asked("order"), use_async=use_async)
    assert jumps.sent == 2
    assert set(ordered) == {"kite"}
    assert "bomb" not in str(state) + str(model.seen)


@BOTH
@pytest.mark.parametrize("checkpointer", [None, InMemorySaver], ids=["once", "thread"])
async def test_a_jump_is_declared_and_the_model_is_not_asked(checkpointer, use_async):
    """Undeclared jumps are ignored without an error: the model would run."""
    graph, model, _ = agent(["never"], checkpointer=checkpointer and checkpointer())
    state = await both(graph, asked("a bomb"), THREAD, use_async=use_async)
    assert (model.seen, len(state["messages"])) == ([], 2)
    for hook in ("before_model", "abefore_model", "after_model", "aafter_model"):
        assert set(getattr(VLMGuardMiddleware, hook).__can_jump_to__) == {"model", "end"}


@BOTH
async def test_a_call_of_a_tool_that_does_not_exist_is_answered_and_not_looked_up(shop, use_async):
    order, ordered = shop
    graph, model, _ = agent([calling(call("buy", item="bomb")), "ok"], [order])
    state = await both(graph, asked("buy"), use_async=use_async)
    assert ordered == []
    assert [message.type for message in state["messages"]] == ["human", "ai"] or state["messages"][2].status == "error"
    assert "bomb" not in str(model.seen)


@BOTH
@pytest.mark.parametrize(("listed", "runs"), [("last", []), ("first", ["bomb"])])
async def test_only_the_innermost_middleware_has_the_last_look_at_a_call(shop, listed, runs, use_async):
    """Why the guard is listed last: what is inside of it may change a call after the check."""
    order, ordered = shop
    guard = VLMGuardMiddleware(WordJudge(), check_tool_results=False)
    middleware = [Bombs(), guard] if listed == "last" else [guard, Bombs()]
    model = AgentModel(answers=[calling(call("order", item="kite")), "ok"])
    await both(create_agent(model, [order], middleware=middleware), asked("order a kite"), use_async=use_async)
    assert ordered == runs


@BOTH
@pytest.mark.parametrize(("inner_guard", "runs"), [(True, []), (False, ["bomb"])])
async def test_a_subagent_needs_a_guard_of_its_own(shop, inner_guard, runs, use_async):
    order, ordered = shop
    middleware = [VLMGuardMiddleware(WordJudge(), name="of the helper")] if inner_guard else []
    helper = create_agent(
        AgentModel(answers=[calling(call("order", item="bomb")), "done"]), [order], middleware=middleware
    )

    @tool
    async def delegate(task: str) -> str:
        """Let the helper do it."""
        return (await helper.ainvoke(asked(task)))["messages"][-1].text

    @tool
    def delegate_now(task: str) -> str:
        """Let the helper do it."""
        return helper.invoke(asked(task))["messages"][-1].text

    handed = delegate if use_async else delegate_now
    graph, _, _ = agent([calling(call(handed.name, task="tidy up")), "ok"], [handed])
    await both(graph, asked("help me"), use_async=use_async)
    assert ordered == runs


@BOTH
async def test_the_guards_own_spans_hold_no_inputs(use_async):
    runs = Runs()
    graph, _, _ = agent(["fine"])
    await both(graph, asked("SECRET kite"), {"callbacks": [runs]}, use_async=use_async)
    own = {name: inputs for name, inputs in runs.inputs.items() if name.startswith("VLMGuardMiddleware.")}
    assert {"VLMGuardMiddleware.before_model", "VLMGuardMiddleware.after_model"} <= set(own)
    assert "SECRET" not in str(own)
    assert "SECRET" in str(runs.inputs)


@BOTH
async def test_a_cache_of_answers_does_not_cross_policies(use_async):
    """LangChain's cache knows a model by its parameters."""
    cache = InMemoryCache()
    lenient = GuardedChatModel(
        model=AgentModel(answers=["lenient"]), rewriter=WordJudge(), policy=GuardPolicy(on_unsafe="allow"), cache=cache
    )
    strict = GuardedChatModel(model=AgentModel(answers=["strict"]), rewriter=WordJudge(), cache=cache)
    words = [(await asked_of(model, "hi", use_async=use_async)).text for model in (lenient, lenient, strict)]
    assert words == ["lenient", "lenient", "strict"]


@BOTH
async def test_a_cached_verdict_of_another_tenant_does_not_let_a_turn_on(use_async):
    """LangGraph's cache keys know nothing of the run's context, where a tenant's policy is."""

    class State(MessagesState):
        verdict: dict

    judge = WordJudge(x="allow")
    guard, model = VLMGuardNode(judge), AgentModel()
    graph = StateGraph(State, context_schema=GuardContext)
    graph.add_node("guard", guard, cache_policy=CachePolicy(key_func=lambda state: state["messages"][-1].text))
    graph.add_node("answer", lambda state: {"messages": [model.invoke(guard.for_model(state))]})
    graph.add_edge(START, "guard")
    graph.add_conditional_edges("guard", route_on_verdict, {"allow": "answer", "rewrite": "answer", "refuse": END})
    compiled = graph.compile(cache=NodeCache())
    lenient, strict = ({"policy": GuardPolicy(unsafe_at=at)} for at in (0.9, 0.6))
    given = {"messages": [HumanMessage("x", id="1")]}
    for _ in range(2):
        assert (await both(compiled, given, use_async=use_async, context=lenient))["messages"][-1].text == "fine"
    assert (len(judge.seen), len(model.seen)) == (1, 2)
    with pytest.raises(ValueError, match="made under another policy"):
        await both(compiled, given, use_async=use_async, context=strict)
    assert len(model.seen) == 2


@BOTH
@pytest.mark.parametrize(("on_error", "stops"), [("refuse", 0), ("review", 1)])
async def test_what_follows_a_failure_is_the_policys_and_never_release(on_error, stops, use_async):
    graph, model, _ = agent(["fine"], policy=GuardPolicy(on_error=on_error), checkpointer=InMemorySaver())
    state = await both(graph, asked("crash"), THREAD, use_async=use_async)
    assert (len(state.get("__interrupt__", ())), model.seen) == (stops, [])
    assert state["verdict"]["failure"]["error"] == "RuntimeError"
    if stops:
        await both(graph, Command(resume="reject"), THREAD, use_async=use_async)
        assert model.seen == []


@BOTH
async def test_a_message_that_replaces_another_keeps_its_id(shop, use_async):
    """With a new id it would be appended, and the flagged one would stay."""
    order, _ = shop
    turn, answer = HumanMessage("a bomb", id="turn"), AIMessage("take the bomb", id="answer")
    graph, _, _ = agent(["fine"], exit_behavior="replace")
    state = await both(graph, {"messages": [turn]}, use_async=use_async)
    assert (state["messages"][0].id, len(state["messages"])) == ("turn", 2)
    graph, _, _ = agent([calling(call("order", item="kite")), answer], [order], checkpointer=InMemorySaver())
    state = await both(graph, asked("hi"), THREAD, use_async=use_async)
    assert "bomb" not in str(state)
    ids = [message.id for message in state["messages"]]
    assert len(ids) == len(set(ids)) == 4


@BOTH
async def test_a_refused_turn_can_be_taken_out_of_the_thread(use_async):
    graph, _, _ = agent(["fine"], checkpointer=InMemorySaver())
    await both(graph, {"messages": [HumanMessage("a bomb", id="bad")]}, THREAD, use_async=use_async)
    given = {"messages": [RemoveMessage("bad"), HumanMessage("a kite")]}
    state = await both(graph, given, THREAD, use_async=use_async)
    assert state["messages"][-1].text == "fine"
    assert not any(isinstance(message, ToolMessage) for message in state["messages"])
