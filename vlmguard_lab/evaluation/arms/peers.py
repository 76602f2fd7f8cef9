"""Peers that edit hidden states, by their published formulas; each edit is plain arithmetic on tensors.

Row vectors throughout: a state is `(..., hidden)`, a layer's vector is `(hidden,)`. What an edit may look at of the clean
prefill stands in `Seen`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.nn.functional import cosine_similarity

if TYPE_CHECKING:
    from torch import Tensor

Positions = Literal["all", "last"]


@dataclass(frozen=True)
class Seen:
    """The clean prefill of a batch at one layer, last prompt token; float32."""

    state: Tensor
    """Of the full input, `(rows, hidden)`."""

    pictured: Tensor
    """Which rows show a picture, `(rows,)` bool."""

    query: Tensor | None = None
    """Of the text that stands for the input without its picture, `(rows, hidden)`."""

    def rows(self, kept: list[int]) -> Seen:
        """Return some of the rows."""
        return Seen(self.state[kept], self.pictured[kept], None if self.query is None else self.query[kept])

    def with_rows(self, other: Seen) -> Seen:
        """Return these rows and another's."""
        query = None if self.query is None or other.query is None else torch.cat((self.query, other.query))
        return Seen(torch.cat((self.state, other.state)), torch.cat((self.pictured, other.pictured)), query)


@dataclass(frozen=True, eq=False)
class PeerEdit(ABC):
    """An edit of hidden states; tensors that hold a layer each are indexed by the decoder's layer."""

    name: ClassVar[str]
    positions: ClassVar[Positions] = "last"
    """Every token, or the last prompt token and what is generated after it."""

    decode: ClassVar[bool] = True
    needs_query: ClassVar[bool] = False

    @abstractmethod
    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:
        """Return edited states `(rows, tokens, hidden)` float32."""


@dataclass(frozen=True, eq=False)
class InferAligner(PeerEdit):
    """`h + alpha g theta`, `g = 1 if h_last s + b > 0`, at every token (arXiv 2401.11206).

    `theta` is the mean difference harmful - harmless of the aligned model, `s` that of the target; here both are the language
    model inside the target, so `s = theta / |theta|`. `b` puts the threshold half way between the class means.
    """

    name: ClassVar[str] = "inferaligner"
    positions: ClassVar[Positions] = "all"

    theta: Tensor
    """`(layers, hidden)`."""

    s: Tensor
    b: Tensor
    """`(layers,)`."""

    alpha: float = 1.0

    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:
        """Shift every token of the rows whose last prompt token lies on the harmful side."""
        gate = (seen.state @ self.s[layer] + self.b[layer] > 0).float()
        return hidden + self.alpha * gate[:, None, None] * self.theta[layer]


@dataclass(frozen=True, eq=False)
class CMRM(PeerEdit):
    """`h(x, img) - alpha mean[h(x, img') - h(x)]`, the dataset variant (arXiv 2410.09047); rows with a picture only."""

    name: ClassVar[str] = "cmrm"

    shift: Tensor
    """Mean shift that a meaningless picture causes, `(layers, hidden)`."""

    alpha: float = 1.0

    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:
        """Take the shift back."""
        return hidden - self.alpha * seen.pictured.float()[:, None, None] * self.shift[layer]


@dataclass(frozen=True, eq=False)
class ShiftDC(PeerEdit):
    """`m = h_img - h_caption; h - alpha (m s / s s) s` (arXiv 2502.13095, its official code)."""

    name: ClassVar[str] = "shiftdc"
    needs_query: ClassVar[bool] = True

    s: Tensor
    """Safety direction, harmful mean - harmless mean of text, `(layers, hidden)`; its length does not matter."""

    alpha: float = 1.0

    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:
        """Take back the part of the picture's shift that lies on the safety direction."""
        s = self.s[layer]
        assert seen.query is not None  # noqa: S101 - `needs_query`
        along = (seen.state - seen.query) @ s / (s @ s)
        return hidden - self.alpha * (seen.pictured.float() * along)[:, None, None] * s


@dataclass(frozen=True, eq=False)
class Mars(PeerEdit):
    """MARS's recipe (arXiv 2606.31876): re-centred with neutral pictures, ReLU gate, trust region, first token only.

    `h + min(alpha relu(h v - c), radius) v` with `v` the unit refusal direction of text, `c` the midpoint of the classes beside
    neutral pictures (as text alone for rows without a picture), `radius` the distance of the classes' centroids as text.
    """

    name: ClassVar[str] = "mars_style"
    decode: ClassVar[bool] = False

    v: Tensor
    """Unit vectors `(layers, hidden)`."""

    centre_text: Tensor
    """`(layers,)`."""

    centre_picture: Tensor
    radius: Tensor
    alpha: float = 1.0

    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:
        """Move rows beyond the centre further, never by more than the radius."""
        v = self.v[layer]
        centre = torch.where(seen.pictured, self.centre_picture[layer], self.centre_text[layer])
        strength = (self.alpha * (seen.state @ v - centre).relu()).clamp(max=float(self.radius[layer]))
        return hidden + strength[:, None, None] * v


@dataclass(frozen=True, eq=False)
class Astra(PeerEdit):
    """`h - alpha max(cos(h - h0, v), 0) v` (arXiv 2411.16721): `v` points to what adversarial pictures add."""

    name: ClassVar[str] = "astra"

    v: Tensor
    """`(layers, hidden)`."""

    h0: Tensor
    """Calibration mean, `(layers, hidden)`."""

    alpha: float = 1.0

    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:
        """Move tokens away from the direction, as far as they point along it; rows with a picture only."""
        v = self.v[layer]
        along = cosine_similarity(hidden - self.h0[layer], v.expand_as(hidden), dim=-1).relu()
        return hidden - self.alpha * (seen.pictured.float()[:, None] * along)[..., None] * v


@dataclass(frozen=True, eq=False)
class Cast(PeerEdit):
    """`h + f(cos(h, proj_c h) > theta) alpha v` (arXiv 2409.05907): condition vector and action vector apart.

    With `c` of unit length `proj_c h = (h c) c`, so the cosine is `|h c| / |h|`. Read once, from the clean prefill of one layer
    for all layers, as CAST's condition layer does; `condition` holds each row's state there.
    """

    name: ClassVar[str] = "cast"

    c: Tensor
    """Unit condition vectors `(layers, hidden)`."""

    theta: Tensor
    """Threshold on the cosine, `(layers,)`."""

    above: Tensor
    """Whether the harmful side lies above the threshold, `(layers,)` bool."""

    v: Tensor
    alpha: float = 1.0

    def cosine(self, state: Tensor, layer: int) -> Tensor:
        """Return `cos(h, proj_c h)` for states `(rows, hidden)`."""
        projected = (state @ self.c[layer])[:, None] * self.c[layer]
        return cosine_similarity(state, projected, dim=-1)

    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:
        """Add the action vector to the rows that meet the condition."""
        met = (self.cosine(seen.state, layer) > self.theta[layer]) == self.above[layer]
        return hidden + self.alpha * met.float()[:, None, None] * self.v[layer]


@dataclass(frozen=True, eq=False)
class NullSteer(PeerEdit):
    """`h + lambda (D P) h`, `P H_benign = 0` (arXiv 2603.22094); in row vectors `h + lambda h (D P)^T`."""

    name: ClassVar[str] = "nullsteer"

    matrix: Tensor
    """`D P` of every layer, `(layers, hidden, hidden)`."""

    alpha: float = 1.0
    """The paper's lambda."""

    def edit(self, hidden: Tensor, layer: int, seen: Seen) -> Tensor:  # noqa: ARG002 - benign rows lie in P's null space
        """Add what the matrix makes of a state: nothing, for states in the span of the benign ones."""
        return hidden + self.alpha * hidden @ self.matrix[layer].T


def null_projector(benign: Tensor, kept: float) -> Tensor:
    """Return the projector `(hidden, hidden)` on the directions in which benign states have least energy.

    Exact invariance holds only where benign samples leave directions free; with more samples than dimensions, `kept` is the
    share of directions (those of least energy) that steering may use, as AlphaSteer does.

    Args:
        benign: States `(samples, hidden)`.
        kept: Share of directions in (0, 1].
    """
    _, vectors = torch.linalg.eigh(benign.T.double() @ benign.double())
    free = vectors[:, : max(1, round(kept * benign.shape[1]))]
    projector: Tensor = (free @ free.T).to(benign.dtype)
    return projector


def nullsteer_matrix(
    harmful: Tensor, target: Tensor, suppressed: Tensor, projector: Tensor, *, alpha: float, beta: float
) -> Tensor:
    """Return the `D` that minimises `|D P H - R|^2 + beta |D P V|^2 + alpha |D P|^2`, `(hidden, hidden)`.

    `D = R H' P' (P H H' P' + beta P V V' P' + alpha P P')^+`, in column vectors. The closed form that our notes print for the
    paper, with `R + beta V` in front, is not the minimiser of that objective; this one is.

    Args:
        harmful: `H`, states as columns `(hidden, samples)`.
        target: `R`, what steering should add to each `(hidden, samples)`.
        suppressed: `V`, directions as columns `(hidden, k)`.
        projector: `P`.
        alpha: Weight of the size of `D P`.
        beta: Weight of what is suppressed.
    """
    p = projector.double()
    shown, away = p @ harmful.double(), p @ suppressed.double()
    gram = shown @ shown.T + beta * away @ away.T + alpha * p @ p.T
    found: Tensor = (target.double() @ shown.T @ torch.linalg.pinv(gram)).to(harmful.dtype)
    return found
