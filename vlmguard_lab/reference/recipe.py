"""What decides the weights that are trained here: sizes, stages and seeds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vlmguard_lab.reference.parts import Size

StageName = Literal["caption", "instruct", "compare", "name"]


@dataclass(frozen=True)
class Stage:
    """One stage of training, in which the language model is run."""

    name: StageName
    """`caption` trains the projector alone, on captions; `instruct` projector and adapter, on all forms of question; `compare`
    asks of each picture which of two things it shows, in both orders, and then something else; `name` asks of many pictures what
    they show."""

    steps: int
    pictures: int
    """Pictures in a step."""

    questions: int
    """Questions on each picture."""

    chats: int
    """Conversations without a picture in a step."""

    projector_rate: float
    """Peak learning rate of the projector."""

    adapter_rate: float = 0.0
    """Peak learning rate of the adapter; 0 leaves it alone."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, but for the pictures and the base model."""

    size: Size
    edge: int = 112
    """Height and width of a picture, in pixels: 49 patches, so 49 tokens."""

    seed: int = 0
    start_steps: int = 600
    """Steps in which the projector learns the names without the language model."""

    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    rank: int = 8
    scale: float = 2.0
    stages: tuple[Stage, ...] = (
        Stage("caption", 8, pictures=4, questions=2, chats=0, projector_rate=5e-5),
        Stage("instruct", 60, pictures=4, questions=5, chats=1, projector_rate=3e-5, adapter_rate=8e-4),
        Stage("compare", 60, pictures=6, questions=4, chats=1, projector_rate=5e-5, adapter_rate=4e-4),
        Stage("name", 120, pictures=12, questions=1, chats=1, projector_rate=5e-5, adapter_rate=8e-4),
    )

    @property
    def sha256(self) -> str:
        """Checksum: training of another recipe is not mistaken for this one's."""
        return self.sha256_until(len(self.stages))

    def sha256_until(self, count: int) -> str:
        """Return the checksum of what decides the weights after the start and `count` stages."""
        return hashlib.sha256(repr(asdict(replace(self, stages=self.stages[:count]))).encode()).hexdigest()

    def scaled(self, factor: float) -> Recipe:
        """Return the recipe with every stage's steps multiplied (a smoke run, or a longer training on a faster machine)."""
        stages = tuple(replace(stage, steps=max(1, round(stage.steps * factor))) for stage in self.stages)
        return replace(self, start_steps=max(1, round(self.start_steps * factor)), stages=stages)


RECIPES: dict[Size, Recipe] = {"0.5b": Recipe("0.5b"), "1.5b": Recipe("1.5b")}
