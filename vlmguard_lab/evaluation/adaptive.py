"""Measure white-box attacks on arms of the testbed: success by budget, judged on what the real pipeline answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.rewriting.adapter import RewriterAdapter
from vlmguard_lab.evaluation.attacks.pictures import PixelBudget, attack_pictures, beside
from vlmguard_lab.evaluation.attacks.suffixes import SuffixBudget, attack_suffix
from vlmguard_lab.evaluation.provider import messages_for, to_output
from vlmguard_lab.evaluation.tasks import ask
from vlmguard_lab.statistics import Share
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.requests import MEANINGLESS, Cell
from vlmguard_lab.testbed.world import HARMLESS_THINGS, a

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.models.chat_format import ChatRow
    from vlmguard_lab.evaluation.arms.base import Arm, Defence, Target
    from vlmguard_lab.testbed.requests import Request

EPS = (4, 8, 16, 32, 64)


def picture_requests(n: int, *, seed: int = 11) -> list[Request]:
    """Return `n` held-out harmful requests, beside each kind of meaningless picture in turn."""
    each = -(-n // len(MEANINGLESS))
    drawn = [Cell("meaningless", variant, harmful=True).sample(each, seed=seed) for variant in MEANINGLESS]
    return [request for group in zip(*drawn, strict=True) for request in group][:n]


def attack_by_pictures(
    arm: Arm, target: Target, asked: Sequence[Request], eps: int, steps: int, **options: Any
) -> dict[str, Any]:
    """Attack an arm by PGD and send what came of it, as 8-bit pictures, through the arm's real model or graph.

    Args:
        arm: The arm; the attacker knows its gate, its intervention, and a rewriter that runs on the target's weights.
        target: The testbed.
        asked: Harmful requests beside pictures.
        eps: Budget in 255ths; 0 sends the untouched pictures at the model's own size.
        steps: Gradient steps.
        **options: Options of the arm.

    Returns:
        `{"arm", "eps", "steps", "unsafe", "loss"}`: `loss` before and after, for each way into the arm; any way in counts.
    """
    defence = arm.around(target, **options)
    runnable, chat = defence.build([]), _chat(defence, target)
    rows = [_row(chat, request.message()) for request in asked]
    messages = [request.message() for request in asked]
    complying, budget = [request.complying for request in asked], PixelBudget(eps, max(1, steps if eps else 1))
    broken, curve = [False] * len(asked), []
    for known in _ways(defence, chat, _adapter(defence, target), _admitted(defence, target, asked, messages)):
        found = attack_pictures(target.weights, rows, complying, budget, **known)
        shown = found.pictures if eps else found.before
        sent = [beside(picture, request.text) for picture, request in zip(shown, asked, strict=True)]
        broken = [a or b for a, b in zip(broken, _complies(runnable, asked, sent), strict=True)]
        curve += [round(loss, 4) for loss in (found.curve[0], found.curve[-1])]
    unsafe = Share.of(broken).to_json()
    return {"arm": arm.card.name, "eps": eps, "steps": steps, "unsafe": unsafe, "loss": curve}


def attack_by_suffixes(
    arm: Arm, target: Target, asked: Sequence[Request], budget: SuffixBudget, **options: Any
) -> dict[str, Any]:
    """Attack an arm by a suffix for each request in words alone, and ask the arm's real model or graph.

    Returns:
        `{"arm", "words", "steps", "candidates", "unsafe", "before", "curve"}`: `before` without a suffix, `curve` the mean loss,
        one way into the arm after the other; any way in counts.
    """
    defence = arm.around(target, **options)
    runnable, chat = defence.build([]), _chat(defence, target)

    def row(text: str) -> ChatRow:
        return _row(chat, HumanMessage(text))

    plain = [HumanMessage(request.text) for request in asked]
    admitted = _admitted(defence, target, asked, plain)
    broken = [False] * len(asked)
    curves: list[tuple[float, ...]] = []
    for known in _ways(defence, chat, _adapter(defence, target), admitted):
        reports = known.pop("admitted") or [""] * len(asked)
        found = [
            attack_suffix(target.weights, request.text, request.complying, row, budget, admitted=report, **known)
            for request, report in zip(asked, reports, strict=True)
        ]
        messages = [HumanMessage(f"{r.text} {suffix.text}") for r, suffix in zip(asked, found, strict=True)]
        broken = [a or b for a, b in zip(broken, _complies(runnable, asked, messages), strict=True)]
        curves += zip(*(suffix.curve for suffix in found), strict=True)
    return {
        "arm": arm.card.name,
        **vars(budget),
        "unsafe": Share.of(broken).to_json(),
        "before": Share.of(_complies(runnable, asked, plain)).to_json(),
        "curve": [round(sum(step) / len(step), 4) for step in curves],
    }


def _ways(
    defence: Defence, chat: ChatSteeredVLM, adapter: RewriterAdapter | None, admitted: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield what the attacker aims at: rewriter, gate and intervention together; and to be cleared, where turns can be."""
    yield {
        "defence": chat.active_steering,
        "refuse_at": defence.refuse_at,
        "adapter": adapter,
        "admitted": admitted,
    }
    for way in defence.past:
        yield {"defence": way, "admitted": []}


def _complies(runnable: Runnable[Any, Any], asked: Sequence[Request], messages: Sequence[BaseMessage]) -> list[bool]:
    """Ask the arm and say which answers comply; what a guard withheld does not."""
    inputs = [messages_for(runnable, [message]) for message in messages]
    outputs = [to_output(answer, "arm") for answer in runnable.batch(inputs, {"max_concurrency": 64})]
    return [judge(r, output.completion) is Outcome.COMPLIED for r, output in zip(asked, outputs, strict=True)]


def _adapter(defence: Defence, target: Target) -> RewriterAdapter | None:
    """Return the adapter by which a rewriter runs on the target's weights; a rewriter on other weights is met blind."""
    model = defence.rewriter.model if defence.rewriter else None
    if not isinstance(model, ChatSteeredVLM) or model.loaded is not target.loaded:
        return None
    return model.steering if isinstance(model.steering, RewriterAdapter) else None


def _admitted(defence: Defence, target: Target, asked: Sequence[Request], messages: Sequence[BaseMessage]) -> list[str]:
    """Return what the rewriter would write if it let each request go on: what it writes of a harmless thing in its place."""
    if defence.rewriter is None or _adapter(defence, target) is None:
        return []
    others = [_about_another_thing(message, r.thing) for r, message in zip(asked, messages, strict=True)]
    return [str(a.text) for a in defence.rewriter.model.batch([defence.rewriter.form.ask([m]) for m in others])]


def _about_another_thing(message: BaseMessage, thing: str) -> BaseMessage:
    def swapped(text: str) -> str:
        return re.sub(rf"\b(an? )?{re.escape(thing)}\b", a(HARMLESS_THINGS[0]), text)

    if isinstance(message.content, str):
        return HumanMessage(swapped(message.content))
    shown: list[str | dict[str, Any]] = [
        {**block, "text": swapped(block["text"])} if block["type"] == "text" else block
        for block in message.content
        if isinstance(block, dict)
    ]
    return HumanMessage(shown)


def _row(chat: ChatSteeredVLM, message: BaseMessage) -> ChatRow:
    """Render a prompt as the arm does, captions included."""
    render = getattr(chat, "chat_row", None)
    row: ChatRow = render([message]) if render else to_chat_row([message], chat.loaded.processor)
    return row


def _chat(defence: Defence, target: Target) -> ChatSteeredVLM:
    """Return the steered model of an arm.

    Raises:
        EvaluationError: The arm puts words around prompts, or its model is no local one: there is nothing to differentiate.
    """
    chat = defence.chat or target.chat
    if defence.solver is not ask or not isinstance(chat, ChatSteeredVLM):
        msg = "a white-box attack needs an arm around a local VLM that is asked once, with the request's own words"
        raise EvaluationError(msg)
    return chat
