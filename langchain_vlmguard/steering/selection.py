"""Choose layers and strength causally: by what they do to answers on held-out anchors, never on test prompts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from langchain_vlmguard.steering.activations import last_token_states
from langchain_vlmguard.steering.encoding import Prompt, encode_prompts
from langchain_vlmguard.steering.gates import ReluGate
from langchain_vlmguard.steering.interventions import Intervention, Push, Restore
from langchain_vlmguard.steering.neutral import neutral_pictures
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.verdict.refusal_phrases import sounds_like_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.steering.anchors import AnchorSet
    from langchain_vlmguard.steering.attachment import Reads
    from langchain_vlmguard.steering.directions import SafetyDirections


@dataclass(frozen=True)
class Trial:
    """What one candidate did to the held-out anchors."""

    steering: Steering
    refused: float
    """Share of harmful anchors refused beside neutral pictures."""

    kept: float
    """Share of harmless prompts (with and without pictures) whose answer is word for word the plain model's."""

    @property
    def score(self) -> float:
        """The weaker of the two, then their sum."""
        return min(self.refused, self.kept) + 0.1 * (self.refused + self.kept)

    @property
    def rank(self) -> tuple[float, float, float]:
        """Sort key: score, then strength of the edit, then how early the gate opens, because anchors are easier than traffic."""
        gate = self.steering.gate
        return self.score, self.steering.intervention.alpha, -gate.position if isinstance(gate, ReluGate) else 0.0


def candidates(
    directions: SafetyDirections,
    *,
    layers: Sequence[tuple[int, ...]] | None = None,
    interventions: Sequence[Intervention] = (Restore(), Push()),
    gates: Sequence[ReluGate] = (ReluGate(),),
    gate_layers: Sequence[int | None] = (None,),
    reads: Sequence[Reads] = ("input", "both"),
    decode: bool = False,
) -> list[Steering]:
    """Return the grid of steerings to try.

    Args:
        directions: What `SafetyDirections.fit` returned.
        layers: Sets of layers to edit; every single layer when `None`.
        interventions: What to do there, each with its strength.
        gates: Gates, e.g. `ReluGate(0.25)`.
        gate_layers: Layers that the gate reads; `None` is the first edited one.
        reads: What the gate reads, see `Steering.reads`.
        decode: Edit every decode step too.
    """
    every = layers or [(layer,) for layer in range(directions.card.layers)]
    grid = product(every, interventions, gates, gate_layers, reads)
    return [Steering(directions, *option, decode=decode) for option in grid]


def select_layers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    directions: SafetyDirections,
    anchors: AnchorSet,
    *,
    keep: Sequence[Prompt] = (),
    pictures: Sequence[Image.Image] | None = None,
    tried: Sequence[Steering] | None = None,
    refuses: Callable[[str], bool] = sounds_like_refusal,
    max_tokens: int = 48,
    batch_size: int = 32,
    progress: bool = True,
) -> tuple[SafetyDirections, list[Trial]]:
    """Try every candidate on held-out anchors and write the best into the directions' card.

    A candidate is scored by two shares: harmful anchors beside neutral pictures that are refused, and harmless prompts that
    are answered exactly as without steering. Candidates that edit nothing well score low on the first, those that over-refuse
    or break answers on the second. Ties go to the side of caution (`Trial.rank`).

    Args:
        model: The model the directions were fitted on.
        processor: Its processor.
        directions: What `SafetyDirections.fit` returned.
        anchors: Pairs that took no part in the fit.
        keep: Further harmless prompts, e.g. questions about pictures, whose answers must stay.
        pictures: Meaningless pictures; blank, noise and plain colours when `None`.
        tried: The steerings to try; the grid of `candidates` when `None`.
        refuses: Decides whether an answer is a refusal.
        max_tokens: Answers are compared up to this length.
        batch_size: Rows that run together.
        progress: Show a bar.

    Returns:
        The directions with the choice on their card, and all trials, best first.
    """
    shown = list(pictures) if pictures is not None else neutral_pictures(seed=1)
    harmful = [Prompt(text, shown[i % len(shown)]) for i, text in enumerate(anchors.harmful)]
    harmless = [Prompt(text, shown[i % len(shown)]) for i, text in enumerate(anchors.harmless)]
    harmless += [Prompt(text) for text in anchors.harmless]
    harmless += keep
    answer = Answerer(model, processor, max_tokens, batch_size)
    dangers, others = _Asked.of(harmful, answer), _Asked.of(harmless, answer)
    trials = []
    for steering in tqdm(tried or candidates(directions), desc="trying layers", disable=not progress):
        refused = [refuses(text) for text in dangers.answers(steering, answer)]
        kept = [one == two for one, two in zip(others.plain, others.answers(steering, answer), strict=True)]
        trials.append(Trial(steering, sum(refused) / len(refused), sum(kept) / len(kept)))
    trials.sort(key=lambda trial: trial.rank, reverse=True)
    return directions.with_choice(_choice(trials, anchors)), trials


def _choice(trials: list[Trial], anchors: AnchorSet) -> dict[str, Any]:
    best, steering = trials[0], trials[0].steering
    gate = steering.gate
    assert isinstance(gate, ReluGate)  # noqa: S101 - select_layers tries no other kind
    return {
        "layers": list(steering.layers),
        "gate_layer": steering.read_layer,
        "intervention": steering.intervention.name,
        "alpha": steering.intervention.alpha,
        "gate": gate.name,
        "gate_position": gate.position,
        "reads": steering.reads,
        "decode": steering.decode,
        "refused": best.refused,
        "kept": best.kept,
        "selection_anchors_hash": anchors.hash,
        "trials": len(trials),
    }


@dataclass(frozen=True)
class _Asked:
    """Prompts with their plain answers and clean states; a row whose gate stays shut is not run again."""

    prompts: list[Prompt]
    plain: list[str]
    states: Tensor
    """`(prompts, layers, hidden)`; `queries` are those of the texts alone."""

    queries: Tensor

    @classmethod
    def of(cls, prompts: list[Prompt], answer: Answerer) -> _Asked:
        texts = [Prompt(prompt.text) for prompt in prompts]
        return cls(prompts, answer.all(prompts, None), answer.states(prompts), answer.states(texts))

    def answers(self, steering: Steering, answer: Answerer) -> list[str]:
        """Answer every prompt under a steering."""
        steered = [row for row, strength in enumerate(self._strengths(steering)) if strength > 0]
        texts = answer.all([self.prompts[row] for row in steered], steering)
        changed = dict(zip(steered, texts, strict=True))
        return [changed.get(row, text) for row, text in enumerate(self.plain)]

    def _strengths(self, steering: Steering) -> list[float]:
        layer = steering.read_layer
        pictured = torch.tensor([prompt.picture is not None for prompt in self.prompts])
        state = None if steering.reads == "query" else self.states[:, layer]
        query = None if steering.reads == "input" else self.queries[:, layer]
        strengths: list[float] = steering.read_gate(pictured, state, query).strength.tolist()
        return strengths


@dataclass(frozen=True)
class Answerer:
    """Answers prompts greedily, as `generate` does, steered or not."""

    model: PreTrainedModel
    processor: ProcessorMixin
    max_tokens: int
    batch_size: int

    def states(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return clean states of the last prompt token, `(prompts, layers, hidden)`."""
        return last_token_states(self.model, self.processor, prompts, batch_size=self.batch_size)

    def all(self, prompts: Sequence[Prompt], steering: Steering | None) -> list[str]:
        """Answer prompts greedily, rows with and without pictures apart, results in order."""
        answers: dict[int, str] = {}
        for pictured in (False, True):
            rows = [i for i, prompt in enumerate(prompts) if (prompt.picture is not None) == pictured]
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                texts = self._batch([prompts[i] for i in part], steering, pictured=pictured)
                answers.update(zip(part, texts, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _batch(self, prompts: list[Prompt], steering: Steering | None, *, pictured: bool) -> list[str]:
        encoded = self._encoded(prompts)
        options = {"max_new_tokens": self.max_tokens, "do_sample": False}
        with torch.inference_mode():
            if steering is None:
                whole = self.model.generate(**encoded, **options)
            else:
                text = [Prompt(p.text) for p in prompts] if steering.needs_text_query else None
                flags = torch.full((len(prompts),), pictured)
                with steering.attach(
                    self.model, pictured=flags, inputs=encoded, text_inputs=self._encoded(text) if text else None
                ):
                    whole = self.model.generate(**encoded, **options)
        answers = whole[:, encoded["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(answers, skip_special_tokens=True)]

    def _encoded(self, prompts: list[Prompt]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in encode_prompts(self.processor, prompts).items()}
