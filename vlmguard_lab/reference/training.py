"""Visual training as in LLaVA: the projector on captions, then projector and adapter on harmless visual instructions.

No example is harmful and no answer is a refusal. What the language model does when a harmful request comes beside a picture
is therefore its own doing.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.cli.progress import progress_bar
from langchain_vlmguard.files import read_tensors, write_tensors
from vlmguard_lab.reference.adapter import Adapter
from vlmguard_lab.reference.lessons import pack
from vlmguard_lab.reference.projector import NOISE, name_targets, start_projector, whole_spread
from vlmguard_lab.reference.visual_part import VisualPart

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from vlmguard_lab.reference.lessons import Lessons
    from vlmguard_lab.reference.reader import Reader
    from vlmguard_lab.reference.recipe import Recipe, Stage

_WARM, _FLOOR, _LONGEST_GRADIENT = 10, 0.05, 1.0
CHECKPOINT_EVERY = 10
"""Steps between two checkpoints inside a stage."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Course:
    """What is learned from."""

    lessons: Lessons
    features: Tensor
    """What the tower sees, `(pictures, patches, width)` in float16, in the order of the lessons' pictures."""


class Trainer:
    """Runs the stages of a recipe, picking up where an earlier run was stopped."""

    def __init__(
        self, recipe: Recipe, reader: Reader, course: Course, work: Path, adapter_from: Path | None = None
    ) -> None:
        """Put the adapter into the language model; nothing is trained yet.

        Args:
            recipe: What decides the weights.
            reader: The base model.
            course: What is learned from.
            work: Folder of checkpoints.
            adapter_from: A trained part whose adapter it begins with; with nothing added if there is none.
        """
        self.recipe, self.reader, self.course, self.work = recipe, reader, course, work
        torch.manual_seed(recipe.seed)
        self.spread = whole_spread(course.features)
        self.adapter = Adapter(reader.language, recipe.targets, rank=recipe.rank, scale=recipe.scale)
        self._begun = "nothing"
        if adapter_from is not None:
            self.adapter.load(VisualPart.load(adapter_from))
            self._begun = VisualPart.sha256(adapter_from)

    def run(self, say: Callable[[str], None]) -> VisualPart:
        """Run what is not finished and return what was trained.

        Args:
            say: Called with a line on the loss every few steps.
        """
        total = self.recipe.start_steps + sum(stage.steps for stage in self.recipe.stages)
        with progress_bar() as bar:
            task = bar.add_task("start", total=total)
            self._start(lambda: bar.advance(task))
            bar.update(task, completed=self.recipe.start_steps)
            for index, stage in enumerate(self.recipe.stages):
                bar.update(task, description=stage.name)
                self._run_stage(index, stage, lambda: bar.advance(task), say)
        return self.trained()

    def trained(self) -> VisualPart:
        """Return what is trained so far."""
        return VisualPart(self.reader.projector.state(), self.adapter.state(), self.adapter.scale)

    def _start(self, tick: Callable[[], None]) -> None:
        """Train the projector on the names alone, or read it if that was done."""
        path, marks = self.work / "0-start.safetensors", self._marks(0)
        if not path.exists():
            shown = self.course.lessons.shown
            names = sorted({concept.name for concept in shown})
            tokens = self.reader.tokenizer([f" {name}" for name in names], add_special_tokens=False)["input_ids"]
            projector = start_projector(
                self.course.features,
                torch.tensor([names.index(concept.name) for concept in shown]),
                name_targets(self.reader.table, tokens),
                steps=self.recipe.start_steps,
                seed=self.recipe.seed,
                on_step=lambda _: tick(),
            )
            write_tensors(path, projector.state(), marks)
        self.reader.projector.load_state_dict(read_tensors(path, marks, "start of this training")[0])

    def _run_stage(self, index: int, stage: Stage, tick: Callable[[], None], say: Callable[[str], None]) -> None:
        groups = self._groups(stage)
        optimiser = torch.optim.AdamW([{"params": part, "lr": rate} for part, rate in groups], weight_decay=0.0)
        path = self.work / f"{index + 1}-{stage.name}.safetensors"
        step = self._resume(path, index, optimiser)
        for _ in range(step):
            tick()
        began, mean = time.monotonic(), None
        for now in range(step, stage.steps):
            for group, (_, rate) in zip(optimiser.param_groups, groups, strict=True):
                group["lr"] = rate * _share(now, stage.steps)
            loss = self._step(stage, now, optimiser)
            mean = loss if mean is None else 0.9 * mean + 0.1 * loss
            tick()
            if (now + 1) % CHECKPOINT_EVERY == 0 or now + 1 == stage.steps:
                self._keep(path, index, optimiser, now + 1)
                pace = (time.monotonic() - began) / (now + 1 - step)
                say(f"{stage.name} {now + 1}/{stage.steps}: loss {mean:.3f}, {pace:.1f} s a step")

    def _step(self, stage: Stage, number: int, optimiser: torch.optim.Optimizer) -> float:
        lessons = self.course.lessons.draw(stage, number)
        packed = pack(self.reader, lessons)
        shown = {n: self._moved(n, f"{stage.name}:{number}") for n in packed.pictures}
        loss = self.reader.loss(packed, shown)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, _LONGEST_GRADIENT)
        optimiser.step()
        optimiser.zero_grad()
        return float(loss.item())

    def _moved(self, number: int, when: str) -> Tensor:
        """Return a picture's features, moved as a whole: things that were never seen then look less strange."""
        chance = torch.Generator().manual_seed(random.Random(f"{self.recipe.seed}:{when}:{number}").getrandbits(62))
        return self.course.features[number].float() + NOISE * self.spread * torch.randn(
            len(self.spread), generator=chance
        )

    def _groups(self, stage: Stage) -> list[tuple[list[nn.Parameter], float]]:
        """Return what the stage trains and how fast; everything else is frozen."""
        projector, adapter = list(self.reader.projector.parameters()), self.adapter.parameters()
        for parameter in projector:
            parameter.requires_grad = stage.projector_rate > 0
        for parameter in adapter:
            parameter.requires_grad = stage.adapter_rate > 0
        groups = [(projector, stage.projector_rate), (adapter, stage.adapter_rate)]
        return [(part, rate) for part, rate in groups if rate > 0]

    def _keep(self, path: Path, index: int, optimiser: torch.optim.Optimizer, step: int) -> None:
        tensors = {f"projector.{name}": weight for name, weight in self.reader.projector.state().items()}
        for name, (down, up) in self.adapter.state().items():
            tensors |= {f"adapter.{name}.down": down, f"adapter.{name}.up": up}
        for number, state in optimiser.state_dict()["state"].items():
            tensors |= {f"moment.{number}.{name}": state[name] for name in _MOMENTS}
        write_tensors(path, tensors, {**self._marks(index + 1), "step": str(step)})

    def _resume(self, path: Path, index: int, optimiser: torch.optim.Optimizer) -> int:
        """Take over a checkpoint of this stage, if there is one, and return how many steps were done."""
        if not path.exists():
            return 0
        tensors, about = read_tensors(path, self._marks(index + 1), "checkpoint of this training")
        projector = {n.removeprefix("projector."): t for n, t in tensors.items() if n.startswith("projector.")}
        self.reader.projector.load_state_dict(projector)
        pairs = {name: (tensors[f"adapter.{name}.down"], tensors[f"adapter.{name}.up"]) for name in self.adapter.parts}
        self.adapter.load(VisualPart(projector, pairs, self.adapter.scale))
        state = optimiser.state_dict()
        count = sum(len(group["params"]) for group in state["param_groups"])
        state["state"] = {n: {name: tensors[f"moment.{n}.{name}"] for name in _MOMENTS} for n in range(count)}
        optimiser.load_state_dict(state)
        return int(about["step"])

    def _marks(self, stages: int) -> dict[str, str]:
        """Return what a checkpoint says of itself: a recipe that differs in later stages alone may go on from it."""
        marks = {"format": "vlmguard-reference-checkpoint", "recipe": self.recipe.sha256_until(stages)}
        return {**marks, "adapter_from": self._begun} if stages else marks


def _share(step: int, steps: int) -> float:
    """Return the share of the peak rate: a short rise, then half a cosine."""
    rise = min(1.0, (step + 1) / _WARM)
    fall = 0.5 * (1 + math.cos(math.pi * step / steps))
    return rise * (_FLOOR + (1 - _FLOOR) * fall)
