"""The guard of one middleware: what it checks, and what is done about what it finds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self

from langchain_vlmguard.agents.passed import PassedResults
from langchain_vlmguard.errors import GuardViolationError
from langchain_vlmguard.guard.events import publish
from langchain_vlmguard.guard.reviews import can_wait
from langchain_vlmguard.guard.state import check_record
from langchain_vlmguard.verdict.failures import LOGGER
from langchain_vlmguard.verdict.refusals import NO_CHECKPOINTER, refusal_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from langgraph.types import StreamWriter

    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.guard.state import CheckRecord, Stage
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import SafetyVerdict

_NEARLY = 0.75
"""How alike two names are of which one is taken for a misspelling of the other."""

ExitBehavior = Literal["end", "replace", "error"]
OnReview = Literal["interrupt", "refuse"]
Mode = Literal["enforce", "monitor"]


@dataclass(frozen=True)
class AgentGuard:
    """The options of one middleware, and the guard behind it."""

    guard: GuardParts
    name: str
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
    passed: PassedResults = field(default_factory=PassedResults, compare=False)
    """Results that were judged since the last model call."""

    def for_run(self) -> Self:
        """Return the same under the policy of the run around this call."""
        guard = self.guard.for_run()
        return self if guard is self.guard else replace(self, guard=guard)

    @property
    def policy(self) -> GuardPolicy:
        """The policy."""
        return self.guard.policy

    @property
    def monitors(self) -> bool:
        """Whether everything is recorded and nothing is changed."""
        return self.mode == "monitor"

    @property
    def mutes(self) -> bool:
        """Whether the model must not stream before its answer is judged."""
        watches = self.check_output or self.check_tool_args or self.parallel
        return not self.monitors and (
            watches or self.policy.withholds or self.policy.rewriting.when in ("adaptive", "answer_first")
        )

    def check_tools(self, known: Collection[str]) -> None:
        """Check the names in `tools` against the tools of a request.

        Another middleware may have left tools out of it, so a name that is not there is no error by itself; it is logged. One
        that is nearly the name of a tool that nobody would check is a misspelling.

        Raises:
            ValueError: A name is misspelt: that tool would go unchecked.
        """
        unchecked = sorted(frozenset(known) - (self.tools or frozenset()))
        for name in sorted((self.tools or frozenset()) - frozenset(known)):
            if meant := get_close_matches(name, unchecked, 1, _NEARLY):
                msg = f"the guard is to check a tool {name!r} that this agent does not have: is {meant[0]!r} meant?"
                raise ValueError(msg)
            _warn_of(self.name, name, ", ".join(sorted(known)) or "none")

    def covers(self, tool: str | None) -> bool:
        """Whether a tool is among those to be checked."""
        return self.tools is None or tool in self.tools

    def note(self, kind: str, key: str = "") -> str:
        """Return the key of a note in the guard's private state."""
        return f"{self.name}/{kind}/{key}"

    def verdict(self, draft: Draft) -> SafetyVerdict:
        """Return the verdict of a draft; in monitor mode it says what would have been done."""
        return draft.copy_with(enforced=not self.monitors).to_verdict(self.policy)

    def record(self, stage: Stage, draft: Draft, *, tool: str | None = None, call: str | None = None) -> CheckRecord:
        """Return the record of a check."""
        return check_record(stage, self.name, self.verdict(draft), {"name": tool, "id": call})

    def report(self, writer: StreamWriter, records: Sequence[CheckRecord]) -> None:
        """Publish checks on the custom stream, and to telemetry if there is some."""
        publish(writer, records)
        if self.guard.telemetry is not None:
            self.guard.telemetry.record(records)

    def settle(self, draft: Draft) -> Draft:
        """Return a draft in which review is refusal if nobody may or can be asked."""
        if draft.action == "review" and self.on_review == "interrupt" and not (self.monitors or can_wait()):
            return draft.stop("refuse", f"{draft.reason} {NO_CHECKPOINTER}".strip())
        return draft.settle(asks_people=self.on_review == "interrupt")

    def raise_violation(self, stage: Stage, draft: Draft) -> None:
        """Raise if violations are to be errors.

        Raises:
            GuardViolationError: `exit_behavior` is `"error"`.
        """
        if self.exit_behavior == "error":
            raise GuardViolationError(stage, self.verdict(draft).to_state())

    def notice(self, draft: Draft, stage: Stage) -> str:
        """Return the words that stand in for what was stopped."""
        verdict = self.verdict(draft)
        if self.violation_message is None:
            return refusal_text(verdict, self.policy)
        hazards = ", ".join(dict.fromkeys(hazard.id for hazard in verdict.hazards))
        return self.violation_message.format(
            hazards=hazards, reason=verdict.reason, stage=stage, safe_way=self.policy.safe_way, action=verdict.action
        )


@lru_cache(maxsize=256)
def _warn_of(guard: str, name: str, has: str) -> None:
    """Log a name once, not with every call."""
    told = (
        "%s is to check a tool %r that a request does not offer (it offers: %s); if no request does, the name is wrong"
    )
    logging.getLogger(LOGGER).warning(told, guard, name, has)
