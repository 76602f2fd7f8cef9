"""What the rewriter writes: the risk report and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from langchain_core.runnables import Runnable
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator

from langchain_vlmguard.rewriting.schema import DECIDED, Decision, KnownHazard, unfolded
from langchain_vlmguard.verdict.records import Action, Channel, Risk

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_LONGEST_RATIONALE = 500


def _cut(text: Any) -> Any:
    return text[:_LONGEST_RATIONALE] if isinstance(text, str) else text


class Threat(BaseModel):
    """One way in which the turn could do harm."""

    model_config = ConfigDict(frozen=True)

    channel: Channel
    hazard: KnownHazard
    rationale: Annotated[str, BeforeValidator(_cut)] = ""
    """Cut after 500 characters: a wordy reason is no reason to fail."""


class RiskReport(BaseModel):
    """The rewriter's reasoning: what could do harm, and what the person really wants."""

    model_config = ConfigDict(frozen=True)

    threats: list[Threat] = Field(description="What could do harm, by channel. Empty when nothing could.")
    intent: str = Field(description="What the person most likely wants.")
    legitimate_part: str = Field(default="", description="The part of it that is legitimate.")


class Rewrite(RiskReport):
    """The risk report and what follows from it, in the order in which the rewriter reasons.

    Its schema for models puts `action`, `risk` and `rewritten_prompt` into one `decision` after the reasons, because there a
    schema can say that a prompt goes with `rewrite` and with nothing else. Both spellings are read.

    ??? example

        ```python
        Rewrite(threats=[], intent="a kite", action="allow", risk=0)
        Rewrite.model_validate({"threats": [], "intent": "a kite", "decision": {"action": "allow", "risk": 0}})
        ```
    """

    action: Action
    risk: Risk = Field(description="From 0, none, to 1, certain and severe.")
    rewritten_prompt: str | None = Field(default=None, description="The new prompt; only with action 'rewrite'.")

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, given: Any) -> Any:
        return unfolded(given)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema for models; what is written down (mode `serialization`) stays flat."""
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

    @model_validator(mode="after")
    def _prompt_goes_with_rewrite(self) -> Self:
        if self.action == "rewrite" and not (self.rewritten_prompt or "").strip():
            msg = "action 'rewrite' needs a rewritten prompt"
            raise ValueError(msg)
        if self.action != "rewrite" and (self.rewritten_prompt or "").strip():
            msg = f"a rewritten prompt cannot go with action {self.action!r}"
            raise ValueError(msg)
        return self


Model = Runnable[Any, Any]
"""Anything that answers messages: a chat model, tools bound or not, or a chain that ends in one."""

Rewriter = Runnable[Any, Rewrite]
"""Anything that makes a `Rewrite` of messages: a `ReasoningRewriter`, a `GateJudge`, a rule."""
