"""Several short conversations in one sequence, in which what they share is read once.

Questions on one picture share its tokens and the system prompt before it; questions on other pictures share the system prompt
alone. Each conversation sees its own words and nothing of the others, exactly as if it stood alone: the conversations form a
tree, a token sees its ancestors, and its position is its depth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A stretch of a conversation: tokens, which of them are learned, and the picture whose features stand in for them."""

    tokens: tuple[int, ...]
    learned: tuple[bool, ...]
    picture: int | None = None
    """Number of the picture; its features replace the tokens that are `image_token`."""


@dataclass
class _Node:
    segment: Segment
    parent: int
    """Index of the node, -1 at the root."""

    depth: int
    """Position of its first token."""

    children: dict[Segment, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Packed:
    """One sequence."""

    tokens: Tensor
    """`(1, n)`"""

    positions: Tensor
    """`(1, n)`"""

    mask: Tensor
    """`(1, 1, n, n)`: true where a row may see a column."""

    sources: Tensor
    """Places whose next token is learned, `(m,)`."""

    targets: Tensor
    """The tokens to learn there, `(m,)`."""

    pictures: tuple[int, ...]
    """Numbers of the pictures, in the order in which their tokens stand."""


class Packing:
    """A sequence that grows by conversations."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._nodes: list[_Node] = []
        self._roots: dict[Segment, int] = {}
        self.length = 0
        """Tokens so far."""

    def add(self, conversation: Sequence[Segment]) -> None:
        """Add a conversation, sharing its beginning with those that begin alike."""
        parent, children, depth = -1, self._roots, 0
        for segment in conversation:
            if segment not in children:
                children[segment] = len(self._nodes)
                self._nodes.append(_Node(segment, parent, depth))
                self.length += len(segment.tokens)
            parent = children[segment]
            depth += len(segment.tokens)
            children = self._nodes[parent].children

    def packed(self) -> Packed:
        """Return the sequence."""
        starts: list[int] = []
        place = 0
        for node in self._nodes:
            starts.append(place)
            place += len(node.segment.tokens)
        allowed = torch.zeros(place, place, dtype=torch.bool)
        positions = torch.empty(place, dtype=torch.long)
        sources, targets = [], []
        for index, node in enumerate(self._nodes):
            start, size = starts[index], len(node.segment.tokens)
            rows = slice(start, start + size)
            allowed[rows, rows] = torch.ones(size, size, dtype=torch.bool).tril()
            positions[rows] = torch.arange(node.depth, node.depth + size)
            ancestor = node.parent
            while ancestor >= 0:
                seen = starts[ancestor]
                allowed[rows, seen : seen + len(self._nodes[ancestor].segment.tokens)] = True
                ancestor = self._nodes[ancestor].parent
            for offset, learned in enumerate(node.segment.learned):
                if learned:
                    before = start + offset - 1 if offset else self._last_place(node.parent, starts)
                    sources.append(before)
                    targets.append(node.segment.tokens[offset])
        tokens = [token for node in self._nodes for token in node.segment.tokens]
        shown = tuple(node.segment.picture for node in self._nodes if node.segment.picture is not None)
        return Packed(
            torch.tensor([tokens]),
            positions[None],
            allowed[None, None],
            torch.tensor(sources, dtype=torch.long),
            torch.tensor(targets, dtype=torch.long),
            shown,
        )

    def _last_place(self, index: int, starts: list[int]) -> int:
        return starts[index] + len(self._nodes[index].segment.tokens) - 1
