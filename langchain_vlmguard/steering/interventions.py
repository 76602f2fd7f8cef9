"""Interventions: how the hidden state of a token is edited when the gate is open.

Every published reading of VLM-Guard is one kernel, `h* = h + g (a h P + b h(q) P)` with `P = V.T V`: `h` the state of the
full multimodal input, `h(q)` that of the text-only query, `g` the row's gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from langchain_vlmguard.steering.gates import ClassStats


@dataclass(frozen=True)
class LayerEdit:
    """Everything an intervention may look at in one layer. Tensors are float32."""

    vectors: Tensor
    """Directions `(rank, hidden)`, orthonormal rows."""

    strength: Tensor
    """The gate's strength of each row, `(rows,)`."""

    pictured: Tensor
    """Whether a row shows a picture, `(rows,)` bool."""

    text: ClassStats
    """Class means of the anchors as text alone."""

    picture: ClassStats
    """The same beside neutral pictures."""

    reference: Tensor | None = None
    """Coordinates of the text-only query, `(rows, rank)`, for interventions with `needs_text_query`."""


@dataclass(frozen=True)
class Intervention:
    """A linear edit along the directions of one layer; the base class is the kernel."""

    name: ClassVar[str] = "kernel"
    needs_text_query: ClassVar[bool] = False
    """Whether the text-only query must be run for its coordinates."""

    alpha: float = 1.0
    """Strength, a factor on the added component."""

    def edit(self, hidden: Tensor, layer: LayerEdit) -> Tensor:
        """Return the edited states.

        Args:
            hidden: One token a row, `(rows, hidden)` float32.
            layer: The layer's directions, statistics and gate.

        Returns:
            `(rows, hidden)` float32.
        """
        coordinates = hidden @ layer.vectors.T
        change = layer.strength[:, None] * self.change(coordinates, layer)
        return hidden + change @ layer.vectors

    def change(self, coordinates: Tensor, layer: LayerEdit) -> Tensor:
        """Return what to add to the coordinates `(rows, rank)` at full strength."""
        own, query = self.coefficients()
        added = own * coordinates
        if layer.reference is not None:
            added = added + query * layer.reference
        return added

    def coefficients(self) -> tuple[float, float]:
        """Return the kernel's `(a, b)`."""
        return 0.0, 0.0


@dataclass(frozen=True)
class ProjectOut(Intervention):
    """`a = -1`: the abstract of VLM-Guard taken literally. A negative control: it can remove refusal."""

    name: ClassVar[str] = "project_out"

    def coefficients(self) -> tuple[float, float]:
        """Return `(-1, 0)`; `alpha` plays no part."""
        return -1.0, 0.0


@dataclass(frozen=True)
class Amplify(Intervention):
    """`a = alpha`: VLM-Guard's formula with the multimodal input as its own query."""

    name: ClassVar[str] = "amplify"

    def coefficients(self) -> tuple[float, float]:
        """Return `(alpha, 0)`."""
        return self.alpha, 0.0


@dataclass(frozen=True)
class Transplant(Intervention):
    """`b = alpha`: adds the language model's own, unblurred component."""

    name: ClassVar[str] = "transplant"
    needs_text_query: ClassVar[bool] = True

    def coefficients(self) -> tuple[float, float]:
        """Return `(0, alpha)`."""
        return 0.0, self.alpha


@dataclass(frozen=True)
class Fulfil(Intervention):
    """`a = -1, b = alpha`: the formulas chained. With rank 1 and `alpha = 1` this is ShiftDC's update."""

    name: ClassVar[str] = "fulfil"
    needs_text_query: ClassVar[bool] = True

    def coefficients(self) -> tuple[float, float]:
        """Return `(-1, alpha)`."""
        return -1.0, self.alpha


@dataclass(frozen=True)
class Restore(Intervention):
    """Ours: undo the squeeze of a picture, `c' = s c + t`, mapping the class means with a picture onto those of text.

    `s = (T_harmful - T_harmless) / (P_harmful - P_harmless)` and `t = T_harmless - s P_harmless`, with `T` and `P` the class
    means of the first coordinate as text alone and beside neutral pictures. Rows without a picture are left alone.
    """

    name: ClassVar[str] = "restore"

    max_scale: float = 8.0
    """Upper bound of `s`: where a picture leaves almost no signal, noise must not be blown up into refusal."""

    def change(self, coordinates: Tensor, layer: LayerEdit) -> Tensor:
        """Return `alpha (c' - c)` on the first coordinate of rows with a picture, 0 elsewhere."""
        text, picture = layer.text, layer.picture
        squeezed = (picture.harmful - picture.harmless)[0].clamp(min=1e-6)
        scale = ((text.harmful - text.harmless)[0] / squeezed).clamp(max=self.max_scale)
        first = coordinates[:, 0]
        restored = text.harmful[0] + scale * (first - picture.harmful[0])
        change = torch.zeros_like(coordinates)
        change[:, 0] = self.alpha * (restored - first) * layer.pictured
        return change


@dataclass(frozen=True)
class Push(Intervention):
    """Ours: move a row towards refusal, `c' = c + alpha g (T_harmful - T_harmless)`.

    Activation addition (arXiv 2308.10248) graded by the gate and measured in the model's own unit, the distance of the class
    means as text alone. `Restore` gives back what a picture squeezed; `Push` also decides rows that a picture has left on the
    brink. With rows without a picture it does the same, so it needs a gate.
    """

    name: ClassVar[str] = "push"

    def change(self, coordinates: Tensor, layer: LayerEdit) -> Tensor:
        """Return `alpha (T_harmful - T_harmless)` on the first coordinate, 0 elsewhere."""
        change = torch.zeros_like(coordinates)
        change[:, 0] = self.alpha * (layer.text.harmful - layer.text.harmless)[0]
        return change


INTERVENTIONS: dict[str, type[Intervention]] = {
    kind.name: kind for kind in (ProjectOut, Amplify, Transplant, Fulfil, Restore, Push)
}
"""Every intervention by name."""
