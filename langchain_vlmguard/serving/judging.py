"""A guard that judges for others and asks no model: turns that somebody else answers, and their answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from langchain_vlmguard.faces.node import VLMGuardNode
from langchain_vlmguard.verdict.records import SafetyVerdict

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage

    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.rewriting.report import Model


@dataclass(frozen=True)
class Judged:
    """An answer, or the refusal in its place, with its verdict."""

    message: AIMessage
    verdict: SafetyVerdict

    @property
    def is_released(self) -> bool:
        """Whether the model's answer, or a person's version of it, was let out."""
        return self.verdict.action in ("allow", "rewrite") and self.verdict.answer in ("released", "replaced")


class Judging:
    """Judges by a guard's node."""

    def __init__(self, guard: GuardParts, model: Model | None = None) -> None:
        """Take a guard.

        Args:
            guard: The guard.
            model: The model that answers, if it is known: what can judge in it is used.

        Raises:
            NoJudgeError: Nobody judges anything.
        """
        self.guard = guard
        self.node = VLMGuardNode(guard, model=model)

    async def judge(self, conversation: list[BaseMessage]) -> tuple[SafetyVerdict, list[BaseMessage]]:
        """Judge a turn that somebody else's model will answer; return the verdict and what that model may be shown."""
        state = {"messages": conversation}
        update = await self.node.ainvoke(state)
        verdict = SafetyVerdict.from_state(update["verdict"])
        if verdict.action not in ("allow", "rewrite"):
            return verdict, []
        return verdict, await asyncio.to_thread(self.node.for_model, {**state, "verdict": update["verdict"]})

    async def judge_answer(self, conversation: list[BaseMessage], answer: AIMessage, verdict: SafetyVerdict) -> Judged:
        """Judge an answer that somebody else's model gave to a turn with a verdict."""
        state = {"messages": [*conversation, answer], "verdict": verdict.to_state()}
        update = await self.node.judge_answer.ainvoke(state)
        message = cast("list[AIMessage]", update["messages"])[-1]
        return Judged(message, SafetyVerdict.from_state(update["verdict"]))
