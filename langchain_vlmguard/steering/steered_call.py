"""One steered call: its gate is read, its rows are edited, and rows come and go while others decode."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Self

import torch

from langchain_vlmguard.steering.activations import clean_prefill
from langchain_vlmguard.steering.architectures import layer_output, replace_layer_output
from langchain_vlmguard.steering.attachment import AttachedCall, Trace
from langchain_vlmguard.steering.gate_head import RequestStates, read_requests
from langchain_vlmguard.steering.gates import GateReading, each_field

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from langchain_vlmguard.steering.attachment import Hook, Reads
    from langchain_vlmguard.steering.gate_head import GateHead
    from langchain_vlmguard.steering.interventions import LayerEdit
    from langchain_vlmguard.steering.steering import Steering

ACTIVE: ContextVar[SteeredCall | None] = ContextVar("vlmguard_steered_call", default=None)
"""The steered call of this thread or task."""


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
            queries = clean_prefill(ACTIVE, model, query, (*steering.layers, layer))
        if steering.intervention.needs_text_query:
            vectors = steering.directions.vectors
            self._reference = {one: queries[one].float().cpu() @ vectors[one].T for one in steering.layers}
        self._query = queries[layer] if reads != "input" else None
        if reads in ("query", "request"):
            self._decide(None)
        elif not steering.single_pass and not repeatable:
            states = clean_prefill(
                ACTIVE, model, _given(inputs, "inputs", "the gate reads above the first edited layer"), (layer,)
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
        self._settle(read_requests(ACTIVE, model, head, asked))

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
            if ACTIVE.get() is not self:
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
            {
                "intervention": self.steering.intervention.name,
                "gate": self.steering.gate.name,
                "score": float(reading.score[row]),
                "threshold": float(reading.threshold[row]),
                "open": bool(reading.strength[row] > 0),
                "strength": float(reading.strength[row]),
                "risk": float(reading.risk[row]),
                "layers": list(self.steering.layers),
                "picture": bool(self.pictured[row]),
                "reads": self.steering.reads,
                "calibration": self.steering.calibration,
            }
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
