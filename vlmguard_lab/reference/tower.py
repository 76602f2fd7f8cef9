"""The reference model's eyes: CLIP ViT-B/16, read from its 8-bit ONNX export and cut to a smaller picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from transformers import CLIPVisionConfig

from vlmguard_lab.reference.onnx_file import OnnxGraph

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PATCH = 16
_PLACES = "vision_model.embeddings.position_embedding.weight"


def tower_config(edge: int) -> CLIPVisionConfig:
    """Return the configuration for pictures of `edge` pixels."""
    return CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=512,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=edge,
        patch_size=PATCH,
        hidden_act="quick_gelu",
    )


def read_tower(path: Path) -> dict[str, Tensor]:
    """Return the weights of the ONNX export in float32, for pictures of 224 pixels."""
    return {name: torch.from_numpy(array.copy()) for name, array in OnnxGraph.read(path).float_weights().items()}


def fit_tower(weights: dict[str, Tensor], edge: int) -> dict[str, Tensor]:
    """Return the weights of the tower alone, its positions interpolated for pictures of `edge` pixels.

    LLaVA has no pooling, so the number of patches is the number of tokens; a smaller picture costs the language model less.
    """
    kept = {name: weight for name, weight in weights.items() if name.startswith("vision_model.")}
    kept = {name: weight for name, weight in kept.items() if not name.endswith("position_ids")}
    kept[_PLACES] = resize_positions(kept[_PLACES], edge // PATCH)
    return kept


def resize_positions(table: Tensor, side: int) -> Tensor:
    """Interpolate a table of positions, the class token's first, to a grid of `side` by `side` patches."""
    grid = table[1:]
    before = round(len(grid) ** 0.5)
    square = grid.T.reshape(1, -1, before, before)
    resized = functional.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], resized.reshape(grid.shape[1], -1).T])
