"""What the rewriter writes: the risk report and what follows from it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from langchain_core.runnables import Runnable
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from langchain_vlmguard.rewriting.schema import Decided, KnownHazard
from langchain_vlmguard.verdict.records import Channel

_LONGEST_RATIONALE = 500


def _cut(text: object) -> object:
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


class Rewrite(Decided, RiskReport):
    """The risk report and what follows from it, in the order in which the rewriter reasons.

    Its schema for models puts `action`, `risk` and `rewritten_prompt` into one `decision` after the reasons, because there a
    schema can say that a prompt goes with `rewrite` and with nothing else. Both spellings are read.

    ??? example

        ```python
        Rewrite(threats=[], intent="a kite", action="allow", risk=0)
        Rewrite.model_validate({"threats": [], "intent": "a kite", "decision": {"action": "allow", "risk": 0}})
        ```
    """

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
