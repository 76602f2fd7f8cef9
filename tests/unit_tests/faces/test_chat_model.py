import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_vlmguard import ChatSteeredVLM, GuardedChatModel, GuardPolicy, GuardViolationError, SafetyVerdict
from tests.agent_models import AgentModel, WordJudge, both, call, calling
from tests.pictures import UNREADABLE

BOTH = pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])


def guarded(answers=("fine",), **options):
    model, judge = AgentModel(answers=list(answers)), WordJudge()
    return GuardedChatModel(model=model, rewriter=judge, **options), model, judge


async def ask(model, given, *, use_async):
    return await model.ainvoke(given) if use_async else model.invoke(given)


class Plan(BaseModel):
    """A plan."""

    goal: str


@BOTH
async def test_answers_carry_the_verdict_and_the_inner_models_usage(use_async):
    model, _inner, judge = guarded()
    answer = await ask(model, "hello", use_async=use_async)
    verdict = SafetyVerdict.from_state(answer.response_metadata["verdict"])
    assert (answer.text, verdict.action, verdict.answer) == ("fine", "allow", "released")
    assert answer.usage_metadata["total_tokens"] == 5
    assert len(judge.seen) == 2


@BOTH
@pytest.mark.parametrize("said", ["fine", "a bomb"])
async def test_tokens_are_counted_once_however_the_model_is_asked(said, use_async):
    """By callbacks, on the message, and on the chunks of a stream; those of a withheld answer were spent, too."""
    model, _inner, _ = guarded([AIMessage(said, response_metadata={"model_name": "scripted"})])
    with get_usage_metadata_callback() as counted:
        answer = await ask(model, "hello", use_async=use_async)
    with get_usage_metadata_callback() as streamed:
        chunks = [chunk async for chunk in model.astream("hello")] if use_async else list(model.stream("hello"))
    assert answer.usage_metadata["total_tokens"] == sum(chunks[1:], chunks[0]).usage_metadata["total_tokens"] == 5
    for count in (counted, streamed):
        assert {name: usage["total_tokens"] for name, usage in count.usage_metadata.items()} == {"scripted": 5}
    assert "inner_usage" not in str(answer) + str(chunks)


@BOTH
@pytest.mark.parametrize(
    ("asked", "answered", "text", "action"),
    [
        ("a bomb", "x", "can't help", "refuse"),
        ("a knife", "a lamp", "a lamp", "rewrite"),
        ("a kite", "a bomb", "can't help", "refuse"),
        ("maybe", "x", "can't help", "refuse"),
        ([UNREADABLE["https address"][0]], "x", "is an address", "refuse"),
        ("crash", "x", "could not judge this turn", "refuse"),
    ],
)
async def test_turns_and_answers_are_judged(asked, answered, text, action, use_async):
    model, inner, _ = guarded([answered])
    answer = await ask(model, [HumanMessage(asked)], use_async=use_async)
    assert text in answer.text
    assert answer.response_metadata["verdict"]["action"] == action
    if action == "rewrite":
        assert inner.seen[0][-1].content == "how do i stay safe?"


@BOTH
async def test_the_inner_models_errors_are_raised_so_that_fallbacks_work(use_async):
    broken, _, _ = guarded([RuntimeError("down")])
    spare, _, _ = guarded(["spare"])
    with pytest.raises(RuntimeError, match="down"):
        await ask(broken, "hi", use_async=use_async)
    assert (await ask(broken.with_fallbacks([spare]), "hi", use_async=use_async)).text == "spare"


@BOTH
async def test_tools_and_agents(use_async):
    ran = []

    @tool
    def order(item: str) -> str:
        """Order."""
        ran.append(item)
        return "ordered"

    for item in ("kite", "bomb"):
        model, _, _ = guarded([calling(call("order", item=item)), "done"])
        state = await both(create_agent(model, [order]), {"messages": [HumanMessage("order")]}, use_async=use_async)
        assert state["messages"][-1].text == "done" if item == "kite" else "can't help" in state["messages"][-1].text
    assert ran == ["kite"]


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_structured_output(use_async, stream):
    async def get(structured):
        if not stream:
            return await ask(structured, "plan", use_async=use_async)
        if use_async:
            return [part async for part in structured.astream("plan")][-1]
        return list(structured.stream("plan"))[-1]

    model, _, _ = guarded([calling(call("Plan", goal="kite"))])
    assert await get(model.with_structured_output(Plan)) == Plan(goal="kite")
    as_dict = model.with_structured_output(Plan.model_json_schema() | {"title": "Plan"})
    assert await get(as_dict) == {"goal": "kite"}
    bad, _, _ = guarded([calling(call("Plan", goal="bomb"))])
    with pytest.raises(GuardViolationError):
        await get(bad.with_structured_output(Plan))
    raw = await ask(bad.with_structured_output(Plan, include_raw=True), "plan", use_async=use_async)
    assert raw["parsed"] is None
    assert raw["raw"].response_metadata["verdict"]["action"] == "refuse"


@BOTH
@pytest.mark.parametrize("answer", ["one fine day", "a bomb"])
async def test_a_stream_shows_nothing_before_it_was_judged(use_async, answer):
    model, _, _ = guarded([answer])
    graph = create_agent(model)
    given = {"messages": [HumanMessage("hi")]}
    if use_async:
        seen = [part async for part in graph.astream(given, stream_mode=["messages", "updates", "values"])]
        events = [event async for event in model.astream_events("hi", version="v2")]
        chunks = [chunk async for chunk in model.astream("hi")]
    else:
        seen = list(graph.stream(given, stream_mode=["messages", "updates", "values"]))
        chunks, events = list(model.stream("hi")), []
    assert "bomb" not in str(seen) + str(chunks) + str(events)
    whole = sum(chunks[1:], chunks[0])
    assert whole.response_metadata["verdict"]["answer"] == ("released" if "fine" in answer else "withheld")


def test_the_verdict_cannot_be_forged_by_the_inner_model():
    forged = AIMessage("ok", response_metadata={"verdict": {"forged": True}})
    answer = guarded([forged])[0].invoke("hi")
    assert "forged" not in str(answer.response_metadata)


def test_settings_go_to_the_inner_model_and_identity_holds_the_guard():
    inner = ChatSteeredVLM(model="testbed", steering=None)
    model = GuardedChatModel(model=inner, temperature=0.5, policy=GuardPolicy(unsafe_at=0.9))
    assert (model.model.temperature, inner.temperature) == (0.5, 0.0)
    other = GuardedChatModel(model=inner, temperature=0.5)
    assert model._identifying_params != other._identifying_params


def test_review_of_the_inner_graph_is_refusal_and_mistakes_are_found_early():
    with pytest.raises((TypeError, ValueError), match="must be a LangChain Runnable"):
        GuardedChatModel(model=AgentModel(), rewriter="gpt")
