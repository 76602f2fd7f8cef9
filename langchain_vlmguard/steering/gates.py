"""Gates: decide from the clean prompt prefill, once per row, whether and how strongly to steer."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class ClassStats:
    """Where the two classes of anchors lie along a layer's directions, in one condition (text alone, or with a picture).

    All tensors are float32 of shape `(rank,)`: means and the pooled standard deviation of the coordinates `h @ V.T`.
    """

    harmful: Tensor
    harmless: Tensor
    spread: Tensor
    threshold: Tensor | None = None
    """Where a `PlacedGate` opens, a scalar; `None` where nobody placed it."""

    @classmethod
    def of(cls, harmful: Tensor, harmless: Tensor) -> ClassStats:
        """Summarise coordinates `(anchors, rank)` of the two classes."""
        pooled = ((harmful.var(0, unbiased=False) + harmless.var(0, unbiased=False)) / 2).sqrt()
        return cls(harmful.mean(0), harmless.mean(0), pooled.clamp(min=1e-6))

    def to(self, device: torch.device) -> ClassStats:
        """Return the statistics on a device."""
        threshold = None if self.threshold is None else self.threshold.to(device)
        return ClassStats(self.harmful.to(device), self.harmless.to(device), self.spread.to(device), threshold)

    def placed(self, threshold: float) -> ClassStats:
        """Return the same statistics with another threshold for a `PlacedGate`."""
        return replace(self, threshold=torch.tensor(threshold, dtype=torch.float32))

    @property
    def midpoint(self) -> Tensor:
        """Half way between the class means, `(rank,)`."""
        return (self.harmful + self.harmless) / 2

    @property
    def separability(self) -> Tensor:
        """Distance of the class means in pooled standard deviations (d'), `(rank,)`."""
        return (self.harmful - self.harmless) / self.spread

    def risk(self, coordinate: Tensor) -> Tensor:
        """Posterior of the harmful class for first coordinates `(rows,)`, equal Gaussians and equal priors: `[0, 1]`.

        Where a threshold was placed it is the point of even odds, so that a placed gate opens at a risk of one half.
        """
        slope = self.separability[0] / self.spread[0]
        return torch.sigmoid(slope * (coordinate - (self.midpoint[0] if self.threshold is None else self.threshold)))


@dataclass(frozen=True)
class GateReading:
    """What a gate decided for each row; every tensor is `(rows,)` float32."""

    score: Tensor
    """Coordinate on the first direction, as read."""

    threshold: Tensor
    strength: Tensor
    """0 leaves a row untouched, 1 is the full intervention."""

    risk: Tensor


def each_field(change: Callable[..., Tensor], *readings: GateReading) -> GateReading:
    """Apply a function to every field of one or several readings."""
    return GateReading(**{f.name: change(*(getattr(one, f.name) for one in readings)) for f in fields(GateReading)})


def choose(where: Tensor, one: GateReading, other: GateReading) -> GateReading:
    """Return the rows of `one` where a mask `(rows,)` says so, and those of `other` elsewhere."""
    return each_field(lambda yes, no: torch.where(where, yes, no), one, other)


@dataclass(frozen=True)
class Gate:
    """Reads the first coordinate of the clean prefill; subclasses say where the threshold is and how it grades."""

    name: ClassVar[str] = "gate"

    def read(self, coordinate: Tensor, stats: ClassStats) -> GateReading:
        """Decide for rows with first coordinates `(rows,)` float32 that lie in the condition of `stats`."""
        threshold = self.threshold(stats).expand_as(coordinate)
        return GateReading(coordinate, threshold, self.strength(coordinate, stats), stats.risk(coordinate))

    def threshold(self, stats: ClassStats) -> Tensor:
        """Return the coordinate above which a row is steered, a scalar tensor."""
        return stats.midpoint[0]

    def strength(self, coordinate: Tensor, stats: ClassStats) -> Tensor:
        """Return each row's strength, `(rows,)`."""
        return (coordinate > self.threshold(stats)).float()


@dataclass(frozen=True)
class AlwaysOpen(Gate):
    """No gate: every row is steered at full strength."""

    name: ClassVar[str] = "always_open"

    def threshold(self, stats: ClassStats) -> Tensor:
        """Return minus infinity."""
        return torch.full_like(stats.midpoint[0], float("-inf"))


@dataclass(frozen=True)
class ZeroGate(Gate):
    """VLM-Guard's gate: open where `h @ V_1 > 0`. The coordinate is not centred, so 0 is rarely the best threshold."""

    name: ClassVar[str] = "zero"

    def threshold(self, stats: ClassStats) -> Tensor:
        """Return 0."""
        return torch.zeros_like(stats.midpoint[0])


@dataclass(frozen=True)
class MidpointGate(Gate):
    """Open above a point between the class means, re-centred with neutral pictures for rows that show one."""

    name: ClassVar[str] = "midpoint"

    position: float = 0.5
    """Where between the harmless (0) and the harmful (1) class mean the threshold lies."""

    def threshold(self, stats: ClassStats) -> Tensor:
        """Return the point between the class means."""
        return stats.harmless[0] + self.position * (stats.harmful[0] - stats.harmless[0])


@dataclass(frozen=True)
class ReluGate(MidpointGate):
    """Graded: 0 up to the threshold, then linear, 1 at the harmful class mean and never above it."""

    name: ClassVar[str] = "relu"

    def strength(self, coordinate: Tensor, stats: ClassStats) -> Tensor:
        """Return `clamp((c - threshold) / |harmful - threshold|, 0, 1)`; a threshold beyond the harmful mean shuts the gate."""
        threshold = self.threshold(stats)
        width = (stats.harmful[0] - threshold).abs().clamp(min=1e-6)
        return ((coordinate - threshold) / width).clamp(0.0, 1.0)


@dataclass(frozen=True)
class PlacedGate(Gate):
    """Opens fully above a threshold that was placed by measurement: on harmless requests, for a wanted share of false alarms.

    It reads the directions' own `GateHead` where they have one.
    """

    name: ClassVar[str] = "placed"

    def threshold(self, stats: ClassStats) -> Tensor:
        """Return the placed threshold.

        Raises:
            ValueError: Nobody placed one.
        """
        if stats.threshold is None:
            msg = "these directions have no placed threshold: fit them with `vlmguard fit`, or take another gate"
            raise ValueError(msg)
        return stats.threshold


def widest(
    gate: Gate, pictured: Tensor, stats: tuple[ClassStats, ClassStats], coordinate: Tensor | None, query: Tensor | None
) -> GateReading:
    """Return, per row, the reading that opens a gate wider, with the higher of both risks.

    Args:
        gate: The gate.
        pictured: Which rows show a picture, `(rows,)` bool.
        stats: Class statistics of text alone, and beside neutral pictures.
        coordinate: What the full input gave `(rows,)`, or `None` to read the query alone.
        query: What the query gave, or `None` to read the full input alone.
    """
    text, shown = stats
    readings = []
    if coordinate is not None:
        readings.append(choose(pictured, gate.read(coordinate, shown), gate.read(coordinate, text)))
    if query is not None:
        readings.append(gate.read(query, text))
    first, last = readings[0], readings[-1]
    wider = choose(last.strength > first.strength, last, first)
    return replace(wider, risk=torch.maximum(first.risk, last.risk))


GATES: dict[str, type[Gate]] = {kind.name: kind for kind in (AlwaysOpen, ZeroGate, MidpointGate, ReluGate, PlacedGate)}
"""Every gate by name."""
