"""From a steering to the requests that carry it out: what must be read before, and what the row itself asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.errors import EngineRefusedError, MissingStampError
from langchain_vlmguard.steering.interventions import Restore
from langchain_vlmguard.vllm.settings import RowSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_vlmguard.steering.attachment import Trace
    from langchain_vlmguard.steering.gates import GateReading
    from langchain_vlmguard.steering.steering import Steering
    from langchain_vlmguard.vllm.stamps import Stamp

_CLOSE = 1e-2
"""How far the worker's strength may lie from what its score says: both compute in float32."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One row under a steering, from its first request to its trace.

    Args:
        steering: What is done.
        name: Name of its directions in the engine.
        pictured: Whether the row shows a picture.
        own_query: Whether the row is its own query: nothing is left out of it for the gate.
    """

    steering: Steering
    name: str
    pictured: bool
    own_query: bool

    def __post_init__(self) -> None:
        """Check that vLLM can do it.

        Raises:
            EngineRefusedError: The gate reads more than one direction at the last prompt token.
        """
        if self.steering.head is not None:
            msg = "a PlacedGate reads mean states, which the workers do not keep: choose another gate for vLLM"
            raise EngineRefusedError(msg)

    @property
    def reads_query(self) -> bool:
        """Whether a request of the query comes first."""
        return not self.own_query and self.steering.needs_text_query

    @property
    def reads_input(self) -> bool:
        """Whether a request that only reads the whole input comes first: its gate lies above the first edit, or two are read."""
        steering = self.steering
        needed = self.own_query or steering.reads in ("input", "both")
        return needed and not self.gated

    @property
    def gated(self) -> bool:
        """Whether the row's own last prompt token opens its edit."""
        steering = self.steering
        alone = (self.own_query or steering.reads == "input") and not steering.intervention.needs_text_query
        return alone and steering.single_pass

    def read(self, *, query: bool) -> RowSettings:
        """Return the settings of a request that only reads; of the query or of the whole input."""
        return self._settings("read", picture=self.pictured and not query, gate=True)

    def steer(self, reads: Mapping[str, Stamp]) -> RowSettings:
        """Return the settings of the row itself.

        Args:
            reads: Stamps of the requests before, by `"query"` and `"input"`.
        """
        if self.gated:
            return self._settings("gated", picture=self.pictured, gate=True)
        reference = None
        if self.steering.intervention.needs_text_query:
            source = reads["query"] if "query" in reads else reads["input"]
            reference = tuple(tuple(one) for one in source["coordinates"])
        strength = float(self.reading(reads).strength[0])
        return self._settings("steer", picture=self.pictured, gate=False, strength=strength, reference=reference)

    def reading(self, stamps: Mapping[str, Stamp]) -> GateReading:
        """Return what the gate decides by the scores that were stamped."""
        scores = {name: torch.tensor([one["score"]]) for name, one in stamps.items() if one["score"] is not None}
        return self.steering.decide(torch.tensor([self.pictured]), scores.get("input"), scores.get("query"))

    def trace(self, stamps: Mapping[str, Stamp], last: Stamp) -> Trace:
        """Return the row's steering trace.

        Args:
            stamps: Of the requests that read, and of the row itself as `"input"` where its own gate opened the edit.
            last: Stamp of the row.

        Raises:
            MissingStampError: The worker edited with another strength than the score means.
        """
        reading = self.reading(stamps)
        strength = float(reading.strength[0])
        if abs(strength - last["strength"]) > _CLOSE:
            msg = f"the worker edited with strength {last['strength']:.4f}, and its gate's score means {strength:.4f}"
            raise MissingStampError(msg)
        return self.steering.row_trace(reading, 0, pictured=self.pictured)

    def _settings(
        self,
        do: str,
        *,
        picture: bool,
        gate: bool,
        strength: float | None = None,
        reference: tuple[tuple[float, ...], ...] | None = None,
    ) -> RowSettings:
        steering = self.steering
        edit, reader = steering.intervention, steering.gate
        settings = RowSettings(
            do=do,  # type: ignore[arg-type]
            directions=self.name,
            digest=steering.directions.hash,
            layers=steering.layers,
            intervention=edit.name,
            alpha=edit.alpha,
            max_scale=edit.max_scale if isinstance(edit, Restore) else None,
            gate=reader.name if gate else "",
            position=getattr(reader, "position", None) if gate else None,
            gate_layer=steering.read_layer if gate else None,
            picture=picture,
            decode=steering.decode,
            strength=strength,
            reference=reference,
        )
        settings.check()
        return settings
