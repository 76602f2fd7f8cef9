"""The order of checks, written once: inspect, try the plain answer, ask the rewriter, ask the model, judge what it says.

A face only drives these flows (see `guard.effects`): a step of a graph one of them, an agent's middleware several.
`guarded_answer` is all of them in a row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from langchain_vlmguard.guard.answers import hear, judge_answer
from langchain_vlmguard.guard.calls import Answer, Call
from langchain_vlmguard.guard.effects import ask
from langchain_vlmguard.guard.requests import ask_rewriter, inspect
from langchain_vlmguard.guard.turns import Answered, shows_pictures
from langchain_vlmguard.rewriting.subjects import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.guard.turns import GuardedTurn
    from langchain_vlmguard.rewriting.report import Model
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.policy import GuardPolicy


def guarded_answer(
    guard: GuardParts, messages: Sequence[BaseMessage], model: Model, scope: Scope | None = None
) -> Flow[Answered]:
    """Guard one turn from reading to the judged answer. The model's own errors are raised.

    Args:
        guard: The guard, under the policy of this run (`GuardParts.for_run`).
        messages: The conversation, oldest first.
        model: The model that answers.
        scope: What of the answer is judged; everything if it is `None`.

    Raises:
        NoJudgeError: The guard has nobody who judges.
    """
    guarded, draft = yield from inspect(guard, messages, model)
    tried = yield from first_try(guarded, draft, model)
    if isinstance(tried, Answered):
        return tried
    draft = yield from ask_rewriter(guarded, tried)
    if not draft.lets_answer:
        return Answered(draft)
    return (yield from answer(guarded, draft, model, scope, raises=True))


def first_try(guarded: GuardedTurn, draft: Draft, model: Model) -> Flow[Answered | Draft]:
    """Answer before the rewriter is asked, if the policy allows it and what gate and judges find lets the answer out.

    With `rewrite="adaptive"` the model's gate is read on the answer's own prefill: a turn that it clears goes on from there, any
    other ends after one token. With `"answer_first"` the plain answer leaves if it is safe in words alone.

    Returns:
        The answer; or the draft with what the attempt cost, and the rewriter is asked.
    """
    policy = guarded.policy
    options = _first_options(guarded, draft)
    if options is None:
        return draft
    call, tried, cleared = Call("answer"), Answered(draft), False
    with call:
        messages = guarded.for_model(draft)
        said = Answer.of((yield from ask(model, messages, call.config, options)))
        cleared = _gate_clears(policy, said, options)
        if "screened" in options and not cleared:
            said = replace(said, steering=None)  # the probe only looked on, and has nothing to say about the turn
        if policy.rewriting.judge_answers == "always" if cleared else policy.rewriting.when == "answer_first":
            tried = yield from judge_answer(guarded, draft, said, messages, call.config, Scope(by_rewriter=False))
        elif cleared:
            clear = draft.copy_with(steering=said.steering, model=said.model)
            tried = Answered(clear.skip("answer", "the gate had cleared the turn (judge_answers='uncleared')"), said)
    if call.failure is None and tried.answer is not None and _may_leave(policy, tried.joined(), cleared=cleared):
        return replace(tried, draft=call.charge(tried.draft))
    return call.charge(draft, "probe")


def answer(
    guarded: GuardedTurn,
    draft: Draft,
    model: Model,
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


def _first_options(guarded: GuardedTurn, draft: Draft) -> dict[str, bool] | None:
    """Return how the model is asked before the rewriter, `None` if it is not."""
    policy, judges = guarded.policy, guarded.judges
    if guarded.rewriter is None or not draft.is_open or draft.security or draft.evidence:
        return None  # words that were found in pictures are the rewriter's to weigh
    if policy.rewriting.when == "adaptive" and judges.screen is not None:
        # A gate that reads words alone says nothing about pictures, unless the policy trusts it with them.
        blind = not judges.screen.sees_pictures and policy.rewriting.adaptive_pictures == "rewrite"
        return None if blind and shows_pictures(guarded.turn.messages) else {"until_gate": True}
    if policy.rewriting.when == "answer_first" and judges.answers is not None:
        if judges.screen is None:
            return {}
        reads_along = policy.rewriting.judge_answers == "uncleared" and judges.screen.probe is not None
        return {"screened": True} if reads_along else {"unsteered": True}
    return None


def _gate_clears(policy: GuardPolicy, answer: Answer, options: Mapping[str, bool]) -> bool:
    """Whether the gate or probe that a first call was asked to read found the turn clearly harmless."""
    trace = answer.steering
    if trace is None or trace.open or not {"until_gate", "screened"} & options.keys():
        return False
    return policy.severity(trace.risk) == "safe"


def _may_leave(policy: GuardPolicy, draft: Draft, *, cleared: bool) -> bool:
    """Whether the answer of a first try leaves: nothing stops it, and gate, words or second reader cleared it."""
    if not draft.lets_answer or (draft.second_reader is not None and draft.second_risk is None):
        return False
    found = [risk for risk in (draft.answer_risk, draft.second_risk) if risk is not None]
    return cleared or (bool(found) and policy.severity(max(found)) == "safe")
