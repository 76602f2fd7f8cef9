"""What was trained here and is shipped: the projector and the language model's low-rank adapter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.files import read_tensors, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_FORMAT = {"format": "vlmguard-reference-visual", "version": "1"}
_PROJECTOR, _ADAPTER = "projector.", "adapter."


@dataclass(frozen=True)
class VisualPart:
    """A projector, and what is added to the language model's matrices."""

    projector: dict[str, Tensor]
    """`LlavaMultiModalProjector`'s weights, float32."""

    adapter: dict[str, tuple[Tensor, Tensor]]
    """By a matrix's name in `Qwen2Model` (`layers.0.self_attn.q_proj`): `down` (r x in) and `up` (out x r), float32."""

    scale: float
    """What `up @ down` is multiplied by."""

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight of the language model with the adapter added, where there is something to add."""
        pair = self.adapter.get(name.removesuffix(".weight"))
        return weight if pair is None else weight.float() + self.scale * (pair[1] @ pair[0])

    def save(self, path: Path, about: dict[str, str]) -> None:
        """Write to a file in bfloat16, with words about where it comes from."""
        tensors = {_PROJECTOR + name: weight for name, weight in self.projector.items()}
        for name, (down, up) in self.adapter.items():
            tensors |= {f"{_ADAPTER}{name}.down": down, f"{_ADAPTER}{name}.up": up}
        kept = {name: tensor.detach().to(torch.bfloat16) for name, tensor in tensors.items()}
        write_tensors(path, kept, {**about, **_FORMAT, "scale": repr(self.scale)})

    @staticmethod
    def sha256(path: Path) -> str:
        """Return a file's checksum."""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> VisualPart:
        """Read from a file.

        Raises:
            DirectionsMismatchError: It holds something else.
        """
        tensors, about = read_tensors(path, _FORMAT, "trained part of the reference model (`save` writes it)")
        wide = {name: tensor.float() for name, tensor in tensors.items()}
        projector = {n.removeprefix(_PROJECTOR): t for n, t in wide.items() if n.startswith(_PROJECTOR)}
        downs = [n.removesuffix(".down") for n in wide if n.startswith(_ADAPTER) and n.endswith(".down")]
        adapter = {n.removeprefix(_ADAPTER): (wide[f"{n}.down"], wide[f"{n}.up"]) for n in downs}
        return cls(projector, adapter, float(about["scale"]))
