"""The turn: what the guard looks at, inside the whole conversation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.images import CheckedPicture
    from langchain_vlmguard.verdict.records import Unjudged

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

    @property
    def current(self) -> list[BaseMessage]:
        """The turn's own messages, without what came before."""
        return self.messages[self.start :]

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
        return replace(self, messages=[*context, *self.messages], start=self.start + shift, pictures=moved)

    def without(self, withheld: Collection[str]) -> Turn:
        """Return the turn with some of its earlier pictures, by SHA-256, left out."""
        gone = {p.picture.block()["base64"] for p in self.earlier if p.picture.sha256 in withheld}
        if not gone:
            return self
        earlier = [_without_pictures(message, gone) for message in self.messages[: self.start]]
        kept = tuple(p for p in self.earlier if p.picture.sha256 not in withheld)
        return replace(self, messages=[*earlier, *self.current], earlier=kept)


def turn_start(messages: Sequence[BaseMessage]) -> int:
    """Return the index after the last answer, an AI message that calls no tool."""
    answers = (i for i, m in enumerate(messages) if isinstance(m, AIMessage) and not m.tool_calls)
    return max(answers, default=-1) + 1


def blocks_of(message: BaseMessage) -> list[Block]:
    """Return a message's content as blocks, plain text as text blocks."""
    parts = message.content if isinstance(message.content, list) else [message.content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _without_pictures(message: BaseMessage, gone: Collection[str]) -> BaseMessage:
    if isinstance(message.content, str):
        return message
    left_out = {"type": "text", "text": LEFT_OUT}
    content = [left_out if isinstance(b, dict) and b.get("base64") in gone else b for b in message.content]
    return message.model_copy(update={"content": content})
