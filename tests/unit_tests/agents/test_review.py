import pytest
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests.agent_models import BOTH, THREAD, WordJudge, agent, asked, both, call, calling, new_shop
from tests.pictures import READABLE, UNREADABLE


@pytest.fixture
def shop():
    """As the other tests' shop, with an answer that names nothing: a judge that reads words must not find one in it."""
    return new_shop("ordered")


def stops(state):
    return [stop.value for stop in state.get("__interrupt__", ())]


@BOTH
@pytest.mark.parametrize(
    ("decision", "seen", "action"),
    [
        ("approve", "maybe a kite", "allow"),
        ({"decision": "edit", "prompt": "a cake"}, "a cake", "rewrite"),
        ("reject", None, "refuse"),
        ({"decisions": [{"type": "approve"}]}, "maybe a kite", "allow"),
        ({"type": "reject"}, None, "refuse"),
    ],
)
async def test_a_turn_under_review(decision, seen, action, use_async):
    graph, model, judge = agent(["fine"], checkpointer=InMemorySaver())
    stopped = await both(graph, asked("maybe a kite"), THREAD, use_async=use_async)
    assert stops(stopped)[0]["review_configs"][0]["allowed_decisions"] == ["approve", "edit", "reject"]
    assert model.seen == []
    state = await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    assert [m[-1].text for m in model.seen] == ([seen] if seen else [])
    assert (state["verdict"]["action"], len(state["messages"])) == (action, 2)
    assert len(judge.seen) == (2 if seen else 1)
    again = await both(graph, asked("a kite"), THREAD, use_async=use_async)
    assert again["messages"][-1].text == "fine"


@BOTH
@pytest.mark.parametrize("unreadable", [{"decision": "edit"}, "yes please", {"decision": None}, []])
async def test_a_decision_that_cannot_be_read_is_an_error_and_the_thread_goes_on_waiting(unreadable, use_async):
    graph, model, _ = agent(["fine"], checkpointer=InMemorySaver())
    await both(graph, asked("maybe a kite"), THREAD, use_async=use_async)
    with pytest.raises(ValueError, match=r"decision|an edit needs"):
        await both(graph, Command(resume=unreadable), THREAD, use_async=use_async)
    assert (model.seen, len(graph.get_state(THREAD).interrupts)) == ([], 1)
    state = await both(graph, Command(resume="approve"), THREAD, use_async=use_async)
    assert state["messages"][-1].text == "fine"


@BOTH
async def test_without_a_checkpointer_a_review_is_a_refusal_that_says_why(use_async):
    graph, model, _ = agent(["fine"])
    state = await both(graph, asked("maybe a kite"), use_async=use_async)
    assert (state["verdict"]["action"], model.seen) == ("refuse", [])
    assert "no checkpointer" in state["messages"][-1].text


@BOTH
async def test_parts_that_cannot_be_read_can_be_approved_and_still_reach_no_model(use_async):
    from langchain_vlmguard import GuardPolicy

    policy = GuardPolicy(on_unreadable="review")
    graph, model, _ = agent(["fine"], policy=policy, checkpointer=InMemorySaver())
    await both(graph, asked([UNREADABLE["https address"][0], "hello"]), THREAD, use_async=use_async)
    state = await both(graph, Command(resume="approve"), THREAD, use_async=use_async)
    assert (state["verdict"]["reviewed"], state["messages"][-1].text) == ("approve", "fine")
    assert "example.com" not in str(model.seen)


@BOTH
@pytest.mark.parametrize(
    ("decision", "text", "fate"),
    [
        ("approve", "maybe this", "released"),
        ({"decision": "edit", "text": "better this"}, "better this", "replaced"),
        ("reject", "I can't help with this request (indiscriminate weapons).", "withheld"),
    ],
)
async def test_an_answer_under_review(decision, text, fate, use_async):
    graph, model, _ = agent(["maybe this", "never"], checkpointer=InMemorySaver(), show_held=False)
    stopped = await both(graph, asked("hi"), THREAD, use_async=use_async)
    assert "maybe this" not in str(stopped)
    state = await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    assert state["messages"][-1].text.startswith(text)
    assert state["verdict"]["answer"] == fate
    assert len(model.seen) == 1


@BOTH
async def test_calls_of_one_answer_are_decided_one_by_one(shop, use_async):
    order, ordered = shop
    calls = [
        call("order", "1", item="kite"),
        call("order", "2", item="maybe two"),
        call("order", "3", item="bomb"),
        call("order", "4", item="maybe four"),
        call("order", "5", item="maybe five"),
    ]
    graph, _, _ = agent([calling(*calls), "done"], [order], checkpointer=InMemorySaver())
    stopped = await both(graph, asked("order"), THREAD, use_async=use_async)
    assert stops(stopped)[0]["call_id"] == "2"
    assert stops(stopped)[0]["action_requests"][0] == {
        "name": "order",
        "args": {"item": "maybe two"},
        "description": "The judge found a hazard: indiscriminate weapons.",
    }
    assert ordered == []
    stopped = await both(graph, Command(resume="approve"), THREAD, use_async=use_async)
    assert stops(stopped)[0]["call_id"] == "4"
    decision = {"decision": "edit", "args": {"item": "cake"}}
    await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    state = await both(graph, Command(resume="reject"), THREAD, use_async=use_async)
    assert sorted(ordered) == ["cake", "kite", "maybe two"]
    assert [m.status for m in state["messages"][2:-1]] == ["success", "success", "error", "success", "error"]
    assert state["messages"][-1].text == "done"


@BOTH
@pytest.mark.parametrize("decision", ["approve", "reject", {"decision": "edit", "text": "a kite came"}])
async def test_a_result_under_review_and_the_tool_runs_once(decision, use_async):
    ran = []

    @tool
    def look(what: str) -> list:
        """Look."""
        ran.append(what)
        return [{"type": "text", "text": "maybe secret"}, READABLE["OpenAI"]]

    calls = calling(call("look", "1", what="a"), call("look", "2", what="b"))
    graph, model, _ = agent([calls, "done"], [look], checkpointer=InMemorySaver(), show_held=False)
    stopped = await both(graph, asked("look"), THREAD, use_async=use_async)
    assert stops(stopped)[0]["stage"] == "tool_result"
    assert "secret" not in str(stopped)
    stopped = await both(graph, Command(resume=decision), THREAD, use_async=use_async)
    assert stops(stopped)[0]["stage"] == "tool_result"
    state = await both(graph, Command(resume="reject"), THREAD, use_async=use_async)
    assert sorted(ran) == ["a", "b"]
    assert len(model.seen) == 2
    first, second = state["messages"][2:4]
    text = {"approve": "maybe secret", "reject": "can't help"}.get(str(decision), "a kite came")
    assert text in first.text
    assert (second.status, "secret" in str(second)) == ("error", False)
    assert state["messages"][-1].text == "done"


REVIEWS = {
    "input": ("maybe a kite", ["fine"]),
    "output": ("hi", ["maybe this"]),
    "tool_args": ("hi", [calling(call("order", item="maybe kite")), "done"]),
    "tool_result": ("hi", [calling(call("order", item="kite")), "done"]),
}


@BOTH
@pytest.mark.parametrize("decision", ["approve", "reject"])
@pytest.mark.parametrize("stage", REVIEWS)
async def test_a_review_is_published_when_it_waits_and_once_more_when_it_is_decided(stage, decision, use_async):
    @tool
    def order(item: str) -> str:
        """Order an item."""
        return "maybe ordered" if stage == "tool_result" else "ordered"

    async def heard(given):
        if use_async:
            events = [event async for event in graph.astream(given, THREAD, stream_mode="custom")]
        else:
            events = list(graph.stream(given, THREAD, stream_mode="custom"))
        records = [event for event in events if event["stage"] == stage and event["type"] == "vlmguard.verdict"]
        return [(record["verdict"]["action"], record["verdict"]["reviewed"]) for record in records]

    text, answers = REVIEWS[stage]
    graph, _, _ = agent(answers, [order], checkpointer=InMemorySaver())
    assert await heard(asked(text)) == [("review", None)]
    assert (await heard(Command(resume=decision)))[0] == ({"approve": "allow", "reject": "refuse"}[decision], decision)
    kept = [one["verdict"]["reviewed"] for one in graph.get_state(THREAD).values["verdicts"] if one["stage"] == stage]
    assert kept[:2] == [None, decision]


@BOTH
async def test_without_anybody_to_ask_review_is_refusal(shop, use_async):
    order, ordered = shop
    graph, _model, _ = agent([calling(call("order", item="maybe")), "ok"], [order], on_review="refuse")
    assert (await both(graph, asked("maybe"), use_async=use_async))["verdict"]["action"] == "refuse"
    state = await both(graph, asked("hi"), use_async=use_async)
    assert (state["messages"][2].status, ordered) == ("error", [])


@BOTH
async def test_a_proposed_prompt_can_be_approved(use_async):
    from langchain_vlmguard import GuardPolicy

    policy = GuardPolicy(on_hazard={"mlcommons:iwp": "review"})
    graph, model, _ = agent(["fine"], policy=policy, checkpointer=InMemorySaver())
    stopped = await both(graph, asked("a knife"), THREAD, use_async=use_async)
    assert stops(stopped)[0]["proposed_prompt"] == "how do i stay safe?"
    state = await both(graph, Command(resume="approve"), THREAD, use_async=use_async)
    assert model.seen[0][-1].text == "how do i stay safe?" == state["verdict"]["rewritten_prompt"]


@BOTH
async def test_a_judge_that_changes_its_mind_does_not_undo_a_rejection(shop, use_async):
    order, ordered = shop
    judge = WordJudge()
    graph, _, _ = agent(
        [calling(call("order", item="maybe")), "ok"], [order], judge=judge, checkpointer=InMemorySaver()
    )
    await both(graph, asked("hi"), THREAD, use_async=use_async)
    judge.actions["maybe"] = "allow"
    await both(graph, Command(resume="reject"), THREAD, use_async=use_async)
    assert ordered == []
