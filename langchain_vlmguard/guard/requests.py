"""Judge what was asked: read the turn, look at the words in its pictures, ask the rewriter."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.messages import HumanMessage, ToolMessage

from langchain_vlmguard.content.picture_words import UNREAD_TEXT, quotes_message
from langchain_vlmguard.guard.calls import Call, checked_rewrite
from langchain_vlmguard.guard.effects import ask, work
from langchain_vlmguard.guard.turns import GuardedTurn
from langchain_vlmguard.verdict.draft import Draft
from langchain_vlmguard.verdict.hazards import HAZARDS
from langchain_vlmguard.verdict.judges import identity_of
from langchain_vlmguard.verdict.policy import severest
from langchain_vlmguard.verdict.records import CHECK, Hazard, VisualScore

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.picture_words import EvidenceReport
    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.rewriting.report import Threat
    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import Unjudged

HIDDEN_REQUEST = "Words in a picture ask for something that would be unsafe if somebody had typed it."
SHOWN = "A picture shows something that the policy does not let through."
NO_PROMPT = "The turn holds no words of a person that could be rewritten."
NOTHING_NEW = "There is no new message since the last answer."


def read(
    guard: GuardParts,
    messages: Sequence[BaseMessage],
    model: Any,
    withheld: Collection[str] = (),
    *,
    decided: int = 0,
) -> Flow[GuardedTurn]:
    """Read the turn and find who judges it.

    Args:
        guard: The guard, under the policy of this run (`GuardParts.for_run`).
        messages: The conversation, oldest first.
        model: The model that will answer, `None` if it is not known.
        withheld: SHA-256 of earlier turns' pictures to leave out.
        decided: How many of the first messages were decided on in an earlier round of the same turn.

    Raises:
        NoJudgeError: The guard has nobody who judges.
    """
    judges = yield from work(lambda: guard.judges_for(model))
    turn = yield from work(lambda: guard.read(messages, decided=decided).without(withheld))
    return GuardedTurn(guard, turn, judges)


def inspect(
    guard: GuardParts, messages: Sequence[BaseMessage], model: Any, *, decided: int = 0
) -> Flow[tuple[GuardedTurn, Draft]]:
    """Read the turn as `read` does, and what its pictures say. A part that cannot be read decides the turn."""
    started = time.perf_counter()
    guarded = yield from read(guard, messages, model, decided=decided)
    turn, draft = guarded.turn, Draft(id=uuid4().hex)
    if guard.evidence is not None:
        draft = draft.copy_with(evidence_reader=guard.evidence.identity)
    if turn.unjudged or any(isinstance(message, HumanMessage | ToolMessage) for message in turn.current):
        guarded, draft = yield from examine(guarded, draft)
    else:
        draft = draft.stop("refuse", NOTHING_NEW)
    return guarded, draft.spend("inspect", time.perf_counter() - started, {})


def examine(guarded: GuardedTurn, draft: Draft) -> Flow[tuple[GuardedTurn, Draft]]:
    """Account for parts that could not be read, then judge the words in pictures as if somebody had typed them."""
    turn, policy, pictures = guarded.turn, guarded.policy, guarded.judges.pictures
    draft = draft.copy_with(security=turn.security)
    if turn.unjudged:
        return guarded, unread(draft, turn.unjudged, policy)
    if pictures is None or not (turn.pictures or turn.earlier):
        return guarded, draft
    call = Call("inspect")
    with call:
        report: EvidenceReport = yield from work(lambda: pictures.check(turn, policy.unsafe_at))
    if call.failure is not None:
        return guarded, draft.fail(call.failure, policy.on_error)
    draft = draft.copy_with(
        evidence=report.notes,
        evidence_risk=report.risk,
        security=(*turn.security, *report.security),
        quotes=report.quotes,
        withheld=report.withheld,
    )
    unreadable = [part for part in report.unjudged if part.kind != UNREAD_TEXT]
    if unreadable:
        draft = unread(draft, unreadable, policy)
    elif guarded.is_unsafe(report.risk):
        draft = draft.stop(policy.on_hidden_request, HIDDEN_REQUEST)
    draft = _shown(draft, report, policy)
    draft = _text_seen(draft, [part for part in report.unjudged if part.kind == UNREAD_TEXT], policy)
    return replace(guarded, turn=turn.without(report.withheld)), draft


def _shown(draft: Draft, report: EvidenceReport, policy: GuardPolicy) -> Draft:
    """Enter what classifiers say that the turn's pictures show; the severest of what the policy wants is done."""
    labels = policy.picture_labels
    scores = [
        VisualScore(
            where=where,
            model=one.model,
            label=one.label,
            score=one.score,
            threshold=labels[one.label].at if one.label in labels else None,
            hazard=labels[one.label].hazard if one.label in labels else None,
        )
        for where, one in report.classes
    ]
    over = [one for one in scores if one.is_over]
    hazards = tuple(_shown_hazard(one) for one in over)
    draft = draft.copy_with(visual=tuple(scores), hazards=(*draft.hazards, *hazards))
    counted = [labels[one.label] for one in over if policy.counts(labels[one.label].hazard)]
    action = severest(
        [
            draft.action,
            *(one.action for one in counted),
            *(policy.least_for(one.hazard or "") for one in counted),
        ]
    )
    return draft if action == draft.action else draft.stop(action, SHOWN)


def _shown_hazard(score: VisualScore) -> Hazard:
    hazard, why = str(score.hazard), f"{score.model} finds {score.label!r} in the picture at {score.where}"
    return Hazard(id=hazard, channel="visual", rationale=why[:500], score=score.score, native=score.label)


def _text_seen(draft: Draft, parts: Sequence[Unjudged], policy: GuardPolicy) -> Draft:
    """Return the draft of a turn whose pictures show text that nobody could read."""
    if not parts:
        return draft
    if policy.on_unread_text == "note":
        checks = tuple(part.model_copy(update={"kind": CHECK}) for part in parts)
        return draft.copy_with(unjudged=(*draft.unjudged, *checks))
    reason = f"A picture shows text that could not be read: {parts[0].where}."
    listed = draft.copy_with(unjudged=(*draft.unjudged, *parts))
    return listed.stop(policy.on_unread_text, reason) if draft.is_open else listed


def ask_rewriter(guarded: GuardedTurn, draft: Draft) -> Flow[Draft]:
    """Ask the rewriter about a turn that nothing has decided yet; the policy may ask for more than it proposes."""
    rewriter, policy = guarded.rewriter, guarded.policy
    if rewriter is None or not draft.is_open:
        return draft
    call = Call("rewrite")
    messages = [*guarded.turn.messages, *([quotes_message(draft.quotes)] if draft.quotes else [])]
    with call:
        rewrite = checked_rewrite((yield from ask(rewriter, messages, call.config)), messages)
    draft = call.charge(draft).copy_with(rewriter=identity_of(rewriter))
    if call.failure is not None:
        return draft.fail(call.failure, policy.on_error)
    hazards = tuple(map(_hazard, rewrite.threats))
    if rewrite.action == "rewrite" and not any(isinstance(message, HumanMessage) for message in guarded.turn.current):
        rewrite = rewrite.model_copy(update={"action": "refuse", "rewritten_prompt": None})
        draft = draft.copy_with(reason=NO_PROMPT)
    return draft.copy_with(
        action=policy.decide(rewrite.action, rewrite.risk, [hazard.id for hazard in hazards]),
        risk=rewrite.risk,
        hazards=(*draft.hazards, *hazards),
        intent=rewrite.intent,
        rewritten_prompt=rewrite.rewritten_prompt,
    )


def account(guarded: GuardedTurn, draft: Draft) -> Draft:
    """Return the draft, with the request listed as unjudged unless rewriter, gate or a person looked at it."""
    if draft.rewriter is not None or draft.steering is not None or draft.reviewed is not None:
        return draft.copy_with(unjudged=tuple(part for part in draft.unjudged if part.where != "request"))
    if guarded.guard.rewriter is None:
        return draft.skip("request", "the guard has no rewriter, and no gate reported on the request")
    return draft.skip("request", f"the rewriter was not asked (rewrite={guarded.policy.rewriting.when!r})")


def unread(draft: Draft, parts: Sequence[Unjudged], policy: GuardPolicy) -> Draft:
    """Return the draft of a turn with parts that could not be read."""
    reason = f"A part of the request could not be read: {parts[0].where}, {parts[0].reason}."
    return draft.copy_with(unjudged=tuple(parts)).stop(policy.on_unreadable, reason)


def _hazard(threat: Threat) -> Hazard:
    alias = HAZARDS[threat.hazard].alias if threat.hazard in HAZARDS else None
    return Hazard(id=threat.hazard, channel=threat.channel, rationale=threat.rationale, alias=alias)
