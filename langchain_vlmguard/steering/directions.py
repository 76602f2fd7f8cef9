"""Safety directions: where harmful and harmless text separates in the language model inside a VLM."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from langchain_vlmguard._version import __version__
from langchain_vlmguard.errors import DirectionsMismatchError
from langchain_vlmguard.files import read_tensors, write_tensors
from langchain_vlmguard.steering.activations import last_token_states
from langchain_vlmguard.steering.anchors import AnchorSet, load_anchors
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.encoding import Prompt
from langchain_vlmguard.steering.gate_head import GateHead
from langchain_vlmguard.steering.gates import ClassStats
from langchain_vlmguard.steering.neutral import neutral_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

Method = Literal["svd", "mean"]
FORMAT = "1"


@dataclass(frozen=True)
class DirectionsCard:
    """Where directions come from: enough to refuse the wrong model and to audit the right one."""

    model_id: str
    config_hash: str
    """Hash of the language model's shape; directions fit only models that share it."""

    weights_hash: str
    """Hash of the token embeddings the directions were fitted on."""

    method: Method
    rank: int
    layers: int
    hidden_size: int
    anchors: str
    anchors_hash: str
    anchor_pairs: int
    neutral_pictures: int
    package_version: str = __version__
    choice: dict[str, Any] = field(default_factory=dict)
    """What `select_layers` chose and why; empty until it has run."""


@dataclass(frozen=True, eq=False)
class AnchorStates:
    """States of the anchors' last prompt token, `(pairs, layers, hidden)` float32; fewer pairs will do beside pictures."""

    harmful: Tensor
    harmless: Tensor
    shown_harmful: Tensor
    """Beside neutral pictures."""

    shown_harmless: Tensor

    @property
    def difference(self) -> Tensor:
        """Mean harmful - mean harmless of text, `(layers, hidden)`."""
        return self.harmful.mean(0) - self.harmless.mean(0)


@dataclass(frozen=True, eq=False)
class SafetyDirections:
    """One or a few unit vectors per decoder layer, with the statistics that gates and interventions need.

    All tensors are float32 on the CPU; `layers` counts the decoder's layers, index 0 is the first.

    ??? example "Fit, choose layers, use"

        ```python
        fitting, held_out = load_anchors().split(0.7)
        directions = SafetyDirections.fit(loaded.model, loaded.processor, fitting)
        directions, trials = select_layers(loaded.model, loaded.processor, directions, held_out)
        directions.save("safety_directions.safetensors")
        model = ChatSteeredVLM.from_loaded(loaded, directions=directions)
        ```
    """

    card: DirectionsCard
    vectors: Tensor
    """`(layers, rank, hidden)`, orthonormal rows in each layer, oriented from harmless to harmful."""

    text: tuple[ClassStats, ...]
    """Class statistics of the anchors as text alone, one entry a layer."""

    picture: tuple[ClassStats, ...]
    """The same beside neutral pictures (blank, noise, plain colours)."""

    map2d: Tensor
    """`(4, layers, anchors, 2)`: the anchors in each layer's 2-D PCA; harmful and harmless text, then both with pictures."""

    gate: GateHead | None = None
    """What a `PlacedGate` reads; `None` where no gate was fitted apart from the directions."""

    @classmethod
    def fit(
        cls,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        anchors: AnchorSet | None = None,
        *,
        method: Method = "svd",
        rank: int = 1,
        pictures: Sequence[Image.Image] | None = None,
        model_id: str | None = None,
        batch_size: int = 16,
        progress: bool = True,
    ) -> SafetyDirections:
        """Extract directions from text-only runs and calibrate them with neutral pictures.

        VLM-Guard (arXiv 2502.10486): with `A = H_harmful - H_harmless` of paired anchors (pairs x hidden, last prompt token,
        float32) and `A = U S V.T`, keep the first `rank` right singular vectors. An SVD leaves signs free: each vector is
        turned so that the mean of `A v` is positive. `method="mean"` takes the normalised mean of `A`'s rows instead.

        Args:
            model: An image-text-to-text model; it is run in eval mode.
            processor: Its processor, with a chat template.
            anchors: Paired harmful and harmless prompts; the shipped set when `None`.
            method: `"svd"` or `"mean"`.
            rank: Directions a layer; must be 1 for `"mean"`.
            pictures: Meaningless pictures for calibration; blank, noise and plain colours when `None`.
            model_id: Name for the card; the model's own when `None`.
            batch_size: Rows a forward pass.
            progress: Show progress bars.

        Raises:
            ValueError: The rank does not suit the method or the number of pairs.
            UnsupportedArchitectureError: The decoder layers cannot be found.
        """
        anchors = anchors or load_anchors()
        _check_rank(method, rank, len(anchors))
        model.eval()
        neutral = list(pictures) if pictures is not None else neutral_pictures()
        run = _Runner(model, processor, batch_size, progress)
        states = AnchorStates(
            run.states(anchors.harmful),
            run.states(anchors.harmless),
            run.states(anchors.harmful, neutral),
            run.states(anchors.harmless, neutral),
        )
        return cls.of_states(states, card_of(model, anchors, method, rank, len(neutral), model_id))

    @classmethod
    def of_states(cls, states: AnchorStates, card: DirectionsCard) -> SafetyDirections:
        """Return directions from states that were read before, by the card's method and rank."""
        vectors = _directions(states.harmful - states.harmless, card.method, card.rank)
        drawn = len(states.shown_harmful)
        return cls(
            card=card,
            vectors=vectors,
            text=_stats(vectors, states.harmful, states.harmless),
            picture=_stats(vectors, states.shown_harmful, states.shown_harmless),
            map2d=_map2d(states.harmful[:drawn], states.harmless[:drawn], states.shown_harmful, states.shown_harmless),
        )

    @property
    def separability(self) -> dict[str, list[float]]:
        """Distance of the class means on the first direction in pooled standard deviations, per layer."""
        return {
            "text": [float(stats.separability[0]) for stats in self.text],
            "picture": [float(stats.separability[0]) for stats in self.picture],
        }

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over vectors and statistics."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        if self.gate is not None:
            digest.update(self.gate.hash.encode())
        return digest.hexdigest()[:16]

    def with_choice(self, choice: dict[str, Any]) -> SafetyDirections:
        """Return a copy whose card carries what `select_layers` chose."""
        return replace(self, card=replace(self.card, choice=choice))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, metadata included; the file appears whole or not at all."""
        metadata = {"format": FORMAT, "card": json.dumps(asdict(self.card)), "hash": self.hash}
        tensors = self._tensors()
        if self.gate is not None:
            metadata["gate"] = json.dumps(self.gate.facts)
            tensors |= {f"gate.{name}": tensor for name, tensor in self.gate.tensors().items()}
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path, *, model: PreTrainedModel | None = None) -> SafetyDirections:
        """Read directions back.

        Args:
            path: A file written by `save`.
            model: When given, the directions are checked against it.

        Raises:
            DirectionsMismatchError: The file is not of this format, was altered, or does not fit the model.
        """
        what = f"safety directions of format {FORMAT}: write it with SafetyDirections.save"
        tensors, metadata = read_tensors(path, {"format": FORMAT}, what)
        loaded = cls(
            card=DirectionsCard(**json.loads(metadata["card"])),
            vectors=tensors["vectors"],
            text=_unpack(tensors["text"]),
            picture=_unpack(tensors["picture"]),
            map2d=tensors["map2d"],
            gate=_gate(tensors, metadata),
        )
        if loaded.hash != metadata["hash"]:
            msg = f"{path} was changed after it was written: fit the directions again"
            raise DirectionsMismatchError(msg)
        if model is not None:
            loaded.check(model)
        return loaded

    def check(self, model: PreTrainedModel) -> None:
        """Make sure that the directions were fitted on this model.

        Raises:
            DirectionsMismatchError: Naming what differs.
        """
        found = {"config_hash": config_hash(model), "weights_hash": weights_hash(model)}
        for name, value in found.items():
            expected = getattr(self.card, name)
            if value != expected:
                what = "shape of the language model" if name == "config_hash" else "weights (token embeddings)"
                msg = (
                    f"these directions were fitted on {self.card.model_id!r}; the {what} of this model is another one "
                    f"({value} instead of {expected}): run SafetyDirections.fit on this model"
                )
                raise DirectionsMismatchError(msg)

    def plot(self, layer: int | None = None) -> Figure:
        """Draw separability per layer, and the 2-D PCA of the anchors at one layer without and with pictures.

        Needs the `plot` extra. After VLM-Guard's figure 2.

        Args:
            layer: Layer of the PCA panels; the one that separates text best when `None`.
        """
        from langchain_vlmguard.steering.plots import plot_directions

        return plot_directions(self.card.model_id, self.separability, self.map2d, layer)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "vectors": self.vectors,
            "text": _pack(self.text),
            "picture": _pack(self.picture),
            "map2d": self.map2d,
        }


@dataclass(frozen=True)
class _Runner:
    model: PreTrainedModel
    processor: ProcessorMixin
    batch_size: int
    progress: bool

    def states(self, texts: Sequence[str], pictures: Sequence[Image.Image] = ()) -> Tensor:
        """Run every text, beside a picture of the cycle when there are some: `(texts, layers, hidden)`."""
        prompts = [
            Prompt(text, pictures[index % len(pictures)] if pictures else None) for index, text in enumerate(texts)
        ]
        label = "anchors beside neutral pictures" if pictures else "anchors as text"
        return last_token_states(
            self.model, self.processor, prompts, batch_size=self.batch_size, progress=self.progress and label
        )


def _gate(tensors: dict[str, Tensor], metadata: dict[str, str]) -> GateHead | None:
    if "gate" not in metadata:
        return None
    own = {name.removeprefix("gate."): tensor for name, tensor in tensors.items() if name.startswith("gate.")}
    return GateHead.of(json.loads(metadata["gate"]), own)


def config_hash(model: PreTrainedModel) -> str:
    """Hash what must agree for directions to make sense: model type, decoder depth, hidden size, vocabulary."""
    decoder = locate_decoder(model)
    text = model.config.get_text_config()
    shape = [model.config.model_type, len(decoder.layers), decoder.hidden_size, text.vocab_size]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def weights_hash(model: PreTrainedModel) -> str:
    """Hash a sample of the token embeddings, rounded so that dtypes of half precision and above agree."""
    return table_hash(model.get_input_embeddings().weight)


def table_hash(table: Tensor) -> str:
    """Hash token embeddings `(vocabulary, hidden)` as `weights_hash` does."""
    rows = table[:: max(1, len(table) // 64), :16].detach().float().cpu()
    return hashlib.sha256((rows * 64).round().to(torch.int16).numpy().tobytes()).hexdigest()[:16]


def _check_rank(method: Method, rank: int, pairs: int) -> None:
    if method not in ("svd", "mean"):
        msg = f"method must be 'svd' or 'mean', got {method!r}"
        raise ValueError(msg)
    most = 1 if method == "mean" else pairs
    if not 1 <= rank <= most:
        msg = f"rank must be between 1 and {most} for method {method!r} with {pairs} anchor pairs, got {rank}"
        raise ValueError(msg)


def _directions(differences: Tensor, method: Method, rank: int) -> Tensor:
    """`(pairs, layers, hidden)` differences to `(layers, rank, hidden)` oriented unit vectors."""
    per_layer = differences.transpose(0, 1)
    if method == "mean":
        mean = per_layer.mean(dim=1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=-1)
    vectors: Tensor = torch.linalg.svd(per_layer, full_matrices=False).Vh[:, :rank]
    signs = torch.einsum("lnd,lrd->lr", per_layer, vectors).sign()
    return vectors * torch.where(signs == 0, 1.0, signs)[..., None]


def _stats(vectors: Tensor, harmful: Tensor, harmless: Tensor) -> tuple[ClassStats, ...]:
    return tuple(
        ClassStats.of(harmful[:, layer] @ vectors[layer].T, harmless[:, layer] @ vectors[layer].T)
        for layer in range(len(vectors))
    )


def _map2d(*groups: Tensor) -> Tensor:
    """Project all groups on the first two principal components of the text-only anchors, layer by layer."""
    text = torch.cat(groups[:2]).transpose(0, 1)
    centre = text.mean(dim=1, keepdim=True)
    axes = torch.linalg.svd(text - centre, full_matrices=False).Vh[:, :2]
    return torch.stack([(group.transpose(0, 1) - centre) @ axes.transpose(1, 2) for group in groups])


def _pack(stats: Sequence[ClassStats]) -> Tensor:
    return torch.stack([torch.stack([s.harmful, s.harmless, s.spread]) for s in stats])


def _unpack(packed: Tensor) -> tuple[ClassStats, ...]:
    return tuple(ClassStats(*layer) for layer in packed)


def card_of(
    model: PreTrainedModel, anchors: AnchorSet, method: Method, rank: int, neutral: int, model_id: str | None
) -> DirectionsCard:
    """Return the card of directions that are fitted on a model and anchors, beside so many neutral pictures."""
    decoder = locate_decoder(model)
    return DirectionsCard(
        model_id=model_id or model.config.name_or_path or type(model).__name__,
        config_hash=config_hash(model),
        weights_hash=weights_hash(model),
        method=method,
        rank=rank,
        layers=len(decoder.layers),
        hidden_size=decoder.hidden_size,
        anchors=anchors.name,
        anchors_hash=anchors.hash,
        anchor_pairs=len(anchors),
        neutral_pictures=neutral,
    )
