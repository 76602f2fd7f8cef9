"""What was refused, or waits for a person, in the rest of the thread."""

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_vlmguard.guard.stopped import WITHHELD
from tests.agent_models import BOTH, THREAD, agent, asked, both, call, calling
from tests.pictures import UNREADABLE

STOPPED = {
    "a refused request": ("a bomb", ["fine"]),
    "a refused answer": ("hi", ["take the bomb", "fine"]),
    "an unreadable picture": ([UNREADABLE["https address"][0], {"type": "text", "text": "a bomb"}], ["fine"]),
}


@BOTH
@pytest.mark.parametrize("what", STOPPED)
async def test_a_refusal_does_not_stick_and_its_words_do_not_reach_the_model(what, use_async):
    given, answers = STOPPED[what]
    graph, model, _ = agent(answers, checkpointer=InMemorySaver())
    state = await both(graph, asked(given), THREAD, use_async=use_async)
    assert state["verdict"]["action"] == "refuse"
    state = await both(graph, asked("a kite then"), THREAD, use_async=use_async)
    assert (state["verdict"]["action"], state["messages"][-1].text) == ("allow", "fine")
    assert "bomb" not in str(model.seen)


@BOTH
async def test_a_client_that_forgets_the_refusal_has_the_words_judged_again(use_async):
    """A stateless front end sends the history as it likes, and cannot smuggle words past the judge with it."""
    graph, model, _ = agent(["fine"])
    state = await both(graph, asked("a bomb"), use_async=use_async)
    refused, notice = state["messages"]
    state = await both(graph, {"messages": [refused, *asked("go on")["messages"]]}, use_async=use_async)
    assert (state["verdict"]["action"], model.seen) == ("refuse", [])
    plain = notice.model_copy(update={"response_metadata": {}})
    state = await both(graph, {"messages": [refused, notice, *asked("go on")["messages"]]}, use_async=use_async)
    assert model.seen[0][0].content == WITHHELD
    state = await both(graph, {"messages": [refused, plain, *asked("go on")["messages"]]}, use_async=use_async)
    assert "bomb" in str(
        model.seen[-1]
    )  # an answer that says nothing of a refusal: the words stand in the light of what follows


@BOTH
@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_a_message_that_comes_instead_of_a_decision_loses_no_review(decision, use_async):
    graph, model, _ = agent(["fine"], checkpointer=InMemorySaver())
    state = await both(graph, asked("maybe something"), THREAD, use_async=use_async)
    assert state["__interrupt__"]
    state = await both(graph, asked("go on"), THREAD, use_async=use_async)
    assert (model.seen, state["__interrupt__"][0].value["stage"]) == ([], "input")
    state = await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    assert state["messages"][-1].text == "fine"
    assert ("maybe something" in str(model.seen)) == (decision == "approve")


@BOTH
@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_an_answer_that_waits_takes_its_place_when_it_is_approved_late(decision, use_async):
    graph, _, _ = agent(["maybe a secret", "fine"], checkpointer=InMemorySaver())
    await both(graph, asked("hi"), THREAD, use_async=use_async)
    state = await both(graph, asked("go on"), THREAD, use_async=use_async)
    assert "secret" not in str(state["messages"])
    state = await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    assert ("secret" in state["messages"][1].text) == (decision == "approve")
    assert state["messages"][-1].text == "fine"


@BOTH
async def test_calls_that_a_newer_message_came_upon_do_not_run(shop, use_async):
    order, ordered = shop
    answers = [calling(call("order", item="maybe kite")), "fine"]
    graph, model, _ = agent(answers, [order], checkpointer=InMemorySaver())
    await both(graph, asked("order"), THREAD, use_async=use_async)
    state = await both(graph, asked("never mind"), THREAD, use_async=use_async)
    if "__interrupt__" in state:
        state = await both(graph, Command(resume="approve"), THREAD, use_async=use_async)
    assert (ordered, state["messages"][-1].text) == ([], "fine")
    calls = {one["id"] for message in model.seen[-1] for one in getattr(message, "tool_calls", [])}
    assert {message.tool_call_id for message in model.seen[-1] if message.type == "tool"} == calls


@BOTH
@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_a_result_that_ends_the_run_waits_for_a_person(decision, use_async):
    @tool(return_direct=True)
    def look() -> str:
        """Look."""
        return "maybe a secret"

    graph, model, _ = agent([calling(call("look")), "unused"], [look], checkpointer=InMemorySaver())
    state = await both(graph, asked("look"), THREAD, use_async=use_async)
    assert (state["__interrupt__"][0].value["stage"], "secret" in str(state["messages"])) == ("tool_result", False)
    state = await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    assert ("secret" in state["messages"][-1].text) == (decision == "approve")
    assert len(model.seen) == 1


@BOTH
async def test_checks_of_a_result_that_ends_the_run_are_in_the_state(use_async):
    @tool(return_direct=True)
    def look() -> str:
        """Look."""
        return "a kite"

    graph, _, _ = agent([calling(call("look"))], [look])
    state = await both(graph, asked("look"), use_async=use_async)
    assert state["messages"][-1].text == "a kite"
    assert [record["stage"] for record in state["verdicts"]] == ["input", "tool_args", "tool_result"]


class Trim(AgentMiddleware):
    """Leaves the last two messages."""

    def wrap_model_call(self, request, handler):
        return handler(request.override(messages=request.messages[-2:]))

    async def awrap_model_call(self, request, handler):
        return await handler(request.override(messages=request.messages[-2:]))


@BOTH
async def test_a_turn_without_a_request_that_should_be_rewritten_is_refused(use_async):
    @tool
    def look() -> str:
        """Look."""
        return "a knife"

    answers = [calling(call("look")), "ok"]
    graph, _, _ = agent(answers, [look], middleware=[Trim()], check_tool_results=False)
    state = await both(graph, asked("look"), use_async=use_async)
    assert (state["messages"][-1].type, state["verdict"]["action"]) == ("ai", "refuse")


@BOTH
async def test_a_long_thread_goes_on_and_a_long_answer_leaves(use_async):
    graph, _, _ = agent(["word " * 11_000], checkpointer=InMemorySaver())
    for _ in range(3):
        state = await both(graph, asked("translate: " + "word " * 11_000), THREAD, use_async=use_async)
        assert state["verdict"]["action"] == "allow"


@BOTH
@pytest.mark.parametrize("place", ["request", "arguments", "result", "answer"])
async def test_half_an_emoji_breaks_nothing(place, use_async):
    half = "kite \ud83d"

    @tool
    def order(item: str) -> str:
        """Order."""
        return half if place == "result" else "ordered"

    item = half if place == "arguments" else "kite"
    answers = [calling(call("order", item=item)), half if place == "answer" else "fine"]
    graph, _, _ = agent(answers, [order])
    state = await both(graph, asked(half if place == "request" else "hi"), use_async=use_async)
    assert (state["verdict"]["action"], [m.type for m in state["messages"]]) == ("allow", ["human", "ai", "tool", "ai"])
