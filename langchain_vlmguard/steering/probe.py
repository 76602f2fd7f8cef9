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
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

FORMAT = "1"
Head = Literal["text", "picture", "answer"]
HEADS: tuple[Head, ...] = get_args(Head)
"""Turns without pictures, turns with pictures, and answers: each has weights and a threshold of its own."""

_UNSAFE, _SAFE = 0.7, 0.3
"""Risk of an answer where harmless answers end, and where harmful ones begin: where the default policy's severities change."""


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
                classes do not touch, the threshold lies half way between them instead. Answers are graded: at most this share
                of harmful ones of one kind is `safe`, and of harmless ones `unsafe`; what lies between is `controversial`.
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
            own = [turn for turn in turns if turn.head == head]
            if len({turn.harmful for turn in own}) < len((True, False)):
                continue
            if len({turn.harmful for turn in own if turn.groups}) < len((True, False)):
                msg = "thresholds are placed by turns that have groups: give harmful and harmless ones some, for every head"
                raise ValueError(msg)
            states = _states(model, processor, own, batch_size, f"{head} turns" if progress else "")
            scores = _left_out_scores(states, own, fold_of, folds, penalty)
            whole = Logistic.fit(states, torch.tensor([turn.harmful for turn in own]), penalty)
            heads[head], cleared[head] = (_graded if head == "answer" else _cut)(whole, _Kinds.of(own, scores), missed)
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
        """Return the risk of answers, `sigma(score)`.

        Args:
            model: The model that the probe was fitted on.
            processor: Its processor.
            answers: Each rendered with the model's chat template, as a person's message without pictures.

        Raises:
            KeyError: The probe was not fitted on answers.
        """
        turns = [LabelledTurn(text, harmful=False, answer=True) for text in answers]
        return self.heads["answer"].score(_states(model, processor, turns, len(turns), "")).sigmoid().tolist()

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


@dataclass(frozen=True, eq=False)
class _Kinds:
    """Left-out scores of each kind of turn."""

    harmful: list[Tensor]
    harmless: list[Tensor]

    @classmethod
    def of(cls, turns: Sequence[LabelledTurn], scores: Tensor) -> _Kinds:
        """Sort the scores of turns that have groups."""
        rows: dict[tuple[bool, str], list[int]] = {}
        for at, turn in enumerate(turns):
            if turn.groups:
                rows.setdefault((turn.harmful, turn.kind), []).append(at)
        return cls(*([scores[own] for (harm, _), own in rows.items() if harm is wanted] for wanted in (True, False)))

    def ends(self, share: float) -> tuple[float, float]:
        """Return where the harmful ones begin and the harmless ones end, but for a share of any kind."""
        low = min(float(scores.quantile(share)) for scores in self.harmful)
        return low, max(float(scores.quantile(1 - share)) for scores in self.harmless)

    def harmless_below(self, score: float) -> float:
        """Return the share of harmless ones below a score, mean over kinds."""
        return sum(float((scores < score).float().mean()) for scores in self.harmless) / len(self.harmless)


def _cut(whole: Logistic, kinds: _Kinds, missed: float) -> tuple[Logistic, float]:
    """Place a threshold: where harmful turns begin, or half way to the harmless ones where the classes do not touch."""
    low, high = kinds.ends(missed)
    threshold = min(low, (low + high) / 2)
    return replace(whole, threshold=torch.tensor([threshold])), kinds.harmless_below(threshold)


def _graded(whole: Logistic, kinds: _Kinds, missed: float) -> tuple[Logistic, float]:
    """Stretch the scores: risk `_SAFE` and `_UNSAFE` where one class begins and the other ends, whichever way they overlap."""
    safe, unsafe = sorted(kinds.ends(missed))
    lower, upper = (math.log(risk / (1 - risk)) for risk in (_SAFE, _UNSAFE))
    factor = (upper - lower) / max(unsafe - safe, _NARROWEST)
    bias = (whole.bias - (safe + unsafe) / 2) * factor + (lower + upper) / 2
    graded = replace(whole, weights=whole.weights * factor, bias=bias, threshold=torch.tensor([upper]))
    return graded, kinds.harmless_below(safe)


_NARROWEST = 0.5
"""Least distance, in log-odds, over which risk rises from `_SAFE` to `_UNSAFE`."""
