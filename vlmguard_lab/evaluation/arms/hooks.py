"""Put a peer's edit on a model: the same place in generation that this package's own steering takes."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch

from langchain_vlmguard.steering.activations import clean_prefill
from langchain_vlmguard.steering.architectures import layer_output, locate_decoder, replace_layer_output
from langchain_vlmguard.steering.attachment import AttachedCall, Attachment, attached
from vlmguard_lab.evaluation.arms.peers import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from langchain_vlmguard.steering.attachment import Hook
    from langchain_vlmguard.steering.directions import SafetyDirections
    from vlmguard_lab.evaluation.arms.peers import PeerEdit

_ACTIVE: ContextVar[PeerCall | None] = ContextVar("vlmguard_peer_call", default=None)


@dataclass(frozen=True, eq=False)
class PeerSteering(Attachment):
    """A peer's edit at some layers; `ChatSteeredVLM` takes it where it takes a `Steering`."""

    edit: PeerEdit
    layers: tuple[int, ...]
    directions: SafetyDirections
    """Named in provenance; the peer was fitted on the same anchors."""

    settings: str = ""
    """What tells two settings of one peer apart."""

    @property
    def needs_text_query(self) -> bool:
        """Whether the text without its picture must be run."""
        return self.edit.needs_query

    @cached_property
    def identity(self) -> str:
        """Hash of everything that changes an answer, so that batches do not mix."""
        parts = [self.edit.name, self.layers, self.settings, self.directions.hash]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @contextmanager
    def attach(
        self,
        model: PreTrainedModel,
        *,
        pictured: Tensor,
        inputs: dict[str, Tensor] | None = None,
        text_inputs: dict[str, Tensor] | None = None,
        repeatable: bool = False,  # noqa: ARG002 - a peer reads its prefill before the first edit
    ) -> Iterator[PeerCall]:
        """Steer what this thread runs on the model inside the block.

        Args:
            model: The model.
            pictured: Which rows show a picture, `(rows,)` bool.
            inputs: The encoded rows, left-padded.
            text_inputs: The rows without their pictures, for an edit that needs them.
            repeatable: Makes no difference here.

        Raises:
            ValueError: An input is missing.
        """
        if inputs is None or (self.needs_text_query and text_inputs is None):
            msg = f"{self.edit.name} needs the encoded rows, and their text alone where it compares with that"
            raise ValueError(msg)
        states = _prefill(model, inputs, self.layers)
        queries = _prefill(model, text_inputs, self.layers) if self.needs_text_query and text_inputs else {}
        seen = {layer: Seen(states[layer], pictured.to(model.device), queries.get(layer)) for layer in self.layers}
        call = PeerCall(self, seen)
        decoder = locate_decoder(model)
        hooks = [(decoder.layers[layer], call.hook(layer)) for layer in self.layers]
        with attached(_ACTIVE, call, hooks):
            yield call


class PeerCall(AttachedCall):
    """One attached call."""

    def __init__(self, steering: PeerSteering, seen: dict[int, Seen]) -> None:
        """Start before the prefill."""
        self._steering = steering
        self._seen = seen
        self._prefilled: set[int] = set()

    def hook(self, layer: int) -> Hook:
        """Return the forward hook of one layer."""

        def steer(_module: nn.Module, _inputs: object, output: object) -> object:
            if _ACTIVE.get() is not self:
                return None
            decoding = layer in self._prefilled
            self._prefilled.add(layer)
            if decoding and not self._steering.edit.decode:
                return None
            return replace_layer_output(output, self._edited(layer_output(output), layer))

        return steer

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; called after the prefill."""
        self._seen = {layer: seen.rows(rows) for layer, seen in self._seen.items()}

    def absorb(self, other: Self) -> None:
        """Append the rows of another call of the same steering; called after both prefills."""
        self._seen = {layer: seen.with_rows(other._seen[layer]) for layer, seen in self._seen.items()}

    def trace(self) -> list[None]:
        """Return no trace: peers have no gate of our kind to report."""
        rows = len(next(iter(self._seen.values())).pictured)
        return [None] * rows

    def _edited(self, hidden: Tensor, layer: int) -> Tensor:
        first = 0 if self._steering.edit.positions == "all" else hidden.shape[1] - 1
        edited = self._steering.edit.edit(hidden[:, first:].float(), layer, self._seen[layer]).to(hidden.dtype)
        return torch.cat((hidden[:, :first], edited), dim=1)


def _prefill(model: PreTrainedModel, inputs: dict[str, Tensor], layers: tuple[int, ...]) -> dict[int, Tensor]:
    return {layer: state.float() for layer, state in clean_prefill(_ACTIVE, model, inputs, layers).items()}
