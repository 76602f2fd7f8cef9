"""Messages: every part is read and checked, or accounted for as unjudged."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.content.checking import check_frames, was_checked
from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.content.images import CheckedPicture, holds_picture
from langchain_vlmguard.content.spellings import (
    Address,
    Inline,
    Parts,
    Spelled,
    Words,
    kind_of,
    loose_pictures,
    picture_data,
    resolve,
)
from langchain_vlmguard.content.turn import LEFT_OUT, Turn, TurnPicture, blocks_of, turn_start
from langchain_vlmguard.errors import UnreadableContentError
from langchain_vlmguard.verdict.limits import ReadLimits
from langchain_vlmguard.verdict.records import Unjudged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.turn import Block

EVIDENCE = "vlmguard_evidence"
"""Name of the message that carries quotes from pictures; a message that comes with it loses it."""

AUTHORED_BY_MODELS = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "server_tool_call", "function_call"}
    | {"reasoning", "reasoning_content", "thinking", "redacted_thinking", "refusal"}
)
"""Block types without pictures that only an AI message may hold."""

_ROLES = (HumanMessage, AIMessage, SystemMessage, ToolMessage)
_BESIDE: Mapping[str, Any] = MappingProxyType({"additional_kwargs": {}, "tool_calls": [], "invalid_tool_calls": []})
"""Fields beside a message's content, and what is left of one that cannot be read."""

_OPAQUE = frozenset({"signature", "encrypted_content", "data"})
"""Fields of model-authored blocks that only the model's provider can read."""

_DEEPEST = 4
"""Levels of blocks in blocks that are read."""


def read_turn(
    messages: Sequence[BaseMessage], limits: ReadLimits | None = None, fetcher: PictureFetcher | None = None
) -> Turn:
    """Read a conversation; nothing raises on hostile content, it is accounted for instead.

    Parts of the current turn that cannot be read are `unjudged`. In earlier turns they were decided on before; a placeholder
    stands in for them, so that one bad picture does not end a conversation. Of earlier turns' pictures the newest
    `max_images` stay. Artifacts of tools are for the program, not for the model: their pictures are read as the turn's and
    the artifact is left out. Blocks inside tool results stand in their message one after the other. Addresses are fetched
    if the limits list their host, in the current turn's content alone; keep what was fetched (`Turn.fetched`), since the
    address may lead to something else the next time.

    Args:
        messages: The conversation, oldest first.
        limits: How much it may hold.
        fetcher: How pictures are fetched by address.
    """
    limits = limits or ReadLimits()
    start = turn_start(messages)
    reader = _Reader(limits, fetcher, _newest_pictures(messages[:start], limits.max_images))
    safe = [reader.message(index, message, current=index >= start) for index, message in enumerate(messages)]
    fetched = {index: _with_fetched(messages[index].content, (index,), reader.fetched) for index, *_ in reader.fetched}
    return Turn(safe, start, tuple(reader.pictures), tuple(reader.unjudged), tuple(reader.earlier), fetched)


def read_for_model(
    messages: Sequence[BaseMessage], limits: ReadLimits | None = None, fetcher: PictureFetcher | None = None
) -> list[BaseMessage]:
    """Return messages whose blocks are text and checked standard image blocks only.

    Raises:
        UnreadableContentError: Naming the first part that cannot be read, and why.
    """
    reader = _Reader(limits or ReadLimits(max_images=64), fetcher)
    safe = [reader.message(index, message, current=True) for index, message in enumerate(messages)]
    if reader.unjudged:
        first = reader.unjudged[0]
        msg = f"{first.where} ({first.kind}) cannot be shown to the model: {first.reason}"
        raise UnreadableContentError(msg)
    return [_only_text_and_pictures(message) for message in safe]


def words_of(block: str | Block) -> str:
    """Return everything a model can read in a block that was read, pictures apart."""
    if isinstance(block, str):
        return block
    if block.get("type") == "text":
        return str(block.get("text", ""))
    return _as_json({key: value for key, value in block.items() if key not in _OPAQUE})


def is_call(block: Block) -> bool:
    """Whether a block of an AI message is a tool call, or thinking that nobody can read."""
    return "call" in str(block.get("type")) or block.get("type") in ("tool_use", "redacted_thinking")


def calls_of(message: BaseMessage) -> list[str]:
    """Return the tool calls of an AI message as a model reads them, one text each."""
    calls = [*message.tool_calls, *message.invalid_tool_calls] if isinstance(message, AIMessage) else []
    return [f"{call['name']}: {_as_json(call['args'])}" for call in calls]


def readable(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return messages with every picture in the standard form; those that a guard has read are taken as they are.

    Raises:
        UnreadableContentError: Naming the first part of the last turn that cannot be read, and why.
    """
    if all(map(is_read, messages)):
        return list(messages)
    turn = read_turn(messages)
    for part in turn.unjudged:
        msg = f"{part.where} ({part.kind}) cannot be judged: {part.reason}"
        raise UnreadableContentError(msg)
    return turn.messages


def is_read(message: BaseMessage) -> bool:
    """Whether this module handed a message on: its form is right, and its pictures were checked by this process lately."""
    return all(_is_handed_on(block) or _is_authored(block, message) for block in blocks_of(message))


@dataclass(frozen=True)
class _Place:
    """Where in the conversation something stands, and whether that is in the current turn."""

    message: int
    current: bool
    path: tuple[int, ...] = ()
    """Indices of blocks in blocks; empty when the content is one plain string."""

    beside: str | None = None
    """Name of the field beside the content."""

    @property
    def where(self) -> str:
        if self.beside:
            return f"messages[{self.message}].{self.beside}"
        return f"messages[{self.message}]" + "".join(f".content[{at}]" for at in self.path or ()) + self._plain

    @property
    def _plain(self) -> str:
        return "" if self.path else ".content"

    def inside(self, at: int) -> _Place:
        return replace(self, path=(*self.path, at))


class _Reader:
    def __init__(
        self, limits: ReadLimits, fetcher: PictureFetcher | None = None, kept: frozenset[tuple[int, ...]] = frozenset()
    ) -> None:
        self.limits = limits
        self.fetcher = fetcher or PictureFetcher()
        self.kept = kept
        self.pictures: list[TurnPicture] = []
        self.earlier: list[TurnPicture] = []
        self.unjudged: list[Unjudged] = []
        self.fetched: dict[tuple[int, ...], list[Block]] = {}
        self._by_url: dict[str, bytes] = {}
        self._letters = 0
        self._blocks = 0

    def message(self, index: int, message: BaseMessage, *, current: bool) -> BaseMessage:
        place = _Place(index, current)
        if not isinstance(message, _ROLES):
            reason = "only human, AI, system and tool messages are read"
            self._account(place, f"messages[{index}]", type(message).__name__, reason)
            return message.model_copy(update={"content": LEFT_OUT, "additional_kwargs": {}})
        beside = self._beside(place, message)
        if message.name == EVIDENCE:
            beside["name"] = None
        if isinstance(message.content, str):
            read = self._block(place, message.content, message)
            return message.model_copy(update={"content": read[0] if read else "", **beside})
        blocks = message.content if isinstance(message.content, list) else [message.content]
        content = [part for at, block in enumerate(blocks) for part in self._block(place.inside(at), block, message)]
        return message.model_copy(update={"content": content, **beside})

    def _account(self, place: _Place, where: str, kind: str, reason: str) -> None:
        if place.current:
            self.unjudged.append(Unjudged(where=where, kind=kind, reason=reason))

    def _beside(self, place: _Place, message: BaseMessage) -> Block:
        """Return what replaces the fields beside the content, accounting for what cannot be read in them."""
        left_out: Block = {}
        if isinstance(message, ToolMessage):
            left_out["artifact"] = None
            self._artifact(replace(place, beside="artifact"), message.artifact)
        for name, empty in _BESIDE.items():
            try:
                self._words_only(getattr(message, name, empty) or empty, counted=name.endswith("tool_calls"))
            except UnreadableContentError as error:
                self._account(place, f"messages[{place.message}].{name}", name, str(error))
                left_out[name] = empty
        return left_out

    def _artifact(self, place: _Place, artifact: Any) -> None:
        """Read the pictures that a tool returned for the program; of earlier turns they were judged then."""
        if artifact is None or not place.current:
            return
        try:
            for found in loose_pictures(artifact):
                self._picture(place, found)
        except UnreadableContentError as error:
            self._account(place, place.where, "artifact", f"it may hold a picture: {error}")

    def _block(self, place: _Place, block: Any, message: BaseMessage) -> list[Any]:
        try:
            return self._read(place, block, message)
        except UnreadableContentError as error:
            self._account(place, place.where, kind_of(block), str(error))
            return [LEFT_OUT if isinstance(block, str) else {"type": "text", "text": LEFT_OUT}]

    def _read(self, place: _Place, block: Any, message: BaseMessage) -> list[Any]:
        self._count()
        if isinstance(block, str):
            return [self._text(block)]
        if not isinstance(block, dict | list):
            msg = "it is neither text nor a content block"
            raise UnreadableContentError(msg)
        kind = kind_of(block)
        if isinstance(block, dict) and kind == "text" and isinstance(block.get("text"), str):
            return [self._text_block(block)]
        if isinstance(block, dict) and _is_authored(block, message):
            self._words_only(block, counted=True)
            return [block]
        return self._spelled(place, resolve(block), kind, message)

    def _spelled(self, place: _Place, found: Spelled | None, kind: str, message: BaseMessage) -> list[Any]:
        if isinstance(found, Words):
            return [{"type": "text", "text": self._text(found.text)}]
        if isinstance(found, Parts):
            return self._parts(place, found.blocks, message)
        if found is None:
            msg = f"blocks of type {kind!r} are not read: send text, or pictures as base64"
            raise UnreadableContentError(msg)
        return [picture.block() for picture in self._picture(place, found)]

    def _parts(self, place: _Place, blocks: Iterable[Any], message: BaseMessage) -> list[Any]:
        if len(place.path) > _DEEPEST:
            msg = "its parts are nested too deep"
            raise UnreadableContentError(msg)
        read = [part for at, block in enumerate(blocks) for part in self._block(place.inside(at), block, message)]
        return [{"type": "text", "text": part} if isinstance(part, str) else part for part in read]

    def _text_block(self, block: Block) -> Block:
        if holds_picture({key: value for key, value in block.items() if key not in ("type", "text")}):
            msg = "a picture stands beside its text: send it as a block of its own"
            raise UnreadableContentError(msg)
        return {"type": "text", "text": self._text(block["text"])}

    def _count(self) -> None:
        self._blocks += 1
        if self._blocks > self.limits.max_blocks:
            msg = f"the conversation has more than {self.limits.max_blocks:,} parts"
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

    def _picture(self, place: _Place, found: Spelled) -> tuple[CheckedPicture, ...]:
        if not place.current and (place.message, *place.path) not in self.kept:
            raise _too_many(self.limits)
        if place.current and len(self.pictures) >= self.limits.max_images:
            raise _too_many(self.limits)
        pictures = check_frames(self._data(place, found), self.limits.image)
        block = place.path[0] if place.path else None
        placed = [TurnPicture(place.message, block, picture, place.where) for picture in pictures]
        if not place.current:
            self.earlier += placed
            return pictures
        if len(self.pictures) + len(pictures) > self.limits.max_images:
            raise _too_many(self.limits)
        self.pictures += placed
        if isinstance(found, Address):
            self.fetched[(place.message, *place.path)] = [picture.block() for picture in pictures]
        return pictures

    def _data(self, place: _Place, found: Spelled) -> bytes:
        if isinstance(found, Inline):
            return picture_data(found.data, self.limits.image)
        url = found.url if isinstance(found, Address) else ""
        if not url.lower().startswith(("http://", "https://")):
            msg = "it is an address or a path, and only base64 and data URIs are read: local files never are"
            raise UnreadableContentError(msg)
        if not place.current or place.beside:
            msg = "it is an address, and addresses are fetched only for the current turn's content: send base64"
            raise UnreadableContentError(msg)
        if url not in self._by_url:
            self._by_url[url] = self.fetcher.fetch(url, self.limits.hosts, self.limits.image.max_bytes)
        return self._by_url[url]


def _too_many(limits: ReadLimits) -> UnreadableContentError:
    return UnreadableContentError(f"there are more than {limits.max_images} pictures")


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
        typed = kind_of(block) == "image" and block["mime_type"] in ("image/png", "image/jpeg")
        return typed and isinstance(block["base64"], str) and was_checked(block["base64"])
    return block.keys() == {"type", "text"} and block["type"] == "text" and isinstance(block["text"], str)


def _is_authored(block: object, message: BaseMessage) -> bool:
    return isinstance(message, AIMessage) and isinstance(block, dict) and kind_of(block) in AUTHORED_BY_MODELS


def _newest_pictures(messages: Sequence[BaseMessage], most: int) -> frozenset[tuple[int, ...]]:
    """Return the places of the last pictures as (message, block, block in it, ...)."""
    places = [
        (index, *path)
        for index, message in enumerate(messages)
        if isinstance(message.content, list)
        for path in _picture_paths(message.content, ())
    ]
    return frozenset(places[max(0, len(places) - most) :])


def _picture_paths(blocks: Sequence[Any], inside: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for at, block in enumerate(blocks):
        try:
            found = resolve(block) if isinstance(block, dict | list) else None
        except UnreadableContentError:
            continue
        if isinstance(found, Parts) and len(inside) <= _DEEPEST:
            yield from _picture_paths(found.blocks, (*inside, at))
        elif isinstance(found, Inline | Address):
            yield (*inside, at)


def _with_fetched(content: Any, place: tuple[int, ...], fetched: Mapping[tuple[int, ...], list[Any]]) -> list[Any]:
    """Return content with fetched pictures in place of their addresses, blocks in blocks included."""
    changed: list[Any] = []
    for at, block in enumerate(content):
        path = (*place, at)
        if path in fetched:
            changed += fetched[path]
        elif any(other[: len(path)] == path for other in fetched):
            inner = _with_fetched(block["content"] if isinstance(block, dict) else block, path, fetched)
            changed.append({**block, "content": inner} if isinstance(block, dict) else inner)
        else:
            changed.append(block)
    return changed


def _only_text_and_pictures(message: BaseMessage) -> BaseMessage:
    if isinstance(message.content, str):
        return message
    return message.model_copy(update={"content": [b for b in blocks_of(message) if b["type"] in ("text", "image")]})
