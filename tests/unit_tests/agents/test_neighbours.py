"""Other middleware and other agents beside the guard find everything as they would without it."""

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
)
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from langgraph_swarm import create_handoff_tool, create_swarm
from pydantic import PrivateAttr

from langchain_vlmguard import VLMGuardMiddleware
from tests.agent_models import BOTH, THREAD, AgentModel, WordJudge, agent, asked, both, call, calling


class Log(AgentMiddleware):
    """Keeps what the handlers return."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def wrap_tool_call(self, request, handler):
        self.seen.append(handler(request))
        return self.seen[-1]

    async def awrap_tool_call(self, request, handler):
        self.seen.append(await handler(request))
        return self.seen[-1]


@BOTH
async def test_middleware_around_tools_sees_tool_messages(shop, use_async):
    order, _ = shop
    log = Log()
    answers = [calling(call("order", "1", item="kite"), call("order", "2", item="bomb")), "ok"]
    graph, _, _ = agent(answers, [order], middleware=[log])
    state = await both(graph, asked("order"), use_async=use_async)
    assert {(type(one).__name__, one.tool_call_id, one.status) for one in log.seen} <= {
        ("ToolMessage", "1", "success"),
        ("ToolMessage", "2", "error"),
    }
    assert [m.status for m in state["messages"] if m.type == "tool"] == ["success", "error"]


@BOTH
async def test_limits_of_calls_hold(shop, use_async):
    order, ordered = shop
    calls = calling(*(call("order", str(n), item="kite") for n in range(3)))
    limit = ToolCallLimitMiddleware(run_limit=2, exit_behavior="continue")
    graph, _, _ = agent([calls, "done"], [order], middleware=[limit])
    state = await both(graph, asked("order"), use_async=use_async)
    assert (len(ordered), state["messages"][-1].text) == (2, "done")
    limit = ModelCallLimitMiddleware(thread_limit=2, exit_behavior="end")
    graph, model, _ = agent(["fine"], middleware=[limit], checkpointer=InMemorySaver())
    for n in range(3):
        state = await both(graph, asked(f"hi {n}"), THREAD, use_async=use_async)
    assert (len(model.seen), "limit" in state["messages"][-1].text.lower()) == (2, True)


@BOTH
async def test_the_spare_models_answer_is_judged_and_errors_reach_who_retries(use_async):
    spare = ModelFallbackMiddleware(AgentModel(answers=["from the spare"]))
    graph, _, _ = agent([RuntimeError("429")], middleware=[spare])
    state = await both(graph, asked("hi"), use_async=use_async)
    assert (state["messages"][-1].text, state["verdict"]["answer"]) == ("from the spare", "released")
    spare = ModelFallbackMiddleware(AgentModel(answers=["take the bomb"]))
    graph, _, _ = agent([RuntimeError("429")], middleware=[spare])
    assert "bomb" not in str((await both(graph, asked("hi"), use_async=use_async))["messages"])
    retry = ModelRetryMiddleware(max_retries=4, initial_delay=0.01, jitter=False)
    graph, _, _ = agent([RuntimeError("429"), RuntimeError("429"), "fine"], middleware=[retry])
    assert (await both(graph, asked("hi"), use_async=use_async))["messages"][-1].text == "fine"


@BOTH
@pytest.mark.parametrize(("item", "runs"), [("cake", ["cake"]), ("bomb", [])])
async def test_a_persons_edit_of_a_call_is_judged(item, runs, shop, use_async):
    order, ordered = shop
    asks = HumanInTheLoopMiddleware(interrupt_on={"order": True})
    answers = [calling(call("order", item="kite")), "ok"]
    graph, _, _ = agent(answers, [order], middleware=[asks], checkpointer=InMemorySaver())
    await both(graph, asked("order"), THREAD, use_async=use_async)
    edit = {"type": "edit", "edited_action": {"name": "order", "args": {"item": item}}}
    state = await both(graph, Command(resume={"decisions": [edit]}), THREAD, use_async=use_async)
    assert (ordered, state["messages"][-1].text) == (runs, "ok")


@BOTH
async def test_a_summary_in_the_middle_of_a_loop_tears_nothing(shop, use_async):
    order, ordered = shop
    summary = AgentModel(answers=["The person is Kim."])
    cut = SummarizationMiddleware(summary, trigger=("messages", 8), keep=("messages", 4))
    answers = [*(calling(call("order", f"c{n}", item="kite")) for n in range(8)), "done"]
    graph, model, judge = agent(answers, [order], middleware=[cut], checkpointer=InMemorySaver())
    state = await both(graph, asked("I am Kim: eight kites."), THREAD, use_async=use_async)
    assert (len(ordered), state["messages"][-1].text) == (8, "done")
    for seen in model.seen:
        calls = {one["id"] for message in seen for one in getattr(message, "tool_calls", [])}
        assert {message.tool_call_id for message in seen if message.type == "tool"} <= calls
    assert len(judge.seen) <= 18 + len(summary.seen)


class Pages(BaseTool):
    """A tool that remembers where it was."""

    name: str = "next_page"
    description: str = "Give the next page."
    at: int = 0
    _left: int = PrivateAttr(default=2)

    def _run(self):
        self.at += 1
        self._left -= 1
        return f"page {self.at}" if self._left >= 0 else "no more pages"


@BOTH
async def test_a_tool_keeps_what_it_remembers(use_async):
    pages = Pages()
    answers = [*(calling(call("next_page", str(n))) for n in range(3)), "done"]
    graph, _, _ = agent(answers, [pages])
    state = await both(graph, asked("read on"), use_async=use_async)
    assert [m.content for m in state["messages"] if m.type == "tool"] == ["page 1", "page 2", "no more pages"]
    assert pages.at == 3


@BOTH
async def test_agents_of_a_swarm_hand_over_and_nothing_is_lost_or_doubled(shop, use_async):
    order, ordered = shop

    def member(name, other, answers, tools=()):
        guard = VLMGuardMiddleware(WordJudge())
        tools = [*tools, create_handoff_tool(agent_name=other)]
        return create_agent(AgentModel(answers=answers), tools, middleware=[guard], name=name)

    alice = member("alice", "bob", [calling(call("transfer_to_bob", "h1"))])
    bob = member("bob", "alice", [calling(call("order", "o1", item="kite")), "done", "again"], [order])
    swarm = create_swarm([alice, bob], default_active_agent="alice").compile(checkpointer=InMemorySaver())
    state = await both(swarm, asked("a kite please"), THREAD, use_async=use_async)
    assert [m.type for m in state["messages"]] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert ordered == ["kite"]
    state = await both(swarm, asked("and more"), THREAD, use_async=use_async)
    assert (state["messages"][-1].text, state["active_agent"]) == ("again", "bob")
    assert len({m.id for m in state["messages"]}) == len(state["messages"])


@BOTH
@pytest.mark.parametrize("content", ["", [], [""], [{"type": "text", "text": ""}], "   "])
async def test_empty_requests_and_answers_stay_as_they_are(content, use_async):
    graph, model, _ = agent(["fine"])
    state = await both(graph, asked(content), use_async=use_async)
    assert (state["messages"][-1].text, model.seen[0][0].content) == ("fine", content)
    graph, _, _ = agent([AIMessage(content)])
    state = await both(graph, asked("hi"), use_async=use_async)
    assert (state["messages"][-1].text.strip(), state["verdict"]["answer"]) == ("", "released")


@BOTH
async def test_messages_in_odd_places_stay_there(use_async):
    graph, model, _ = agent(["fine"])
    given = [HumanMessage("hi"), AIMessage("hello"), SystemMessage("Be brief."), HumanMessage("a kite?")]
    await both(graph, {"messages": given}, use_async=use_async)
    assert [m.type for m in model.seen[0]] == ["human", "ai", "system", "human"]
    graph, model, _ = agent(["fine"])
    spoken = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "a kite?"}]
    await both(graph, {"messages": spoken}, use_async=use_async)
    assert model.seen[0][0].additional_kwargs["__openai_role__"] == "developer"


@BOTH
async def test_a_tool_that_returns_nothing(use_async):
    @tool
    def nothing() -> None:
        """Do nothing."""

    graph, _, _ = agent([calling(call("nothing")), "ok"], [nothing])
    state = await both(graph, asked("hi"), use_async=use_async)
    assert (state["messages"][-1].text, state["messages"][2].status) == ("ok", "success")


@BOTH
async def test_streams_give_every_message_once_under_the_id_that_the_state_keeps(shop, use_async):
    order, _ = shop
    graph, _, _ = agent([calling(call("order", item="kite")), "done"], [order], checkpointer=InMemorySaver())
    modes = ["messages", "updates"]
    if use_async:
        got = [part async for part in graph.astream(asked("hi"), THREAD, stream_mode=modes)]
    else:
        got = list(graph.stream(asked("hi"), THREAD, stream_mode=modes))
    kept = [m.id for m in graph.get_state(THREAD).values["messages"]]
    assert [part[0].id for mode, part in got if mode == "messages"] == kept[1:]
    updates = [one for mode, part in got if mode == "updates" for one in part.values() if one]
    assert [m.id for one in updates for m in one.get("messages", [])] == kept[1:]


class OneTool(AgentMiddleware):
    """Shows the model one tool of those that the agent has, as tool selectors do."""

    def __init__(self, name):
        super().__init__()
        self.kept = name

    def _narrowed(self, request):
        return request.override(tools=[one for one in request.tools if one.name == self.kept])

    def wrap_model_call(self, request, handler):
        return handler(self._narrowed(request))

    async def awrap_model_call(self, request, handler):
        return await handler(self._narrowed(request))


@BOTH
async def test_tools_that_another_middleware_leaves_out_are_no_misspellings(shop, use_async, caplog):
    order, ordered = shop

    @tool
    def look(place: str) -> str:
        """Look."""
        return f"a {place}"

    model = AgentModel(answers=[calling(call("look", place="bomb")), "fine"])
    guard = VLMGuardMiddleware(WordJudge(), tools=[order], name=f"guard of {use_async}")
    graph = create_agent(model, [order, look], middleware=[OneTool("look"), guard])
    state = await both(graph, asked("a kite"), use_async=use_async)
    assert (state["messages"][-1].text, ordered) == ("fine", [])
    told = [record for record in caplog.records if "'order' that a request does not offer" in record.getMessage()]
    assert len(told) == 1
