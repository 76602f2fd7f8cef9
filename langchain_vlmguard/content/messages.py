"""Messages: every part is read and checked, or accounted for as unjudged."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.content.images import CheckedPicture, ImageLimits, holds_picture, read_base64
from langchain_vlmguard.errors import UnreadableContentError
from langchain_vlmguard.verdict import Unjudged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langchain_core.messages import BaseMessage

LEFT_OUT = "[a part of this message could not be read and was left out]"
"""What stands in for unread parts of earlier turns."""

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,39}")

PICTURES = ("image", "image_url")
"""Block types that are read as pictures."""

AUTHORED_BY_MODELS = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "server_tool_call", "function_call"}
    | {"reasoning", "reasoning_content", "thinking", "redacted_thinking", "refusal"}
)
"""Block types without pictures that only an AI message may hold."""

_ROLES = (HumanMessage, AIMessage, SystemMessage, ToolMessage)
_BESIDE: Mapping[str, Any] = MappingProxyType(
    {"artifact": None, "additional_kwargs": {}, "tool_calls": [], "invalid_tool_calls": []}
)
"""Fields beside a message's content, and what is left of one that cannot be read."""

_OPAQUE = frozenset({"signature", "encrypted_content", "data"})
"""Fields of model-authored blocks that only the model's provider can read."""


@dataclass(frozen=True)
class ReadLimits:
    """How much one conversation may hold."""

    image: ImageLimits = field(default_factory=ImageLimits)
    max_images: int = 8
    max_text_chars: int = 100_000


@dataclass(frozen=True)
class TurnPicture:
    """A picture and its place in the conversation."""

    message: int
    """Index of the message."""

    block: int
    """Index of the block in the message's content."""

    picture: CheckedPicture

    @property
    def where(self) -> str:
        """The place in the words of `Unjudged.where`."""
        return f"messages[{self.message}].content[{self.block}]"


@dataclass(frozen=True)
class Turn:
    """What the guard looks at: everything since the last answer, inside the whole conversation."""

    messages: list[BaseMessage]
    """The conversation as a model may get it: pictures are the very bytes that were checked."""

    start: int
    """Index of the turn's first message."""

    pictures: tuple[TurnPicture, ...]
    """The turn's pictures, in order."""

    unjudged: tuple[Unjudged, ...]
    """The turn's parts that could not be read."""

    @property
    def current(self) -> list[BaseMessage]:
        """The turn's own messages, without what came before."""
        return self.messages[self.start :]

    @property
    def text(self) -> str:
        """What people wrote in this turn."""
        return "\n".join(str(m.text) for m in self.current if isinstance(m, HumanMessage))

    @property
    def tool_results(self) -> list[str]:
        """The texts that tools returned in this turn."""
        return [str(m.text) for m in self.current if isinstance(m, ToolMessage)]


def read_turn(messages: Sequence[BaseMessage], limits: ReadLimits | None = None) -> Turn:
    """Read a conversation; nothing raises on hostile content, it is accounted for instead.

    Parts of the current turn that cannot be read are `unjudged`. In earlier turns they were decided on before; a placeholder
    stands in for them, so that one bad picture does not end a conversation. Of earlier turns' pictures the newest
    `max_images` stay. Artifacts of tools are for the program, not for the model: they are searched and left out.

    Args:
        messages: The conversation, oldest first.
        limits: How much it may hold.
    """
    limits = limits or ReadLimits()
    start = turn_start(messages)
    reader = _Reader(limits, _newest_pictures(messages[:start], limits.max_images))
    safe = [reader.message(index, message, current=index >= start) for index, message in enumerate(messages)]
    return Turn(safe, start, tuple(reader.pictures), tuple(reader.unjudged))


def read_for_model(messages: Sequence[BaseMessage], limits: ReadLimits | None = None) -> list[BaseMessage]:
    """Return messages whose blocks are text and checked standard image blocks only.

    Raises:
        UnreadableContentError: Naming the first part that cannot be read, and why.
    """
    reader = _Reader(limits or ReadLimits(max_images=64))
    safe = [reader.message(index, message, current=True) for index, message in enumerate(messages)]
    if reader.unjudged:
        first = reader.unjudged[0]
        msg = f"{first.where} ({first.kind}) cannot be shown to the model: {first.reason}"
        raise UnreadableContentError(msg)
    return [_only_text_and_pictures(message) for message in safe]


def turn_start(messages: Sequence[BaseMessage]) -> int:
    """Return the index after the last answer, an AI message that calls no tool."""
    answers = (i for i, m in enumerate(messages) if isinstance(m, AIMessage) and not m.tool_calls)
    return max(answers, default=-1) + 1


def words_of(block: str | dict[str, Any]) -> str:
    """Return everything a model can read in a block that was read, pictures apart."""
    if isinstance(block, str):
        return block
    if block.get("type") == "text":
        return str(block.get("text", ""))
    return _as_json({key: value for key, value in block.items() if key not in _OPAQUE})


def calls_of(message: BaseMessage) -> list[str]:
    """Return the tool calls of an AI message as a model reads them, one text each."""
    calls = [*message.tool_calls, *message.invalid_tool_calls] if isinstance(message, AIMessage) else []
    return [f"{call['name']}: {_as_json(call['args'])}" for call in calls]


def is_read(message: BaseMessage) -> bool:
    """Say whether a message has the form in which this module hands messages on."""
    return all(_is_handed_on(block) or _is_authored(block, message) for block in blocks_of(message))


def blocks_of(message: BaseMessage) -> list[dict[str, Any]]:
    """Return a message's content as blocks, plain text as text blocks."""
    parts = message.content if isinstance(message.content, list) else [message.content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


@dataclass(frozen=True)
class _Place:
    """Where in the conversation something stands, and whether that is in the current turn."""

    message: int
    current: bool
    block: int | None = None
    """`None` when the content is one plain string."""

    @property
    def where(self) -> str:
        return f"messages[{self.message}].content" + ("" if self.block is None else f"[{self.block}]")


class _Reader:
    def __init__(self, limits: ReadLimits, kept: frozenset[tuple[int, int]] = frozenset()) -> None:
        self.limits = limits
        self.kept = kept
        self.pictures: list[TurnPicture] = []
        self.unjudged: list[Unjudged] = []
        self._letters = 0

    def message(self, index: int, message: BaseMessage, *, current: bool) -> BaseMessage:
        place = _Place(index, current)
        if not isinstance(message, _ROLES):
            reason = "only human, AI, system and tool messages are read"
            self._account(place, f"messages[{index}]", type(message).__name__, reason)
            return message.model_copy(update={"content": LEFT_OUT, "additional_kwargs": {}})
        beside = self._beside(place, message)
        if isinstance(message.content, str):
            return message.model_copy(update={"content": self._block(place, message.content, message), **beside})
        blocks = message.content if isinstance(message.content, list) else [message.content]
        read = [self._block(replace(place, block=at), block, message) for at, block in enumerate(blocks)]
        return message.model_copy(update={"content": read, **beside})

    def _account(self, place: _Place, where: str, kind: str, reason: str) -> None:
        if place.current:
            self.unjudged.append(Unjudged(where=where, kind=kind, reason=reason))

    def _beside(self, place: _Place, message: BaseMessage) -> dict[str, Any]:
        """Return what replaces the fields beside the content, accounting for what cannot be read in them."""
        left_out: dict[str, Any] = {"artifact": None} if isinstance(message, ToolMessage) else {}
        for name, empty in _BESIDE.items():
            try:
                self._words_only(getattr(message, name, empty) or empty, counted=name.endswith("tool_calls"))
            except UnreadableContentError as error:
                self._account(place, f"messages[{place.message}].{name}", name, str(error))
                left_out[name] = empty
        return left_out

    def _block(self, place: _Place, block: Any, message: BaseMessage) -> str | dict[str, Any]:
        kind = _kind(block)
        try:
            return self._read(place, block, kind, message)
        except UnreadableContentError as error:
            self._account(place, place.where, kind, str(error))
            return LEFT_OUT if isinstance(block, str) else {"type": "text", "text": LEFT_OUT}

    def _read(self, place: _Place, block: Any, kind: str, message: BaseMessage) -> str | dict[str, Any]:
        if isinstance(block, str):
            return self._text(block)
        if not isinstance(block, dict):
            msg = "it is neither text nor a content block"
            raise UnreadableContentError(msg)
        if kind == "text" and isinstance(block.get("text"), str):
            return {"type": "text", "text": self._text(block["text"])}
        if kind in PICTURES:
            return self._picture(place, block)
        if _is_authored(block, message):
            self._words_only(block, counted=True)
            return block
        msg = f"blocks of type {kind!r} are not read yet: send text, or pictures as base64"
        raise UnreadableContentError(msg)

    def _text(self, text: str) -> str:
        self._letters += len(text)
        if self._letters > self.limits.max_text_chars:
            msg = f"the conversation is longer than {self.limits.max_text_chars:,} characters"
            raise UnreadableContentError(msg)
        return text

    def _words_only(self, value: Any, *, counted: bool) -> None:
        """Check that a value has no picture in it; count what a model reads of it as text."""
        if holds_picture(value):
            msg = "it may hold a picture: pictures are read only as blocks of a message's content"
            raise UnreadableContentError(msg)
        if counted and value:
            self._text(_as_json(value))

    def _picture(self, place: _Place, block: dict[str, Any]) -> dict[str, Any]:
        taken = len(self.pictures) >= self.limits.max_images
        if taken if place.current else (place.message, place.block) not in self.kept:
            msg = f"there are more than {self.limits.max_images} pictures"
            raise UnreadableContentError(msg)
        picture = read_base64(_encoded(block), self.limits.image)
        if place.current:
            self.pictures.append(TurnPicture(place.message, place.block or 0, picture))
        return picture.block()


def _kind(block: Any) -> str:
    """Name a block's type; what strangers write there is repeated only where it is a plain word."""
    if not isinstance(block, dict):
        return type(block).__name__
    kind = block.get("type")
    return kind if isinstance(kind, str) and _WORD.fullmatch(kind) else "unknown"


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"it cannot be written as JSON ({type(error).__name__})"
        raise UnreadableContentError(msg) from error


def _is_handed_on(block: object) -> bool:
    if not isinstance(block, dict):
        return False
    if block.keys() == {"type", "base64", "mime_type"}:
        return _kind(block) == "image" and block["mime_type"] in ("image/png", "image/jpeg")
    return block.keys() == {"type", "text"}


def _is_authored(block: object, message: BaseMessage) -> bool:
    return isinstance(message, AIMessage) and _kind(block) in AUTHORED_BY_MODELS


def _newest_pictures(messages: Sequence[BaseMessage], most: int) -> frozenset[tuple[int, int]]:
    """Return the places of the last pictures as (message, block)."""
    places = [
        (index, at)
        for index, message in enumerate(messages)
        if isinstance(message.content, list)
        for at, block in enumerate(message.content)
        if _kind(block) in PICTURES
    ]
    return frozenset(places[max(0, len(places) - most) :])


def _encoded(block: dict[str, Any]) -> str:
    """Return the base64 text of a picture in any of the spellings that carry their data."""
    candidates = list(_candidates(block))
    if len(candidates) > 1:
        msg = "the block carries its picture more than once: which one a model sees is anybody's guess"
        raise UnreadableContentError(msg)
    if not candidates:
        msg = "it holds no picture data: send base64 or a data URI"
        raise UnreadableContentError(msg)
    given = candidates[0]
    if not isinstance(given, str):
        msg = "its picture data is not text"
        raise UnreadableContentError(msg)
    return given


def _candidates(block: dict[str, Any]) -> Iterator[Any]:
    for key in ("base64", "data"):
        if key in block:
            yield block[key]
    if "source" in block:
        source = block["source"]
        if isinstance(source, dict) and source.get("type") == "base64":
            yield source.get("data")
        else:
            msg = "its source is not base64: addresses and file ids are not fetched"
            raise UnreadableContentError(msg)
    for key in ("url", "image_url"):
        if key in block:
            yield _from_address(block[key])
    for key in ("file_id", "path", "image"):
        if key in block:
            msg = f"its {key!r} points to something that was not sent: send base64 or a data URI"
            raise UnreadableContentError(msg)


def _from_address(given: Any) -> str:
    address = given.get("url") if isinstance(given, dict) else given
    if not isinstance(address, str):
        msg = "its address is not text"
        raise UnreadableContentError(msg)
    head, comma, data = address.partition(",")
    if not head.lower().startswith("data:"):
        msg = "it is an address, and addresses are not fetched: send base64 or a data URI"
        raise UnreadableContentError(msg)
    if not comma or not head.lower().endswith(";base64"):
        msg = "its data URI is not in base64"
        raise UnreadableContentError(msg)
    return data


def _only_text_and_pictures(message: BaseMessage) -> BaseMessage:
    if isinstance(message.content, str):
        return message
    return message.model_copy(update={"content": [b for b in blocks_of(message) if b["type"] in ("text", "image")]})
