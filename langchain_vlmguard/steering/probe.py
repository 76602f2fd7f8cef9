"""A probe on whole turns: says from the answer's own prefill, words and pictures read together, which turns are surely harmless.

The directions of VLM-Guard come from text alone and see no harm that only a picture shows. A probe is fitted on labelled turns
with pictures, e.g. those that a rewriter was trained on, and is used where nothing is steered: to clear turns without a rewriter.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import torch
from tqdm.auto import tqdm

from langchain_vlmguard._version import __version__
from langchain_vlmguard.errors import DirectionsMismatchError
from langchain_vlmguard.files import read_tensors, write_tensors
from langchain_vlmguard.steering.architectures import image_token_id, locate_decoder
from langchain_vlmguard.steering.directions import config_hash, weights_hash
from langchain_vlmguard.steering.encoding import encode_texts
from langchain_vlmguard.steering.logistic import Logistic
from langchain_vlmguard.steering.thresholds import ScoredKinds, cut, early, graded
from langchain_vlmguard.steering.turn_states import EarlyStates, TurnStates, early_layer, prefill

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

FORMAT = "1"
Head = Literal["text", "picture", "answer", "early"]
HEADS: tuple[Head, ...] = get_args(Head)
"""Turns without pictures, turns with pictures, answers, and answers after a sixth of the layers: each has weights and a threshold
of its own."""

_PLACE = {"text": cut, "picture": cut, "answer": graded, "early": early}


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
    """Share of harmless turns below the threshold, by head, and of harmless answers that are `safe`; in cross-validation, mean
    over kinds."""

    early_layer: int | None = None
    """Decoder layer after which answers are read for the first time, if that head was fitted."""

    package_version: str = __version__


@dataclass(frozen=True, eq=False)
class TurnProbe:
    """Logistic regression on the states of one clean prefill.

    Read are the mean state of the picture's tokens and of all others after the first decoder layer (what is shown and what is
    said), and the state of the last prompt token after the middle and the last layer (what the model makes of both). Answers
    are read once before, after a sixth of the layers: their mean state and the last one's. What is clearly harmless there, by
    a threshold further out, needs no other layer.

    ??? example "Fit, save, use"

        ```python
        probe = TurnProbe.fit(loaded.model, loaded.processor, turns)  # turns: list[LabelledTurn]
        probe.save("turn_probe.safetensors")
        model = ChatSteeredVLM.from_loaded(loaded, probe=probe)
        ```
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
                classes do not touch, the threshold lies half way between them instead. Answers are graded: at most this share
                of harmful ones of one kind is `safe`, and of harmless ones `unsafe`; what lies between is `controversial`. The
                early threshold lies one more in log-odds below the harmful ones.
            penalty: Weight of the squared norm.
            folds: Parts of the groups, left out in turn.
            model_id: Name for the card; the model's own when `None`.
            batch_size: Rows a forward pass.
            progress: Show a bar.

        Raises:
            ValueError: There are no harmful, or no harmless, turns for any head, or none with groups, or fewer groups than folds.
        """
        model.eval()
        fold_of = _folds(turns, folds)
        heads: dict[Head, Logistic] = {}
        cleared: dict[str, float] = {}
        for head in HEADS:
            own = [turn for turn in turns if turn.head == ("answer" if head == "early" else head)]
            if len({turn.harmful for turn in own}) < len((True, False)):
                continue
            if len({turn.harmful for turn in own if turn.groups}) < len((True, False)):
                msg = "thresholds are placed by turns that have groups: give harmful and harmless ones some, for every head"
                raise ValueError(msg)
            states = _states(model, processor, own, head, batch_size, progress=progress)
            scores = _left_out_scores(states, own, fold_of, folds, penalty)
            whole = Logistic.fit(states, torch.tensor([turn.harmful for turn in own]), penalty)
            heads[head], cleared[head] = _PLACE[head](whole, _kinds(own, scores), missed)
        if not heads:
            msg = "a probe needs harmful and harmless turns of one form: both with pictures, or both without"
            raise ValueError(msg)
        depth = len(locate_decoder(model))
        card = ProbeCard(
            model_id=model_id or model.config.name_or_path or type(model).__name__,
            config_hash=config_hash(model),
            weights_hash=weights_hash(model),
            layers=_layers(depth),
            turns=len(turns),
            missed=missed,
            cleared={head: round(share, 4) for head, share in cleared.items()},
            early_layer=early_layer(depth) if "early" in heads else None,
        )
        return cls(card, heads)

    def answer_risks(self, model: PreTrainedModel, processor: ProcessorMixin, answers: Sequence[str]) -> list[float]:
        """Return the risk of answers, `sigma(score)`; where all are clearly harmless early, the other layers do not run.

        Args:
            model: The model that the probe was fitted on.
            processor: Its processor.
            answers: Each rendered with the model's chat template, as a person's message without pictures.

        Raises:
            KeyError: The probe was not fitted on answers.
        """
        whole, first = self.heads["answer"], self.heads.get("early")
        inputs = _encoded(model, processor, answers)
        states = TurnStates(self.card.layers, inputs, image_token_id(model))
        if first is None or self.card.early_layer is None:
            prefill(model, inputs, [states])
            return whole.score(states.features(pictured=False)).sigmoid().tolist()
        glance = EarlyStates(self.card.early_layer, inputs, until=first)
        prefill(model, inputs, [glance, states])
        scores = first.score(glance.features())
        clear = scores < first.threshold
        if not clear.all():
            scores = torch.where(clear, scores, whole.score(states.features(pictured=False)))
        return scores.sigmoid().tolist()

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


def _layers(depth: int) -> tuple[int, int, int]:
    return 0, depth // 2, depth - 1


def _encoded(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    texts: Sequence[str],
    pictures: Sequence[Sequence[Image.Image]] = (),
) -> dict[str, Tensor]:
    return {name: tensor.to(model.device) for name, tensor in encode_texts(processor, texts, pictures).items()}


def _states(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    turns: Sequence[LabelledTurn],
    head: Head,
    batch_size: int,
    *,
    progress: bool,
) -> Tensor:
    """Return what a head reads of turns, `(turns, features)`."""
    depth = len(locate_decoder(model))
    order = sorted(range(len(turns)), key=lambda at: len(turns[at].text))
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found: dict[int, Tensor] = {}
    for part in tqdm(parts, desc=f"{head} turns", disable=not progress):
        rows = [turns[at] for at in part]
        pictures = [row.pictures for row in rows if row.pictures]
        inputs = _encoded(model, processor, [row.text for row in rows], pictures)
        if head == "early":
            glance = EarlyStates(early_layer(depth), inputs)
            prefill(model, inputs, [glance])
            features = glance.features()
        else:
            states = TurnStates(_layers(depth), inputs, image_token_id(model))
            prefill(model, inputs, [states])
            features = states.features(pictured=bool(pictures))
        found |= dict(zip(part, features.clone(), strict=True))
    return torch.stack([found[at] for at in range(len(turns))])


def _folds(turns: Sequence[LabelledTurn], folds: int) -> dict[str, int]:
    groups = sorted({group for turn in turns for group in turn.groups})
    if len(groups) < folds:
        msg = f"cross-validation in {folds} folds needs as many groups of turns, and there are {len(groups)}"
        raise ValueError(msg)
    return {group: at % folds for at, group in enumerate(groups)}


def _left_out_scores(
    states: Tensor, turns: Sequence[LabelledTurn], fold_of: dict[str, int], folds: int, penalty: float
) -> Tensor:
    """Score each turn that has groups by weights that did not see its groups; the others' scores mean nothing."""
    harmful = torch.tensor([turn.harmful for turn in turns])
    scores = torch.zeros(len(turns))
    for fold in range(folds):
        touched = torch.tensor([fold in {fold_of[group] for group in turn.groups} for turn in turns])
        scored = torch.tensor([bool(turn.groups) and fold_of[turn.groups[-1]] == fold for turn in turns])
        scores[scored] = Logistic.fit(states[~touched], harmful[~touched], penalty).score(states[scored])
    return scores


def _kinds(turns: Sequence[LabelledTurn], scores: Tensor) -> ScoredKinds:
    """Sort the scores of turns that have groups."""
    placed = [at for at, turn in enumerate(turns) if turn.groups]
    return ScoredKinds.of([(turns[at].harmful, turns[at].kind) for at in placed], scores[placed])
