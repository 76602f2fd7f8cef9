"""LiteLLM's generic guardrail API: what comes as turns and answers, and what goes back.

Whatever cannot be judged is `BLOCKED`, with status 200: LiteLLM reads other errors as a guard that is away, and may then let the
request pass. Texts go back as many as they came, in their order; where a rewriting cannot be put back that way, it is a block.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast
from uuid import uuid4

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_vlmguard.content.turn import blocks_of, turn_start
from langchain_vlmguard.content.walk import texts_in
from langchain_vlmguard.serving.chat_request import OFFERED, chat_request
from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.verdict.records import Provenance, SafetyVerdict
from langchain_vlmguard.verdict.refusals import refusal_text

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.serving.judging import Judging
    from langchain_vlmguard.verdict.records import Json

Answer = Literal["NONE", "BLOCKED", "GUARDRAIL_INTERVENED"]
CANNOT = "The guard could not judge this, so nothing of it goes on."
NOT_WRITTEN_BACK = "The guard would rewrite this, and a rewriting cannot be put back where this came from."
NOBODY = "Nobody in this guard judges this, so nothing of it goes on: give it a rewriter, or a judge of answers."
UNSEEN = "(What was asked before is not shown here.)"


@dataclass(frozen=True)
class Given:
    """What LiteLLM sends, as far as it can be judged."""

    about_answer: bool
    texts: list[str]
    images: list[str]
    messages: object
    tools: object
    calls: object

    @classmethod
    def of(cls, body: Json) -> Given:
        """Read a body; what has another form than it should is judged as text."""
        texts, images = body.get("texts"), body.get("images")
        return cls(
            body.get("input_type") == "response",
            _strings(texts),
            _strings(images),
            body.get("structured_messages"),
            body.get("tools"),
            body.get("tool_calls"),
        )

    @property
    def conversation(self) -> list[BaseMessage]:
        """The turn: structured messages where they can be read, and every text and picture that is not in them."""
        messages = _structured(self.messages)
        known = {text for message in messages for text in texts_in(message.content)}
        texts = [text for text in self.texts if text.strip() and text not in known]
        loose = [] if messages else [*texts_in(self.messages)]
        pictures = [url for url in self.images if url not in known]
        blocks: list[str | Json] = [{"type": "text", "text": text} for text in (*loose, *texts)]
        blocks += [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        extra = [HumanMessage(cast("list[str | dict[str, object]]", blocks))] if blocks else []
        return [*self._offered, *messages, *extra]

    @property
    def _offered(self) -> list[BaseMessage]:
        return [SystemMessage(json.dumps(self.tools, ensure_ascii=False), id=OFFERED)] if self.tools else []

    @property
    def answers(self) -> list[AIMessage]:
        """What is about to be said or called, one message a text; the calls go with the first one."""
        calls = [_call(one) for one in self.calls] if isinstance(self.calls, list) else []
        kept = [{"type": "image_url", "image_url": {"url": url}} for url in self.images]
        said = [AIMessage(text) for text in dict.fromkeys(self.texts) if text.strip()]
        beside = [AIMessage(cast("list[str | dict[str, object]]", kept), tool_calls=calls)] if calls or kept else []
        return [*said, *beside]


async def guardrail(guarding: Judging, given: Given) -> Json:
    """Judge what LiteLLM sent and return its answer."""
    if given.about_answer:
        return await _answer(guarding, given)
    turn = given.conversation
    if isinstance(given.calls, list) and given.calls:  # a call on its way to a tool or an MCP server
        blocked = await _answer(guarding, replace(given, about_answer=True, texts=[], images=[], messages=None))
        if blocked["action"] != "NONE" or not any(isinstance(one, HumanMessage) for one in turn):
            return blocked
    if not turn or turn[-1].id == OFFERED:
        return await _request(guarding, [*turn, HumanMessage(UNSEEN)], given) if turn else _said("NONE")
    return await _request(guarding, turn, given)


def blocked(reason: str) -> Json:
    """Return a block."""
    return {"action": "BLOCKED", "blocked_reason": f"{reason} (decision {uuid4().hex[:12]})"}


async def _request(guarding: Judging, turn: list[BaseMessage], given: Given) -> Json:
    verdict, _ = await guarding.judge(turn)
    if verdict.action == "allow":
        return blocked(NOBODY) if _is_unmade(verdict, "request") else _said("NONE")
    if verdict.action != "rewrite" or verdict.rewritten_prompt is None:
        return _refused(guarding, verdict)
    people = [message for message in turn[turn_start(turn) :] if isinstance(message, HumanMessage)]
    said = [text for message in people for text in _texts_of(message) if text.strip()]
    if len(said) == 1 and said[0] in given.texts:  # a rewriting stands for all that people wrote in the turn
        at = len(given.texts) - 1 - given.texts[::-1].index(said[0])
        changed = [verdict.rewritten_prompt if index == at else text for index, text in enumerate(given.texts)]
        return _said("GUARDRAIL_INTERVENED", texts=changed)
    return await _one_by_one(guarding, given)


async def _one_by_one(guarding: Judging, given: Given) -> Json:
    """Rewrite each text by itself; the whole must then be harmless as it stands."""
    changed: dict[str, str] = {}
    for text in dict.fromkeys(given.texts):
        if not text.strip():
            continue
        verdict, _ = await guarding.judge([HumanMessage(text)])
        if verdict.action not in ("allow", "rewrite"):
            return _refused(guarding, verdict)
        if verdict.rewritten_prompt is not None:
            changed[text] = verdict.rewritten_prompt
    texts = [changed.get(text, text) for text in given.texts]
    whole: list[BaseMessage] = [HumanMessage("\n".join(text for text in texts if text.strip()))]
    if not changed or (await guarding.judge(whole))[0].action != "allow":
        return blocked(NOT_WRITTEN_BACK)
    return _said("GUARDRAIL_INTERVENED", texts=texts)


async def _answer(guarding: Judging, given: Given) -> Json:
    """Judge what is about to be said: it is let out or blocked, and never changed."""
    asked = [one for one in _structured(given.messages) if not isinstance(one, AIMessage)] or [HumanMessage(UNSEEN)]
    passed = SafetyVerdict(action="allow", provenance=Provenance(policy=guarding.guard.policy.hash))
    for one in given.answers:
        judged = await guarding.judge_answer(asked, one, passed)
        if not judged.is_released:
            return _refused(guarding, judged.verdict)
        if _is_unmade(judged.verdict, "answer", "tool_args"):
            return blocked(NOBODY)
    return _said("NONE")


def _refused(guarding: Judging, verdict: SafetyVerdict) -> Json:
    if verdict.failure is not None:
        return blocked(CANNOT)
    return blocked(refusal_text(verdict, guarding.guard.policy))


def _is_unmade(verdict: SafetyVerdict, *checks: str) -> bool:
    """Whether a check was not made that the policy would act on."""
    return verdict.enforced and any(part.where in checks and not part.is_unread for part in verdict.unjudged)


def _said(action: Answer, **fields: object) -> Json:
    return {"action": action, **fields}


def _texts_of(message: BaseMessage) -> list[str]:
    return [str(block["text"]) for block in blocks_of(message) if block.get("type") == "text"]


def _strings(value: object) -> list[str]:
    """Return a list of texts as it came; anything else that holds text as its texts."""
    if isinstance(value, list):
        return [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in value]
    return [*texts_in(value)]


def _structured(messages: object) -> list[BaseMessage]:
    """Return structured messages, none if they cannot be read as such."""
    if not isinstance(messages, list) or not messages:
        return []
    try:
        return chat_request({"messages": messages}).conversation
    except HttpError:
        return []


def _call(call: object) -> Json:
    """Return a tool call in whatever form it came."""
    given = call if isinstance(call, dict) else {}
    function = given.get("function")
    inner = function if isinstance(function, dict) else given
    raw = inner.get("arguments", inner.get("input", {}))
    try:
        args = json.loads(raw) if isinstance(raw, str) else raw
    except (ValueError, RecursionError):
        args = None
    if not isinstance(args, dict):
        args = {"input": raw}
    name = inner.get("name")
    beside = {} if given else {"call": call}
    return {"name": name if isinstance(name, str) else "tool", "args": {**args, **beside}, "id": uuid4().hex}
