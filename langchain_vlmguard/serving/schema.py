"""What the routes take and give, as OpenAPI: bodies, one error shape, and nothing that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.serving.http_errors import CODES

if TYPE_CHECKING:
    from pydantic import BaseModel

    from langchain_vlmguard.verdict.records import Json

_JSON = "application/json"
_ANY: Json = {"type": "object"}
_LIST: Json = {"type": "array", "items": {}}
_TEXTS: Json = {"type": "array", "items": {"type": "string"}}
RESPONSE: Json = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": _ANY}]},
        "instructions": {"type": "string"},
        "model": {"type": "string"},
        "stream": {"type": "boolean"},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "max_output_tokens": {"type": "integer", "minimum": 1},
        "tools": {"type": "array", "items": {**_ANY, "required": ["type"], "properties": {"type": {"type": "string"}}}},
        "text": _ANY,
        "reasoning": _ANY,
    },
}
"""What `/v1/responses` takes, as far as its form goes."""

GUARDRAIL: Json = {
    "type": "object",
    "properties": {
        "input_type": {"enum": ["request", "response"]},
        "texts": _TEXTS,
        "images": _TEXTS,
        "structured_messages": _LIST,
        "tools": _LIST,
        "tool_calls": _LIST,
    },
}
"""What LiteLLM sends; whatever has another form is judged as text."""

DECISION: Json = {
    "type": "object",
    "properties": {"decision": {"enum": ["approve", "reject", "edit"]}, "prompt": {"type": "string"}},
}
"""What a reviewer says."""

_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"enum": [*CODES]},
            },
        }
    },
}


def takes(body: type[BaseModel] | Json) -> Json:
    """Describe a route that takes JSON.

    Args:
        body: A model, or a schema.
    """
    schema = body if isinstance(body, dict) else _inlined(body.model_json_schema())
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": schema}}}}


def numbered(name: str) -> Json:
    """Describe a route with an id in its path."""
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]}


def answers(*kinds: str) -> dict[int | str, Json]:
    """Describe what a route gives: its answer in some media types, JSON by default, and the one error shape."""
    content = {kind: {"schema": _ANY if kind == _JSON else {"type": "string"}} for kind in kinds or (_JSON,)}
    return {
        200: {"description": "The answer.", "content": content},
        "default": {"description": "The one error shape.", "content": {_JSON: {"schema": _ERROR}}},
    }


def _inlined(schema: Json) -> Json:
    """Return a schema whose definitions stand where they are used: an OpenAPI document has no place for `$defs`."""
    known = schema.get("$defs", {})

    def put(value: object) -> object:
        if isinstance(value, list):
            return [put(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return put(known[str(value["$ref"]).rpartition("/")[2]])
        return {key: put(one) for key, one in value.items() if key not in ("$defs", "discriminator")}

    found = put(schema)
    assert isinstance(found, dict)  # noqa: S101 - it began as one
    return found
