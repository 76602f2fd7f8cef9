"""Read anchors once, in parts that are kept on disk: a run that is stopped goes on from the last one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.files import read_tensors, write_tensors
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.directions import weights_hash
from langchain_vlmguard.steering.encoding import Prompt, encode_prompts
from langchain_vlmguard.steering.turn_states import pooled, prefill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.steering.gate_head import Frame


@dataclass(frozen=True)
class AnchorReader:
    """Runs prompts through a model and keeps what it read in a folder."""

    model: PreTrainedModel
    processor: ProcessorMixin
    frame: Frame
    folder: Path
    batch_size: int = 16

    def read(
        self,
        texts: Sequence[str],
        pictures: Sequence[Image.Image] = (),
        progress: Callable[[int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the states of texts, beside a picture of the cycle when there are some.

        Args:
            texts: What to run, each as a message of its own.
            pictures: Neutral pictures.
            progress: Called with how many texts were read since it was last called.

        Returns:
            The last token's states and the mean of the request's own tokens, both `(texts, layers, hidden)` float32; beside
            pictures the mean is that of every token but the template's first and last ones.
        """
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        last: list[Tensor] = []
        mean: list[Tensor] = []
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            shown = [pictures[at % len(pictures)] if pictures else None for at in part]
            read = self._part([Prompt(texts[at], one) for at, one in zip(part, shown, strict=True)])
            last.append(read["last"].float())
            mean.append(read["mean"].float())
            if progress:
                progress(len(part))
        place = torch.tensor(order).argsort()
        return torch.cat(last)[place], torch.cat(mean)[place]

    def _part(self, prompts: list[Prompt]) -> dict[str, Tensor]:
        named = [weights_hash(self.model), *(prompt.text for prompt in prompts)]
        digest = hashlib.sha256(json.dumps(named).encode())
        for prompt in prompts:
            digest.update(b"-" if prompt.picture is None else prompt.picture.tobytes())
        key = digest.hexdigest()[:32]
        file = self.folder / f"{key}.safetensors"
        if file.is_file():
            return read_tensors(file, {"kind": "anchors"}, "states of anchors")[0]
        inputs = {
            name: tensor.to(self.model.device) for name, tensor in encode_prompts(self.processor, prompts).items()
        }
        states = _EveryLayer(len(locate_decoder(self.model)), self.frame.inside(inputs["attention_mask"]))
        prefill(self.model, inputs, [states])
        read = states.read()
        write_tensors(file, read, {"kind": "anchors"})
        return read


class _EveryLayer:
    """Collects the last token's state and the mean of some tokens after every layer."""

    def __init__(self, depth: int, said: Tensor) -> None:
        self.layers = tuple(range(depth))
        self._said = said
        self._read: dict[int, tuple[Tensor, Tensor]] = {}

    def see(self, layer: int, hidden: Tensor) -> None:
        self._read[layer] = (hidden[:, -1].detach().float().cpu(), pooled(hidden, self._said).cpu())

    def read(self) -> dict[str, Tensor]:
        """Stack the layers; one that did not run (cross-attention without a picture) left its input as it was."""
        every = [self._read[min(self._read)]]
        for layer in self.layers[1:]:
            every.append(self._read.get(layer, every[-1]))
        return {name: torch.stack([one[at] for one in every], dim=1).half() for at, name in enumerate(("last", "mean"))}
