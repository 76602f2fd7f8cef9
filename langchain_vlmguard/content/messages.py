"""Messages: every part is read and checked, or accounted for as unjudged."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.content.carriers import is_authored, pictures_in
from langchain_vlmguard.content.checking import check_frames, checked_block, was_checked
from langchain_vlmguard.content.documents import pdf_block, pdf_in, read_pdf
from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.content.images import holds_picture
from langchain_vlmguard.content.places import DEEPEST, Place, newest_pictures, with_fetched
from langchain_vlmguard.content.spellings import (
    Address,
    Inline,
    Parts,
    Spelled,
    Words,
    is_exactly,
    kind_of,
    loose_pictures,
    picture_data,
    resolve,
    shows_picture,
)
from langchain_vlmguard.content.text_layers import hidden_text
from langchain_vlmguard.content.turn import LEFT_OUT, Turn, TurnPicture, blocks_of, turn_start
from langchain_vlmguard.content.walk import is_prose, texts_in
from langchain_vlmguard.errors import UnreadableContentError
from langchain_vlmguard.verdict.limits import ReadLimits
from langchain_vlmguard.verdict.records import Unjudged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.turn import Block
    from langchain_vlmguard.verdict.records import SecurityFinding

EVIDENCE = "vlmguard_evidence"
"""Name of the message that carries quotes from pictures; a message that comes with it loses it."""

_ROLES = (HumanMessage, AIMessage, SystemMessage, ToolMessage)
_BESIDE: Mapping[str, Any] = MappingProxyType(
    {"additional_kwargs": {}, "response_metadata": {}, "tool_calls": [], "invalid_tool_calls": []}
)
"""Fields beside a message's content, and what is left of one that cannot be read; a message's own extra fields are left out."""

_TEXTS = frozenset({"text", "input_text", "output_text"})

_OPAQUE = frozenset({"signature", "encrypted_content", "data"})
"""Fields of model-authored blocks that only the model's provider can read."""

_MARKS = frozenset({"type", "text", "id", "index", "cache_control"})
"""Fields with which a text goes to the model as it came: they say nothing to people or models."""

_BESIDE_CONTENT = "it may hold a picture: pictures are read only as blocks of a message's content"
_ENDLESS = 10**12
_TOKEN = re.compile(r"[\w./:;+-]{0,64}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_turn(
    messages: Sequence[BaseMessage],
    limits: ReadLimits | None = None,
    fetcher: PictureFetcher | None = None,
    *,
    decided: int = 0,
) -> Turn:
    """Read a conversation; nothing raises on hostile content, it is accounted for instead.

    Parts of the current turn that cannot be read are `unjudged`. In earlier turns they were decided on before; a placeholder
    stands in for them, so that one bad picture does not end a conversation. Of earlier turns' pictures the newest
    `max_earlier_images` stay. Artifacts of tools are for the program, not for the model: their pictures are read as the
    turn's and the artifact is left out. Blocks inside tool results stand in their message one after the other. Addresses are
    fetched if the limits list their host, in the current turn's content alone; keep what was fetched (`Turn.fetched`), since
    the address may lead to something else the next time.

    Args:
        messages: The conversation, oldest first.
        limits: How much of it may be judged at once.
        fetcher: How pictures are fetched by address.
        decided: How many of the first messages were decided on before, though the turn may have begun among them.
    """
    limits = limits or ReadLimits()
    start = turn_start(messages)
    now = max(start, decided)
    reader = _Reader(limits, fetcher, newest_pictures(messages[:now], limits.max_earlier_images, pdf=limits.pdf.read))
    safe = [reader.message(index, message, current=index >= now) for index, message in enumerate(messages)]
    fetched = {index: with_fetched(messages[index].content, (index,), reader.fetched) for index, *_ in reader.fetched}
    pictures, unjudged, earlier = tuple(reader.pictures), tuple(reader.unjudged), tuple(reader.earlier)
    return Turn(safe, start, pictures, unjudged, earlier, fetched, reader.as_they_came, tuple(reader.security))


def read_for_model(
    messages: Sequence[BaseMessage], limits: ReadLimits | None = None, fetcher: PictureFetcher | None = None
) -> list[BaseMessage]:
    """Return messages whose blocks are text and checked standard image blocks only.

    What a guard in this process checked and handed on is taken as it is: the guard's limits are the model's limits.

    Raises:
        UnreadableContentError: Naming the first part that cannot be read, and why.
    """
    reader = _Reader(limits or ReadLimits(max_images=64, max_text_chars=_ENDLESS, max_blocks=_ENDLESS), fetcher)
    reader.trusts_checked = True
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
        self.security: list[SecurityFinding] = []
        self.fetched: dict[tuple[int, ...], list[Block]] = {}
        self.as_they_came: dict[int, BaseMessage] = {}
        self._by_url: dict[str, bytes] = {}
        self._letters: Counter[int | str] = Counter()
        self._speaker: int | str = "people"
        """What the letters are counted for: all that people wrote together, each other message by itself."""
        self.trusts_checked = False
        """Whether pictures that were checked before, under whatever limits, are taken as they are."""
        self._trusted = 0
        self._blocks = 0
        self._exact = True
        """Whether the message that is read says the same as it came, to the last field."""

    def message(self, index: int, message: BaseMessage, *, current: bool) -> BaseMessage:
        if not current and _is_plain(message):
            return message
        place = Place(index, current)
        if not isinstance(message, _ROLES):
            reason = "only human, AI, system and tool messages are read"
            self._account(place, f"messages[{index}]", type(message).__name__, reason)
            return message.model_copy(update={"content": LEFT_OUT, "additional_kwargs": {}})
        self._exact = True
        self._speaker = "people" if isinstance(message, HumanMessage | SystemMessage) else index
        beside = self._beside(place, message)
        if message.name == EVIDENCE or _speaks_by_name(message):
            beside["name"] = None
        if isinstance(message.content, str):
            read = self._block(place, message.content, message)
            content: Any = read[0] if read else ""
        else:
            blocks = message.content if isinstance(message.content, list) else [message.content]
            content = [
                part for at, block in enumerate(blocks) for part in self._block(place.inside(at), block, message)
            ]
        if content == message.content and not beside:
            return message
        if self._exact and not beside.keys() - {"artifact"}:
            self.as_they_came[index] = message.model_copy(update=beside) if beside else message
        return message.model_copy(update={"content": content, **beside})

    def _account(self, place: Place, where: str, kind: str, reason: str) -> None:
        if place.current:
            self.unjudged.append(Unjudged(where=where, kind=kind, reason=reason))

    def _beside(self, place: Place, message: BaseMessage) -> Block:
        """Return what replaces the fields beside the content, accounting for what cannot be read in them."""
        left_out: Block = {}
        if isinstance(message, ToolMessage) and message.artifact is not None:
            left_out["artifact"] = None
            self._artifact(replace(place, beside="artifact"), message)
        for name in (*_BESIDE, *(message.model_extra or ())):
            value = getattr(message, name, None)
            if not value or (name == "response_metadata" and isinstance(message, AIMessage)):
                continue
            try:
                if name.endswith("tool_calls"):
                    self._model_words(place, value)
                else:
                    _no_picture(value)
            except UnreadableContentError as error:
                self._account(place, f"messages[{place.message}].{name}", name, str(error))
                left_out[name] = _BESIDE.get(name)
        return left_out

    def _artifact(self, place: Place, message: ToolMessage) -> None:
        """Read the pictures and PDFs that a tool returned for the program; of earlier turns they were judged then."""
        if not place.current:
            return
        try:
            for found in loose_pictures(message.artifact, pdf=self.limits.pdf.read):
                self._shown(place, found, message)
        except UnreadableContentError as error:
            self._account(place, place.where, "artifact", f"it may hold a picture: {error}")

    def _block(self, place: Place, block: Any, message: BaseMessage) -> list[Any]:
        try:
            return self._read(place, block, message)
        except UnreadableContentError as error:
            self._exact = False
            self._account(place, place.where, kind_of(block), str(error))
            return [LEFT_OUT if isinstance(block, str) else {"type": "text", "text": LEFT_OUT}]

    def _read(self, place: Place, block: Any, message: BaseMessage) -> list[Any]:
        self._count(place)
        if isinstance(block, str):
            return [self._text(place, block)]
        if not isinstance(block, dict | list):
            msg = "it is neither text nor a content block"
            raise UnreadableContentError(msg)
        kind = kind_of(block)
        if isinstance(block, dict) and kind in _TEXTS and isinstance(block.get("text"), str):
            return [self._text_block(place, block, message)]
        if isinstance(block, dict) and block.keys() == {"cachePoint"}:
            return []
        if isinstance(block, dict) and _is_authored(block, message):
            self._model_words(place, block)
            return [block]
        return self._spelled(place, block, resolve(block, pdf=self.limits.pdf.read), message)

    def _spelled(self, place: Place, block: object, found: Spelled | None, message: BaseMessage) -> list[Any]:
        if isinstance(found, Words):
            self._exact = False
            return [{"type": "text", "text": self._text(place, found.text)}]
        if isinstance(found, Parts):
            return self._parts(place, found.blocks, message)
        if found is None:
            msg = f"blocks of type {kind_of(block)!r} are not read: send text, or pictures as base64"
            raise UnreadableContentError(msg)
        if self.trusts_checked and isinstance(found, Inline) and (known := checked_block(found.data)):
            self._trusted += 1
            if self._trusted + len(self.pictures) > self.limits.max_images:
                raise _too_many(self.limits)
            return [known]
        shown = self._shown(place, found, message)
        same = len(shown) == 1 and is_exactly(block, found, shown[0].picture) and _is_bare(block)
        self._exact = self._exact and same
        return [part for one in shown for part in one.blocks()]

    def _parts(self, place: Place, blocks: Iterable[Any], message: BaseMessage) -> list[Any]:
        if len(place.path) > DEEPEST:
            msg = "its parts are nested too deep"
            raise UnreadableContentError(msg)
        read = [part for at, block in enumerate(blocks) for part in self._block(place.inside(at), block, message)]
        return [{"type": "text", "text": part} if isinstance(part, str) else part for part in read]

    def _text_block(self, place: Place, block: Block, message: BaseMessage) -> Block:
        others = {key: value for key, value in block.items() if key not in ("type", "text")}
        if others and holds_picture(others):
            msg = "a picture stands beside its text: send it as a block of its own"
            raise UnreadableContentError(msg)
        self._exact = self._exact and (
            isinstance(message, AIMessage) or (block.keys() <= _MARKS and _are_marks(others))
        )
        return {"type": "text", "text": self._text(place, block["text"])}

    def _count(self, place: Place) -> None:
        self._blocks += place.current
        if self._blocks > self.limits.max_blocks:
            msg = f"the turn has more than {self.limits.max_blocks:,} parts"
            raise UnreadableContentError(msg)

    def _text(self, place: Place, text: str) -> str:
        self._letters[self._speaker] += len(text) if place.current else 0
        if self._letters[self._speaker] > self.limits.max_text_chars:
            what = "turn" if self._speaker == "people" else "message"
            msg = f"the {what} is longer than {self.limits.max_text_chars:,} characters"
            raise UnreadableContentError(msg)
        if text.isascii() or _LONE_SURROGATE.search(text) is None:
            return text
        self._exact = False
        return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)

    def _model_words(self, place: Place, value: Any) -> None:
        """Count what a model wrote beside its text, and see that no picture is in it; it may well speak of pictures."""
        if not place.current:
            return
        self._text(place, _as_json(value))
        if any(shows_picture(block, self.limits.image) for block in pictures_in(value)):
            raise UnreadableContentError(_BESIDE_CONTENT)

    def _shown(self, place: Place, found: Inline | Address, message: BaseMessage) -> list[TurnPicture]:
        """Read a picture or a PDF; frames and pages stand in for it."""
        self._check_room(place)
        data = found.data if isinstance(found, Inline) else self._fetched(place, found.url)
        document = pdf_in(data, self.limits)
        if document is not None:
            shown = self._pages(place, document, message)
        else:
            frames = check_frames(picture_data(data, self.limits.image), self.limits.image)
            shown = [TurnPicture(place.message, place.block, frame, place.where) for frame in frames]
        self._take(place, shown)
        if isinstance(found, Address):
            kept = [part for one in shown for part in one.blocks()] if document is None else [pdf_block(document)]
            self.fetched[(place.message, *place.path)] = kept
        return shown

    def _pages(self, place: Place, document: bytes, message: BaseMessage) -> list[TurnPicture]:
        shown = []
        for number, page in enumerate(read_pdf(document, self.limits), 1):
            where = f"{place.where}, page {number}"
            shown.append(TurnPicture(place.message, place.block, page.picture, where, page.layer))
            self._text(place, page.layer)
            if page.hides and place.current:
                self.security.append(hidden_text(where, message))
        return shown

    def _check_room(self, place: Place) -> None:
        if not place.current and (place.message, *place.path) not in self.kept:
            raise _too_many(self.limits)
        if place.current and len(self.pictures) + self._trusted >= self.limits.max_images:
            raise _too_many(self.limits)

    def _take(self, place: Place, placed: list[TurnPicture]) -> None:
        if not place.current:
            self.earlier += placed
            return
        if len(self.pictures) + len(placed) > self.limits.max_images:
            raise _too_many(self.limits)
        self.pictures += placed

    def _fetched(self, place: Place, url: str) -> bytes:
        if not url.lower().startswith(("http://", "https://")):
            msg = "it is an address or a path, and only base64 and data URIs are read: local files never are"
            raise UnreadableContentError(msg)
        if not place.current or place.beside:
            msg = "it is an address, and addresses are fetched only for the current turn's content: send base64"
            raise UnreadableContentError(msg)
        if url not in self._by_url:
            most = max(self.limits.image.max_bytes, self.limits.pdf.max_bytes if self.limits.pdf.read else 0)
            self._by_url[url] = self.fetcher.fetch(url, self.limits.hosts, most)
        return self._by_url[url]


def _too_many(limits: ReadLimits) -> UnreadableContentError:
    return UnreadableContentError(f"there are more than {limits.max_images} pictures")


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"it cannot be written as JSON ({type(error).__name__})"
        raise UnreadableContentError(msg) from error


def _is_plain(message: BaseMessage) -> bool:
    """Whether a message is a text that needs no second look: of earlier turns, most are."""
    text = message.content
    return (
        isinstance(text, str)
        and isinstance(message, _ROLES)
        and not message.additional_kwargs
        and not message.model_extra
        and (isinstance(message, AIMessage) or not (message.response_metadata or message.name))
        and message.name != EVIDENCE
        and (not isinstance(message, ToolMessage) or message.artifact is None)
        and (text.isascii() or _LONE_SURROGATE.search(text) is None)
    )


def _speaks_by_name(message: BaseMessage) -> bool:
    """Whether a name is words that a model would read; what models call themselves is judged with their answers."""
    return bool(message.name) and is_prose(str(message.name)) and not isinstance(message, AIMessage)


def _is_handed_on(block: object) -> bool:
    if not isinstance(block, dict):
        return False
    if block.keys() == {"type", "base64", "mime_type"}:
        typed = kind_of(block) == "image" and block["mime_type"] in ("image/png", "image/jpeg")
        return typed and isinstance(block["base64"], str) and was_checked(block["base64"])
    return block.keys() == {"type", "text"} and block["type"] == "text" and isinstance(block["text"], str)


def _is_authored(block: object, message: BaseMessage) -> bool:
    return isinstance(message, AIMessage) and isinstance(block, dict) and is_authored(block)


def _no_picture(value: object) -> None:
    if holds_picture(value):
        raise UnreadableContentError(_BESIDE_CONTENT)


def _are_marks(fields: Block) -> bool:
    """Whether fields beside a text are short marks, which say nothing."""
    return all(_TOKEN.fullmatch(leaf) for leaf in texts_in(fields))


def _is_bare(block: object) -> bool:
    """Whether a block holds one picture and short marks alone."""
    found = [leaf for leaf in texts_in(block) if not _TOKEN.fullmatch(leaf)]
    return len(found) == 1


def _only_text_and_pictures(message: BaseMessage) -> BaseMessage:
    if isinstance(message.content, str):
        return message
    return message.model_copy(update={"content": [b for b in blocks_of(message) if b["type"] in ("text", "image")]})
