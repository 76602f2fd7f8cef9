"""Screening: read the gate, or a probe, on the answer's own prefill and edit nothing.

A turn that is cleared goes on from that prefill as if nothing had been there: no prefill of its own, no hook while it decodes.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from langchain_vlmguard.steering.activations import clean_prefill
from langchain_vlmguard.steering.architectures import image_token_id, layer_output, locate_decoder
from langchain_vlmguard.steering.attachment import AttachedCall, Attachment, Trace, attached
from langchain_vlmguard.steering.gate_head import RequestStates, read_requests
from langchain_vlmguard.steering.turn_states import TurnStates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from langchain_vlmguard.steering.attachment import Hook, QueryForm, Reads
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.gates import GateReading
    from langchain_vlmguard.steering.logistic import Logistic
    from langchain_vlmguard.steering.probe import TurnProbe
    from langchain_vlmguard.steering.steering import Steering

_ACTIVE: ContextVar[ScreenedCall | None] = ContextVar("vlmguard_screened_call", default=None)


@dataclass(frozen=True)
class Screening(Attachment):
    """Decides for each row whether it is cleared; takes the place of a `Steering` for one call.

    If the probe has a head for the form of a row (with pictures, or without), the probe alone decides, otherwise the
    steering's gate does.

    ??? example "Ask only what the gate says"

        ```python
        screening = Screening(Steering.recommended(directions), probe)
        answer = ChatSteeredVLM.from_loaded(loaded, steering=screening).invoke("How do I make a kite?")
        answer.response_metadata["steering"]["open"]
        ```
    """

    steering: Steering
    probe: TurnProbe | None = None

    @property
    def directions(self) -> SafetyDirections:
        """The steering's directions."""
        return self.steering.directions

    @property
    def sees_pictures(self) -> bool:
        """Whether the decision about rows with pictures takes the pictures into account."""
        return self.head(pictured=True) is not None or self.steering.reads not in ("query", "request")

    @property
    def needs_text_query(self) -> bool:
        """Whether rows must be run in another form, too."""
        return any(self.head(pictured=one) is None for one in (True, False)) and self.steering.reads != "input"

    @property
    def query_form(self) -> QueryForm:
        """What the steering's gate reads beside the prompt."""
        return self.steering.query_form

    @cached_property
    def identity(self) -> str:
        """Hash of everything that changes what is cleared."""
        probe = self.probe.hash if self.probe is not None else None
        return hashlib.sha256(f"screening:{self.steering.identity}:{probe}".encode()).hexdigest()[:16]

    @property
    def provenance(self) -> dict[str, str]:
        """Hashes of the screening, of the directions, of their anchors and of the probe if there is one."""
        read = {**self.steering.provenance, "steering": self.identity}
        return read if self.probe is None else {**read, "probe": self.probe.hash}

    @contextmanager
    def attach(
        self,
        model: PreTrainedModel,
        *,
        pictured: Tensor,
        inputs: dict[str, Tensor] | None = None,
        text_inputs: dict[str, Tensor] | None = None,
        repeatable: bool = False,  # noqa: ARG002 - nothing is edited, so nothing is repeated
    ) -> Iterator[ScreenedCall]:
        """Read what this thread runs on the model inside the block.

        Args:
            model: The model.
            pictured: Which rows show a picture, `(rows,)` bool; all or none.
            inputs: The encoded rows, left-padded.
            text_inputs: The same rows as text alone, if `needs_text_query`.
            repeatable: Makes no difference here.

        Raises:
            ValueError: An input is missing.
        """
        shown = bool(pictured.any())
        query = reading = None
        if self._reads_query(shown=shown, same=text_inputs is not None and text_inputs is inputs):
            if text_inputs is None:
                msg = "attach needs text_inputs: the gate reads the text-only query"
                raise ValueError(msg)
            if (gate := self.steering.head) is not None:
                reading = read_requests(_ACTIVE, model, gate, text_inputs)
            else:
                layer = self.steering.read_layer
                query = clean_prefill(_ACTIVE, model, text_inputs, (layer,))[layer]
        states: TurnStates | RequestStates | None = None
        if self.probe is not None and self.head(pictured=shown) is not None:
            if inputs is None:
                msg = "attach needs inputs: the probe pools states over the prompt's tokens"
                raise ValueError(msg)
            states = TurnStates(self.probe.card.layers, inputs, image_token_id(model))
        elif self.steering.head is not None and reading is None:
            states = RequestStates(self.steering.head.place, text_inputs or {})
        call = ScreenedCall(self, pictured.cpu(), query, states, reading)
        watched = (self.steering.read_layer, *(() if states is None else states.layers))
        layers = locate_decoder(model).layers
        with attached(_ACTIVE, call, [(layers[at], call.hook(at)) for at in dict.fromkeys(watched)]):
            yield call

    def _reads_query(self, *, shown: bool, same: bool) -> bool:
        """Whether the gate decides about these rows, and by something beside the prompt itself."""
        if self.head(pictured=shown) is not None or self.steering.reads == "input":
            return False
        return shown if self.query_form == "text" else not same

    def head(self, *, pictured: bool) -> Logistic | None:
        """Return the probe's head for rows with pictures, or without; `None` if the steering's gate decides about them."""
        return None if self.probe is None else self.probe.heads.get("picture" if pictured else "text")


class ScreenedCall(AttachedCall):
    """What one prefill showed, a trace a row."""

    def __init__(
        self,
        screening: Screening,
        pictured: Tensor,
        query: Tensor | None,
        states: TurnStates | RequestStates | None,
        reading: GateReading | None = None,
    ) -> None:
        """Start with nothing read.

        Args:
            screening: What decides.
            pictured: Which rows show a picture, `(rows,)` bool.
            query: State of the text-only query at the gate's layer, `(rows, hidden)`, if the gate reads it.
            states: Collects what the probe or the gate's head reads, if it reads this prefill.
            reading: What the gate's head read before, if it did.
        """
        self.screening = screening
        self.pictured = pictured
        self.states = states
        self._query, self._reading = query, reading
        self._state: Tensor | None = None
        self._traces: list[Trace] | None = None

    @property
    def edits_decoding(self) -> bool:
        """Nothing is edited at all."""
        return False

    def hook(self, layer: int) -> Hook:
        """Return the forward hook of one layer."""

        def read(_module: nn.Module, _inputs: object, output: object) -> None:
            if _ACTIVE.get() is not self or self._traces is not None:
                return
            hidden = layer_output(output)
            if layer == self.screening.steering.read_layer:
                self._state = hidden[:, -1].detach()
            if self.states is not None:
                self.states.see(layer, hidden)

        return read

    def trace(self) -> list[Trace]:
        """Return one trace a row, as plain values: what was read, and that nothing was edited.

        Raises:
            RuntimeError: The prefill has not run.
        """
        if self._traces is None:
            self._traces = self._decide()
        return self._traces

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        traces = self.trace()
        self._traces = [traces[row] for row in rows]

    def absorb(self, other: Self) -> None:
        """Append the rows of another call of the same screening."""
        self._traces = [*self.trace(), *other.trace()]

    def _decide(self) -> list[Trace]:
        if self._state is None:
            msg = "nothing was read: run the model inside the block first"
            raise RuntimeError(msg)
        if isinstance(self.states, TurnStates):
            return self._read_probe(self.states)
        return self._read_gate(self._state)

    def _read_probe(self, states: TurnStates) -> list[Trace]:
        shown, probe = bool(self.pictured.any()), self.screening.probe
        if probe is None:
            msg = "a call without a probe has no states to read"
            raise RuntimeError(msg)
        head = probe.heads["picture" if shown else "text"]
        scores, threshold = head.score(states.features(pictured=shown)), float(head.threshold)
        return [
            self._row("probe", score, threshold, risk, is_open=score >= threshold, layers=probe.card.layers)
            for score, risk in zip(scores.tolist(), scores.sigmoid().tolist(), strict=True)
        ]

    def _read_gate(self, state: Tensor) -> list[Trace]:
        steering = self.screening.steering
        seen = None if self._query is not None and steering.reads in ("query", "request") else state
        reading = self._reading
        if steering.head is not None and isinstance(self.states, RequestStates):
            reading = steering.head.read(self.states.features())
        reading = reading or steering.read_gate(self.pictured, seen, self._query)
        return [
            self._row(
                steering.gate.name,
                float(reading.score[row]),
                float(reading.threshold[row]),
                float(reading.risk[row]),
                is_open=bool(reading.strength[row] > 0),
                layers=(steering.read_layer,),
                reads=steering.reads,
            )
            for row in range(len(self.pictured))
        ]

    def _row(
        self,
        gate: str,
        score: float,
        threshold: float,
        risk: float,
        *,
        is_open: bool,
        layers: Sequence[int],
        reads: Reads = "input",
    ) -> Trace:
        return {
            "intervention": "none",
            "gate": gate,
            "score": score,
            "threshold": threshold,
            "open": is_open,
            "strength": 0.0,
            "picture": bool(self.pictured.any()),
            "risk": risk,
            "layers": list(layers),
            "reads": reads,
            "calibration": self.screening.steering.calibration,
        }
