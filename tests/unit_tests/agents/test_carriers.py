"""The table of carriers in docs/agent_rules.md: it is what the code says, and each row is true in a real agent."""

from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware.types import AgentMiddleware, AgentState
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.types import Command

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.content.carriers import field_treatment
from tests.agent_models import AgentModel, WordJudge, asked, call, calling
from tests.pictures import b64
from tests.secret_places import tokens
from vlmguard_lab.bench import carriers, page

HARM = "a bomb here"


class NotedState(AgentState):
    note: Any


class Noted(AgentMiddleware):
    state_schema = NotedState


def run(answer=None, returns=None, given="hello"):
    """Run an agent whose model says something first, or whose tool returns something; return the state and the judge."""

    @tool
    def order(item: str) -> str:
        """Order."""
        return "ordered"

    @tool
    def fetch(call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Fetch."""
        return returns(call_id)

    judge = WordJudge()
    model = AgentModel(answers=[calling(call("fetch")) if answer is None and returns else answer or "fine", "fine"])
    middleware = [Noted(), VLMGuardMiddleware(judge)]
    state = create_agent(model, [order, fetch], middleware=middleware).invoke(
        asked(given) if isinstance(given, str) else given
    )
    return state, judge, model


def actions(state, stage):
    return [one["verdict"]["action"] for one in state["verdicts"] if one["stage"] == stage]


def listed(state, stage="output"):
    return str(
        [one["verdict"]["unjudged"] for one in state["verdicts"] if one["stage"] == stage]
        + [state["verdict"]["unjudged"]]
    )


def proves(treatment, carrying, kind):
    """Check that an agent does what a treatment says about an answer that carries something harmful."""
    state, judge, _ = run(carrying)
    if treatment in ("words", "prose", "tokens"):
        assert actions(state, "output") == ["refuse"]
        assert "bomb" not in str(state["messages"])
    elif treatment == "picture":
        assert actions(state, "output") == ["allow"]
        assert any("'type': 'image'" in str(seen) for seen in judge.seen)
    elif treatment == "call":
        assert "refuse" in actions(state, "tool_args") + actions(state, "output")
        assert "bomb" not in str(state["messages"])
    elif treatment == "encrypted":
        assert state["verdict"]["answer"] == "released"
        assert kind in listed(state)
    elif treatment == "unread":
        assert actions(state, "output") == ["refuse"]
        assert f"'kind': '{kind}'" in listed(state)
    elif treatment == "mark":
        assert state["verdict"]["answer"] == "released"
        assert "bomb" not in str(judge.seen)
    else:
        assert treatment == "own"
        assert "bomb" not in str(state["messages"])


def block_of(kind):
    treatment = carriers.block_treatment(kind)
    if treatment == "picture":
        return (
            {"type": kind, "base64": b64()}
            if kind != "image_url"
            else {"type": kind, "image_url": {"url": f"data:image/png;base64,{b64()}"}}
        )
    if treatment == "call":
        return {"type": kind, "id": "1", "name": "order", "input": {"item": HARM}}
    if treatment == "encrypted":
        return {"type": kind, "data": "Ym9tYg=="}
    return {"type": kind, "file_id": "a"} if treatment == "unread" else {"type": kind, "text": HARM}


@pytest.mark.parametrize("kind", carriers.KINDS)
def test_blocks(kind):
    treatment = carriers.block_treatment(kind)
    calls = [call("order", "1", item=HARM)] if treatment == "call" else []
    proves(treatment, AIMessage([{"type": "text", "text": "well"}, block_of(kind)], tool_calls=calls), kind)


@pytest.mark.parametrize(("field", "key"), carriers.FIELDS)
def test_fields_beside_the_content(field, key):
    value = {
        "tool_calls": [{"id": "1", "function": {"name": "order", "arguments": HARM}}],
        "function_call": {"name": "order", "arguments": HARM},
        "audio": {"data": "AAAA", "transcript": "well"},
        "logprobs": tokens(HARM),
        "headers": {"x-note": "bomb"},
        "verdict": {"action": "allow", "reason": HARM},
        "__gemini_function_call_thought_signatures__": {"1": "bomb"},
    }.get(key, [{"says": HARM}] if key != "model_name" else HARM)
    proves(field_treatment(field, key), AIMessage("well", **{field: {key: value}}), key)


def refused_answer(answer):
    state, _, _ = run(answer)
    assert actions(state, "output") == ["refuse"]
    assert "bomb" not in str(state["messages"])


def refused_result(returns):
    state, _, model = run(returns=returns)
    assert actions(state, "tool_result") == ["refuse"]
    assert "bomb" not in str([state["messages"], model.seen, state.get("note")])
    return state


def raises(_call_id):
    raise ValueError(HARM)


def calls():
    state, _, _ = run(calling(call("order", item=HARM)))
    assert actions(state, "tool_args") == ["refuse"]
    assert "bomb" not in str(state["messages"])


def other_calls():
    refused_answer(
        AIMessage(
            "", invalid_tool_calls=[{"name": "x", "args": HARM, "id": "1", "error": None, "type": "invalid_tool_call"}]
        )
    )
    refused_answer(
        AIMessage(
            "", invalid_tool_calls=[{"name": "x", "args": "{", "id": "1", "error": HARM, "type": "invalid_tool_call"}]
        )
    )
    chunk = {"name": "order", "args": f"{HARM} {{", "id": "1", "index": 0, "type": "tool_call_chunk"}
    refused_answer(AIMessageChunk("", tool_call_chunks=[chunk]))


def encrypted():
    for field in ("encrypted_content", "encrypted_index", "encrypted_stdout"):
        state, _, _ = run(
            AIMessage([{"type": "text", "text": "well"}, {"type": "reasoning", "summary": [], field: "Ym9tYg=="}])
        )
        assert state["verdict"]["answer"] == "released"
        assert "provider alone" in listed(state)


def marks():
    for field in ("signature", "id", "status"):
        refused_answer(AIMessage([{"type": "thinking", "thinking": "hm", field: HARM}]))
    state, judge, _ = run(
        AIMessage([{"type": "text", "text": "well"}, {"type": "thinking", "thinking": "hm", "signature": "bomb"}])
    )
    assert (state["verdict"]["answer"], "bomb" in str(judge.seen)) == ("released", False)


def request_content():
    state, _, model = run(given=HARM)
    assert (state["verdict"]["action"], model.seen) == ("refuse", [])
    state, _, model = run(given={"messages": [HumanMessage([{"type": "video", "url": "https://a.example/a"}])]})
    assert (state["verdict"]["action"], model.seen) == ("refuse", [])
    assert state["verdict"]["unjudged"][0]["kind"] == "video"


def beside_a_request():
    fields = {"name": "bomb", "additional_kwargs": {"a": "bomb"}, "response_metadata": {"a": "bomb"}}
    for field, value in fields.items():
        state, judge, _ = run(given={"messages": [HumanMessage("hello", **{field: value})]})
        assert state["verdict"]["answer"] == "released"
        assert "bomb" not in str([one.content for seen in judge.seen for one in seen])
    stopped = {
        "messages": [
            HumanMessage(HARM, **fields),
            AIMessage("no", response_metadata={"verdict": {"action": "refuse"}}),
            HumanMessage("hi"),
        ]
    }
    _, _, model = run(given=stopped)
    assert "bomb" not in str(model.seen)


def result_content():
    refused_result(lambda i: HARM)
    state = run(returns=lambda i: ToolMessage([{"type": "file", "file_id": "a"}], tool_call_id=i))[0]
    assert actions(state, "tool_result") == ["refuse"]
    assert "'kind': 'file'" in listed(state, "tool_result")


def artifacts():
    state, _judge, _ = run(
        returns=lambda i: ToolMessage("well", tool_call_id=i, artifact={"rows": [HARM], "picture": b64()})
    )
    assert actions(state, "tool_result") == ["allow"]
    assert "artifact" in listed(state, "tool_result")
    state, _, _ = run(
        returns=lambda i: ToolMessage(
            "well", tool_call_id=i, artifact={"picture": {"type": "image", "base64": "nothing"}}
        )
    )
    assert actions(state, "tool_result") == ["refuse"]


def command_messages():
    refused_result(lambda i: Command(update={"messages": [ToolMessage(HARM, tool_call_id=i)]}))


def command_keys():
    refused_result(lambda i: Command(update={"messages": [ToolMessage("well", tool_call_id=i)], "note": HARM}))
    refused_result(lambda i: Command(update={"messages": [ToolMessage(HARM, tool_call_id=i)], "note": "bomb"}))


def goto():
    state, _judge, _ = run(
        returns=lambda i: Command(goto="__end__", update={"messages": [ToolMessage("well", tool_call_id=i)]})
    )
    assert actions(state, "tool_result") == ["allow"]


ELSEWHERE = {
    "`tool_calls`": calls,
    "`invalid_tool_calls`, `tool_call_chunks`": other_calls,
    "`encrypted_content`, `encrypted_index`, `encrypted_stdout` of any block": encrypted,
    "`signature`, `id`, `status` and other marks of any block": marks,
    "`name` of an answer": lambda: refused_answer(AIMessage("well", name=HARM)),
    "a request's content": request_content,
    "a request's `name`, `additional_kwargs`, `response_metadata`": beside_a_request,
    "a tool result's content": result_content,
    "a tool result's `artifact`": artifacts,
    "an exception of a tool": lambda: refused_result(raises),
    "`Command.update`: messages": command_messages,
    "`Command.update`: other keys, and what `Send` takes along": command_keys,
    "`Command.goto`": goto,
}


@pytest.mark.parametrize("carrier", [carrier for carrier, _ in carriers.ELSEWHERE])
def test_the_rest_of_the_table(carrier):
    ELSEWHERE[carrier]()


def test_the_page_says_what_the_code_does():
    assert page.marked("carriers", carriers.table()) in carriers.PAGE.read_text()
