"""What a probe reads from one clean prefill, and the prefill itself."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch

from langchain_vlmguard.steering.activations import SeenEnough, padded_positions
from langchain_vlmguard.steering.architectures import layer_output, locate_decoder
from langchain_vlmguard.steering.attachment import hooked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from langchain_vlmguard.steering.logistic import Logistic


class Reading(Protocol):
    """Something that looks at the output of some layers while a prefill runs."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose output must be shown to `see`."""

    def see(self, layer: int, hidden: Tensor) -> None:
        """Take the output `(rows, tokens, hidden)` of a layer in the prefill."""


class TurnStates:
    """Collects what a probe reads from one prefill of left-padded rows, all with pictures or all without."""

    def __init__(self, layers: Sequence[int], inputs: dict[str, Tensor], picture_token: int | None) -> None:
        """Watch the first, middle and last layer in the prefill of `inputs`."""
        self._first, self._middle, self._last = layers
        shown = inputs["input_ids"] == (-1 if picture_token is None else picture_token)
        self._masks = (shown, inputs["attention_mask"].bool() & ~shown)
        self._read: dict[str, Tensor] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose output must be shown to `see`."""
        return tuple(dict.fromkeys((self._first, self._middle, self._last)))

    def see(self, layer: int, hidden: Tensor) -> None:
        """Take the output `(rows, tokens, hidden)` of a layer in the prefill."""
        if layer == self._first:
            self._read["shown"], self._read["said"] = (pooled(hidden, mask) for mask in self._masks)
        if layer == self._middle:
            self._read["middle"] = hidden[:, -1].float()
        if layer == self._last:
            self._read["last"] = hidden[:, -1].float()

    def features(self, *, pictured: bool) -> Tensor:
        """Return `(rows, features)` float32 on the CPU."""
        names = ("shown", "said", "middle", "last") if pictured else ("said", "middle", "last")
        return torch.cat([self._read[name] for name in names], dim=1).cpu()


class EarlyStates:
    """Collects the mean state of all tokens and the last one's after one early layer, of rows without pictures.

    The prefill ends there where `until` scores every row below its threshold, or where nothing else is asked.
    """

    def __init__(self, layer: int, inputs: dict[str, Tensor], until: Logistic | None = None) -> None:
        """Watch one layer in the prefill of `inputs`."""
        self.layers = (layer,)
        self._mask = inputs["attention_mask"].bool()
        self._until = until
        self._read: Tensor | None = None

    def see(self, _layer: int, hidden: Tensor) -> None:
        """Take the layer's output `(rows, tokens, hidden)`.

        Raises:
            SeenEnough: The layers that are left would change nothing.
        """
        self._read = torch.cat((pooled(hidden, self._mask), hidden[:, -1].float()), dim=1).cpu()
        if self._until is None or (self._until.score(self._read) < self._until.threshold).all():
            raise SeenEnough

    def features(self) -> Tensor:
        """Return `(rows, features)` float32 on the CPU.

        Raises:
            RuntimeError: The layer did not run.
        """
        if self._read is None:
            msg = f"layer {self.layers[0]} did not run, and has no states"
            raise RuntimeError(msg)
        return self._read


def early_layer(depth: int) -> int:
    """Return the layer after which answers are read early: a sixth of the way, `0` in small models."""
    return (depth - 1) // 6


def prefill(model: PreTrainedModel, inputs: dict[str, Tensor], readings: Sequence[Reading]) -> None:
    """Run encoded rows through the model until the last layer, or until a reading has seen enough."""
    layers = locate_decoder(model).layers
    watching = [(layers[at], partial(_show, reading, at)) for reading in readings for at in reading.layers]
    with torch.inference_mode(), hooked(watching), suppress(SeenEnough):
        model(**inputs, **padded_positions(inputs, model), use_cache=False)


def _show(reading: Reading, layer: int, _module: object, _inputs: object, output: object) -> None:
    reading.see(layer, layer_output(output))


def pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean state of the tokens in a mask, `(rows, hidden)` float32; 0 for a row without any."""
    weight = mask[..., None].to(hidden.device, torch.float32)
    return (hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1)
