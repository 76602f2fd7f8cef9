"""Refusals as messages: words that anybody can read, and core's refusal block where core has one (1.7.5 and above)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from langchain_core import messages
from langchain_core.messages import AIMessage

from langchain_vlmguard.verdict.hazards import titles_of

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import Json, SafetyVerdict

KNOWN = hasattr(messages, "RefusalContentBlock")
"""Whether this core knows refusal blocks: its structured-output parsers then raise `ModelRefusalError` on one, and LangChain's
`ModelRefusalMiddleware` turns it into a fallback. `message.text` is the same with and without."""


NO_CHECKPOINTER = "It needs a person's review, and this graph has no checkpointer to wait with: compile it with one."
"""Why a review became a refusal."""


def refusal_message(text: str, verdict: SafetyVerdict, **fields: Any) -> AIMessage:
    """Return a refusal: its words as a text block, and beside it a block that says that they are a refusal.

    Args:
        text: What is said.
        verdict: Why; the first hazard that is a category becomes the block's `category`.
        **fields: Other fields of the message.
    """
    if not KNOWN:
        return AIMessage(text, **fields)
    named = [hazard.id for hazard in verdict.hazards if not hazard.id.startswith("vlmguard:")]
    extras = {"extras": {"category": named[0]}} if named else {}
    content: list[Any] = [{"type": "text", "text": text}, {"type": "refusal", "refusal": text, **extras}]
    return AIMessage(content, **fields)


def in_plain_words(message: BaseMessage) -> BaseMessage:
    """Return a refusal as every provider takes it back: its words as plain text, without blocks of type `refusal`."""
    if not isinstance(message, AIMessage) or isinstance(message.content, str):
        return message
    said = {block.get("text") for block in message.content if isinstance(block, dict) and block.get("type") == "text"}
    kept = [block for block in message.content if not (_is_refusal(block) and block["refusal"] in said)]
    if len(kept) == len(message.content):
        return message
    is_one_text = len(kept) == 1 and isinstance(kept[0], dict) and kept[0].keys() <= {"type", "text"}
    return message.model_copy(update={"content": kept[0]["text"] if is_one_text else kept})  # type: ignore[index]


def _is_refusal(block: Any) -> TypeGuard[Json]:
    return isinstance(block, dict) and block.get("type") == "refusal" and "refusal" in block


def refusal_text(verdict: SafetyVerdict, policy: GuardPolicy) -> str:
    """Say why, in general terms, and offer the safe way."""
    named = [hazard.id for hazard in verdict.hazards if policy.counts(hazard.id)]
    titles = titles_of(named, policy.title_of)
    about = f" ({', '.join(titles)})" if titles else ""
    words = policy.refusal.format(about=about, safe_way=policy.safe_way)
    unread = any(part.is_unread for part in verdict.unjudged)
    tells = unread or verdict.failure or verdict.reviewed or verdict.reason.endswith(NO_CHECKPOINTER)
    return f"{words} {verdict.reason}".strip() if tells else words


def with_verdict(message: AIMessage, verdict: SafetyVerdict) -> AIMessage:
    """Return the message with the verdict in its response metadata."""
    return message.model_copy(update={"response_metadata": {**message.response_metadata, **verdict_metadata(verdict)}})


def verdict_metadata(verdict: SafetyVerdict) -> Json:
    """Return a verdict as response metadata."""
    return {"verdict": verdict.to_state()}


def with_short_verdict(message: AIMessage) -> AIMessage:
    """Return a message of an earlier turn with what its verdict came to, so that a thread does not drag all of them along.

    An answer that was let out as it was keeps none; of a rewriting, and of what was stopped, what was done and why stays.
    """
    verdict = message.response_metadata.get("verdict")
    if not isinstance(verdict, Mapping) or "provenance" not in verdict:
        return message
    metadata = {key: value for key, value in message.response_metadata.items() if key != "verdict"}
    if (verdict.get("action"), verdict.get("answer")) != ("allow", "released"):
        metadata["verdict"] = {key: verdict[key] for key in _SHORT if key in verdict}
    return message.model_copy(update={"response_metadata": metadata})


_SHORT = ("action", "severity", "answer", "reason")
