"""A long thread costs no more a turn than a short one, and nothing that the guard does holds the event loop."""

import asyncio
import json
import threading
import time

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vlmguard import Guard, Rewrite, VLMGuardMiddleware
from langchain_vlmguard.content import checking
from tests.agent_models import BOTH, THREAD, AgentModel, WordJudge, asked, both, call, calling, new_shop
from vlmguard_lab.bench import agents, page
from vlmguard_lab.bench.loop_watch import watched

HELD_MS = 20


@pytest.fixture(scope="module")
def costs():
    return agents.one_thread(60, 0)


def a_turn(costs, name):
    """Bytes a turn in the first and in the last ten turns."""
    written = costs[name][1]
    return (written[10] - written[0]) / 10, (written[-1] - written[-11]) / 10


def test_checkpoint_bytes_of_the_guard_do_not_grow_with_the_thread(costs):
    plain, guarded = a_turn(costs, "unguarded"), a_turn(costs, "guarded")
    first, last = (guarded[end] - plain[end] for end in (0, 1))
    assert plain[1] > 5 * plain[0], "the agent's own conversation is written again with each step"
    assert last < 1.1 * first


def test_the_guards_seconds_do_not_grow_as_the_agents_own(costs):
    seconds = {name: costs[name][0] for name in costs}
    first, last = (
        sum(sorted(g - p for p, g in zip(seconds["unguarded"][part], seconds["guarded"][part], strict=True))[:7])
        for part in (slice(0, 10), slice(-10, None))
    )
    assert last < 3 * first + 0.05


def test_the_published_figures_are_flat_and_on_the_page():
    found = json.loads(agents.RESULTS.read_text())
    assert found["turns"] == 100
    assert found["checkpoint_bytes_per_turn_last_10"] <= 1.1 * found["checkpoint_bytes_per_turn_first_10"]
    assert found["longest_loop_block_ms"] <= HELD_MS
    assert page.marked("agents", agents.table(found)) in agents.PAGE.read_text()


@BOTH
async def test_an_answer_keeps_its_verdict_until_the_next_turn(use_async):
    model = AgentModel(answers=["fine", "a bomb", calling(call("order", item="kite")), "done", "last"])
    order, _ = new_shop()
    graph = create_agent(model, [order], middleware=[VLMGuardMiddleware(WordJudge())], checkpointer=InMemorySaver())
    state = await both(graph, asked("one"), THREAD, use_async=use_async)
    assert state["messages"][-1].response_metadata["verdict"] == state["verdict"]
    state = await both(graph, asked("two"), THREAD, use_async=use_async)
    assert "verdict" not in state["messages"][1].response_metadata
    assert state["messages"][-1].response_metadata["verdict"]["provenance"]
    for said in ("three", "knife", "four"):
        state = await both(graph, asked(said), THREAD, use_async=use_async)
    verdicts = [one.response_metadata.get("verdict") for one in state["messages"] if isinstance(one, AIMessage)]
    assert [one and one["action"] for one in verdicts] == [None, "refuse", None, None, "rewrite", "allow"]
    assert verdicts[1].keys() == {"action", "severity", "answer", "reason"}
    assert verdicts[-1] == state["verdict"]


@BOTH
async def test_no_old_answer_is_streamed_again(use_async):
    graph = create_agent(AgentModel(), middleware=[VLMGuardMiddleware(WordJudge())], checkpointer=InMemorySaver())
    old = (await both(graph, asked("one"), THREAD, use_async=use_async))["messages"][-1]
    stream = graph.astream(asked("two"), THREAD, stream_mode="messages")
    shown = [message async for message, _ in stream]
    assert shown
    assert old.id not in {one.id for one in shown}


class Busy(Runnable):
    """A judge that takes time; it counts how many of its calls are made at once."""

    def __init__(self, holds=0.0):
        self.holds, self.now, self.most, self.lock = holds, 0, 0, threading.Lock()

    def _enter(self, by):
        with self.lock:
            self.now += by
            self.most = max(self.most, self.now)

    def invoke(self, input, config=None, **kwargs):  # noqa: A002 - the interface's name
        self._enter(1)
        time.sleep(0.01)
        self._enter(-1)
        return Rewrite(threats=[], intent="x", action="allow", risk=0.0)

    async def ainvoke(self, input, config=None, **kwargs):  # noqa: A002
        self._enter(1)
        await asyncio.sleep(0.01)
        self._enter(-1)
        until = time.thread_time() + self.holds
        while time.thread_time() < until:
            pass
        return Rewrite(threats=[], intent="x", action="allow", risk=0.0)


@BOTH
@pytest.mark.parametrize(("options", "most"), [({}, 8), ({"judges_at_once": 3}, 3)])
async def test_so_many_judge_calls_are_made_at_once_and_no_more(options, most, use_async):
    """Forty calls in one answer, and then forty results that come back together."""
    judge = Busy()
    guard = Guard(judge, **options)
    model = AgentModel(answers=[calling(*(call("order", str(n), item="kite") for n in range(40))), "done"])
    order, ordered = new_shop()
    graph = create_agent(model, [order], middleware=[guard.middleware()])
    await both(graph, asked("order"), {"max_concurrency": 40}, use_async=use_async)
    assert len(ordered) == 40
    assert judge.most == most


def test_no_judge_calls_at_once_would_be_none_at_all():
    with pytest.raises(ValueError, match="judges_at_once must be 1 or more"):
        Guard(WordJudge(), judges_at_once=0)


@pytest.mark.parametrize("scene", range(3), ids=["photographs", "long texts", "a long thread"])
async def test_the_event_loop_is_never_held(scene):
    held = await agents.held(*agents.loop_scenes()[scene], guarded=True)
    assert held < HELD_MS


async def test_the_watchdog_sees_what_holds_the_loop():
    graph = create_agent(AgentModel(), middleware=[VLMGuardMiddleware(Busy(holds=0.05))])
    async with watched() as watch:
        await graph.ainvoke(asked("hello"))
    assert watch.computed_ms > 2 * HELD_MS


def test_old_photographs_are_neither_decoded_nor_hashed_again(monkeypatch):
    photo = agents.a_photograph(3)
    order, _ = new_shop()
    answers = [calling(call("order", item="kite")), calling(call("order", "2", item="kite")), "done"]
    counted = {"decoded": 0, "hashed": 0}

    def counting(name, real):
        def count(*args):
            counted[name] += 1
            return real(*args)

        return count

    monkeypatch.setattr(checking, "decode_frames", counting("decoded", checking.decode_frames))
    monkeypatch.setattr(checking, "_digest", counting("hashed", checking._digest))
    graph = create_agent(AgentModel(answers=answers), [order], middleware=[VLMGuardMiddleware(WordJudge())])
    graph.invoke({"messages": [HumanMessage([photo, {"type": "text", "text": "what is this?"}])]})
    assert counted["decoded"] == 1
    assert counted["hashed"] <= 4
