"""The edit itself: one function of tensors at fixed addresses, the same for every row of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

STEEP = 1e30
"""Slope of a gate without grades: a coordinate above the threshold gives 1, any other 0."""


class Tables:
    """What the op reads and writes. A token follows the programme of its slot; slot 0 does nothing.

    Args:
        vectors: Directions of all sets side by side, `(layers, columns, hidden)`.
        slots: Most rows at a time.
        tokens: Most tokens a step.
        device: Where the model runs.
    """

    def __init__(self, vectors: Tensor, slots: int, tokens: int, device: torch.device | str = "cpu") -> None:
        """Start with nothing to do."""
        layers, columns, _ = vectors.shape
        self.vectors = vectors.to(device, torch.float32)
        self.slot = torch.zeros(tokens, dtype=torch.long, device=device)
        """Which programme each token of the step follows."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.own = zeros(layers, slots + 1, columns)
        """Factor on a token's own coordinates, in what is added."""

        self.add = zeros(layers, slots + 1, columns)
        """What is added beside it."""

        self.gate = zeros(layers, slots + 1, columns, dtype=torch.bool)
        """The coordinate that is the gate's, true while the gate is to be read."""

        self.watch = zeros(slots + 1, dtype=torch.bool)
        """Slots whose coordinates are kept in this step."""

        self.threshold = zeros(slots + 1)
        self.slope = zeros(slots + 1)
        self.strength = zeros(slots + 1)
        self.score = zeros(slots + 1)
        self.coordinates = zeros(layers, slots + 1, columns)
        self.seen = zeros(layers, slots + 1, dtype=torch.int32)
        self.edited = zeros(layers, slots + 1, dtype=torch.int32)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        for name in ("own", "add", "gate", "coordinates", "seen", "edited"):
            getattr(self, name)[:, slot] = 0
        for name in ("watch", "threshold", "slope", "strength", "score"):
            getattr(self, name)[slot] = 0


def edit(tables: Tables, hidden: Tensor, residual: Tensor | None, layer: int) -> None:
    """Read gates and edit tokens after one decoder layer, in place; no branch depends on what a tensor holds.

    Args:
        tables: Where programmes lie and readings go.
        hidden: The layer's output `(tokens, hidden)`, the part that is edited.
        residual: What vLLM carries beside it; the state is the sum of both. `None` where the output is the whole state.
        layer: Number of the layer in the decoder.

    Raises:
        ValueError: There are more tokens than the tables were made for.
    """
    count = hidden.shape[0]
    if count > len(tables.slot):
        msg = f"{count} tokens in a step, and the tables were made for {len(tables.slot)}"
        raise ValueError(msg)
    slot, vectors = tables.slot[:count], tables.vectors[layer]
    state = hidden.float() if residual is None else hidden.float() + residual.float()
    coordinates = state @ vectors.T
    mask = tables.gate[layer][slot]
    reads = mask.any(dim=1)
    score = torch.where(mask, coordinates, 0.0).sum(dim=1)
    opened = ((score - tables.threshold[slot]) * tables.slope[slot]).clamp(0.0, 1.0)
    tables.score[slot] = torch.where(reads, score, tables.score[slot])
    tables.strength[slot] = torch.where(reads, opened, tables.strength[slot])
    tables.coordinates[layer, slot] = torch.where(
        tables.watch[slot][:, None], coordinates, tables.coordinates[layer][slot]
    )
    strength = tables.strength[slot][:, None]
    change = strength * (tables.own[layer][slot] * coordinates + tables.add[layer][slot])
    change = torch.where(strength != 0, change, 0.0)
    hidden.add_((change @ vectors).to(hidden.dtype))
    tables.seen[layer].index_add_(0, slot, torch.ones_like(slot, dtype=torch.int32))
    tables.edited[layer].index_add_(0, slot, (change != 0).any(dim=1).to(torch.int32))
