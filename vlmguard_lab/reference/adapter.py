"""A low-rank adapter on the language model's matrices, held in float32 while it is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from vlmguard_lab.reference.visual_part import VisualPart


class AdaptedLinear(nn.Module):
    """A frozen matrix and what is added to it: `x W + scale · x down up`."""

    def __init__(self, frozen: nn.Linear, rank: int, scale: float) -> None:
        """Begin with nothing added."""
        super().__init__()
        self.frozen, self.scale = frozen, scale
        self.down = nn.Parameter(torch.empty(rank, frozen.in_features))
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        base: Tensor = self.frozen(x)
        return base + self.scale * functional.linear(functional.linear(x, self.down), self.up)


class Adapter:
    """All adapted matrices of a language model."""

    def __init__(
        self, model: nn.Module, targets: tuple[str, ...], *, rank: int, scale: float, first_layer: int = 0
    ) -> None:
        """Put adapters in place.

        Args:
            model: A `Qwen2Model`; its matrices are frozen.
            targets: Names of the matrices in a layer, e.g. `q_proj`.
            rank: Of what is added.
            scale: What it is multiplied by.
            first_layer: The layers below stay as they are.
        """
        self.scale = scale
        self.parts: dict[str, AdaptedLinear] = {}
        for name, module in list(model.named_modules()):
            owner, _, last = name.rpartition(".")
            if last in targets and isinstance(module, nn.Linear) and int(name.split(".")[1]) >= first_layer:
                part = AdaptedLinear(module, rank, scale)
                setattr(model.get_submodule(owner), last, part)
                self.parts[name] = part

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""
        return [parameter for part in self.parts.values() for parameter in (part.down, part.up)]

    def state(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return `down` and `up` by a matrix's name."""
        return {name: (part.down.detach(), part.up.detach()) for name, part in self.parts.items()}

    def load(self, visual: VisualPart) -> None:
        """Take over what was trained before."""
        for name, (down, up) in visual.adapter.items():
            self.parts[name].down.data.copy_(down)
            self.parts[name].up.data.copy_(up)
