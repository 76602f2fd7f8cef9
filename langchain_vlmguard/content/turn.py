"""The turn: what the guard looks at, inside the whole conversation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.images import CheckedPicture
    from langchain_vlmguard.verdict.records import SecurityFinding, Unjudged

Block = dict[str, Any]
"""A content block of a message, in any provider's form."""

LEFT_OUT = "[a part of this message could not be read and was left out]"
"""What stands in for unread parts of earlier turns."""


@dataclass(frozen=True)
class TurnPicture:
    """A picture and its place in the conversation."""

    message: int
    """Index of the message."""

    block: int | None
    """Index of the block in the message's content as it came; `None` for one beside the content."""

    picture: CheckedPicture
    where: str
    """The place in the words of `Unjudged.where`, e.g. `"messages[2].content[0]"` or `"messages[2].artifact"`."""

    layer: str = ""
    """Of a PDF's page, the text block that stands beside the picture: the words of its text layer."""

    def blocks(self) -> list[Block]:
        """Return it as content blocks: its picture, behind the words of its text layer if it has any."""
        text: list[Block] = [{"type": "text", "text": self.layer}] if self.layer else []
        return [*text, self.picture.block()]


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

    earlier: tuple[TurnPicture, ...] = ()
    """The pictures of earlier turns that a model still gets, in order."""

    fetched: Mapping[int, Any] = field(default_factory=dict)
    """Content of messages, by index, with fetched pictures in place of their addresses and everything else as it came."""

    as_they_came: Mapping[int, BaseMessage] = field(default_factory=dict)
    """By index, messages that a model may get in the very form in which they came: caching marks, ids and the provider's own
    spelling of a picture, where all of it was read and its pictures are byte for byte what was checked."""

    security: tuple[SecurityFinding, ...] = ()
    """What reading the turn found out about those who wrote it."""

    @property
    def current(self) -> list[BaseMessage]:
        """The turn's own messages, without what came before."""
        return self.messages[self.start :]

    @property
    def for_model(self) -> list[BaseMessage]:
        """The conversation as a model may get it, messages as they came where nothing in them had to change."""
        return [self.as_they_came.get(at, message) for at, message in enumerate(self.messages)]

    @property
    def text(self) -> str:
        """What people wrote in this turn."""
        return "\n".join(str(m.text) for m in self.current if isinstance(m, HumanMessage))

    @property
    def weight(self) -> int:
        """Bytes of the pictures and characters of the texts."""
        pictures = sum(len(one.picture.data) for one in (*self.pictures, *self.earlier))
        return pictures + sum(len(str(message.text)) for message in self.messages)

    def after(self, context: Sequence[BaseMessage]) -> Turn:
        """Return the turn with messages in front of it, which were read before and are only its context."""
        shift = len(context)
        moved = tuple(replace(picture, message=picture.message + shift) for picture in self.pictures)
        came = {at + shift: message for at, message in self.as_they_came.items()}
        messages = [*context, *self.messages]
        return replace(self, messages=messages, start=self.start + shift, pictures=moved, as_they_came=came)

    def without(self, withheld: Collection[str]) -> Turn:
        """Return the turn with some of its earlier pictures, and the text layers of some pages, left out, by SHA-256."""
        named = [p for p in (*self.pictures, *self.earlier) if p.picture.sha256 in withheld]
        gone = {p.picture.block()["base64"] for p in named if p in self.earlier} | {p.layer for p in named if p.layer}
        if not gone:
            return self
        places = {p.message for p in named if p in self.earlier or p.layer}
        messages = [_without(m, gone) if at in places else m for at, m in enumerate(self.messages)]
        kept = tuple(p for p in self.earlier if p.picture.sha256 not in withheld)
        return replace(self.with_messages(messages), earlier=kept)

    def with_messages(self, messages: Sequence[BaseMessage]) -> Turn:
        """Return the turn with other messages in the same places."""
        came = {at: one for at, one in self.as_they_came.items() if messages[at] is self.messages[at]}
        return replace(self, messages=[*messages], as_they_came=came)


def turn_start(messages: Sequence[BaseMessage]) -> int:
    """Return the index at which the turn begins: the newest request, or what follows the last answer.

    The newest request is the last run of human and system messages. An answer is an AI message that calls no tool; agents that
    answer by calling one (structured output, handoffs) never give one.
    """
    start = len(messages)
    while start and not isinstance(messages[start - 1], HumanMessage):
        start -= 1
        message = messages[start]
        if isinstance(message, AIMessage) and not message.tool_calls:
            return start + 1
    while start and isinstance(messages[start - 1], HumanMessage | SystemMessage):
        start -= 1
    return start


def blocks_of(message: BaseMessage) -> list[Block]:
    """Return a message's content as blocks, plain text as text blocks."""
    parts = message.content if isinstance(message.content, list) else [message.content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _without(message: BaseMessage, gone: Collection[str]) -> BaseMessage:
    if isinstance(message.content, str):
        return message
    left_out = {"type": "text", "text": LEFT_OUT}
    content = [
        left_out if isinstance(b, dict) and (b.get("base64") in gone or b.get("text") in gone) else b
        for b in message.content
    ]
    return message.model_copy(update={"content": content})


def messages_of(given: LanguageModelInput) -> list[BaseMessage]:
    """Return messages of whatever a chat model takes: words, a prompt value, or messages in any form.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(given, str):
        return [HumanMessage(given)]
    return given.to_messages() if isinstance(given, PromptValue) else convert_to_messages(given)
