"""Put tower, projector and language model together as an ordinary LLaVA checkpoint folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlavaConfig, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from vlmguard_lab.reference.language import END, IMAGE, PAD
from vlmguard_lab.reference.tower import PATCH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from transformers import CLIPVisionConfig, Qwen2Config, Qwen2Tokenizer

    from vlmguard_lab.reference.visual_part import VisualPart

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
FEATURE_LAYER = -2
"""The tower's last layer but one, as in LLaVA."""

MARKER = "reference.json"
"""Written last; a folder without it is not finished."""


@dataclass(frozen=True)
class Halves:
    """What the checkpoint is made of, as it came from the makers."""

    tower: dict[str, Tensor]
    """`CLIPVisionModel`'s weights."""

    seen: CLIPVisionConfig
    """Of the tower."""

    language: Iterable[tuple[str, Tensor]]
    """`Qwen2Model`'s weights, given one by one so that they need not all be in memory in float32."""

    config: Qwen2Config
    tokenizer: Qwen2Tokenizer


def assemble(halves: Halves, folder: Path, *, visual: VisualPart | None = None) -> None:
    """Write the checkpoint beside `folder` and move it there whole.

    Args:
        halves: Tower and language model.
        folder: Where it goes; an older one there is replaced.
        visual: What was trained here; without it the projector's weights are drawn by lot, to be trained.
    """
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    weights = beside / "model.safetensors"
    save_file(_weights(halves, visual), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors lets nobody else read it
    _config(halves).save_pretrained(beside)
    new_processor(halves.tokenizer, halves.seen.image_size).save_pretrained(beside)
    end, pad = halves.tokenizer.convert_tokens_to_ids([END, PAD])
    GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad).save_pretrained(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def new_processor(tokenizer: Qwen2Tokenizer, edge: int) -> LlavaProcessor:
    """Return the processor: pictures are padded to a square in CLIP's mean colour, as LLaVA 1.5 does, and nothing is cut off."""
    pictures = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
    )


def _config(halves: Halves) -> LlavaConfig:
    config = LlavaConfig(
        vision_config=halves.seen,
        text_config=halves.config,
        image_token_index=halves.tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(halves.seen.image_size // PATCH) ** 2,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=halves.config.tie_word_embeddings,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = torch.bfloat16
    return config


def _weights(halves: Halves, visual: VisualPart | None) -> dict[str, Tensor]:
    """Return all weights in bfloat16, by LLaVA's names."""
    weights = {f"model.vision_tower.{name}": weight for name, weight in halves.tower.items()}
    projector = visual.projector if visual else untrained_projector(halves.config.hidden_size, halves.seen.hidden_size)
    weights |= {f"model.multi_modal_projector.{name}": weight for name, weight in projector.items()}
    for name, weight in halves.language:
        merged = visual.merged(name, weight) if visual else weight
        weights[f"model.language_model.{name}"] = merged.to(torch.bfloat16)
    return {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}


def untrained_projector(hidden: int, seen: int) -> dict[str, Tensor]:
    """Return a projector's weights drawn by lot, always the same."""
    chance = torch.Generator().manual_seed(0)
    return {
        "linear_1.weight": 0.02 * torch.randn(hidden, seen, generator=chance),
        "linear_1.bias": torch.zeros(hidden),
        "linear_2.weight": 0.02 * torch.randn(hidden, hidden, generator=chance),
        "linear_2.bias": torch.zeros(hidden),
    }
