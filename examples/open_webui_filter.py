"""
title: vlmguard
description: Asks a running `vlmguard serve` about each request and its pictures; holds streamed answers until they were judged.
version: 0.1.0
requirements: httpx
"""  # noqa: D205, D212, D415 - Open WebUI reads these lines

# This filter is no enforcement point. Open WebUI skips filters where functions are off (ENABLE_FUNCTIONS), for models that the
# filter was not switched on for, and, for answers, where they are not streamed. What must hold, hold by routing the model itself
# through `vlmguard serve`; then this filter only tells people earlier.

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import httpx
from pydantic import BaseModel, Field

ROUTE = "/beta/litellm_basic_guardrail_api"
WITHHELD = "This answer was withheld by the guard."
MOST_HELD, MOST_LETTERS = 1000, 2_000_000
KNOWN = ("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier")
SPOKEN = ("content", "reasoning_content", "reasoning", "refusal")


class DeniedError(Exception):
    """What a person reads in place of an answer."""


class Filter:
    """The name that Open WebUI looks for."""

    class Valves(BaseModel):
        """What an administrator sets."""

        priority: int = 0
        url: str = Field(default="http://127.0.0.1:8000", description="Where `vlmguard serve` listens.")
        key: str = Field(default="", description="API key of the server, if it wants one.")
        seconds: float = Field(default=10.0, gt=0, description="Most seconds of a question; no answer is a denial.")
        unread_files: str = Field(
            default="refuse",
            description="`pass` lets files through whose words are not in the request. Do so only if the model itself is routed "
            "through `vlmguard serve`, which reads what is taken from them.",
        )

    def __init__(self) -> None:
        """Start with the defaults; Open WebUI sets the valves before each call."""
        self.valves = self.Valves()
        self._held: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def inlet(self, body: dict[str, Any], __metadata__: dict[str, Any] | None = None) -> dict[str, Any]:
        """Judge a request before any model gets it.

        Raises:
            DeniedError: The guard does not let it pass, gave no answer, or a part of it cannot be read.
        """
        places, images = self._places(body), self._images_in_files(body, __metadata__)
        messages = body["messages"]
        images += [url for message in messages for url in _images(message)]
        asked = {
            "input_type": "request",
            "texts": [holder[key] for holder, key in places],
            "images": images,
            "structured_messages": messages,
            "tools": body.get("tools"),
        }
        answer = await self._ask(asked)
        if answer["action"] == "GUARDRAIL_INTERVENED":
            texts = answer.get("texts")
            if not isinstance(texts, list) or len(texts) != len(places):
                raise DeniedError(WITHHELD)
            for (holder, key), text in zip(places, texts, strict=True):
                holder[key] = text
        return body

    async def stream(self, event: dict[str, Any], __metadata__: dict[str, Any] | None = None) -> dict[str, Any]:
        """Hold what a model says until its last event, and let it out if it was judged harmless.

        Raises:
            DeniedError: The guard does not let it pass, or the events of one answer cannot be told from those of another.
        """
        if event.get("error") is not None:
            return {"error": {"message": "The model gave no answer."}}
        kept = {key: event[key] for key in KNOWN if key in event}
        key = str((__metadata__ or {}).get("message_id") or event.get("id") or "")
        choices = event.get("choices") if isinstance(event.get("choices"), list) else []
        if choices and not key:
            raise DeniedError(WITHHELD)
        kept["choices"] = [await self._choice(choice, f"{key}/{choice.get('index', 0)}") for choice in choices]
        return kept

    async def _choice(self, choice: dict[str, Any], key: str) -> dict[str, Any]:
        held = self._held.setdefault(key, {"said": {}, "calls": []})
        self._held.move_to_end(key)
        if len(self._held) > MOST_HELD:
            self._held.popitem(last=False)
        delta = choice.get("delta") if isinstance(choice.get("delta"), dict) else {}
        for name in SPOKEN:
            if isinstance(delta.get(name), str):
                held["said"][name] = held["said"].get(name, "") + delta[name]
        held["calls"] += delta.get("tool_calls") or []
        if sum(map(len, held["said"].values())) > MOST_LETTERS:
            raise DeniedError(WITHHELD)
        end = choice.get("finish_reason")
        if end is None:
            return {"index": choice.get("index", 0), "delta": {}, "finish_reason": None}
        del self._held[key]
        texts = [text for text in held["said"].values() if text]
        await self._ask({"input_type": "response", "texts": texts, "tool_calls": _whole(held["calls"])})
        said = {**held["said"], **({"tool_calls": held["calls"]} if held["calls"] else {})}
        return {"index": choice.get("index", 0), "delta": {"role": "assistant", **said}, "finish_reason": end}

    def _places(self, body: dict[str, Any]) -> list[tuple[Any, Any]]:
        """Return where the words of a request stand."""
        places: list[tuple[Any, Any]] = []
        for message in body["messages"]:
            content = message.get("content")
            if isinstance(content, str):
                places.append((message, "content"))
            for part in content if isinstance(content, list) else ():
                if part.get("type") == "text" and isinstance(part.get("text"), str):
                    places.append((part, "text"))
                elif part.get("type") != "image_url":
                    msg = "A part of this message is neither text nor a picture, so the guard cannot judge it."
                    raise DeniedError(msg)
        return places

    def _images_in_files(self, body: dict[str, Any], metadata: dict[str, Any] | None) -> list[str]:
        """Return the pictures among the files of a request.

        Raises:
            DeniedError: A file is there whose words or picture are not.
        """
        beside = [body, body.get("metadata") or {}, metadata or {}, *body["messages"]]
        found = []
        for file in [file for one in beside for file in one.get("files") or ()]:
            url = file.get("url") if isinstance(file, dict) else None
            if isinstance(url, str) and url.startswith("data:image/"):
                found.append(url)
            elif self.valves.unread_files != "pass":
                msg = "A file of this request cannot be read by the guard, so the request does not go on."
                raise DeniedError(msg)
        return found

    async def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask the guard; whatever is no clear answer is a denial."""
        headers = {"authorization": f"Bearer {self.valves.key}"} if self.valves.key else {}
        url = f"{self.valves.url.rstrip('/')}{ROUTE}"
        try:
            async with httpx.AsyncClient(timeout=self.valves.seconds, trust_env=False) as client:
                answer = (await client.post(url, json={"request_data": {}, **asked}, headers=headers)).json()
            action = answer["action"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, KeyError) as error:
            msg = "The guard gave no answer, so this does not go on."
            raise DeniedError(msg) from error
        if action == "NONE" or (action == "GUARDRAIL_INTERVENED" and asked["input_type"] == "request"):
            return dict(answer)
        raise DeniedError(str(answer.get("blocked_reason") or WITHHELD))


def _images(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    parts = [one for one in content if one.get("type") == "image_url"] if isinstance(content, list) else []
    urls = [one["image_url"]["url"] if isinstance(one["image_url"], dict) else one["image_url"] for one in parts]
    return [*map(str, urls), *(f"data:image/png;base64,{one}" for one in message.get("images") or ())]


def _whole(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return calls whose names and arguments came in pieces."""
    calls: dict[Any, dict[str, str]] = {}
    for delta in deltas:
        call = calls.setdefault(delta.get("index", 0), {"name": "", "arguments": ""})
        function = delta.get("function") or {}
        call["name"] += function.get("name") or ""
        given = function.get("arguments") or ""
        call["arguments"] += given if isinstance(given, str) else json.dumps(given)
    return [{"type": "function", "function": call} for call in calls.values()]
