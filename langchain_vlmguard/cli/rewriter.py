"""`vlmguard rewriter`: make training data for a rewriter, and train one."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from langchain_vlmguard.models.checkpoints import named_checkpoint

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_vlmguard.rewriting.training import TrainingRecipe

app = typer.Typer(help="The reasoning rewriter: make its training data, train it.", no_args_is_help=True)

TESTBED = "testbed"
_MODEL = "A chat model: provider:name (LangChain's init_chat_model), local:FOLDER_OR_HUB_ID, or testbed."

Source = Literal["jsonl", "vlguard", "spa-vl", "vlsbench"]
Pictures = Literal["keep", "drop"]


class LeftOut(StrEnum):
    """What an ablation may leave out; an enumeration, because typer takes no list of literals."""

    hindsight = "hindsight"
    textual = "textual"
    visual = "visual"
    cross_modal = "cross_modal"
    intent = "intent"


@app.command()
def synthesize(
    source: Annotated[str, typer.Argument(help="A file of items, or testbed.")],
    out: Annotated[Path, typer.Argument(help="Folder of calls, data and manifest; a stopped run goes on from there.")],
    *,
    reader: Annotated[Source, typer.Option("--format", help="Layout of the file.")] = "jsonl",
    analyst: Annotated[str | None, typer.Option(help=f"Runs the three stages and grades. {_MODEL}")] = None,
    target: Annotated[str | None, typer.Option(help=f"Answers old and new prompts. {_MODEL}")] = None,
    guarded: Annotated[str | None, typer.Option(help=f"Writes missing safe answers. {_MODEL}")] = None,
    without: Annotated[
        list[LeftOut] | None, typer.Option(help="Leave a part out, for an ablation; repeat for more.")
    ] = None,
    pictures: Annotated[
        Pictures, typer.Option(help="Show the target the picture beside a new prompt, or not.")
    ] = "keep",
    concurrency: Annotated[int, typer.Option(min=1, help="Most items in work at a time.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many items.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the testbed's sample.")] = 0,
) -> None:
    """Make training data: hindsight, causes, new prompt, filters (VLMGuard-R1)."""
    bar = Progress(TextColumn("items"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with bar:
        task = bar.add_task("items", total=None)

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        left_out: frozenset[Any] = frozenset(part.value for part in without or ())
        named = named_checkpoint(source)
        if named is not None and named.synthesize is not None:
            manifest = named.synthesize(out, n=limit or 5000, seed=seed, without=left_out, progress=progress)
        else:
            from langchain_vlmguard.rewriting.items import READERS
            from langchain_vlmguard.rewriting.synthesis import Synthesis

            path = Path(source)
            if not path.is_file():
                msg = f"{source} is no file, nor a checkpoint that brings its own data (such as {TESTBED!r})"
                raise typer.BadParameter(msg)
            if analyst is None or target is None:
                msg = "name --analyst and --target"
                raise typer.BadParameter(msg)
            synthesis = Synthesis(
                chat_model(analyst),
                chat_model(target),
                chat_model(guarded) if guarded else None,
                without=left_out,
                pictures=pictures,
            )
            manifest = synthesis.run(
                list(READERS[reader](path))[:limit],
                out,
                concurrency=concurrency,
                progress=progress,
                analyst=analyst,
                target=target,
                guarded=guarded,
            )
    typer.echo(json.dumps(manifest, indent=1))


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A finished folder of `vlmguard rewriter synthesize`.")],
    out: Annotated[Path, typer.Argument(help="Folder of the adapter, in peft's format.")],
    *,
    model: Annotated[
        str, typer.Option(help="Checkpoint that the adapter belongs to: folder, hub id or testbed.")
    ] = TESTBED,
    form: Annotated[str | None, typer.Option(help="Written form: delimited, or a registered one.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.001)] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Rows a step on the device.")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Steps added up before the weights move.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the updates.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of order and weights.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Folder of checkpoints; a stopped run goes on from there.")] = None,
    dtype: Annotated[str, typer.Option(help="Torch dtype of the frozen weights, or auto.")] = "auto",
) -> None:
    """Train a LoRA adapter on the language layers (extra `train`), measure it, and write its model card."""
    from langchain_vlmguard.rewriting.training import TrainingRecipe, train_rewriter

    named = named_checkpoint(model)
    recipe = TrainingRecipe() if named is None or named.recipe is None else named.recipe()
    given = {"form": form, "epochs": epochs, "batch": batch, "accumulate": accumulate, "learning_rate": learning_rate}
    chosen = _chosen(recipe, {**given, "rank": rank, "alpha": 2 * rank if rank else None, "seed": seed})
    facts = train_rewriter(model, data, out, chosen, work=work, dtype=dtype)
    Console().print(f"Wrote {out} in {facts['seconds']} s")
    typer.echo(json.dumps(facts["metrics"], indent=1))


def _chosen(recipe: TrainingRecipe, options: dict[str, Any]) -> TrainingRecipe:
    return replace(recipe, **{name: value for name, value in options.items() if value is not None})


def chat_model(name: str) -> BaseChatModel:
    """Return a chat model by name: `provider:name`, `local:FOLDER_OR_HUB_ID` or `testbed`."""
    if name == TESTBED or name.startswith("local:"):
        from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM

        return ChatSteeredVLM(model=name.removeprefix("local:"), steering=None)
    from langchain.chat_models import init_chat_model

    model: BaseChatModel = init_chat_model(name)
    return model
