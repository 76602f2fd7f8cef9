"""The judge of an agent: options, the guard's steps, and many checks at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.runnables import RunnableLambda

from langchain_vlmguard.agents.events import publish
from langchain_vlmguard.errors import GuardViolationError
from langchain_vlmguard.guard.refusals import refusal_text
from langchain_vlmguard.guard.subjects import as_turn
from langchain_vlmguard.verdict.policy import SEVEREST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.agents.state import CheckRecord, Stage
    from langchain_vlmguard.agents.telemetry import GuardTelemetry
    from langchain_vlmguard.guard.nodes import GuardNodes
    from langchain_vlmguard.guard.state import VLMGuardState
    from langchain_vlmguard.guard.subjects import Phrase, Subject

ExitBehavior = Literal["end", "replace", "error"]
OnReview = Literal["interrupt", "refuse"]
Mode = Literal["enforce", "monitor"]

MOST_AT_ONCE = 8
"""Checks of one model call that run at the same time."""


def _no_model(_: Any) -> Any:
    msg = "this check has no model to ask"
    raise RuntimeError(msg)


NO_MODEL: Runnable[Any, Any] = RunnableLambda(_no_model)


@dataclass(frozen=True)
class AgentGuard:
    """Options of one middleware, and the guard behind it."""

    nodes: GuardNodes
    name: str
    phrase: Phrase
    check_input: bool = True
    check_tool_args: bool = True
    check_tool_results: bool = True
    check_output: bool = True
    tools: frozenset[str] | None = None
    exit_behavior: ExitBehavior = "end"
    on_review: OnReview = "interrupt"
    violation_message: str | None = None
    mode: Mode = "enforce"
    parallel: bool = False
    show_held: bool = False
    telemetry: GuardTelemetry | None = None

    @property
    def judges(self) -> bool:
        """Whether there is anything that judges, beyond reading."""
        return self.nodes.rewriter is not None and self.nodes.policy.rewrite != "never"

    @property
    def monitors(self) -> bool:
        """Whether everything is recorded and nothing is changed."""
        return self.mode == "monitor"

    @property
    def mutes(self) -> bool:
        """Whether the model must not stream before its answer is judged."""
        watches = self.check_output or self.check_tool_args or self.parallel
        return not self.monitors and (watches or self.nodes.policy.withholds)

    def covers(self, tool: str | None) -> bool:
        """Say whether a tool is among those to be checked."""
        return self.tools is None or tool in self.tools

    def with_model(self, model: Runnable[Any, Any]) -> AgentGuard:
        """Return the guard of one model call, whose judge may use the model's own states."""
        return replace(self, nodes=replace(self.nodes, model=model))

    def note(self, kind: str, key: str = "") -> str:
        """Return the key of a note in the guard's private state."""
        return f"{self.name}/{kind}/{key}"

    def record(
        self, stage: Stage, draft: dict[str, Any], *, tool: str | None = None, call: str | None = None
    ) -> CheckRecord:
        """Return the record of a check."""
        verdict = self.nodes.verdict(draft).to_state()
        return {"stage": stage, "guard": self.name, "tool": tool, "call_id": call, "verdict": verdict}

    def report(self, writer: Callable[[Any], None], records: list[CheckRecord]) -> None:
        """Publish checks on the custom stream, and to OpenTelemetry where that is wanted."""
        publish(writer, records)
        if self.telemetry is not None:
            self.telemetry.record(records)

    def settled(self, draft: dict[str, Any]) -> dict[str, Any]:
        """Return a draft in which review is refusal where nobody can be asked."""
        return {**draft, "action": "refuse"} if draft["action"] == "review" and self.on_review == "refuse" else draft

    def raises(self, stage: Stage, draft: dict[str, Any]) -> None:
        """Raise where violations are errors.

        Raises:
            GuardViolationError: `exit_behavior` is `"error"`.
        """
        if self.exit_behavior == "error":
            raise GuardViolationError(stage, self.nodes.verdict(draft).to_state())

    def notice(self, draft: dict[str, Any], stage: Stage) -> str:
        """Return the words that stand in for what was stopped."""
        verdict = self.nodes.verdict(draft)
        policy = self.nodes.policy
        if self.violation_message is None:
            return refusal_text(verdict, policy)
        hazards = ", ".join(dict.fromkeys(hazard.id for hazard in verdict.hazards))
        return self.violation_message.format(
            hazards=hazards, reason=verdict.reason, stage=stage, safe_way=policy.safe_way, action=verdict.action
        )

    def judge(self, turns: Sequence[Sequence[BaseMessage]]) -> list[VLMGuardState]:
        """Judge conversations, each by its last turn, several at once."""
        if len(turns) < 2:  # noqa: PLR2004 - one alone needs no thread
            return [self._judge_one(turn) for turn in turns]
        with ThreadPoolExecutor(min(len(turns), MOST_AT_ONCE)) as pool:
            waiting = [pool.submit(copy_context().run, self._judge_one, turn) for turn in turns]
            return [one.result() for one in waiting]

    async def ajudge(self, turns: Sequence[Sequence[BaseMessage]]) -> list[VLMGuardState]:
        """Judge conversations without blocking the event loop."""
        return list(await asyncio.gather(*map(self._ajudge_one, turns)))

    def _judge_one(self, turn: Sequence[BaseMessage]) -> VLMGuardState:
        return self._as_subject(self.nodes.judge(self.nodes.read(turn)))

    async def _ajudge_one(self, turn: Sequence[BaseMessage]) -> VLMGuardState:
        state = await asyncio.to_thread(self.nodes.read, turn)
        return self._as_subject(await self.nodes.ajudge(state))

    def _as_subject(self, state: VLMGuardState) -> VLMGuardState:
        """Take a rewriting of what is no prompt for what it says: as it stands, it should not go out."""
        draft = state["draft"]
        if draft["action"] == "rewrite":
            draft = {**draft, "action": "refuse", "rewritten_prompt": None}
        return {**state, "draft": self.settled({**draft, "enforced": not self.monitors})}

    def subject_turn(self, subject: Subject, context: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Put a subject as a turn of its own; without a judge there is nobody to read the context."""
        return as_turn(subject, self.phrase, context if self.judges else ())


def joined(draft: dict[str, Any], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join a turn's draft with those of its answer's checks: the severest action, all hazards, tokens and seconds."""
    severest = max([draft, *found], key=lambda one: SEVEREST.index(one["action"]))
    usage = sum((Counter(one.get("usage", {})) for one in (draft, *found)), Counter())
    hazards = [*draft.get("hazards", [])]
    hazards += [one for other in found for one in other.get("hazards", []) if one not in hazards]
    return {
        **draft,
        "action": severest["action"],
        "reason": severest.get("reason", ""),
        "failure": severest.get("failure") or draft.get("failure"),
        "unjudged": [*draft["unjudged"], *(part for other in found for part in other["unjudged"])],
        "hazards": hazards,
        "asked": any(one.get("asked", False) for one in (draft, *found)),
        "risk": max(one.get("risk", 0.0) for one in (draft, *found)),
        "usage": dict(usage),
    }


def withheld(guard: AgentGuard, draft: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the check of an answer that the model's own states, or its broken metadata, kept back; it took no time."""
    if draft["answer"] != "withheld":
        return []
    return [{**guard.settled(draft), "answer": "none", "usage": {}, "timings": {}}]
