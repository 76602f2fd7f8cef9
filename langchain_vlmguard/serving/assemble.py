"""A backend's chunks put together to the answer that it would have given whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import UpstreamError
from langchain_vlmguard.serving.readable import THOUGHTS

if TYPE_CHECKING:
    from langchain_vlmguard.serving.sse import Event
    from langchain_vlmguard.verdict.records import Json

_TEXTS = ("content", "refusal", *THOUGHTS)
_LISTS = ("annotations",)


@dataclass
class _Call:
    """A tool call as it grows."""

    index: object
    id: str | None = None
    name: str = ""
    arguments: str = ""

    def add(self, one: Json) -> None:
        function = one.get("function")
        if isinstance(function, dict):
            self.name += function["name"] if isinstance(function.get("name"), str) else ""
            self.arguments += function["arguments"] if isinstance(function.get("arguments"), str) else ""


@dataclass
class _Choice:
    message: Json = field(default_factory=dict)
    calls: list[_Call] = field(default_factory=list)
    logprobs: Json = field(default_factory=dict)
    finish_reason: object = None

    def add(self, choice: Json) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._add_delta(delta)
        given = choice.get("logprobs")
        if isinstance(given, dict):
            for key in ("content", "refusal"):
                if isinstance(given.get(key), list):
                    self.logprobs.setdefault(key, []).extend(given[key])
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _add_delta(self, delta: Json) -> None:
        for key in _TEXTS:
            said = delta.get(key)
            if isinstance(said, str):
                self.message[key] = self.message.get(key, "") + said
            elif said is not None:
                msg = "the upstream streams a part of its answer in a form that is not known"
                raise UpstreamError(msg)
        for key in _LISTS:
            if isinstance(delta.get(key), list):
                self.message.setdefault(key, []).extend(delta[key])
        if isinstance(delta.get("audio"), dict):
            self._add_sound(delta["audio"])
        for one in delta["tool_calls"] if isinstance(delta.get("tool_calls"), list) else ():
            if isinstance(one, dict):
                self._call_of(one).add(one)

    def _add_sound(self, sound: Json) -> None:
        held = self.message.setdefault("audio", {"transcript": ""})
        held["transcript"] += sound["transcript"] if isinstance(sound.get("transcript"), str) else ""

    def _call_of(self, one: Json) -> _Call:
        """Return the call that a piece belongs to: a new id begins a new call, whatever its index."""
        number, index = one.get("id"), one.get("index", 0)
        number = number if isinstance(number, str) and number else None
        for call in reversed(self.calls):
            if call.id == number if number is not None else call.index == index:
                return call
        if number is not None:
            # Some servers send the id only with a later piece.
            unnamed = next((call for call in reversed(self.calls) if call.index == index and call.id is None), None)
            if unnamed is not None:
                unnamed.id = number
                return unnamed
        self.calls.append(_Call(index, number))
        return self.calls[-1]

    def whole(self, index: int) -> Json:
        message = {"role": "assistant", **self.message}
        if self.calls:
            message["tool_calls"] = [
                {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in self.calls
            ]
        logprobs = self.logprobs or None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}


@dataclass
class Assembly:
    """Takes the events of a chat stream and gives the whole answer."""

    choices: dict[int, _Choice] = field(default_factory=dict)
    usage: object = None
    is_done: bool = False
    """Whether the stream said that it is over."""

    def add(self, event: Event) -> None:
        """Take one event.

        Raises:
            UpstreamError: It is an error, no JSON, or comes after the end.
        """
        if self.is_done:
            return
        if event.data.strip() == "[DONE]":
            self.is_done = True
            return
        if not event.data.strip():
            return
        try:
            chunk = json.loads(event.data)
        except (ValueError, RecursionError) as error:
            msg = "the upstream's stream holds an event that is no JSON"
            raise UpstreamError(msg) from error
        if not isinstance(chunk, dict) or chunk.get("error") is not None or event.kind == "error":
            msg = "the upstream reported an error inside its stream"
            raise UpstreamError(msg)
        if chunk.get("usage") is not None:
            self.usage = chunk["usage"]
        for choice in chunk["choices"] if isinstance(chunk.get("choices"), list) else ():
            index = choice.get("index", 0) if isinstance(choice, dict) else None
            if not isinstance(index, int) or not 0 <= index < 128:  # noqa: PLR2004 - far above what anybody asks for
                msg = "the upstream's stream holds a choice that is none"
                raise UpstreamError(msg)
            self.choices.setdefault(index, _Choice()).add(choice)

    def answer(self) -> Json:
        """Return the whole answer.

        Raises:
            UpstreamError: A choice did not end: the answer was cut.
        """
        if not self.choices or any(one.finish_reason is None for one in self.choices.values()):
            msg = "the upstream's stream ended before its answer did"
            raise UpstreamError(msg)
        whole = [choice.whole(index) for index, choice in sorted(self.choices.items())]
        return {"choices": whole, "usage": self.usage}
