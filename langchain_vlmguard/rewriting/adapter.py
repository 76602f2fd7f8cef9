"""A LoRA adapter on the model that answers, switched on for single calls and never for another call on the same weights."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from safetensors.torch import load_file

from langchain_vlmguard.errors import AdapterError
from langchain_vlmguard.models.checkpoints import named_checkpoint
from langchain_vlmguard.steering.architectures import TOWERS
from langchain_vlmguard.steering.attachment import AttachedCall, Attachment, attached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from langchain_vlmguard.steering.attachment import Hook
    from langchain_vlmguard.verdict.records import Json

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
REWRITER_FILE = "rewriter.json"
"""Beside peft's two files: the written form, the system prompt and the base weights that the adapter was trained with."""

_PREFIX = "base_model.model."
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "use_bdlora",
)
_ACTIVE: ContextVar[_AdaptedCall | None] = ContextVar("vlmguard_adapted_call", default=None)


@dataclass(frozen=True)
class _LowRank:
    """One layer's update `x ↦ scale · B(Ax)`."""

    down: Tensor
    """`A`, `(rank, in)`."""

    up: Tensor
    """`B`, `(out, rank)`."""

    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        down, up = self.down.to(x.device, x.dtype), self.up.to(x.device, x.dtype)
        return (x @ down.T) @ up.T * self.scale


@dataclass(frozen=True, eq=False)
class RewriterAdapter(Attachment):
    """A LoRA adapter (arXiv 2106.09685) in peft's file format, `W' = W + (alpha / r) BA`, read without peft.

    It is attached to single calls, as a `Steering` is, so that the same weights answer others without it.

    ??? example "The same weights, rewriting"

        ```python
        adapter = RewriterAdapter.load("testbed")
        rewriting = ChatSteeredVLM.from_loaded(model.loaded, steering=adapter)
        ```
    """

    name: str
    updates: dict[str, _LowRank]
    """By the name of the linear layer inside the model."""

    hash: str
    """Hash of weights and settings."""

    form: str
    """Name of the written form it was trained on, see `rewriting.forms`."""

    words: dict[str, str]
    """How a compact form is written."""

    system_prompt: str | None
    max_tokens: int
    base_hash: str | None
    """Hash of the embedding table of the weights it was trained on, `None` when it was not written down."""

    @property
    def identity(self) -> str:
        """Hash of weights and settings."""
        return self.hash

    @property
    def edits_pictures(self) -> bool:
        """Whether it changes what the vision tower or the projector makes of a picture.

        Layers outside every list of layers (a projector, an embedding) count as picture encoders, to be on the safe side.
        """
        return any(TOWERS.intersection(name.split(".")) or ".layers." not in name for name in self.updates)

    @classmethod
    def load(cls, folder: str | Path) -> RewriterAdapter:
        """Read an adapter from a folder, or the shipped one by the name `"testbed"`.

        Raises:
            AdapterError: A file is missing, or the adapter is of a kind that is not read here.
        """
        path = _folder(folder)
        missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE, REWRITER_FILE) if not (path / name).is_file()]
        if missing:
            msg = f"{path} holds no rewriter adapter: {', '.join(missing)} missing (`vlmguard rewriter train` writes them)"
            raise AdapterError(msg)
        config = json.loads((path / CONFIG_FILE).read_text())
        settings = json.loads((path / REWRITER_FILE).read_text())
        digest = hashlib.sha256((path / WEIGHTS_FILE).read_bytes())
        digest.update(json.dumps([config.get("lora_alpha"), settings], sort_keys=True).encode())
        return cls(
            name=str(folder),
            updates=_updates(load_file(path / WEIGHTS_FILE), _scale(config)),
            hash=digest.hexdigest()[:16],
            form=settings["form"],
            words=settings.get("words") or {},
            system_prompt=settings.get("system_prompt"),
            max_tokens=settings["max_tokens"],
            base_hash=settings.get("base_hash"),
        )

    def check(self, model: PreTrainedModel, *, weights: bool = True) -> None:
        """Check that the adapter fits the model; `weights` asks for the very weights it was trained on.

        Raises:
            AdapterError: A layer is missing or of another size, or the model has other weights than it was trained on.
        """
        for name, update in self.updates.items():
            layer = _layer(model, name)
            wanted = (update.up.shape[0], update.down.shape[1])
            if tuple(getattr(layer, "weight", torch.empty(0)).shape) != wanted:
                msg = f"the adapter {self.name!r} does not fit this model: it has no linear layer {name} of shape {wanted}"
                raise AdapterError(msg)
        if weights and self.base_hash is not None and self.base_hash != base_hash(model):
            msg = (
                f"the adapter {self.name!r} was trained on other weights than these: train one for this checkpoint with "
                "`vlmguard rewriter train`"
            )
            raise AdapterError(msg)

    @contextmanager
    def attach(
        self,
        model: PreTrainedModel,
        *,
        pictured: Tensor,
        inputs: dict[str, Tensor] | None = None,  # noqa: ARG002 - an adapter needs no prefill of its own
        text_inputs: dict[str, Tensor] | None = None,  # noqa: ARG002
        repeatable: bool = False,  # noqa: ARG002
    ) -> Iterator[_AdaptedCall]:
        """Add the updates to what this thread (or task) runs on the model inside the block, and to nothing else."""
        call = _AdaptedCall(len(pictured))
        hooks = [(_layer(model, name), _hook(call, update)) for name, update in self.updates.items()]
        with attached(_ACTIVE, call, hooks):
            yield call


class _AdaptedCall(AttachedCall):
    def __init__(self, rows: int) -> None:
        self._rows = rows

    def trace(self) -> list[None]:
        """Return no steering trace for any row: this call is not steered."""
        return [None] * self._rows

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        self._rows = len(rows)

    def absorb(self, other: Self) -> None:
        """Append the rows of another call of the same adapter."""
        self._rows += other._rows


def _folder(given: str | Path) -> Path:
    """Return the folder of an adapter, or that of a named checkpoint's own."""
    named = named_checkpoint(given) if isinstance(given, str) else None
    return Path(given) if named is None or named.rewriter is None else named.rewriter


def base_hash(model: PreTrainedModel) -> str:
    """Return a short hash of a model's embedding table in half precision, to know its weights again."""
    table: Tensor = model.get_input_embeddings().weight
    return hashlib.sha256(table.detach().half().cpu().numpy().tobytes()).hexdigest()[:16]


def _hook(call: _AdaptedCall, update: _LowRank) -> Hook:
    def add(_module: nn.Module, inputs: tuple[object, ...], output: object) -> Tensor | None:
        if _ACTIVE.get() is not call:
            return None
        if not (isinstance(output, torch.Tensor) and isinstance(inputs[0], torch.Tensor)):
            msg = "an adapted layer is not linear: it takes or gives no tensor"
            raise TypeError(msg)
        return output + update(inputs[0])

    return add


def _layer(model: PreTrainedModel, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)  # type: ignore[no-any-return]
    except AttributeError as error:
        msg = f"the adapter does not fit this model: there is no layer {name}"
        raise AdapterError(msg) from error


def _scale(config: Json) -> float:
    """Return alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv 2312.03732).

    Raises:
        AdapterError: The adapter does more than low-rank updates of linear layers.
    """
    odd = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
        msg = f"only plain LoRA adapters are read, this one is {config.get('peft_type')} with {', '.join(odd) or 'biases'}"
        raise AdapterError(msg)
    rank = config["r"]
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _updates(tensors: dict[str, Tensor], scale: float) -> dict[str, _LowRank]:
    names = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors})
    try:
        return {
            name: _LowRank(
                tensors[f"{_PREFIX}{name}.lora_A.weight"].float(),
                tensors[f"{_PREFIX}{name}.lora_B.weight"].float(),
                scale,
            )
            for name in names
        }
    except KeyError as error:
        msg = f"the adapter's tensors are not named as peft names LoRA's: {error} is missing"
        raise AdapterError(msg) from error
