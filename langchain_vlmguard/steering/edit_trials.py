"""Choose where and how strongly to edit by what it does to answers, apart from the gate: every trial's gate stands open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_vlmguard.files import read_json, write_json
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import Push
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.verdict.refusal_phrases import sounds_like_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.encoding import Prompt
    from langchain_vlmguard.steering.selection import Answerer

DEPTHS = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85)
"""Layers that are tried, as shares of the decoder's depth."""

FIRST, STRENGTHS = 2.0, (1.0, 4.0)
"""Strength at which layers are compared, and those that are tried at the best layers."""

_BEST = 2
COUNT = 1 + len(DEPTHS) + _BEST * len(STRENGTHS) + 2
"""Most trials, the plain model's answers among them."""


@dataclass(frozen=True)
class EditTrial:
    """What one edit did to held-out harmful anchors."""

    layer: int
    alpha: float
    decode: bool
    refused: float

    @property
    def rank(self) -> tuple[float, float, bool]:
        """Sort key: more refused, then the gentler edit."""
        return self.refused, -self.alpha, not self.decode


@dataclass(frozen=True)
class EditTrials:
    """Tries edits; what was tried is kept in a file, and a run that is stopped goes on from there."""

    answer: Answerer
    directions: SafetyDirections
    prompts: Sequence[Prompt]
    file: Path
    refuses: Callable[[str], bool] = sounds_like_refusal
    progress: Callable[[], None] = lambda: None

    def choose(self) -> tuple[EditTrial, list[EditTrial], float]:
        """Try layers at one strength, then strengths at the best layers, then whether to edit new tokens, too.

        Returns:
            The best trial, all of them, best first, and the share that the plain model refuses.
        """
        plain = self._refused("plain", None)
        depth = self.directions.card.layers
        layers = [*dict.fromkeys(round(at * (depth - 1)) for at in DEPTHS)]
        tried = [self._try(layer, FIRST, decode=False) for layer in layers]
        best = sorted(tried, key=lambda one: one.rank, reverse=True)[:_BEST]
        tried += [self._try(one.layer, alpha, decode=False) for one in best for alpha in STRENGTHS]
        top = max(tried, key=lambda one: one.rank)
        tried += [self._try(top.layer, alpha, decode=True) for alpha in dict.fromkeys((top.alpha / 2, top.alpha))]
        tried.sort(key=lambda one: one.rank, reverse=True)
        return tried[0], tried, plain

    def _try(self, layer: int, alpha: float, *, decode: bool) -> EditTrial:
        steering = Steering(self.directions, (layer,), Push(alpha), AlwaysOpen(), decode=decode)
        return EditTrial(layer, alpha, decode, self._refused(steering.identity, steering))

    def _refused(self, name: str, steering: Steering | None) -> float:
        """Return the share of prompts that are refused, from the file if it is there."""
        kept: dict[str, float] = read_json(self.file) if self.file.is_file() else {}
        key = f"{name}:{self.directions.hash}:{len(self.prompts)}:{self.answer.max_tokens}"
        if key not in kept:
            answers = self.answer.all(self.prompts, steering)
            kept[key] = sum(map(self.refuses, answers)) / len(answers)
            write_json(self.file, kept)
        self.progress()
        return float(kept[key])
