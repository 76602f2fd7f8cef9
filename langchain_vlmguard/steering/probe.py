"""A probe on whole turns: says from the answer's own prefill, words and pictures read together, which turns are surely harmless.

The directions of VLM-Guard come from text alone and see no harm that only a picture shows. A probe is fitted on labelled turns
with pictures, e.g. those that a rewriter was trained on, and is used where nothing is steered: to clear turns without a rewriter.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from tqdm.auto import tqdm

from langchain_vlmguard._version import __version__
from langchain_vlmguard.errors import DirectionsMismatchError
from langchain_vlmguard.steering.activations import hooked, padded_positions
from langchain_vlmguard.steering.architectures import image_token_id, layer_output, locate_decoder
from langchain_vlmguard.steering.directions import config_hash, weights_hash
from langchain_vlmguard.steering.encoding import encode_texts
from langchain_vlmguard.steering.files import read_tensors, write_tensors
from langchain_vlmguard.steering.logistic import Logistic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

FORMAT = "1"
Head = Literal["text", "picture", "answer"]
HEADS: tuple[Head, ...] = get_args(Head)
"""Turns without pictures, turns with pictures, and answers: each has weights and a threshold of its own."""

_AT_THRESHOLD = 0.7
"""Risk of an answer at its head's threshold: `unsafe_at` of the default policy."""


@dataclass(frozen=True, eq=False)
class LabelledTurn:
    """A turn, or an answer, to fit on, rendered with the model's chat template."""

    text: str
    harmful: bool
    pictures: tuple[Image.Image, ...] = ()
    kind: str = ""
    """Kind of turn, e.g. a family of requests; the share of harmful turns that may be missed holds in each kind by itself."""

    groups: tuple[str, ...] = ()
    """What the turn is about, e.g. its object and its setting. A turn is scored by weights that saw nothing of its last group
    and nothing else of what was left out with it."""

    answer: bool = False
    """Whether the text is no turn, but what a model says, rendered as if a person had typed it."""

    @property
    def head(self) -> Head:
        """The head that this is an example for."""
        return "answer" if self.answer else "picture" if self.pictures else "text"


@dataclass(frozen=True)
class ProbeCard:
    """Where a probe comes from, and what cross-validation says about it."""

    model_id: str
    config_hash: str
    weights_hash: str
    layers: tuple[int, int, int]
    """First, middle and last decoder layer."""

    turns: int
    missed: float
    """Share of the harmful turns of any kind that the thresholds let pass in cross-validation."""

    cleared: dict[str, float] = field(default_factory=dict)
    """Share of harmless examples that lie below the threshold in cross-validation, mean over kinds, by head."""

    package_version: str = __version__


@dataclass(frozen=True, eq=False)
class TurnProbe:
    """Logistic regression on the states of one clean prefill.

    Read are the mean state of the picture's tokens and of all others after the first decoder layer (what is shown and what is
    said), and the state of the last prompt token after the middle and the last layer (what the model makes of both).
    """

    card: ProbeCard
    heads: dict[Head, Logistic]

    @classmethod
    def fit(
        cls,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        turns: Sequence[LabelledTurn],
        *,
        missed: float = 0.002,
        penalty: float = 0.03,
        folds: int = 4,
        model_id: str | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> TurnProbe:
        """Fit on labelled turns; thresholds come from turns whose groups the weights did not see.

        Args:
            model: An image-text-to-text model; it is run in eval mode.
            processor: Its processor.
            turns: Harmful and harmless turns; both classes with pictures, or without, or each.
            missed: Largest share of harmful turns of one kind that may lie below the threshold in cross-validation. Where the
                classes do not touch, the threshold lies half way between them instead, as that of answers always does.
            penalty: Weight of the squared norm; a tenth of it for answers, whose states hold little besides what is said.
            folds: Parts of the groups, left out in turn.
            model_id: Name for the card; the model's own when `None`.
            batch_size: Rows a forward pass.
            progress: Show a bar.

        Raises:
            ValueError: There are no harmful, or no harmless, turns for any head, or fewer groups than folds.
        """
        model.eval()
        fold_of = _folds(turns, folds)
        heads: dict[Head, Logistic] = {}
        cleared: dict[str, float] = {}
        for head in HEADS:
            own = [turn for turn in turns if turn.head == head]
            if len({turn.harmful for turn in own}) < len((True, False)):
                continue
            states = _states(model, processor, own, batch_size, f"{head} turns" if progress else "")
            own_penalty, place = (penalty / 10, _between) if head == "answer" else (penalty, _clearing)
            heads[head], cleared[head] = _fitted(states, own, fold_of, folds, missed, own_penalty, place)
        if not heads:
            msg = "a probe needs harmful and harmless turns of one form: both with pictures, or both without"
            raise ValueError(msg)
        card = ProbeCard(
            model_id=model_id or model.config.name_or_path or type(model).__name__,
            config_hash=config_hash(model),
            weights_hash=weights_hash(model),
            layers=_layers(len(locate_decoder(model))),
            turns=len(turns),
            missed=missed,
            cleared={head: round(share, 4) for head, share in cleared.items()},
        )
        return cls(card, heads)

    def answer_risks(self, model: PreTrainedModel, processor: ProcessorMixin, answers: Sequence[str]) -> list[float]:
        """Return the risk of answers: `sigma(score)`, moved so that the threshold lies at the default policy's `unsafe_at`.

        Args:
            model: The model that the probe was fitted on.
            processor: Its processor.
            answers: Each rendered with the model's chat template, as a person's message without pictures.

        Raises:
            KeyError: The probe was not fitted on answers.
        """
        head = self.heads["answer"]
        turns = [LabelledTurn(text, harmful=False, answer=True) for text in answers]
        scores = head.score(_states(model, processor, turns, len(turns), "")) - head.threshold
        return torch.sigmoid(scores + math.log(_AT_THRESHOLD / (1 - _AT_THRESHOLD))).tolist()

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over weights and thresholds."""
        digest = hashlib.sha256()
        for name, tensor in self._tensors().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, metadata included; the file appears whole or not at all."""
        metadata = {"format": FORMAT, "kind": "turn_probe", "card": json.dumps(asdict(self.card)), "hash": self.hash}
        write_tensors(path, self._tensors(), metadata)

    @classmethod
    def load(cls, path: str | Path, *, model: PreTrainedModel | None = None) -> TurnProbe:
        """Read a probe back; with a model, check that it was fitted on it.

        Raises:
            DirectionsMismatchError: The file is no probe of this format, was altered, or does not fit the model.
        """
        what = f"turn probe of format {FORMAT}: write it with TurnProbe.save"
        tensors, metadata = read_tensors(path, {"kind": "turn_probe", "format": FORMAT}, what)
        card = json.loads(metadata["card"])
        heads = {
            head: Logistic(*(tensors[f"{head}.{part}"] for part in Logistic.PARTS))
            for head in HEADS
            if f"{head}.weights" in tensors
        }
        loaded = cls(ProbeCard(**{**card, "layers": tuple(card["layers"])}), heads)
        if loaded.hash != metadata["hash"]:
            msg = f"{path} was changed after it was written: fit the probe again"
            raise DirectionsMismatchError(msg)
        if model is not None:
            loaded.check(model)
        return loaded

    def check(self, model: PreTrainedModel) -> None:
        """Make sure that the probe was fitted on this model.

        Raises:
            DirectionsMismatchError: It was not.
        """
        if (config_hash(model), weights_hash(model)) != (self.card.config_hash, self.card.weights_hash):
            msg = f"this probe was fitted on {self.card.model_id!r}, not on this model: run TurnProbe.fit on this model"
            raise DirectionsMismatchError(msg)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{head}.{part}": getattr(logistic, part)
            for head, logistic in self.heads.items()
            for part in Logistic.PARTS
        }


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
            self._read["shown"], self._read["said"] = (_mean(hidden, mask) for mask in self._masks)
        if layer == self._middle:
            self._read["middle"] = hidden[:, -1].float()
        if layer == self._last:
            self._read["last"] = hidden[:, -1].float()

    def features(self, *, pictured: bool) -> Tensor:
        """Return `(rows, features)` float32 on the CPU."""
        names = ("shown", "said", "middle", "last") if pictured else ("said", "middle", "last")
        return torch.cat([self._read[name] for name in names], dim=1).cpu()


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weight = mask[..., None].to(hidden.device, torch.float32)
    return (hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1)


def _show(states: TurnStates, layer: int, _module: object, _inputs: object, output: object) -> None:
    states.see(layer, layer_output(output))


def _layers(depth: int) -> tuple[int, int, int]:
    return 0, depth // 2, depth - 1


def _states(
    model: PreTrainedModel, processor: ProcessorMixin, turns: Sequence[LabelledTurn], batch_size: int, label: str
) -> Tensor:
    decoder = locate_decoder(model)
    order = sorted(range(len(turns)), key=lambda at: len(turns[at].text))
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found: dict[int, Tensor] = {}
    for part in tqdm(parts, desc=label, disable=not label):
        rows = [turns[at] for at in part]
        pictures = [row.pictures for row in rows if row.pictures]
        inputs = {
            name: tensor.to(model.device)
            for name, tensor in encode_texts(processor, [row.text for row in rows], pictures).items()
        }
        states = TurnStates(_layers(len(decoder)), inputs, image_token_id(model))
        watching = [(decoder.layers[at], partial(_show, states, at)) for at in states.layers]
        with torch.inference_mode(), hooked(watching):
            model(**inputs, **padded_positions(inputs, model), use_cache=False)
        found |= dict(zip(part, states.features(pictured=bool(pictures)).clone(), strict=True))
    return torch.stack([found[at] for at in range(len(turns))])


def _folds(turns: Sequence[LabelledTurn], folds: int) -> dict[str, int]:
    groups = sorted({group for turn in turns for group in turn.groups})
    if len(groups) < folds:
        msg = f"cross-validation in {folds} folds needs as many groups of turns, and there are {len(groups)}"
        raise ValueError(msg)
    return {group: at % folds for at, group in enumerate(groups)}


def _fitted(
    states: Tensor,
    turns: Sequence[LabelledTurn],
    fold_of: dict[str, int],
    folds: int,
    missed: float,
    penalty: float,
    place: Callable[[float, float], float],
) -> tuple[Logistic, float]:
    """Fit a head, place its threshold by cross-validation, and return the share of harmless turns below it."""
    harmful = torch.tensor([turn.harmful for turn in turns])
    scores = torch.empty(len(turns))
    for fold in range(folds):
        touched = torch.tensor([fold in {fold_of[group] for group in turn.groups} for turn in turns])
        scored = torch.tensor([bool(turn.groups) and fold_of[turn.groups[-1]] == fold for turn in turns])
        scores[scored] = Logistic.fit(states[~touched], harmful[~touched], penalty).score(states[scored])
    kinds: dict[tuple[str, bool], list[int]] = {}
    for at, turn in enumerate(turns):
        if turn.groups:
            kinds.setdefault((turn.kind, turn.harmful), []).append(at)
    low = min(float(scores[rows].quantile(missed)) for (_, harm), rows in kinds.items() if harm)
    high = max(float(scores[rows].quantile(1 - missed)) for (_, harm), rows in kinds.items() if not harm)
    threshold = place(low, high)
    shares = [float((scores[rows] < threshold).float().mean()) for (_, harm), rows in kinds.items() if not harm]
    whole = Logistic.fit(states, harmful, penalty)
    return replace(whole, threshold=torch.tensor([threshold])), sum(shares) / len(shares)


def _clearing(low: float, high: float) -> float:
    """Where harmful turns begin; half way to the harmless ones where the classes do not touch."""
    return min(low, (low + high) / 2)


def _between(low: float, high: float) -> float:
    """Half way: a harmless answer that is withheld is no better than a harmful one that is not."""
    return (low + high) / 2
