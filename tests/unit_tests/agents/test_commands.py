"""What a tool's `Command` brings beside its messages: judged with them, and gone with them."""

from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware.types import AgentMiddleware, AgentState
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Send

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.agents.commands import beside_messages, without_beside
from tests.agent_models import BOTH, THREAD, AgentModel, WordJudge, asked, both, call, calling
from tests.pictures import b64


class Desk(AgentState):
    note: Any


class DeskMiddleware(AgentMiddleware):
    state_schema = Desk


def agent(update, words="done", **options):
    @tool
    def write(call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Write a note."""
        return Command(update={"messages": [ToolMessage(words, tool_call_id=call_id)], **update})

    judge, model = WordJudge(), AgentModel(answers=[calling(call("write")), "fine"])
    middleware = [DeskMiddleware(), VLMGuardMiddleware(judge, **options)]
    return create_agent(model, [write], middleware=middleware, checkpointer=InMemorySaver()), judge


def checks(state):
    return [one["verdict"]["action"] for one in state["verdicts"] if one["stage"] == "tool_result"]


@BOTH
async def test_a_harmful_key_decides_about_the_whole_command(use_async):
    graph, _ = agent({"note": {"deep": ["a bomb here"]}})
    state = await both(graph, asked("hello"), THREAD, use_async=use_async)
    assert checks(state) == ["refuse"]
    assert "note" not in state
    assert "bomb" not in str(state["messages"])


@BOTH
async def test_a_harmless_key_is_judged_and_passes(use_async):
    graph, judge = agent({"note": "buy a kite"})
    state = await both(graph, asked("hello"), THREAD, use_async=use_async)
    assert checks(state) == ["allow"]
    assert state["note"] == "buy a kite"
    assert "buy a kite" in str(judge.seen)


def test_a_key_of_marks_costs_no_judgement():
    graph, judge = agent({"note": "step_2"})
    graph.invoke(asked("hello"), THREAD)
    plain, other = agent({})
    plain.invoke(asked("hello"), THREAD)
    assert len(judge.seen) == len(other.seen)


@pytest.mark.parametrize(("decision", "note"), [("approve", "maybe a kite"), ("reject", None)])
def test_what_waits_with_its_message_comes_with_it(decision, note):
    graph, _ = agent({"note": "maybe a kite"})
    graph.invoke(asked("hello"), THREAD)
    assert "note" not in graph.get_state(THREAD).values
    state = graph.invoke(Command(resume={"decisions": [{"type": decision}]}), THREAD)
    assert state.get("note") == note
    assert state["messages"][-1].text == "fine"


@BOTH
async def test_an_update_too_large_to_be_read_does_not_pass_and_says_why(use_async):
    graph, _ = agent({"note": [["kite"]] * 2 + ["kite"] * 1_000_000 + ["a bomb here"]})
    state = await both(graph, asked("hello"), THREAD, use_async=use_async)
    assert checks(state) == ["refuse"]
    assert "too_large_update" in str(state["verdicts"])
    assert "note" not in state


def test_monitoring_changes_nothing():
    graph, _ = agent({"note": "a bomb here"}, mode="monitor")
    state = graph.invoke(asked("hello"), THREAD)
    assert (checks(state), state["note"]) == (["refuse"], "a bomb here")


CALL = call("write")


def test_only_what_is_new_is_judged():
    state = {"note": "an old note", "plan": ["one more"], "messages": [HumanMessage("old words here")]}
    passed_on = Command(goto="other", update={**state, "active_agent": "other"})
    assert beside_messages(passed_on, state, CALL) is None
    sent = Command(goto=[Send("other", {"task": "new words here", **state})])
    assert beside_messages(sent, state, CALL).text == "new words here"
    shown = Command(update={"note": {"picture": b64()}})
    assert [block["type"] for block in beside_messages(shown, {}, CALL).content] == ["image"]
    circle = {}
    circle["self"] = [circle, "a word or two"]
    assert beside_messages(Command(update={"note": circle}), {}, CALL).text == "a word or two"


def test_nothing_but_messages_is_left_of_a_blocked_command():
    message = ToolMessage("no", tool_call_id="1")
    left = without_beside(
        Command(goto=[Send("other", {"task": "x"}), "next"], update={"messages": [message], "note": 1})
    )
    assert (left.update, left.goto) == ({"messages": [message]}, ["other", "next"])
