"""Build the testbed from nothing: tokenizer, language model, alignment, vision tower, projector, visual instructions."""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from langchain_vlmguard.files import written_whole
from vlmguard_lab.testbed import corpus, world
from vlmguard_lab.testbed.architectures import ARCHITECTURES
from vlmguard_lab.testbed.processor import IMAGE_SIZE, PATCH_SIZE
from vlmguard_lab.testbed.recipes import Choice, Recipe, Stage
from vlmguard_lab.testbed.release import release
from vlmguard_lab.testbed.requests import ORDER_TOOL, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel, ProcessorMixin

    from vlmguard_lab.testbed.corpus import Example

IGNORED = -100
CHECKPOINT_EVERY = 200
"""Steps between two checkpoints inside a stage."""


class PicturePool:
    """Pictures as the processor's tensors, drawn once and kept: `variants` drawings of each subject."""

    def __init__(self, processor: ProcessorMixin, variants: int) -> None:
        """Keep at most `variants` drawings of each subject."""
        self._processor, self._variants = processor, variants
        self._rows: dict[Picture, dict[str, Tensor]] = {}

    def pixels(self, pictures: list[Picture]) -> dict[str, Tensor]:
        """Return the picture inputs of `n` rows with one picture each, e.g. `pixel_values` `(n, 3, 48, 48)` float32."""
        rows = [self._row(replace(picture, seed=picture.seed % self._variants)) for picture in pictures]
        joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return {name: value.float() if value.is_floating_point() else value for name, value in joined.items()}

    def _row(self, picture: Picture) -> dict[str, Tensor]:
        if picture not in self._rows:
            drawn = self._processor.image_processor([[picture.draw()]], return_tensors="pt")
            tensors = {
                name: value for name, value in drawn.items() if isinstance(value, Tensor) and name != "num_crops"
            }
            self._rows[picture] = {n: v.half() if v.is_floating_point() else v for n, v in tensors.items()}
        return self._rows[picture]


class Encoder:
    """Turns examples into a model's training inputs, with the placeholders that a family's processor writes."""

    def __init__(self, processor: ProcessorMixin, variants: int) -> None:
        """Look at what the processor makes of one picture."""
        self.processor, self.pool = processor, PicturePool(processor, variants)
        self.tokenizer = processor.tokenizer
        blank = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
        seen = processor(text=[processor.image_token], images=[[blank]], return_tensors="pt")
        self._image_token = self.tokenizer.convert_tokens_to_ids("<image>")
        self._placeholder = self.tokenizer.decode(seen["input_ids"][0])
        self._types = [name for name in ("token_type_ids", "mm_token_type_ids") if name in seen]

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        """Return right-padded `input_ids`, `attention_mask`, `labels` (loss on answers only) and picture inputs."""
        heads = self._tokens([self._render(example) for example in examples])
        tails = self._tokens([f"{example.answer}<end>" for example in examples])
        rows = [(head + tail, [IGNORED] * len(head) + tail) for head, tail in zip(heads, tails, strict=True)]
        longest = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_token_id
        batch = {
            "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
            "labels": torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]),
        }
        batch |= {name: (batch["input_ids"] == self._image_token).long() for name in self._types}
        if shown := [example.picture for example in examples if example.picture]:
            batch |= self.pool.pixels(shown)
        return batch

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _render(self, example: Example) -> str:
        if not example.prompt:
            return ""
        tools = [ORDER_TOOL] if example.tools else None
        text: str = self.processor.apply_chat_template(example.messages(), tools=tools, add_generation_prompt=True)
        return text.replace(self.processor.image_token, self._placeholder)


class Builder:
    """Runs the stages of a recipe in `folder`, picking up where an earlier run was stopped."""

    def __init__(self, recipe: Recipe, folder: Path, *, device: str = "cpu") -> None:
        """Prepare tokenizer, processor and model; nothing is trained yet.

        Raises:
            ValueError: The folder holds stages of another recipe.
        """
        self.recipe, self.folder, self.device = recipe, folder, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        self.architecture = ARCHITECTURES[recipe.architecture]
        self.processor = self.architecture.new_processor(corpus.vocabulary())
        self.encode = Encoder(self.processor, recipe.variants)
        tokenizer = self.processor.tokenizer
        _same_build(folder / "build.json", recipe, tokenizer.backend_tokenizer.to_str())
        torch.manual_seed(recipe.seed)
        self.model = self.architecture.new_model(recipe, tokenizer).to(self.device)

    def run(self) -> PreTrainedModel:
        """Run every stage that is not done yet and return the trained model (float32, eval mode)."""
        progress = Progress(
            TextColumn("{task.description:>9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
        )
        with progress:
            for stage in self.recipe.stages:
                done = self.folder / f"{stage.name}.pt"
                if done.exists():
                    self.model.load_state_dict(torch.load(done, weights_only=True))
                    continue
                before = {name: value.clone() for name, value in self.model.state_dict().items()}
                self._train(stage, progress)
                self._blend(before, stage.blend)
                _save_whole(self.model.state_dict(), done)
                (self.folder / "partial.pt").unlink(missing_ok=True)
        return self.model.eval()

    def _train(self, stage: Stage, progress: Progress) -> None:
        parameters, loss_of = self._setup(stage)
        optimiser = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, stage.learning_rate, total_steps=stage.steps + 1, pct_start=0.1
        )
        first = self._resume(stage, optimiser, schedule)
        task = progress.add_task(stage.name, total=stage.steps, completed=first, loss=float("nan"))
        self.model.train()
        for step in range(first, stage.steps):
            rng = random.Random(f"{self.recipe.seed}:{stage.name}:{step}")
            losses = []
            for loss in loss_of(rng, stage.batch):
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.item())
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            progress.update(task, advance=1, loss=sum(losses))
            if (step + 1) % CHECKPOINT_EVERY == 0:
                self._checkpoint(stage, step + 1, optimiser, schedule)

    def _blend(self, before: dict[str, Tensor], share: float) -> None:
        if share < 1:
            after = self.model.state_dict()
            floats = [name for name, value in before.items() if value.is_floating_point()]
            self.model.load_state_dict({**after, **{n: torch.lerp(before[n], after[n], share) for n in floats}})

    def _setup(self, stage: Stage) -> tuple[list[nn.Parameter], Callable[[random.Random, int], Iterator[Tensor]]]:
        body = self.model.model
        language = self.model.get_decoder()
        sight = [module for module in body.children() if module is not language]
        if stage.name in ("pretrain", "align"):
            sampler = corpus.pretraining if stage.name == "pretrain" else corpus.alignment
            return self._only(language), lambda rng, n: self._language_losses([sampler], rng, n)
        if stage.name == "see":
            return self._only(*sight), self._sight_losses
        if stage.name == "caption":
            return self._only(*sight), lambda rng, n: self._language_losses([corpus.captions], rng, n)
        trained = self._only(language, body.get_submodule(self.architecture.projector))
        mixture: list[Callable[[random.Random], Example]] = [corpus.visual_instructions, corpus.replay]
        return trained, lambda rng, n: self._language_losses(mixture, rng, n)

    def _only(self, *modules: nn.Module) -> list[nn.Parameter]:
        self.model.requires_grad_(requires_grad=False)
        for module in modules:
            module.requires_grad_(requires_grad=True)
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _language_losses(
        self, samplers: list[Callable[[random.Random], Example]], rng: random.Random, batch: int
    ) -> Iterator[Tensor]:
        for sampler in samplers:
            examples = sorted((sampler(rng) for _ in range(batch)), key=lambda e: len(e.prompt) + 100 * e.tools)
            for part in (examples[: batch * 3 // 4], examples[batch * 3 // 4 :]):
                rows = self.encode(part)
                loss = self.model(**{name: value.to(self.device) for name, value in rows.items()}).loss
                yield loss * len(part) / (batch * len(samplers))

    def _sight_losses(self, rng: random.Random, batch: int) -> Iterator[Tensor]:
        """Pull what the projector says of a picture towards the words for it, as CLIP pulls pictures towards captions.

        A thing's whole picture speaks its name; of a drawn request, the left half the verb and the right half the thing.
        """
        shown = [self._sight(rng) for _ in range(batch)]
        pixels = {name: value.to(self.device) for name, value in self.encode.pool.pixels(shown).items()}
        features = self.model.get_image_features(**pixels)
        tokens = torch.stack(list(getattr(features, "pooler_output", features)))
        edge = IMAGE_SIZE // PATCH_SIZE
        halves = tokens.view(batch, edge, 2, edge // 2, -1).mean(dim=(1, 3))
        named = [
            (half, p.verb if p.verb and half == 0 else p.name, row) for row, p in enumerate(shown) for half in (0, 1)
        ]
        spoken = torch.stack([halves[row, half] for half, _, row in named])
        names = world.THINGS + world.PLACES + world.PEOPLE + world.VERBS
        ids = self.processor.tokenizer.convert_tokens_to_ids([f"\u0120{name}" for name in names])
        table = self.model.get_input_embeddings()(torch.tensor(ids, device=self.device)).detach()
        target = torch.tensor([names.index(name) for _, name, _ in named], device=self.device)
        likeness = nn.functional.normalize(spoken, dim=-1) @ nn.functional.normalize(table, dim=-1).T
        distance = (spoken - table[target]).square().sum(-1) / table[target].square().sum(-1)
        yield nn.functional.cross_entropy(16 * likeness, target) + 0.5 * distance.mean()

    def _sight(self, rng: random.Random) -> Picture:
        if rng.random() < 0.5:
            return Picture("poster", rng.choice(world.THINGS), rng.choice(world.VERBS), rng.getrandbits(32))
        return Picture("icon", rng.choice(world.THINGS + world.PLACES + world.PEOPLE), seed=rng.getrandbits(32))

    def _checkpoint(
        self, stage: Stage, step: int, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
    ) -> None:
        state = {
            "stage": stage.name,
            "step": step,
            "model": self.model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
        }
        _save_whole(state, self.folder / "partial.pt")

    def _resume(
        self, stage: Stage, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
    ) -> int:
        path = self.folder / "partial.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        if state["stage"] != stage.name:
            return 0
        self.model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        return int(state["step"])


def _same_build(path: Path, recipe: Recipe, tokenizer: str) -> None:
    """Write down what this folder is built from; stages of another recipe or another world must not be continued."""
    wanted = json.dumps(
        {"recipe": asdict(recipe), "tokenizer": hashlib.sha256(tokenizer.encode()).hexdigest()}, indent=1
    )
    if path.exists() and path.read_text() != wanted:
        msg = f"{path.parent} holds stages of another recipe or another world: build into a new folder, or remove it"
        raise ValueError(msg)
    path.write_text(wanted)


def _save_whole(state: object, path: Path) -> None:
    with written_whole(path) as beside:
        torch.save(state, beside)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the finished checkpoint.")] = Path("testbed-build/weights"),
    work: Annotated[Path, typer.Option(help="Folder of the stages; a stopped build goes on from here.")] = Path(
        "testbed-build/stages"
    ),
    architecture: Annotated[Choice, typer.Option(help="The family of the model; llava is the shipped one.")] = "llava",
    seed: Annotated[int, typer.Option(help="Seed of data and weights.")] = 0,
    scale: Annotated[
        float, typer.Option(min=0.001, help="Multiplies every stage's steps; 1 is the shipped recipe.")
    ] = 1,
    device: Annotated[str, typer.Option(help="Torch device to train on.")] = "cpu",
    per_cell: Annotated[int, typer.Option(min=1, help="Prompts a cell for the measured gap.")] = 200,
) -> None:
    """Train the testbed from scratch and write an ordinary Hugging Face checkpoint with directions and a measured card."""
    started = time.perf_counter()
    recipe = replace(Recipe(), architecture=architecture, seed=seed).scaled(scale)
    builder = Builder(recipe, work, device=device)
    model = builder.run().to("cpu")
    facts = release(model, builder.processor, recipe, out, n=per_cell, seconds=time.perf_counter() - started)
    typer.echo(f"Wrote {out} ({facts['parameters']:,} parameters)")
    for row in facts["gap"]:
        typer.echo(
            f"{row['family']:>12} {row['variant']:<11} {'harmful ' if row['harmful'] else 'harmless'} {row['split']:<8} "
            f"n={row['n']} unsafe {row['unsafe']:.3f} {row['ci95']['unsafe']} right {row['correct']:.3f} {row['ci95']['correct']}"
        )


if __name__ == "__main__":
    typer.run(main)
