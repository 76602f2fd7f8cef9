"""Where in a conversation something stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.content.spellings import Address, Inline, Parts, resolve
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langchain_core.messages import BaseMessage

Path = tuple[int, ...]
"""Index of a message, of a block in it, of a block in that, ..."""

DEEPEST = 4
"""Levels of blocks in blocks that are read."""


@dataclass(frozen=True)
class Place:
    """A place in the conversation, and whether what stands there is judged now."""

    message: int
    current: bool
    path: Path = ()
    """Indices of blocks in blocks; empty when the content is one plain string."""

    beside: str | None = None
    """Name of the field beside the content."""

    @property
    def where(self) -> str:
        """The place in words, e.g. `"messages[2].content[0]"`."""
        if self.beside:
            return f"messages[{self.message}].{self.beside}"
        return f"messages[{self.message}]" + ("".join(f".content[{at}]" for at in self.path) or ".content")

    @property
    def block(self) -> int | None:
        """Index of the block in the message's content; `None` beside the content, and where that is one plain string."""
        return self.path[0] if self.path else None

    def inside(self, at: int) -> Place:
        """Return the place of a block in this one."""
        return replace(self, path=(*self.path, at))


def newest_pictures(messages: Sequence[BaseMessage], most: int, *, pdf: bool) -> frozenset[Path]:
    """Return the places of the last pictures in the contents of messages, and of PDFs if those are read."""
    places = [
        (index, *path)
        for index, message in enumerate(messages)
        if isinstance(message.content, list)
        for path in _picture_paths(message.content, (), pdf=pdf)
    ]
    return frozenset(places[max(0, len(places) - most) :])


def with_fetched(content: Any, place: Path, fetched: Mapping[Path, list[dict[str, object]]]) -> list[object]:
    """Return content with what was fetched in place of its addresses, blocks in blocks included."""
    changed: list[object] = []
    for at, block in enumerate(content):
        path = (*place, at)
        if path in fetched:
            changed += fetched[path]
        elif any(other[: len(path)] == path for other in fetched):
            inner = with_fetched(block["content"] if isinstance(block, dict) else block, path, fetched)
            changed.append({**block, "content": inner} if isinstance(block, dict) else inner)
        else:
            changed.append(block)
    return changed


def _picture_paths(blocks: Sequence[object], inside: Path, *, pdf: bool) -> Iterator[Path]:
    for at, block in enumerate(blocks):
        if isinstance(block, str) or (isinstance(block, dict) and block.get("type") == "text"):
            continue
        try:
            found = resolve(block, pdf=pdf) if isinstance(block, dict | list) else None
        except UnreadableContentError:
            continue
        if isinstance(found, Parts) and len(inside) <= DEEPEST:
            yield from _picture_paths(found.blocks, (*inside, at), pdf=pdf)
        elif isinstance(found, Inline | Address):
            yield (*inside, at)
