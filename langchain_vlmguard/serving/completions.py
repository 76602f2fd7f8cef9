"""Outcomes in OpenAI's form: a chat completion, and the same as the chunks of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.serving.readable import choice_of
from langchain_vlmguard.serving.sse import DONE, data_event

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from langchain_vlmguard.serving.guarding import Outcome
    from langchain_vlmguard.serving.judging import Judged
    from langchain_vlmguard.verdict.records import Json, SafetyVerdict


def completion(outcome: Outcome, about: Json, *, plain: bool, told: Literal["short", "full", "none"]) -> Json:
    """Return a whole chat completion.

    Args:
        outcome: What became of the request.
        about: Its `id`, `created` and `model`.
        plain: Whether the request wanted text for people, who then read a refusal where they look for the answer.
        told: How much of the verdict is told.
    """
    choices = [_choice(one, at, plain=plain) for at, one in enumerate(outcome.choices)]
    beside = summary(outcome, about["id"], told)
    whole = {**about, "object": "chat.completion", "choices": choices, "usage": usage(outcome)}
    return {**whole, **({} if beside is None else {"vlmguard": beside})}


def chunks(whole: Json, *, with_usage: bool) -> Iterator[bytes]:
    """Yield a chat completion as the events of a stream: the same words, the end of each choice, usage once if asked for."""
    about = {**{key: whole[key] for key in ("id", "created", "model")}, "object": "chat.completion.chunk"}
    beside = {"vlmguard": whole["vlmguard"]} if "vlmguard" in whole else {}
    usage_so_far = {"usage": None} if with_usage else {}
    for choice in whole["choices"]:
        delta = {key: value for key, value in choice["message"].items() if value is not None}
        calls = [{"index": at, **one} for at, one in enumerate(delta.get("tool_calls", ()))]
        delta = {**delta, **({"tool_calls": calls} if calls else {})}
        piece = {"index": choice["index"], "delta": delta, "logprobs": choice["logprobs"], "finish_reason": None}
        yield data_event({**about, "choices": [piece], **usage_so_far})
        end = {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
        yield data_event({**about, "choices": [end], **usage_so_far, **beside})
    if with_usage:
        yield data_event({**about, "choices": [], "usage": whole["usage"]})
    yield DONE


def empty_chunk(about: Json) -> bytes:
    """Return an event that keeps a stream alive and says nothing."""
    piece = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}
    return data_event({**about, "object": "chat.completion.chunk", "choices": [piece]})


def summary(outcome: Outcome, number: str, told: Literal["short", "full", "none"]) -> Json | None:
    """Return what is told of a verdict."""
    if told == "none":
        return None
    verdict = outcome.verdict
    beside = {"id": number, "pictures": {"seen": outcome.pictures_seen, "forwarded": outcome.pictures_forwarded}}
    return {**beside, **(verdict.to_state() if told == "full" else short(verdict))}


def short(verdict: SafetyVerdict) -> Json:
    """Return a verdict in marks and numbers: no word of a person or a model."""
    return {
        "action": verdict.action,
        "severity": verdict.severity,
        "risk": verdict.risk,
        "hazards": [{"id": one.id, "channel": one.channel} for one in verdict.hazards],
        "security": [one.kind for one in verdict.security],
        "unjudged": [{"where": one.where, "kind": one.kind} for one in verdict.unjudged],
        "answer": verdict.answer,
        "reviewed": verdict.reviewed,
        "policy": verdict.provenance.policy,
    }


def usage(outcome: Outcome) -> Json:
    """Return the tokens of a request: of every model call that it took."""
    counted = outcome.choices[0].verdict.usage
    asked, told = counted.get("input_tokens", 0), counted.get("output_tokens", 0)
    return {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told}


def _choice(judged: Judged, index: int, *, plain: bool) -> Json:
    if judged.is_released:
        return choice_of(judged.message, index)
    words = judged.message.text
    message = {"role": "assistant", "content": words if plain else None, "refusal": words}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": "content_filter"}
