"""Judge what is about to leave or to enter on its own: answers, tool calls, tool results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.content.carriers import encrypted_in, says_beside
from langchain_vlmguard.guard.calls import Answer, Call
from langchain_vlmguard.guard.effects import together, work
from langchain_vlmguard.guard.requests import account, ask_rewriter, examine, unread
from langchain_vlmguard.guard.turns import Answered, Part, shows_pictures
from langchain_vlmguard.rewriting.subjects import Scope, as_context, as_turn, subjects_of
from langchain_vlmguard.verdict.draft import Draft
from langchain_vlmguard.verdict.judges import identity_of
from langchain_vlmguard.verdict.records import Unjudged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.turns import GuardedTurn
    from langchain_vlmguard.rewriting.subjects import Subject
    from langchain_vlmguard.verdict.judges import TextJudge
    from langchain_vlmguard.verdict.records import Action

UNSAFE_ANSWER = "What the model was about to say is harmful."
READ_OTHERWISE = "A second model reads the request's pictures otherwise, and would say something harmful."
BESIDE_RESULT = "what stands beside the result, such as its artifact, is for the program: nobody judged its words"
OPEN_GATE = "The model's own states mark this request as harmful."


def hear(
    guarded: GuardedTurn, draft: Draft, message: Any, messages: Sequence[BaseMessage], scope: Scope | None = None
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
        answered = yield from judge_answer(guarded, draft, Answer.of(message), messages, call.config, scope)
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
    """Judge an answer: by the gate that was open while it was given, by its words and calls, and by a second reader."""
    policy, scope = guarded.policy, scope or Scope()
    draft = account(guarded, draft.copy_with(answer="none", steering=answer.steering, model=answer.model))
    gate = answer.steering
    if gate is not None and gate.open and draft.reviewed is None:
        action = policy.on_gate(gate.risk, rewritten=draft.action == "rewrite")
        if action != "keep":
            draft = draft.withhold(action, OPEN_GATE)
            if draft.enforced:
                return Answered(draft, answer)
    if not scope.answer:
        draft = draft.skip("answer", "the guard was told not to check answers")
    if answer.message.tool_calls and not scope.calls:
        draft = draft.skip("tool_args", "the guard was told not to check tool calls")
    for kind in encrypted_in(answer.message):
        draft = draft.skip("answer", f"what its {kind} block says in secret can be read by its provider alone")
    subjects = subjects_of(answer.message, scope)
    drafts = yield from judge_subjects(guarded, subjects, messages, by_rewriter=scope.by_rewriter)
    answered = Answered(draft, answer, tuple(map(Part, subjects, drafts)))
    reader = guarded.judges.second
    settled = draft.rewriter is not None and policy.rewriting.on_second_reading == "ask"
    shown = scope.answer and shows_pictures(messages)
    if reader is None or settled or not shown or not answered.joined(calls=False).lets_answer:
        return answered
    risk = yield from reader.read(messages, config)
    draft = draft.copy_with(second_risk=risk, second_reader=reader.identity)
    if guarded.is_unsafe(risk):
        second: Action = "refuse" if policy.rewriting.on_second_reading == "ask" else policy.rewriting.on_second_reading
        draft = draft.withhold(second, READ_OTHERWISE)
    return replace(answered, draft=draft)


def judge_subjects(
    guarded: GuardedTurn,
    subjects: Sequence[Subject],
    context: Sequence[BaseMessage] = (),
    *,
    by_rewriter: bool = True,
) -> Flow[list[Draft]]:
    """Judge what is about to leave, each part by itself: by the judge of texts, and by the rewriter unless that speaks for it.

    Pictures in an answer go to the rewriter either way. A part that nobody can judge is listed as unjudged.

    Args:
        guarded: The turn whose answer this is.
        subjects: The parts.
        context: The conversation before them, for the rewriter.
        by_rewriter: Whether the rewriter may be asked.
    """
    by_text, auto = guarded.judges.answers, guarded.guard.answer_judge == "auto"
    asks_rewriter = by_rewriter and auto and guarded.rewriter is not None
    flows = {
        at: judge_aside(guarded, as_turn(subject, guarded.guard.phrased), as_context(context))
        for at, subject in enumerate(subjects)
        if asks_rewriter and (guarded.judges.rewriter or subject.pictures)
    }
    asked = dict(zip(flows, (yield from together([*flows.values()], guarded.guard.judges_at_once)), strict=True))
    drafts = [
        _as_answer(asked[at][0]) if at in asked else _unasked(guarded, subject) for at, subject in enumerate(subjects)
    ]
    texts = {at: subject.words for at, subject in enumerate(subjects) if subject.words.strip()}
    if by_text is None or not texts:
        return drafts
    risks = yield from work(lambda: by_text.judge_texts([*texts.values()]))
    for at, risk in zip(texts, risks, strict=True):
        drafts[at] = _with_risk(guarded, drafts[at], risk, by_text)
    return drafts


def judge_aside(
    guarded: GuardedTurn, messages: Sequence[BaseMessage], context: Sequence[BaseMessage] = ()
) -> Flow[tuple[Draft, BaseMessage]]:
    """Judge something that nobody asked for, put as a turn of its own after some context: an answer, a call, a result.

    Nothing of that kind can be rewritten: a proposed rewriting counts as a refusal.

    Returns:
        What was found, and the last message as a model may get it: its pictures are the very bytes that were judged, and words
        of a PDF that its page does not show are left out.
    """
    turn = yield from work(lambda: guarded.guard.read(messages))
    aside, draft = yield from examine(replace(guarded, turn=turn.after(context)), Draft())
    draft = yield from ask_rewriter(aside, draft)
    if draft.action == "rewrite":
        draft = draft.copy_with(action="refuse", rewritten_prompt=None)
    return draft, aside.turn.for_model[-1]


def judge_result(guarded: GuardedTurn, messages: Sequence[BaseMessage]) -> Flow[tuple[Draft, BaseMessage]]:
    """Judge what a tool returned, as `judge_aside` does; without a rewriter it is listed as unjudged."""
    draft, read = yield from judge_aside(guarded, messages)
    if draft.rewriter is None and draft.is_open and draft.evidence_risk is None:
        draft = draft.skip("tool_result", "there is no rewriter that may be asked about what tools return")
    if draft.is_open and says_beside(messages[-1]):
        draft = draft.skip("tool_result", BESIDE_RESULT)
    return draft, read


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
        return unread(Draft(), [Unjudged(where=where, kind=kind, reason=reason)], guarded.policy)
    return Draft()


def _as_answer(draft: Draft) -> Draft:
    """Return what the rewriter found about an answer as what it is: the answer's risk, not the request's."""
    return draft.copy_with(risk=None, answer_risk=draft.risk, answer_judge=draft.rewriter)


def _with_risk(guarded: GuardedTurn, draft: Draft, risk: float, judge: TextJudge) -> Draft:
    draft = draft.copy_with(answer_risk=max(risk, draft.answer_risk or 0.0), answer_judge=identity_of(judge))
    action = guarded.policy.on_unsafe_answer
    return (
        draft.stop(action, UNSAFE_ANSWER) if draft.is_open and action != "keep" and guarded.is_unsafe(risk) else draft
    )
