"""Steering: directions, a gate and an intervention, attached to one call of one model and to nothing else."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch

from langchain_vlmguard.steering.activations import clean_prefill
from langchain_vlmguard.steering.architectures import layer_output, locate_decoder, replace_layer_output
from langchain_vlmguard.steering.attachment import AttachedCall, Attachment, Trace, attached
from langchain_vlmguard.steering.gate_head import FITTED, RequestStates, read_requests
from langchain_vlmguard.steering.gates import Gate, GateReading, PlacedGate, ReluGate, each_field, widest
from langchain_vlmguard.steering.interventions import INTERVENTIONS, Intervention, LayerEdit, Restore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from langchain_vlmguard.steering.attachment import Hook, QueryForm, Reads
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.gate_head import GateHead

_ACTIVE: ContextVar[SteeredCall | None] = ContextVar("vlmguard_steered_call", default=None)


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
        return self.decide(pictured, *(None if one is None else self._coordinate(one) for one in (state, query)))

    def decide(self, pictured: Tensor, coordinate: Tensor | None, query: Tensor | None) -> GateReading:
        """Decide as `read_gate` does, from coordinates `(rows,)` on the gate's direction."""
        text, shown = self.directions.text[self.read_layer], self.directions.picture[self.read_layer]
        return widest(self.gate, pictured, (text, shown), coordinate, query)

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

    def row_trace(self, reading: GateReading, row: int, *, pictured: bool) -> Trace:
        """Return what was read and done for one row, as plain values."""
        return {
            "intervention": self.intervention.name,
            "gate": self.gate.name,
            "score": float(reading.score[row]),
            "threshold": float(reading.threshold[row]),
            "open": bool(reading.strength[row] > 0),
            "strength": float(reading.strength[row]),
            "risk": float(reading.risk[row]),
            "layers": list(self.layers),
            "picture": pictured,
            "reads": self.reads,
            "calibration": self.calibration,
        }

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
        with attached(_ACTIVE, call, hooks):
            yield call


class SteeredCall(AttachedCall):
    """The state of one steered call: gate readings, and the text-only query's coordinates if they are needed."""

    def __init__(self, steering: Steering, pictured: Tensor) -> None:
        """Start with nothing read; `pictured` is `(rows,)` bool."""
        self.steering = steering
        self.pictured = pictured.cpu()
        self.reading: GateReading | None = None
        self._open = False
        self._passed = False
        self._prefilled: set[int] = set()
        self._query: Tensor | None = None
        self._states: RequestStates | None = None
        self._reference: dict[int, Tensor] = {}
        self._edits: dict[int, LayerEdit] = {}

    def prepare(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor] | None,
        text_inputs: dict[str, Tensor] | None,
        *,
        repeatable: bool = False,
    ) -> None:
        """Run the extra prefills that this steering needs."""
        steering, layer = self.steering, self.steering.read_layer
        if steering.head is not None:
            self._read_head(steering.head, model, inputs, text_inputs, alone=repeatable or steering.single_pass)
            return
        reads = self._reads(inputs, text_inputs)
        queries: dict[int, Tensor] = {}
        if steering.intervention.needs_text_query or reads != "input":
            query = _given(
                text_inputs, "text_inputs", f"{steering.intervention.name} or its gate reads the text-only query"
            )
            queries = clean_prefill(_ACTIVE, model, query, (*steering.layers, layer))
        if steering.intervention.needs_text_query:
            vectors = steering.directions.vectors
            self._reference = {one: queries[one].float().cpu() @ vectors[one].T for one in steering.layers}
        self._query = queries[layer] if reads != "input" else None
        if reads in ("query", "request"):
            self._decide(None)
        elif not steering.single_pass and not repeatable:
            states = clean_prefill(
                _ACTIVE, model, _given(inputs, "inputs", "the gate reads above the first edited layer"), (layer,)
            )
            self._decide(states[layer])

    def _read_head(
        self,
        head: GateHead,
        model: PreTrainedModel,
        inputs: dict[str, Tensor] | None,
        query: dict[str, Tensor] | None,
        *,
        alone: bool,
    ) -> None:
        """Read the requests before the prefill, unless they stand alone in it already."""
        asked = _given(query, "text_inputs", "a placed gate reads the requests alone")
        if asked is inputs and alone:
            self._states = RequestStates(head.place, asked)
            return
        self._settle(read_requests(_ACTIVE, model, head, asked))

    @property
    def watched(self) -> list[int]:
        """The layers that need a hook."""
        read = () if self._states is None else self._states.layers
        return sorted({*self.steering.layers, self.steering.read_layer, *read})

    def _reads(self, inputs: dict[str, Tensor] | None, query: dict[str, Tensor] | None) -> Reads:
        """Return what the gate reads of these rows: those that are their own query are read once."""
        own = (
            query is not None and query is inputs if self.steering.query_form == "request" else not self.pictured.any()
        )
        return "input" if own else self.steering.reads

    def hook(self, layer: int) -> Hook:
        """Return the forward hook of one layer."""

        def steer(_module: nn.Module, _inputs: object, output: object) -> object:
            if _ACTIVE.get() is not self:
                return None
            hidden = layer_output(output)
            if not self._prefilled:
                self._repeat(len(hidden) // len(self.pictured))
            if self.reading is None and self._states is not None:
                self._states.see(layer, hidden)
            if self.reading is None and layer < self.steering.read_layer:
                self._passed = self._passed or layer in self.steering.layers
                return None
            if self.reading is None:
                self._decide(hidden[:, -1].detach())
            decoding = layer in self._prefilled
            self._prefilled.add(layer)
            if layer not in self.steering.layers or (decoding and not self.steering.decode):
                return None
            return replace_layer_output(output, self._edited(hidden, layer))

        return steer

    @property
    def must_repeat(self) -> bool:
        """Whether the gate opened above a layer that should have been edited by then."""
        return self._passed and self._open

    def repeat(self) -> None:
        """Treat the next pass, of the last prompt token alone, as the prefill; the gate is not read again."""
        self._passed = False
        self._prefilled.clear()

    @property
    def edits_decoding(self) -> bool:
        """Whether the tokens after the prompt are edited too; if not, the hooks may go after the prefill."""
        return self.steering.decode

    def trace(self) -> list[Trace]:
        """Return one steering trace a row, as plain values.

        Raises:
            RuntimeError: The prefill has not run.
        """
        reading = _read(self)
        return [
            self.steering.row_trace(reading, row, pictured=bool(self.pictured[row]))
            for row in range(len(reading.score))
        ]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; called after the prefill."""
        index = torch.tensor(rows)
        self.pictured = self.pictured[index]
        self._reference = {layer: states[index] for layer, states in self._reference.items()}
        self.reading = each_field(lambda values: values[index], _read(self))
        self._edits = {}

    def absorb(self, other: Self) -> None:
        """Append the rows of another call of the same steering; called after both prefills."""
        self.pictured = torch.cat((self.pictured, other.pictured))
        self._reference = {layer: torch.cat((rows, other._reference[layer])) for layer, rows in self._reference.items()}
        self.reading = each_field(lambda *values: torch.cat(values), _read(self), _read(other))
        self._open = self._open or other._open
        self._edits = {}

    def _decide(self, state: Tensor | None) -> None:
        if self._states is not None and self.steering.head is not None:
            self._settle(self.steering.head.read(self._states.features()))
            self._states = None
        else:
            self._settle(self.steering.read_gate(self.pictured, state, self._query))

    def _settle(self, reading: GateReading) -> None:
        self.reading, self._open = reading, bool(reading.strength.any())

    def _repeat(self, times: int) -> None:
        """Follow the generator, which repeats each row when several answers are wanted."""
        if times == 1:
            return
        self.pictured = self.pictured.repeat_interleave(times)
        self._reference = {layer: rows.repeat_interleave(times, 0) for layer, rows in self._reference.items()}
        if self._query is not None:
            self._query = self._query.repeat_interleave(times, 0)
        if self.reading is not None:
            self.reading = each_field(lambda rows: rows.repeat_interleave(times), self.reading)

    def _edited(self, hidden: Tensor, layer: int) -> Tensor:
        if not self._open:
            return hidden
        last = hidden[:, -1]
        edited = self.steering.intervention.edit(last.float(), self._edit_of(layer, last.device)).to(last.dtype)
        return torch.cat((hidden[:, :-1], edited[:, None]), dim=1)

    def _edit_of(self, layer: int, device: torch.device) -> LayerEdit:
        """Return what the intervention needs at a layer, moved to its device once a call."""
        if layer not in self._edits:
            strength = _read(self).strength.to(device)
            self._edits[layer] = self.steering.layer_edit(layer, strength, self.pictured, self._reference.get(layer))
        return self._edits[layer]


def _read(call: SteeredCall) -> GateReading:
    if call.reading is None:
        msg = "the gate has read nothing: run the model inside the block first"
        raise RuntimeError(msg)
    return call.reading


def _given(inputs: dict[str, Tensor] | None, name: str, reason: str) -> dict[str, Tensor]:
    if inputs is None:
        msg = f"attach needs {name}: {reason}"
        raise ValueError(msg)
    return inputs
