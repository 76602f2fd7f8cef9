"""From a row's settings to numbers in the tables: gates and interventions as thresholds, slopes, factors and sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.steering.gates import GATES, AlwaysOpen, MidpointGate, PlacedGate, ReluGate
from langchain_vlmguard.steering.interventions import INTERVENTIONS, LayerEdit
from langchain_vlmguard.vllm.settings import refuse
from langchain_vlmguard.vllm.tables import STEEP

if TYPE_CHECKING:
    from torch import Tensor

    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.gates import ClassStats, Gate
    from langchain_vlmguard.steering.interventions import Intervention
    from langchain_vlmguard.vllm.settings import RowSettings


@dataclass(frozen=True, eq=False)
class Programme:
    """What stands in one slot; tensors are `(layers of the decoder, columns)`, float32 but for `gate`."""

    own: Tensor
    add: Tensor
    gate: Tensor
    threshold: float
    slope: float
    strength: float


@dataclass(frozen=True, eq=False)
class DirectionSets:
    """All directions that an engine was started with, side by side.

    Args:
        sets: Directions by name, all of one model.
    """

    sets: dict[str, SafetyDirections]

    def __post_init__(self) -> None:
        """Check the sets.

        Raises:
            ValueError: There are none, they are of different models, or one has an empty direction.
        """
        if not self.sets or len({(one.card.config_hash, one.card.weights_hash) for one in self.sets.values()}) != 1:
            msg = "an engine is armed with directions of one model, at least one set"
            raise ValueError(msg)
        for name, one in self.sets.items():
            norms = one.vectors.norm(dim=-1)
            if not torch.isfinite(one.vectors).all() or (norms < 0.5).any():  # noqa: PLR2004 - they are unit vectors
                msg = f"directions {name!r} have an empty vector or one that is no number: fit them again"
                raise ValueError(msg)

    @property
    def vectors(self) -> Tensor:
        """All directions, `(layers, columns, hidden)`."""
        return torch.cat([one.vectors for one in self.sets.values()], dim=1)

    def programme(self, settings: RowSettings) -> Programme:
        """Return what is done to a row.

        Raises:
            RowSettingsError: The directions, a layer, the gate or the intervention are not there, or do not suit.
        """
        found = self.sets.get(settings.directions)
        if found is None:
            refuse(f"no directions {settings.directions!r}: the engine has {', '.join(self.sets)}")
        if found.hash != settings.digest:
            refuse(f"directions {settings.directions!r} are {found.hash} here, and {settings.digest} were asked for")
        depth, columns = found.card.layers, self._columns(settings.directions)
        own, add = (torch.zeros(depth, self.vectors.shape[1]) for _ in range(2))
        gate = torch.zeros(depth, self.vectors.shape[1], dtype=torch.bool)
        threshold, slope, strength = 0.0, 0.0, settings.strength or 0.0
        deepest = max((*settings.layers, settings.gate_layer or 0))
        if deepest >= depth:
            refuse(f"there is no layer {deepest}: the decoder has {depth}")
        if settings.gate_layer is not None and settings.do in ("read", "gated"):
            stats = found.picture if settings.picture else found.text
            threshold, slope = graded(gate_of(settings), stats[settings.gate_layer])
            gate[settings.gate_layer, columns.start] = True
        for place, layer in enumerate(settings.layers if settings.edits else ()):
            reference = None if settings.reference is None else settings.reference[place]
            own[layer, columns], add[layer, columns] = _affine(found, settings, layer, reference)
        return Programme(own, add, gate, threshold, slope, strength)

    def _columns(self, name: str) -> slice:
        start = 0
        for other, one in self.sets.items():
            if other == name:
                return slice(start, start + one.vectors.shape[1])
            start += one.vectors.shape[1]
        raise KeyError(name)

    def columns(self, settings: RowSettings) -> slice:
        """Return where the coordinates of a row's directions lie."""
        return self._columns(settings.directions)


def gate_of(settings: RowSettings) -> Gate:
    """Return the gate that settings name.

    Raises:
        RowSettingsError: There is no such gate, or it cannot be read here.
    """
    kind = GATES.get(settings.gate)
    if kind is None or kind is PlacedGate:
        refuse(f"gate {settings.gate!r} cannot be read in vLLM")
    if not issubclass(kind, MidpointGate):
        return kind()
    return kind() if settings.position is None else kind(position=settings.position)


def intervention_of(settings: RowSettings) -> Intervention:
    """Return the intervention that settings name.

    Raises:
        RowSettingsError: There is none of this name, or it needs a reference that is not given.
    """
    kind = INTERVENTIONS.get(settings.intervention)
    if kind is None:
        refuse(f"there is no intervention {settings.intervention!r}")
    if kind.needs_text_query and settings.reference is None:
        refuse(f"{kind.name} needs reference: the coordinates of the text-only query, from a request with do 'read'")
    options = {"alpha": settings.alpha}
    if settings.max_scale is not None:
        options["max_scale"] = settings.max_scale
    try:
        return kind(**options)
    except TypeError:
        refuse(f"{kind.name} takes no max_scale")


def graded(gate: Gate, stats: ClassStats) -> tuple[float, float]:
    """Return threshold and slope of a gate: its strength is `clamp((c - threshold) * slope, 0, 1)`."""
    threshold = gate.threshold(stats)
    if isinstance(gate, AlwaysOpen):
        return float("-inf"), 1.0
    if isinstance(gate, ReluGate):
        width = (stats.harmful[0] - threshold).abs().clamp(min=1e-6)
        return float(threshold), float(1 / width)
    return float(threshold), STEEP


def _affine(
    found: SafetyDirections, settings: RowSettings, layer: int, reference: tuple[float, ...] | None
) -> tuple[Tensor, Tensor]:
    """Return the factor and the sum of an intervention, `own * c + add`, by asking it for two points; a third one proves it.

    Raises:
        RowSettingsError: The intervention is no such edit, or its reference has another rank.
    """
    rank = found.vectors.shape[1]
    if reference is not None and len(reference) != rank:
        refuse(f"reference has {len(reference)} coordinates a layer, and the directions have rank {rank}")
    points = torch.stack([torch.full((rank,), at) for at in (0.0, 1.0, 3.0)])
    rows = len(points)
    place = LayerEdit(
        vectors=found.vectors[layer],
        strength=torch.ones(rows),
        pictured=torch.full((rows,), settings.picture),
        text=found.text[layer],
        picture=found.picture[layer],
        reference=None if reference is None else torch.tensor(reference).repeat(rows, 1),
    )
    change = intervention_of(settings).change(points, place)
    add, own = change[0], change[1] - change[0]
    if not torch.allclose(change[2], add + 3 * own, rtol=1e-4, atol=1e-4):
        refuse(f"{settings.intervention} is no edit of the form own * c + add")
    return own, add
