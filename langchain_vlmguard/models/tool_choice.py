"""Tools and schemas that a call is bound to: what the template shows, and what the decoder enforces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_vlmguard.models.structured import call_grammar, json_grammar
from langchain_vlmguard.models.whole_answers import whole_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.language_models import LanguageModelInput
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.output_parsers import BaseOutputParser
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    Offered = Mapping[str, object] | type | Callable[..., object] | BaseTool
    """A tool in any form that LangChain knows."""

_SCALAR = {"anyOf": [{"type": kind} for kind in ("string", "integer", "boolean", "null")]}
ANY_OBJECT: dict[str, object] = {
    "type": "object",
    "patternProperties": {"^[A-Za-z_][A-Za-z0-9_]{0,31}$": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}},
    "additionalProperties": False,
    "maxProperties": 8,
}
"""A JSON object whose shape is left to the model, bounded so that it ends."""

Method = Literal["function_calling", "json_schema", "json_mode"]


def bound_tools(
    tools: Sequence[Offered],
    *,
    tool_choice: str | bool | Mapping[str, Any] | None,
    several: bool,
) -> dict[str, object]:
    """Return what `bind` needs for tools and a choice among them, in any of LangChain's spellings.

    Raises:
        ValueError: The choice names no offered tool.
    """
    converted = [convert_to_openai_tool(tool) for tool in tools]
    names = [tool["function"]["name"] for tool in converted]
    if isinstance(tool_choice, Mapping):
        tool_choice = tool_choice.get("function", tool_choice).get("name")
    if tool_choice == "none":
        return {"tools": []}
    if tool_choice in (None, False, "auto"):
        return {"tools": converted}
    if tool_choice in (True, "any", "required"):
        return {"tools": converted, "required": names, "several": several}
    if tool_choice not in names:
        msg = f"tool_choice must be 'auto', 'none', 'any' or one of the offered tools ({', '.join(names)}), got {tool_choice!r}"
        raise ValueError(msg)
    return {"tools": converted, "required": [tool_choice], "several": several}


def offered_names(kwargs: Mapping[str, Any]) -> list[str]:
    """Return the names of the tools that a call offers."""
    return [tool["function"]["name"] for tool in kwargs.get("tools") or ()]


def required_grammar(kwargs: dict[str, Any], max_tokens: int) -> str | None:
    """Return the grammar that a call's `required` tools or `response_format` ask for.

    Raises:
        StructuredOutputError: It cannot be enforced.
    """
    if kwargs.get("required"):
        tools = [tool for tool in kwargs["tools"] if tool["function"]["name"] in kwargs["required"]]
        return _grammar(json.dumps(tools), max_tokens, "several" if kwargs.get("several") else "one")
    wanted = kwargs.get("response_format")
    if not wanted:
        return None
    if not isinstance(wanted, dict):
        schema = convert_to_json_schema(wanted)
    elif wanted.get("type") == "json_object":
        schema = ANY_OBJECT
    else:
        inner = wanted.get("json_schema", wanted)
        schema = inner.get("schema", inner)
    return _grammar(json.dumps(schema), max_tokens, "schema")


@lru_cache(maxsize=128)
def _grammar(given: str, max_tokens: int, kind: str) -> str:
    value = json.loads(given)
    if kind == "schema":
        return json_grammar(value, max_tokens=max_tokens)
    return call_grammar(value, max_tokens=max_tokens, several=kind == "several")


def structured_runnable(
    model: BaseChatModel, schema: dict[str, Any] | type, *, method: Method, include_raw: bool, **kwargs: object
) -> Runnable[LanguageModelInput, object]:
    """Return `model` bound to a schema, followed by the parser of its answers.

    Raises:
        ValueError: There is no such method.
        StructuredOutputError: The schema cannot be enforced.
    """
    parser: BaseOutputParser[object]
    pydantic: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    described = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
    if method == "function_calling":
        tool = convert_to_openai_tool(schema)
        name = tool["function"]["name"]
        bound = model.bind_tools([schema], tool_choice=name, **described, **kwargs)
        parser = (
            PydanticToolsParser(tools=[pydantic], first_tool_only=True)
            if pydantic
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
        required_grammar({"tools": [tool], "required": [name]}, 256)
    elif method in ("json_schema", "json_mode"):
        response_format = {"type": "json_schema", "json_schema": {"schema": convert_to_json_schema(schema)}}
        bound = model.bind(response_format=response_format, **described, **kwargs)
        parser = PydanticOutputParser(pydantic_object=pydantic) if pydantic else JsonOutputParser()
        required_grammar({"response_format": response_format}, 256)
    else:
        msg = f"method must be 'function_calling', 'json_schema' or 'json_mode', got {method!r}"
        raise ValueError(msg)
    whole = whole_answers() | parser
    return _with_raw(bound, whole) if include_raw else bound | whole


def _with_raw(
    bound: Runnable[LanguageModelInput, AIMessage], parser: Runnable[AIMessage, object]
) -> Runnable[LanguageModelInput, object]:
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
