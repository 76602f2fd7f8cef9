"""What a gate reads best: the typed request alone, by weights of its own, apart from the directions that edits are made along."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from langchain_vlmguard.steering.activations import SeenEnough
from langchain_vlmguard.steering.encoding import Prompt
from langchain_vlmguard.steering.gates import ClassStats, PlacedGate
from langchain_vlmguard.steering.logistic import Logistic
from langchain_vlmguard.steering.turn_states import pooled, prefill

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import ContextVar

    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.steering.gates import GateReading

Call = TypeVar("Call")

FITTED = "anchors"
"""The calibration of a head as it was fitted."""


@dataclass(frozen=True)
class Frame:
    """Tokens that the chat template puts around a request that stands alone."""

    before: int
    after: int

    @classmethod
    def of(cls, processor: ProcessorMixin) -> Frame:
        """Compare two rendered requests: what both begin and end with is the template's."""
        texts = [
            processor.apply_chat_template([Prompt(text).message()], tokenize=False, add_generation_prompt=True)
            for text in ("zebra", "How cold was it?")
        ]
        first, second = (processor.tokenizer.encode(text, add_special_tokens=False) for text in texts)
        return cls(_shared(first, second), _shared(first[::-1], second[::-1]))

    def inside(self, mask: Tensor) -> Tensor:
        """Return which tokens are the request's own, `(rows, tokens)` bool, by the attention mask of left-padded rows."""
        number = mask.cumsum(-1)
        return mask.bool() & (number > self.before) & (number <= number[:, -1:] - self.after)


class RequestStates:
    """Collects what a gate head reads from one prefill of left-padded requests, each standing alone."""

    def __init__(self, head: HeadPlace, inputs: Mapping[str, Tensor], *, stop: bool = False) -> None:
        """Watch the head's layers in the prefill of `inputs`; with `stop`, the prefill ends at the deeper one."""
        self._place, self._stop = head, stop
        self._said = head.frame.inside(inputs["attention_mask"])
        self._read: dict[str, Tensor] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose output must be shown to `see`."""
        return tuple(sorted({self._place.last, self._place.mean}))

    def see(self, layer: int, hidden: Tensor) -> None:
        """Take the output `(rows, tokens, hidden)` of a layer in the prefill.

        Raises:
            SeenEnough: The layers that are left would change nothing, and nothing else is wanted.
        """
        if layer == self._place.mean:
            self._read["mean"] = pooled(hidden, self._said).cpu()
        if layer == self._place.last:
            self._read["last"] = hidden[:, -1].detach().float().cpu()
        if self._stop and layer == self.layers[-1]:
            raise SeenEnough

    def features(self) -> Tensor:
        """Return `(rows, 2 · hidden)` float32 on the CPU: the last token's state, then the mean of the request's tokens."""
        return torch.cat((self._read["last"], self._read["mean"]), dim=1)


@dataclass(frozen=True)
class HeadPlace:
    """Where a head reads."""

    last: int
    """Layer whose state of the last prompt token is read."""

    mean: int
    """Layer whose mean state of the request's own tokens is read."""

    frame: Frame


@dataclass(frozen=True, eq=False)
class GateHead:
    """Logistic regression on the states of a request that stands alone, with a threshold for a wanted share of false alarms.

    Because it reads the request alone, the threshold holds whatever system prompt, tools, history or pictures stand around it.
    Tensors are float32 on the CPU.
    """

    place: HeadPlace
    logistic: Logistic
    stats: ClassStats
    """Class statistics of left-out scores, with the placed threshold."""

    scores: dict[str, Tensor] = field(default_factory=dict)
    """Left-out scores of the anchors, by `harmful`, `harmless` and `edgy` (those harmless ones that sound dangerous): what
    another threshold would find."""

    calibration: str = FITTED
    """What the threshold was placed on: `"anchors"`, or `"traffic:"` and a hash of one's own requests."""

    @property
    def threshold(self) -> float:
        """The score above which the gate opens."""
        return float(PlacedGate().threshold(self.stats))

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over place, calibration, weights and statistics."""
        digest = hashlib.sha256(f"{self.place}:{self.calibration}".encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def read(self, features: Tensor) -> GateReading:
        """Decide for rows by what `RequestStates` collected, `(rows, 2 · hidden)`."""
        return PlacedGate().read(self.logistic.score(features), self.stats)

    def share(self, of: str, threshold: float | None = None) -> float:
        """Return the share of left-out anchors of a kind above a threshold, the head's own when `None`."""
        return float((self.scores[of] > (self.threshold if threshold is None else threshold)).float().mean())

    def placed(self, threshold: float, calibration: str) -> GateHead:
        """Return the same head with another threshold."""
        return replace(self, stats=self.stats.placed(threshold), calibration=calibration)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but place and calibration, by name."""
        parts = {part: getattr(self.logistic, part) for part in Logistic.PARTS}
        packed = torch.stack(
            [self.stats.harmful, self.stats.harmless, self.stats.spread, PlacedGate().threshold(self.stats)[None]]
        )
        return {**parts, "stats": packed, **{f"scores.{name}": one for name, one in self.scores.items()}}

    @property
    def facts(self) -> dict[str, object]:
        """Place and calibration as plain values, for `of`."""
        place = self.place
        frame = [place.frame.before, place.frame.after]
        return {"last": place.last, "mean": place.mean, "frame": frame, "calibration": self.calibration}

    @classmethod
    def of(cls, facts: Mapping[str, object], tensors: Mapping[str, Tensor]) -> GateHead:
        """Put a head together again from its facts and tensors."""
        match facts:
            case {"last": int(last), "mean": int(mean), "frame": [int(before), int(after)], "calibration": str(named)}:
                place = HeadPlace(last, mean, Frame(before, after))
            case _:
                msg = f"these are no facts of a gate head: {facts!r}"
                raise ValueError(msg)
        harmful, harmless, spread, threshold = tensors["stats"]
        scores = {name.removeprefix("scores."): one for name, one in tensors.items() if name.startswith("scores.")}
        logistic = Logistic(*(tensors[part] for part in Logistic.PARTS))
        return cls(place, logistic, ClassStats(harmful, harmless, spread, threshold[0]), scores, named)


def read_requests(
    active: ContextVar[Call | None], model: PreTrainedModel, head: GateHead, inputs: dict[str, Tensor]
) -> GateReading:
    """Read requests in a prefill of their own, which ends at the head's deeper layer; no call of `active` takes part."""
    states = RequestStates(head.place, inputs, stop=True)
    outer = active.set(None)
    try:
        prefill(model, inputs, [states])
    finally:
        active.reset(outer)
    return head.read(states.features())


def _shared(first: list[int], second: list[int]) -> int:
    """Return how many tokens two lists begin with alike."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
