"""What decides the testbed's weights: an architecture, its sizes, and the stages of training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Choice = Literal["llava", "gemma3", "idefics3", "internvl", "qwen2_vl"]
"""The names in `architectures.ARCHITECTURES`, for the command line."""


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    blend: float = 1.0
    """How far the weights move from the stage's start to its end (WiSE-FT, arXiv 2109.01903); less forgets less."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    architecture: str = "llava"
    """One of `architectures.ARCHITECTURES`."""

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    vision_hidden: int = 96
    vision_layers: int = 4
    stages: tuple[Stage, ...] = (
        Stage("pretrain", 2200, 64, 2e-3),
        Stage("align", 1100, 64, 5e-4),
        Stage("see", 1200, 96, 2e-3),
        Stage("caption", 300, 64, 5e-4),
        Stage("instruct", 900, 48, 5e-4, blend=0.9),
    )
    variants: int = 24
    """How many jittered drawings of each icon, poster and neutral picture are kept."""

    def scaled(self, factor: float) -> Recipe:
        """Return the recipe with every stage's steps multiplied (a smoke run, or a longer build on a GPU)."""
        return replace(self, stages=tuple(replace(s, steps=max(1, round(s.steps * factor))) for s in self.stages))
