"""The JSON Schema that a rewriter's model is given: what it allows, the validator takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator

from langchain_vlmguard.verdict.hazards import HAZARDS
from langchain_vlmguard.verdict.records import Action, HazardId, Risk

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_LONGEST_ID = 64


def _other_than(word: str) -> str:
    """Return a regular expression for every name but one, without lookahead, which grammars do not know."""
    begun = [rf"{word[:at]}(?:{_any_but(letter)}[a-z0-9_]*)?" for at, letter in enumerate(word) if at]
    return "|".join([f"{_any_but(word[0])}[a-z0-9_]*", *begun, f"{word}[a-z0-9_]+"])


def _any_but(letter: str) -> str:
    return f"[a-{chr(ord(letter) - 1)}{chr(ord(letter) + 1)}-z0-9_]"


KnownHazard = Annotated[
    HazardId,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(HAZARDS)},
                {
                    "type": "string",
                    "pattern": f"^(?:{_other_than('mlcommons')}):[A-Za-z0-9_.-]+$",
                    "maxLength": _LONGEST_ID,
                },
            ]
        }
    ),
]
"""A hazard's id whose schema says, too, that MLCommons' namespace holds twelve ids and no other."""


class RewriteDecision(BaseModel):
    """There is a threat, and a safe and useful answer exists."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["rewrite"]
    risk: Risk = Field(description="From 0, none, to 1, certain and severe.")
    rewritten_prompt: str = Field(pattern=r"\S", description="The new prompt: a safe request to the assistant.")


class OtherDecision(BaseModel):
    """The prompt is not rewritten."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["allow", "refuse", "review"]
    risk: Risk = Field(description="From 0, none, to 1, certain and severe.")


class Decision(BaseModel):
    """What a model writes after its reasons, in place of the flat fields `action`, `risk` and `rewritten_prompt`."""

    decision: RewriteDecision | OtherDecision = Field(description="What follows from all that.")


DECIDED = ("action", "risk", "rewritten_prompt")
"""Fields that the decision holds."""


def unfolded(given: object) -> object:
    """Return a model's answer with the fields of its decision beside the reasons.

    Raises:
        ValueError: It decides twice.
    """
    if not isinstance(given, dict) or "decision" not in given:
        return given
    reasons = {key: _parsed(value) if key == "threats" else value for key, value in given.items() if key != "decision"}
    decision = _parsed(given["decision"])
    if not isinstance(decision, dict) or any(reasons.get(key) is not None for key in DECIDED):
        msg = "it needs one decision, with an action and a risk"
        raise ValueError(msg)
    return {**reasons, **{key: value for key, value in decision.items() if key in DECIDED}}


def _parsed(value: object) -> object:
    """Return an object or list that a model wrote as text, as some do inside the arguments of a call, as what it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


class Decided(BaseModel):
    """Fields that follow from the reasons.

    The schema for models has them in one `decision` after the reasons: there it can say that a prompt goes with `rewrite` and
    with nothing else. Both spellings are read, and what is written down stays flat.
    """

    action: Action
    risk: Risk = Field(description="From 0, none, to 1, certain and severe.")
    rewritten_prompt: str | None = Field(default=None, description="The new prompt; only with action 'rewrite'.")

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, given: object) -> object:
        return unfolded(given)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema for models; in mode `serialization`, the flat one."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        if handler.mode == "serialization":
            return schema
        decision = handler.resolve_ref_schema(handler(Decision.__pydantic_core_schema__))
        reasons = {name: field for name, field in schema["properties"].items() if name not in DECIDED}
        return {
            **schema,
            "description": "The reasons first, and the decision after them.",
            "properties": {**reasons, **decision["properties"]},
            "required": [*(name for name in schema["required"] if name in reasons), "decision"],
        }
