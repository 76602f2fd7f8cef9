"""Steering: directions, a gate and an intervention, attached to one call of one model and to nothing else."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.attachment import Attachment, attached
from langchain_vlmguard.steering.gate_head import FITTED
from langchain_vlmguard.steering.gates import Gate, GateReading, PlacedGate, ReluGate, each_field
from langchain_vlmguard.steering.interventions import INTERVENTIONS, Intervention, LayerEdit, Restore
from langchain_vlmguard.steering.steered_call import ACTIVE, SteeredCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedModel

    from langchain_vlmguard.steering.attachment import QueryForm, Reads
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.gate_head import GateHead


@dataclass(frozen=True)
class Steering(Attachment):
    """What is done to hidden states: which directions, at which layers, by which intervention, behind which gate.

    ??? example "The choice that `select_layers` made"

        ```python
        steering = Steering.recommended(SafetyDirections.load("safety_directions.safetensors"))
        model = ChatSteeredVLM.from_pretrained("path-or-hub-id", steering=steering)
        ```
    """

    directions: SafetyDirections
    layers: tuple[int, ...]
    """Layers whose output is edited; 0 is the first decoder layer."""

    intervention: Intervention = field(default_factory=Restore)
    gate: Gate = field(default_factory=ReluGate)
    gate_layer: int | None = None
    """Layer whose coordinate the gate reads; the first edited one when `None`. A `PlacedGate` reads its head's own layer."""

    reads: Reads = "input"
    """What the gate reads: the full input, its text-only query (VLM-Guard's `q`, where alignment is whole, at the price of one
    prefill without pictures), or the one of both that opens it wider. Rows without a picture are their own query.

    `"request"` reads the typed request alone, without system prompt, tools, history and pictures: a short prefill of its own
    where any of these is there. Thresholds hold for it in every setting. A `PlacedGate` reads nothing else."""

    decode: bool = True
    """Edit the new token of every decode step too, or the last prompt token alone. Statistics are those of the last prompt
    token, so interventions that use them (`Restore`, `Push`) garble long answers less when this is off."""

    def __post_init__(self) -> None:
        """Check the layers and what the gate needs.

        Raises:
            ValueError: A layer does not exist, the directions have no head for a placed gate, or gate and intervention want
                two forms of the query.
        """
        if isinstance(self.gate, PlacedGate) and self.directions.gate is None:
            msg = "these directions have no gate of their own for a PlacedGate: fit them with `vlmguard fit`"
            raise ValueError(msg)
        if self.head is not None and self.reads != "request":
            msg = f"a PlacedGate reads the request alone: give reads='request', not {self.reads!r}"
            raise ValueError(msg)
        if self.query_form == "request" and self.intervention.needs_text_query:
            msg = f"{self.intervention.name} needs the whole text-only query, and reads={self.reads!r} gives the request alone"
            raise ValueError(msg)
        depth = self.directions.card.layers
        wanted = (*self.layers, self.read_layer) if self.layers else ()
        if not wanted or not all(0 <= layer < depth for layer in wanted):
            msg = f"layers must be between 0 and {depth - 1}, got {self.layers} and gate layer {self.gate_layer}"
            raise ValueError(msg)

    @classmethod
    def recommended(cls, directions: SafetyDirections) -> Steering:
        """Return the steering that `select_layers` chose for these directions.

        Raises:
            ValueError: No choice was made yet.
        """
        choice = directions.card.choice
        if not choice:
            msg = "these directions carry no choice of layers: run select_layers, or name the layers yourself"
            raise ValueError(msg)
        return cls(
            directions,
            layers=tuple(choice["layers"]),
            intervention=INTERVENTIONS[choice["intervention"]](alpha=choice["alpha"]),
            gate=PlacedGate() if choice.get("gate") == PlacedGate.name else ReluGate(position=choice["gate_position"]),
            gate_layer=choice["gate_layer"],
            reads=choice["reads"],
            decode=choice["decode"],
        )

    @property
    def head(self) -> GateHead | None:
        """What the gate reads in place of a direction, if it is a placed one."""
        return self.directions.gate if isinstance(self.gate, PlacedGate) else None

    @property
    def calibration(self) -> str:
        """What the gate's thresholds were placed on."""
        return FITTED if self.head is None else self.head.calibration

    @property
    def read_layer(self) -> int:
        """The layer that the gate reads."""
        if self.head is not None:
            return max(self.head.place.last, self.head.place.mean)
        return min(self.layers) if self.gate_layer is None else self.gate_layer

    @property
    def single_pass(self) -> bool:
        """Whether the gate reads at or before the first edit, so that one prefill serves both."""
        return self.read_layer <= min(self.layers)

    @property
    def needs_text_query(self) -> bool:
        """Whether a query must be run beside the full input."""
        return self.reads != "input" or self.intervention.needs_text_query

    @property
    def query_form(self) -> QueryForm:
        """What that query holds."""
        return "request" if self.reads == "request" else "text"

    def read_gate(self, pictured: Tensor, state: Tensor | None, query: Tensor | None = None) -> GateReading:
        """Read the gate from clean states of the last prompt token at the read layer.

        Args:
            pictured: Which rows show a picture, `(rows,)` bool.
            state: State of the full input `(rows, hidden)`, or `None` to read the query alone.
            query: State of the text-only query, or `None` to read the full input alone.

        Returns:
            Per row the reading that opens the gate wider, with the higher of both risks.
        """
        text, shown = self.directions.text[self.read_layer], self.directions.picture[self.read_layer]
        readings = []
        if state is not None:
            coordinate = self._coordinate(state)
            readings.append(_choose(pictured, self.gate.read(coordinate, shown), self.gate.read(coordinate, text)))
        if query is not None:
            readings.append(self.gate.read(self._coordinate(query), text))
        first, last = readings[0], readings[-1]
        wider = _choose(last.strength > first.strength, last, first)
        return replace(wider, risk=torch.maximum(first.risk, last.risk))

    def _coordinate(self, state: Tensor) -> Tensor:
        return state.float().cpu() @ self.directions.vectors[self.read_layer][0]

    def layer_edit(self, layer: int, strength: Tensor, pictured: Tensor, reference: Tensor | None) -> LayerEdit:
        """Return what the intervention looks at in one layer, on the device of `strength`.

        Args:
            layer: The layer that is edited.
            strength: The gate's strength of each row, `(rows,)`.
            pictured: Which rows show a picture, `(rows,)` bool.
            reference: Coordinates of the text-only query, `(rows, rank)`, if the intervention needs them.
        """
        device = strength.device
        return LayerEdit(
            vectors=self.directions.vectors[layer].to(device),
            strength=strength,
            pictured=pictured.to(device),
            text=self.directions.text[layer].to(device),
            picture=self.directions.picture[layer].to(device),
            reference=None if reference is None else reference.to(device),
        )

    @cached_property
    def identity(self) -> str:
        """Hash of everything that changes an answer; part of every cache key."""
        parts = {
            "directions": self.directions.hash,
            "layers": self.layers,
            "gate_layer": self.read_layer,
            "intervention": [self.intervention.name, asdict(self.intervention)],
            "gate": [self.gate.name, asdict(self.gate)],
            "reads": self.reads,
            "decode": self.decode,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def provenance(self) -> dict[str, str]:
        """Hashes of the steering, of its directions and of the anchors that they were fitted on."""
        card = self.directions.card
        return {"steering": self.identity, "directions": self.directions.hash, "anchors": card.anchors_hash}

    @contextmanager
    def attach(
        self,
        model: PreTrainedModel,
        *,
        pictured: Tensor,
        inputs: dict[str, Tensor] | None = None,
        text_inputs: dict[str, Tensor] | None = None,
        repeatable: bool = False,
    ) -> Iterator[SteeredCall]:
        """Steer what this thread (or task) runs on the model inside the block, and nothing else.

        The last prompt token is edited at prefill and, with `decode`, the new token at every decode step. Calls of other
        threads on the same model are not touched, and the hooks go when the block ends, however it ends.

        Args:
            model: The model that the directions belong to.
            pictured: Which rows show a picture, `(rows,)` bool.
            inputs: The encoded rows, left-padded. Needed when the gate reads above the first edited layer: it then takes a
                clean prefill of its own.
            text_inputs: The same rows as text alone, for a steering with `needs_text_query`.
            repeatable: The caller runs the last prompt token again if `must_repeat` asks for it after the prefill. A gate above
                the first edited layer is then read in that same prefill. No earlier token looks at the last one, so a prefill
                whose gate stays shut is right as it is, and if the gate opens, one more token puts it right.

        Yields:
            The call, which holds the gate's readings once the prefill has run.

        Raises:
            ValueError: An input is missing that this steering needs.
        """
        call = SteeredCall(self, pictured)
        call.prepare(model, inputs, text_inputs, repeatable=repeatable)
        decoder = locate_decoder(model)
        hooks = [(decoder.layers[layer], call.hook(layer)) for layer in call.watched]
        with attached(ACTIVE, call, hooks):
            yield call


def _choose(where: Tensor, one: GateReading, other: GateReading) -> GateReading:
    return each_field(lambda yes, no: torch.where(where, yes, no), one, other)
