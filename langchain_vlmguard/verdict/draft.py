"""The verdict in the making: typed and frozen; every step of the guard returns the next one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from langchain_vlmguard.verdict.failures import said_of
from langchain_vlmguard.verdict.hazards import titles_of
from langchain_vlmguard.verdict.policy import severest
from langchain_vlmguard.verdict.records import (
    CHECK,
    Action,
    AnswerFate,
    EvidenceNote,
    GuardFailure,
    Hazard,
    Json,
    Provenance,
    Record,
    Risk,
    SafetyVerdict,
    SecurityFinding,
    Severity,
    SteeringTrace,
    Unjudged,
    VisualScore,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_vlmguard.verdict.policy import GuardPolicy


class Draft(Record):
    """What the guard has found so far. `to_verdict` makes the verdict of it; graph state keeps it as JSON."""

    id: str = ""
    """Names the turn that was read, for the steps of one run."""

    action: Action = "allow"
    reason: str = ""
    failure: GuardFailure | None = None
    reviewed: Literal["approve", "edit", "reject"] | None = None
    enforced: bool = True
    unjudged: tuple[Unjudged, ...] = ()

    risk: Risk | None = None
    """Risk of the request, as the rewriter judged it."""

    hazards: tuple[Hazard, ...] = ()
    intent: str | None = None
    rewritten_prompt: str | None = None
    rewriter: str | None = None
    """Identity of the rewriter that was asked."""

    evidence: tuple[EvidenceNote, ...] = ()
    evidence_risk: Risk | None = None
    evidence_reader: str | None = None
    visual: tuple[VisualScore, ...] = ()
    security: tuple[SecurityFinding, ...] = ()
    quotes: tuple[str, ...] = ()
    """Words found in pictures, as the rewriter gets them."""

    withheld: tuple[str, ...] = ()
    """SHA-256 of earlier turns' pictures that the model does not get."""

    answer: AnswerFate = "none"
    answer_risk: Risk | None = None
    answer_judge: str | None = None
    second_risk: Risk | None = None
    second_reader: str | None = None
    steering: SteeringTrace | None = None
    model: dict[str, str] = Field(default_factory=dict)
    """What the model said about itself: fields of the verdict's provenance."""

    usage: dict[str, int] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether nothing has been decided against the turn, and nothing put in its place."""
        return self.action == "allow"

    @property
    def lets_answer(self) -> bool:
        """Whether the model may answer."""
        return self.action in ("allow", "rewrite")

    def copy_with(self, **changes: Any) -> Self:
        """Return the draft with other values in some fields."""
        return self.model_copy(update=changes)

    def stop(self, action: Action, reason: str) -> Self:
        """Return the draft after something decided the turn."""
        return self.copy_with(action=action, reason=reason)

    def withhold(self, action: Action, reason: str) -> Self:
        """Return the draft after something decided that the model's answer stays in."""
        return self.copy_with(action=action, reason=reason, answer="withheld")

    def fail(self, failure: GuardFailure, action: Action) -> Self:
        """Return the draft after the guard itself failed."""
        return self.copy_with(action=action, failure=failure, reason=said_of(failure.stage))

    def skip(self, where: str, reason: str) -> Self:
        """Return the draft with a check that nobody made, listed once."""
        if any(part.where == where and not part.is_unread for part in self.unjudged):
            return self
        return self.copy_with(unjudged=(*self.unjudged, Unjudged(where=where, kind=CHECK, reason=reason)))

    def spend(self, stage: str, seconds: float, usage: dict[str, int]) -> Self:
        """Return the draft with the seconds and tokens of a stage added."""
        timings = {**self.timings, stage: round(self.timings.get(stage, 0.0) + seconds, 4)}
        return self.copy_with(timings=timings, usage=_sum(self.usage, usage))

    def decide(self, kind: Literal["approve", "edit", "reject"], prompt: str | None) -> Self:
        """Return the draft of a turn that a person decided about.

        Approving a turn whose rewriting the policy wanted reviewed approves the rewritten prompt.
        """
        draft = self.copy_with(reviewed=kind)
        if kind == "reject":
            return draft.stop("refuse", "A person rejected this turn.")
        if kind == "edit":
            return draft.copy_with(rewritten_prompt=prompt).stop("rewrite", "A person edited the prompt.")
        return draft.stop("rewrite" if draft.rewritten_prompt else "allow", "A person approved this turn.")

    def settle(self, *, asks_people: bool) -> Self:
        """Return the draft in which review is refusal if nobody can be asked."""
        return self if asks_people or self.action != "review" else self.copy_with(action="refuse")

    def join(self, parts: Iterable[Draft]) -> Draft:
        """Return the draft joined with those of an answer's parts: the severest action, every hazard, the highest risk."""
        parts = tuple(parts)
        everything: tuple[Draft, ...] = (self, *parts)
        action = severest([one.action for one in everything])
        decisive = next(one for one in everything if one.action == action)
        return self.copy_with(
            action=action,
            reason=decisive.reason,
            failure=decisive.failure or self.failure,
            unjudged=(*self.unjudged, *(one for part in parts for one in part.unjudged)),
            hazards=_distinct([*self.hazards, *(one for part in parts for one in part.hazards)]),
            answer_risk=_highest(self.answer_risk, *(part.answer_risk for part in parts)),
            answer_judge=next((one.answer_judge for one in everything if one.answer_judge), None),
            usage=_sum(self.usage, *(part.usage for part in parts)),
        )

    def to_verdict(self, policy: GuardPolicy) -> SafetyVerdict:
        """Return the verdict under a policy."""
        gate = self.steering.risk if self.steering else None
        shown = max((one.score for one in self.visual if one.is_over), default=None)
        risk = _highest(self.risk, shown, self.evidence_risk, self.answer_risk, self.second_risk, gate)
        severity = None if risk is None else policy.severity(risk)
        return SafetyVerdict(
            action=self.action,
            risk=risk,
            severity=severity,
            hazards=list(self.hazards),
            unjudged=list(self.unjudged),
            security=list(self.security),
            evidence=list(self.evidence),
            visual=list(self.visual),
            evidence_risk=self.evidence_risk,
            answer_risk=self.answer_risk,
            second_risk=self.second_risk,
            withheld=list(self.withheld),
            intent=self.intent,
            rewritten_prompt=self.rewritten_prompt if self.action == "rewrite" else None,
            steering=self.steering,
            answer=self.answer,
            reviewed=self.reviewed,
            enforced=self.enforced,
            failure=self.failure,
            reason=self.reason or self._found(policy, severity),
            provenance=Provenance(
                rewriter=self.rewriter,
                evidence=self.evidence_reader,
                answers=self.answer_judge,
                second_reader=self.second_reader,
                policy=policy.hash,
                thresholds=policy.thresholds,
                **self.model,
            ),
            usage=self.usage,
            timings=self.timings,
        )

    def _found(self, policy: GuardPolicy, severity: Severity | None) -> str:
        """Say what a judge found where that alone stopped something: in the guard's own words, which quote nobody."""
        if self.lets_answer:
            return ""
        titles = titles_of(hazard.id for hazard in self.hazards if policy.counts(hazard.id))
        if titles:
            return (
                f"The judge found a hazard: {titles[0]}."
                if len(titles) == 1
                else f"The judge found hazards: {', '.join(titles)}."
            )
        said = "advised against it" if severity in (None, "safe") else f"found it {severity}"
        return f"The judge {said}, and named no hazard."

    def to_state(self) -> Json:
        """Return the draft as a plain JSON-safe dict, as graph state keeps it."""
        return self.model_dump(mode="json")

    @classmethod
    def of_verdict(cls, verdict: SafetyVerdict) -> Self:
        """Return the draft of a turn that was judged before, to go on from."""
        made_by = verdict.provenance
        same = ("action", "reason", "failure", "reviewed", "enforced", "intent", "rewritten_prompt", "evidence_risk")
        return cls(
            **{name: getattr(verdict, name) for name in same},
            unjudged=tuple(verdict.unjudged),
            risk=verdict.risk if made_by.rewriter is not None else None,
            hazards=tuple(verdict.hazards),
            rewriter=made_by.rewriter,
            evidence=tuple(verdict.evidence),
            visual=tuple(verdict.visual),
            evidence_reader=made_by.evidence,
            security=tuple(verdict.security),
            withheld=tuple(verdict.withheld),
            usage=verdict.usage,
            timings=verdict.timings,
        )

    @classmethod
    def from_state(cls, state: Json) -> Self:
        """Return the draft of a dict from graph state."""
        return cls.model_validate(state)


def _highest(*risks: float | None) -> float | None:
    return max((risk for risk in risks if risk is not None), default=None)


def _distinct(hazards: Iterable[Hazard]) -> tuple[Hazard, ...]:
    found: list[Hazard] = []
    for hazard in hazards:
        if hazard not in found:
            found.append(hazard)
    return tuple(found)


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
