"""Build the testbed from nothing: tokenizer, language model, alignment, vision tower, projector, visual instructions."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from langchain_vlmguard.testbed import corpus, world
from langchain_vlmguard.testbed.processor import IMAGE_SIZE, PATCH_SIZE, build_processor, train_tokenizer
from langchain_vlmguard.testbed.requests import ORDER_TOOL, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import LlavaProcessor

    from langchain_vlmguard.testbed.corpus import Example

IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
IGNORED = -100
CHECKPOINT_EVERY = 200
"""Steps between two checkpoints inside a stage."""


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


def new_model(
    recipe: Recipe, *, vocab_size: int, image_token: int, pad: int, end: int
) -> LlavaForConditionalGeneration:
    """Return the untrained `LlavaForConditionalGeneration` of a recipe."""
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.hidden * 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=end,
    )
    vision = CLIPVisionConfig(
        hidden_size=recipe.vision_hidden,
        intermediate_size=recipe.vision_hidden * 3,
        num_hidden_layers=recipe.vision_layers,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        pad_token_id=pad,
        eos_token_id=end,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = pad
    model.generation_config.eos_token_id = end
    return model


class PicturePool:
    """Pictures as pixel rows, drawn once and kept: `variants` drawings of each subject."""

    def __init__(self, processor: LlavaProcessor, variants: int) -> None:
        """Keep at most `variants` drawings of each subject."""
        self._processor, self._variants = processor, variants
        self._rows: dict[Picture, Tensor] = {}

    def pixels(self, pictures: list[Picture]) -> Tensor:
        """Return `(n, 3, 48, 48)` float32 pixel rows, normalised as the processor does."""
        return torch.stack([self._row(replace(picture, seed=picture.seed % self._variants)) for picture in pictures])

    def _row(self, picture: Picture) -> Tensor:
        if picture not in self._rows:
            drawn = self._processor.image_processor(picture.draw(), return_tensors="pt")
            self._rows[picture] = drawn["pixel_values"][0].half()
        return self._rows[picture].float()


def encode(examples: list[Example], processor: LlavaProcessor, pool: PicturePool) -> dict[str, Tensor]:
    """Turn examples into right-padded `input_ids`, `attention_mask`, `labels` (loss on answers only) and pixels."""
    prompts = [_render(example, processor) for example in examples]
    tokenizer = processor.tokenizer
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer([f"{e.answer}<end>" for e in examples], add_special_tokens=False)["input_ids"]
    rows = [(head + tail, [IGNORED] * len(head) + tail) for head, tail in zip(heads, tails, strict=True)]
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    batch = {
        "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]),
    }
    if shown := [example.picture for example in examples if example.picture]:
        batch["pixel_values"] = pool.pixels(shown)
    return batch


def _render(example: Example, processor: LlavaProcessor) -> str:
    if not example.prompt:
        return ""
    tools = [ORDER_TOOL] if example.tools else None
    text: str = processor.apply_chat_template(example.messages(), tools=tools, add_generation_prompt=True)
    return text.replace("<image>", "<image>" * IMAGE_TOKENS)


class Builder:
    """Runs the stages of a recipe in `folder`, picking up where an earlier run was stopped."""

    def __init__(self, recipe: Recipe, folder: Path, *, device: str = "cpu") -> None:
        """Prepare tokenizer, processor and model; nothing is trained yet.

        Raises:
            ValueError: The folder holds stages of another recipe.
        """
        self.recipe, self.folder, self.device = recipe, folder, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        self.processor = build_processor(train_tokenizer(corpus.vocabulary()))
        self.pool = PicturePool(self.processor, recipe.variants)
        tokenizer = self.processor.tokenizer
        _same_build(folder / "build.json", recipe, tokenizer.backend_tokenizer.to_str())
        torch.manual_seed(recipe.seed)
        self.model = new_model(
            recipe,
            vocab_size=len(tokenizer),
            image_token=tokenizer.convert_tokens_to_ids("<image>"),
            pad=tokenizer.pad_token_id,
            end=tokenizer.eos_token_id,
        ).to(self.device)

    def run(self) -> LlavaForConditionalGeneration:
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
        model = self.model.model
        if stage.name in ("pretrain", "align"):
            sampler = corpus.pretraining if stage.name == "pretrain" else corpus.alignment
            return self._only(model.language_model), lambda rng, n: self._language_losses([sampler], rng, n)
        if stage.name == "see":
            return self._only(model.vision_tower, model.multi_modal_projector), self._sight_losses
        if stage.name == "caption":
            trained = self._only(model.vision_tower, model.multi_modal_projector)
            return trained, lambda rng, n: self._language_losses([corpus.captions], rng, n)
        trained = self._only(model.language_model, model.multi_modal_projector)
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
                rows = encode(part, self.processor, self.pool)
                loss = self.model(**{name: value.to(self.device) for name, value in rows.items()}).loss
                yield loss * len(part) / (batch * len(samplers))

    def _sight_losses(self, rng: random.Random, batch: int) -> Iterator[Tensor]:
        """Pull what the projector says of a picture towards the words for it, as CLIP pulls pictures towards captions.

        A thing's whole picture speaks its name; of a drawn request, the left half the verb and the right half the thing.
        """
        shown = [self._sight(rng) for _ in range(batch)]
        words = self.model.get_input_embeddings().weight.detach()
        features = self.model.get_image_features(
            pixel_values=self.pool.pixels(shown).to(self.device), vision_feature_layer=-1
        )
        tokens = torch.stack(list(getattr(features, "pooler_output", features)))
        edge = IMAGE_SIZE // PATCH_SIZE
        halves = tokens.view(batch, edge, 2, edge // 2, -1).mean(dim=(1, 3))
        named = [
            (half, p.verb if p.verb and half == 0 else p.name, row) for row, p in enumerate(shown) for half in (0, 1)
        ]
        spoken = torch.stack([halves[row, half] for half, _, row in named])
        names = world.THINGS + world.PLACES + world.PEOPLE + world.VERBS
        table = words[self.processor.tokenizer.convert_tokens_to_ids([f"\u0120{name}" for name in names])]
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
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    os.replace(beside, path)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the finished checkpoint.")] = Path("testbed-build/weights"),
    work: Annotated[Path, typer.Option(help="Folder of the stages; a stopped build goes on from here.")] = Path(
        "testbed-build/stages"
    ),
    seed: Annotated[int, typer.Option(help="Seed of data and weights.")] = 0,
    scale: Annotated[
        float, typer.Option(min=0.001, help="Multiplies every stage's steps; 1 is the shipped recipe.")
    ] = 1,
    device: Annotated[str, typer.Option(help="Torch device to train on.")] = "cpu",
    per_cell: Annotated[int, typer.Option(min=1, help="Prompts a cell for the measured gap.")] = 200,
) -> None:
    """Train the testbed from scratch and write an ordinary Hugging Face checkpoint with directions and a measured card."""
    from langchain_vlmguard.testbed.release import release  # noqa: PLC0415 - needed once the training is over

    started = time.perf_counter()
    recipe = replace(Recipe(), seed=seed).scaled(scale)
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
