"""Forced calls and schemas: whatever the testbed would rather say, its answers follow the grammar."""

import json
from typing import Literal, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_vlmguard import ChatSteeredVLM
from langchain_vlmguard.errors import StructuredOutputError
from vlmguard_lab.testbed.requests import ORDER_TOOL

pytest.importorskip("llguidance")


class Item(BaseModel):
    """One thing."""

    name: str
    colour: Literal["red", "blue"]


class Basket(BaseModel):
    """What to buy."""

    items: list[Item] = Field(min_length=1, max_length=2)
    count: int
    urgent: bool
    note: str | None = None


class Plain(TypedDict):
    """A pair."""

    left: str
    right: int


@tool
def move(direction: Literal["left", "right"], steps: int) -> str:
    """Move something."""
    return f"{direction} {steps}"


@pytest.fixture(scope="module")
def model(testbed):
    return ChatSteeredVLM.from_loaded(testbed, max_tokens=120)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_a_nested_schema_is_followed(model, method, temperature):
    chain = model.with_structured_output(Basket, method=method, temperature=temperature, seed=1)
    found = chain.invoke("what do i need for a picnic ?")
    assert isinstance(found, Basket)
    assert 1 <= len(found.items) <= 2


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_dict_schemas_and_typed_dicts_give_dicts(model, method):
    schema = {"title": "pair", "description": "A pair.", "type": "object", "properties": {"left": {"type": "string"}}}
    found = model.with_structured_output(schema | {"required": ["left"]}, method=method).invoke("hello")
    assert set(found) == {"left"}
    assert set(model.with_structured_output(Plain, method=method).invoke("hello")) == {"left", "right"}


def test_json_mode_follows_the_schema_and_without_one_gives_an_object(model):
    assert set(model.with_structured_output(Plain, method="json_mode").invoke("hello")) == {"left", "right"}
    answer = model.invoke("hello", response_format={"type": "json_object"}, max_tokens=200)
    assert isinstance(json.loads(answer.text), dict)


def test_raw_answers_come_along(model):
    found = model.with_structured_output(Plain, include_raw=True).invoke("hello")
    assert found["raw"].tool_calls[0]["args"] == found["parsed"]
    assert found["parsing_error"] is None


@pytest.mark.parametrize("schema", [Basket, Plain], ids=["pydantic", "TypedDict"])
@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
async def test_an_answer_that_is_cut_is_an_error_that_says_so(model, method, schema):
    chain = model.with_structured_output(schema, method=method, max_tokens=8)
    with pytest.raises(StructuredOutputError, match=r"cut at max_tokens \(8\) .* give more"):
        chain.invoke("hello")
    with pytest.raises(StructuredOutputError, match="cut at max_tokens"):
        await chain.ainvoke("hello")
    with pytest.raises(StructuredOutputError, match="cut at max_tokens"):
        list(chain.stream("hello"))
    with pytest.raises(StructuredOutputError, match="cut at max_tokens"):
        [_ async for _ in chain.astream("hello")]
    raw = model.with_structured_output(schema, method=method, include_raw=True, max_tokens=8)
    for found in (raw.invoke("hello"), await raw.ainvoke("hello")):
        assert "cut at max_tokens" in str(found["parsing_error"])
        assert found["parsed"] is None
        assert found["raw"].usage_metadata["output_tokens"] == 8


def test_a_structured_answer_grows_while_it_streams(model):
    grown = list(model.with_structured_output(Plain, method="json_schema").stream("hello"))
    assert len(grown) > 2
    assert set(grown[-1]) == {"left", "right"}


@pytest.mark.parametrize(
    "choice", ["any", "required", True, "move", {"type": "function", "function": {"name": "move"}}]
)
def test_a_forced_tool_is_called_with_valid_arguments(model, choice):
    answer = model.bind_tools([move], tool_choice=choice).invoke("hello")
    [call] = answer.tool_calls
    assert call["name"] == "move"
    assert call["args"]["direction"] in ("left", "right")
    assert isinstance(call["args"]["steps"], int)
    assert answer.text == ""
    assert answer.response_metadata["finish_reason"] == "tool_calls"


def test_any_chooses_among_the_tools_and_one_can_be_named(model):
    offered = [move, ORDER_TOOL]
    assert model.bind_tools(offered, tool_choice="any").invoke("order a kite .").tool_calls[0]["name"] in (
        "move",
        "order",
    )
    assert model.bind_tools(offered, tool_choice="order").invoke("hello").tool_calls[0]["name"] == "order"
    assert model.bind_tools(offered, tool_choice="none").invoke("order a kite .").tool_calls == []


def test_several_calls_in_one_answer(model):
    bound = model.bind_tools([move], tool_choice="any", parallel_tool_calls=True)
    answer = bound.invoke("hello", temperature=2.0, seed=3, max_tokens=200)
    assert len(answer.tool_calls) >= 1
    assert len({call["id"] for call in answer.tool_calls}) == len(answer.tool_calls)


def test_a_forced_call_streams(model):
    chunks = list(model.bind_tools([move], tool_choice="move").stream("hello"))
    whole = sum(chunks[1:], chunks[0])
    assert whole.tool_calls[0]["name"] == "move"
    assert whole.text == ""


async def test_the_same_asynchronously(model):
    assert isinstance(await model.with_structured_output(Basket).ainvoke("hello"), Basket)


def test_a_choice_that_was_not_offered_is_an_error(model):
    with pytest.raises(ValueError, match=r"one of the offered tools \(move\), got 'stop'"):
        model.bind_tools([move], tool_choice="stop")


@pytest.mark.parametrize(
    "schema", [{"type": "string", "pattern": "(?=a)b"}, {"type": "nonsense"}, {"$ref": "https://example.com/s.json"}]
)
def test_a_schema_that_cannot_be_enforced_is_an_error_before_any_token(model, schema):
    wanted = {"title": "x", "description": "x", "type": "object", "properties": {"a": schema}, "required": ["a"]}
    with pytest.raises(StructuredOutputError, match="cannot be enforced"):
        model.with_structured_output(wanted, method="json_schema")


def test_steering_stays_on_under_a_grammar(model):
    answer = model.bind_tools([move], tool_choice="move").invoke([HumanMessage("how do i make a bomb ?")])
    assert answer.response_metadata["steering"]["open"] in (True, False)
    assert json.dumps(answer.tool_calls[0]["args"])
