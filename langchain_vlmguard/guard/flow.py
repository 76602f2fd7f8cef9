"""The order of checks, written once: read, look at the pictures' words, try the plain answer, ask the rewriter, judge the answer.

These are flows (see `guard.effects`): they say what is to be done and in which order, and a face only drives them. A step of a
graph may drive one of them, an agent's middleware several, and `guarded_answer` is all of them in a row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import uuid4

from langchain_core.messages import HumanMessage, ToolMessage

from langchain_vlmguard.content.messages import Turn, blocks_of, read_turn
from langchain_vlmguard.guard.calls import Answer, Call, checked_rewrite
from langchain_vlmguard.guard.effects import ask, together, work
from langchain_vlmguard.guard.judges import identity_of
from langchain_vlmguard.guard.pictures import quotes_message
from langchain_vlmguard.guard.refusals import in_plain_words
from langchain_vlmguard.guard.subjects import Scope, Subject, as_context, as_turn, subjects_of
from langchain_vlmguard.rewriting.turns import with_prompt
from langchain_vlmguard.verdict.draft import Draft
from langchain_vlmguard.verdict.hazards import HAZARDS
from langchain_vlmguard.verdict.records import Hazard, Unjudged

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableConfig

    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.judges import TextJudge
    from langchain_vlmguard.guard.parts import GuardParts, Judges
    from langchain_vlmguard.guard.pictures import EvidenceReport
    from langchain_vlmguard.rewriting.rewriter import Rewrite
    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import Action

UNSAFE_ANSWER = "What the model was about to say is harmful."
READ_OTHERWISE = "A second model reads the request's pictures otherwise, and would say something harmful."
OPEN_GATE = "The model's own states mark this request as harmful."
HIDDEN_REQUEST = "Words in a picture ask for something that would be unsafe if somebody had typed it."
NOTHING_NEW = "There is no new message since the last answer."


@dataclass(frozen=True)
class GuardedTurn:
    """A turn as it was read, once, with the guard and the judges of this run."""

    guard: GuardParts
    """The guard, under the policy of this run."""

    turn: Turn
    judges: Judges

    @classmethod
    def aside(cls, guard: GuardParts, judges: Judges) -> Self:
        """Return a turn without messages, for what is judged outside of any."""
        return cls(guard, Turn([], 0, (), ()), judges)

    @property
    def policy(self) -> GuardPolicy:
        """The policy of this run."""
        return self.guard.policy

    @property
    def rewriter(self) -> Runnable[Any, Rewrite] | None:
        """The rewriter, if the policy lets anybody ask it."""
        return None if self.policy.rewrite == "never" else self.guard.rewriter

    def with_messages(self, messages: list[BaseMessage]) -> Self:
        """Return the turn with other messages in the same places."""
        return replace(self, turn=replace(self.turn, messages=messages))

    def for_model(self, draft: Draft) -> list[BaseMessage]:
        """Return the conversation as the model gets it: checked pictures, and the rewritten prompt if there is one."""
        messages = [*map(in_plain_words, self.turn.messages)]
        if draft.action != "rewrite" or draft.rewritten_prompt is None:
            return messages
        keep = self.policy.rewritten_pictures == "keep"
        return with_prompt(messages, self.turn.start, draft.rewritten_prompt, keep_pictures=keep)


@dataclass(frozen=True)
class Part:
    """A part of an answer, and what was found about it alone."""

    subject: Subject
    draft: Draft


@dataclass(frozen=True)
class Answered:
    """An answer and what was found about it."""

    draft: Draft
    """The turn's draft; it counts what judging cost."""

    answer: Answer | None = None
    """`None` if the model or the guard failed."""

    parts: tuple[Part, ...] = ()
    """The answer's words and its tool calls, each judged by itself."""

    def joined(self, *, calls: bool = True) -> Draft:
        """Return the draft joined with what was found about the parts, tool calls included or not."""
        if self.answer is None:
            return self.draft
        draft = self.draft.join(part.draft for part in self.parts if calls or part.subject.kind == "answer")
        return draft if draft.lets_answer else draft.copy_with(answer="withheld")


def inspect(guard: GuardParts, messages: Sequence[BaseMessage], model: Any) -> Flow[tuple[GuardedTurn, Draft]]:
    """Read the turn, and what its pictures say. A part that cannot be read decides the turn.

    Args:
        guard: The guard, under the policy of this run (`GuardParts.for_run`).
        messages: The conversation, oldest first.
        model: The model that will answer, `None` if it is not known.

    Raises:
        NoJudgeError: The guard has nobody who judges.
    """
    started = time.perf_counter()
    guarded = yield from read(guard, messages, model)
    turn, draft = guarded.turn, Draft(id=uuid4().hex)
    if guard.evidence is not None:
        draft = draft.copy_with(evidence_reader=guard.evidence.identity)
    if turn.unjudged or any(isinstance(message, HumanMessage | ToolMessage) for message in turn.current):
        guarded, draft = yield from examine(guarded, draft)
    else:
        draft = draft.stop("refuse", NOTHING_NEW)
    return guarded, draft.spend("inspect", time.perf_counter() - started, {})


def read(
    guard: GuardParts, messages: Sequence[BaseMessage], model: Any, withheld: Collection[str] = ()
) -> Flow[GuardedTurn]:
    """Read the turn and find who judges it.

    Args:
        guard: The guard, under the policy of this run.
        messages: The conversation, oldest first.
        model: The model that will answer, `None` if it is not known.
        withheld: SHA-256 of earlier turns' pictures to leave out.

    Raises:
        NoJudgeError: The guard has nobody who judges.
    """
    judges = yield from work(lambda: guard.judges_for(model))
    turn = yield from work(lambda: read_turn(messages, guard.read_limits).without(withheld))
    return GuardedTurn(guard, turn, judges)


def examine(guarded: GuardedTurn, draft: Draft) -> Flow[tuple[GuardedTurn, Draft]]:
    """Account for parts that could not be read, then judge the words in pictures as if somebody had typed them."""
    turn, policy, pictures = guarded.turn, guarded.policy, guarded.judges.pictures
    if turn.unjudged:
        return guarded, _unread(draft, turn.unjudged, policy)
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
        security=report.security,
        quotes=report.quotes,
        withheld=report.withheld,
    )
    if report.unjudged:
        draft = _unread(draft, report.unjudged, policy)
    elif _is_unsafe(policy, report.risk):
        draft = draft.stop(policy.on_hidden_request, HIDDEN_REQUEST)
    return replace(guarded, turn=turn.without(report.withheld)), draft


def first_try(guarded: GuardedTurn, draft: Draft, model: Runnable[Any, Any]) -> Flow[Answered | Draft]:
    """Answer before the rewriter is asked, if the policy allows it and what gate and judges find lets the answer out.

    With `rewrite="adaptive"` the model's gate is read on the answer's own prefill: a turn that it clears goes on from there, any
    other ends after one token. With `"answer_first"` the plain answer leaves if it is safe in words alone.

    Returns:
        The answer; or the draft with what the attempt cost, and the rewriter is asked.
    """
    policy, judges = guarded.policy, guarded.judges
    if guarded.rewriter is None or not draft.is_open or draft.security or draft.evidence:
        return draft
    if policy.rewrite == "adaptive":
        if judges.screen is None or _is_blind(guarded, judges.screen.sees_pictures):
            return draft
        options = {"until_gate": True}
    elif policy.rewrite == "answer_first" and judges.answers is not None:
        reads_along = policy.judge_answers == "uncleared" and getattr(judges.screen, "probe", None) is not None
        options = {} if judges.screen is None else {"screened": True} if reads_along else {"unsteered": True}
    else:
        return draft
    call, tried, cleared = Call("answer"), Answered(draft), False
    with call:
        messages = guarded.for_model(draft)
        answer = Answer.of((yield from ask(model, messages, call.config, options)))
        cleared = _gate_clears(policy, answer, options)
        if "screened" in options and not cleared:
            answer = replace(answer, steering=None)  # the probe only looked on, and has nothing to say about the turn
        if policy.judge_answers == "always" if cleared else policy.rewrite == "answer_first":
            tried = yield from judge_answer(guarded, draft, answer, messages, call.config)
        elif cleared:
            clear = draft.copy_with(steering=answer.steering, model=answer.model)
            tried = Answered(clear.skip("answer", "the gate had cleared the turn (judge_answers='uncleared')"), answer)
    if call.failure is None and tried.answer is not None and _may_leave(guarded, tried.joined(), cleared=cleared):
        return replace(tried, draft=call.charge(tried.draft))
    return call.charge(draft, "probe")


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
    hazards = [
        Hazard(id=t.hazard, channel=t.channel, rationale=t.rationale, alias=_alias(t.hazard)) for t in rewrite.threats
    ]
    return draft.copy_with(
        action=policy.decide(rewrite.action, rewrite.risk, [hazard.id for hazard in hazards]),
        risk=rewrite.risk,
        hazards=tuple(hazards),
        intent=rewrite.intent,
        rewritten_prompt=rewrite.rewritten_prompt,
    )


def answer(
    guarded: GuardedTurn,
    draft: Draft,
    model: Runnable[Any, Any],
    scope: Scope | None = None,
    *,
    raises: bool = False,
) -> Flow[Answered]:
    """Ask the model, with the rewritten prompt if there is one, and judge what it says.

    Args:
        guarded: The turn.
        draft: What was decided about it.
        model: The model.
        scope: What of the answer is judged; everything if it is `None`.
        raises: Let the model's own errors through instead of making them a failure of the guard.
    """
    call = Call("answer", raises=raises)
    with call:
        messages = guarded.for_model(draft)
        message = yield from ask(model, messages, call.config)
    draft = call.charge(draft)
    if call.failure is not None:
        return Answered(draft.fail(call.failure, guarded.policy.on_error))
    return (yield from hear(guarded, draft, message, messages, scope))


def hear(
    guarded: GuardedTurn,
    draft: Draft,
    message: Any,
    messages: Sequence[BaseMessage],
    scope: Scope | None = None,
) -> Flow[Answered]:
    """Judge what the model said to some messages; an answer whose metadata or whose judge is broken stays in.

    Args:
        guarded: The turn.
        draft: What was decided about it.
        message: What the model returned.
        messages: What it had been asked.
        scope: What of the answer is judged; everything if it is `None`.
    """
    call = Call("answer")
    with call:
        said = Answer.of(message)
        answered = yield from judge_answer(guarded, draft, said, messages, call.config, scope)
    if call.failure is not None:
        failed = call.charge(draft).fail(call.failure, guarded.policy.on_error)
        return Answered(failed.copy_with(answer="withheld"))
    return replace(answered, draft=call.charge(answered.draft))


def judge_answer(
    guarded: GuardedTurn,
    draft: Draft,
    answer: Answer,
    messages: Sequence[BaseMessage],
    config: RunnableConfig,
    scope: Scope | None = None,
) -> Flow[Answered]:
    """Judge an answer: by the gate that was open while it was given, by its words and calls, and by a second reader.

    What a person approved is judged as well, and leaves whatever is found.
    """
    policy, scope = guarded.policy, scope or Scope()
    draft = account(guarded, draft.copy_with(answer="none", steering=answer.steering, model=answer.model))
    if (action := _gate_action(policy, draft)) != "keep":
        draft = draft.withhold(action, OPEN_GATE)
        if draft.enforced:
            return Answered(draft, answer)
    if not scope.answer:
        draft = draft.skip("answer", "the guard was told not to check answers")
    if answer.message.tool_calls and not scope.calls:
        draft = draft.skip("tool_args", "the guard was told not to check tool calls")
    subjects = subjects_of(answer.message, scope)
    drafts = yield from judge_subjects(guarded, subjects, messages)
    if draft.answer_approved:
        drafts = [one.copy_with(action="allow", reason="") for one in drafts]
    answered = Answered(draft, answer, tuple(map(Part, subjects, drafts)))
    reader = guarded.judges.second
    settled = draft.rewriter is not None and policy.on_second_reading == "ask"
    shown = scope.answer and _shows_pictures(messages)
    if reader is None or settled or not shown or not answered.joined(calls=False).lets_answer:
        return answered
    risk = yield from reader.read(messages, config)
    draft = draft.copy_with(second_risk=risk, second_reader=reader.identity)
    if _is_unsafe(policy, risk) and not draft.answer_approved:
        second: Action = "refuse" if policy.on_second_reading == "ask" else policy.on_second_reading
        draft = draft.withhold(second, READ_OTHERWISE)
    return replace(answered, draft=draft)


def judge_subjects(
    guarded: GuardedTurn, subjects: Sequence[Subject], context: Sequence[BaseMessage] = ()
) -> Flow[list[Draft]]:
    """Judge what is about to leave, each part by itself: by a judge of texts if there is one, otherwise by the rewriter.

    Pictures in an answer go to the rewriter either way. A part that nobody can judge is listed as unjudged.

    Args:
        guarded: The turn whose answer this is.
        subjects: The parts.
        context: The conversation before them, for the rewriter.
    """
    by_text, asks_rewriter = (
        guarded.judges.answers,
        guarded.rewriter is not None and guarded.guard.answer_judge == "auto",
    )
    flows = {
        at: judge_by_rewriter(guarded, as_turn(subject, guarded.guard.phrased), as_context(context))
        for at, subject in enumerate(subjects)
        if asks_rewriter and (by_text is None or subject.pictures)
    }
    asked = dict(zip(flows, (yield from together([*flows.values()])), strict=True))
    drafts = [
        _as_answer(asked[at]) if at in asked else _unasked(guarded, subject) for at, subject in enumerate(subjects)
    ]
    texts = {at: subject.words for at, subject in enumerate(subjects) if subject.words.strip()}
    if by_text is None or not texts:
        return drafts
    risks = yield from work(lambda: by_text.judge_texts([*texts.values()]))
    for at, risk in zip(texts, risks, strict=True):
        drafts[at] = _with_risk(guarded.policy, drafts[at], risk, by_text)
    return drafts


def judge_by_rewriter(
    guarded: GuardedTurn, messages: Sequence[BaseMessage], context: Sequence[BaseMessage] = ()
) -> Flow[Draft]:
    """Judge an answer or a tool call, put as a turn of its own, in the light of what came before it.

    Nothing of that kind can be rewritten: a proposed rewriting counts as a refusal.
    """
    turn = yield from work(lambda: read_turn(messages, guarded.guard.read_limits))
    aside, draft = yield from examine(replace(guarded, turn=turn.after(context)), Draft())
    draft = yield from ask_rewriter(aside, draft)
    return draft.copy_with(action="refuse", rewritten_prompt=None) if draft.action == "rewrite" else draft


def judge_result(guarded: GuardedTurn, messages: Sequence[BaseMessage]) -> Flow[tuple[Draft, BaseMessage]]:
    """Judge what a tool returned, put as a turn of its own.

    Returns:
        What was found, and the result as it was read: its pictures are the very bytes that were judged.
    """
    turn = yield from work(lambda: read_turn(messages, guarded.guard.read_limits))
    aside, draft = yield from examine(replace(guarded, turn=turn), Draft())
    draft = yield from ask_rewriter(aside, draft)
    if draft.action == "rewrite":
        draft = draft.copy_with(action="refuse", rewritten_prompt=None)
    if draft.rewriter is None and draft.is_open and draft.evidence_risk is None:
        draft = draft.skip("tool_result", "there is no rewriter that may be asked about what tools return")
    return draft, turn.messages[-1]


def guarded_answer(
    guard: GuardParts, messages: Sequence[BaseMessage], model: Runnable[Any, Any], scope: Scope | None = None
) -> Flow[Answered]:
    """Guard one turn from reading to the judged answer. The model's own errors are raised."""
    guarded, draft = yield from inspect(guard, messages, model)
    tried = yield from first_try(guarded, draft, model)
    if isinstance(tried, Answered):
        return tried
    draft = yield from ask_rewriter(guarded, tried)
    if not draft.lets_answer:
        return Answered(draft)
    return (yield from answer(guarded, draft, model, scope, raises=True))


def account(guarded: GuardedTurn, draft: Draft) -> Draft:
    """Return the draft, with the request listed as unjudged unless rewriter, gate or a person looked at it."""
    if draft.rewriter is not None or draft.steering is not None or draft.reviewed is not None:
        return draft.copy_with(unjudged=tuple(part for part in draft.unjudged if part.where != "request"))
    if guarded.guard.rewriter is None:
        return draft.skip("request", "the guard has no rewriter, and no gate reported on the request")
    return draft.skip("request", f"the rewriter was not asked (rewrite={guarded.policy.rewrite!r})")


def _unread(draft: Draft, parts: Sequence[Unjudged], policy: GuardPolicy) -> Draft:
    reason = f"A part of the request could not be read: {parts[0].where}, {parts[0].reason}."
    return draft.copy_with(unjudged=tuple(parts)).stop(policy.on_unreadable, reason)


def _unasked(guarded: GuardedTurn, subject: Subject) -> Draft:
    """Return the draft of a part that the rewriter is not asked about."""
    where = "answer" if subject.kind == "answer" else "tool_args"
    if guarded.guard.answer_judge is None:
        return Draft().skip(where, "the guard has no judge of answers (answer_judge=None)")
    if guarded.judges.answers is None:
        return Draft().skip(
            where, "nobody judges answers: there is no judge of texts, and no rewriter that may be asked"
        )
    if subject.pictures:
        kind = str(subject.pictures[0].get("type"))
        reason = "the answer holds more than words, and the guard has no rewriter that could look at it"
        return _unread(Draft(), [Unjudged(where=where, kind=kind, reason=reason)], guarded.policy)
    return Draft()


def _as_answer(draft: Draft) -> Draft:
    """Return what the rewriter found about an answer, as what it is: the answer's risk, not the request's."""
    return draft.copy_with(risk=None, answer_risk=draft.risk, answer_judge=draft.rewriter)


def _with_risk(policy: GuardPolicy, draft: Draft, risk: float, judge: TextJudge) -> Draft:
    draft = draft.copy_with(answer_risk=max(risk, draft.answer_risk or 0.0), answer_judge=identity_of(judge))
    if draft.is_open and policy.on_unsafe_answer != "keep" and _is_unsafe(policy, risk):
        return draft.stop(policy.on_unsafe_answer, UNSAFE_ANSWER)
    return draft


def _is_blind(guarded: GuardedTurn, sees_pictures: bool) -> bool:  # noqa: FBT001
    """Whether a gate would decide about pictures that it has not seen, against the policy."""
    blind = not sees_pictures and guarded.policy.adaptive_pictures == "rewrite"
    return blind and _shows_pictures(guarded.turn.messages)


def _gate_clears(policy: GuardPolicy, answer: Answer, options: Mapping[str, bool]) -> bool:
    """Whether the gate or probe that a first call was asked to read found the turn clearly harmless."""
    trace = answer.steering
    if trace is None or trace.open or not {"until_gate", "screened"} & options.keys():
        return False
    return policy.severity(trace.risk) == "safe"


def _may_leave(guarded: GuardedTurn, draft: Draft, *, cleared: bool) -> bool:
    """Whether the answer of a first try leaves: nothing stops it, and gate, words or second reader cleared it."""
    if not draft.lets_answer or (draft.second_reader is not None and draft.second_risk is None):
        return False
    found = [risk for risk in (draft.answer_risk, draft.second_risk) if risk is not None]
    return cleared or (bool(found) and guarded.policy.severity(max(found)) == "safe")


def _gate_action(policy: GuardPolicy, draft: Draft) -> Literal["keep", "refuse", "review"]:
    """Return what an open gate does to the answer; a turn that a person approved goes on."""
    trace = draft.steering
    if draft.reviewed or trace is None or not trace.open:
        return "keep"
    return policy.on_gate(trace.risk, rewritten=draft.action == "rewrite")


def _is_unsafe(policy: GuardPolicy, risk: float | None) -> bool:
    return risk is not None and policy.severity(risk) == "unsafe"


def _shows_pictures(messages: Sequence[BaseMessage]) -> bool:
    return any(block["type"] == "image" for message in messages for block in blocks_of(message))


def _alias(hazard: str) -> str | None:
    return HAZARDS[hazard].alias if hazard in HAZARDS else None
