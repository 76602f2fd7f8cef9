"""`vlmguard rewriter`: make training data for a rewriter, and train one."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from langchain_vlmguard.cli.chat_models import MODEL_WORDS, chat_model
from langchain_vlmguard.cli.progress import progress_bar
from langchain_vlmguard.errors import extra
from langchain_vlmguard.models.checkpoints import named_checkpoint

if TYPE_CHECKING:
    from langchain_vlmguard.rewriting.training import TrainingRecipe

app = typer.Typer(help="The reasoning rewriter: make its training data, train it.", no_args_is_help=True)

TESTBED = "testbed"

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
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A file of items, or testbed.")],
    out: Annotated[Path, typer.Argument(help="Folder of calls, data and manifest; a stopped run goes on from there.")],
    *,
    reader: Annotated[Source, typer.Option("--format", help="Layout of the file.")] = "jsonl",
    analyst: Annotated[str | None, typer.Option(help=f"Runs the three stages and grades. {MODEL_WORDS}")] = None,
    target: Annotated[str | None, typer.Option(help=f"Answers old and new prompts. {MODEL_WORDS}")] = None,
    guarded: Annotated[str | None, typer.Option(help=f"Writes missing safe answers. {MODEL_WORDS}")] = None,
    without: Annotated[
        list[LeftOut] | None, typer.Option(help="Leave a part out, for an ablation; repeat for more.")
    ] = None,
    pictures: Annotated[
        Pictures, typer.Option(help="Show the target the picture beside a new prompt, or not.")
    ] = "keep",
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Most items in work at a time; 8, or the testbed's own number.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many items.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the testbed's sample.")] = 0,
) -> None:
    """Make training data: hindsight, causes, new prompt, filters (VLMGuard-R1)."""
    left_out: frozenset[Any] = frozenset(part.value for part in without or ())
    named = named_checkpoint(source)
    bar = progress_bar()
    task = bar.add_task("items", total=None)

    def progress(done: int, of: int) -> None:
        bar.update(task, completed=done, total=of)

    if named is not None and named.synthesize is not None:
        _refuse_options(context, f"{source} brings items, models and pictures of its own", _OF_A_FILE)
        own = {} if concurrency is None else {"concurrency": concurrency}
        with extra("local"), bar:
            manifest = named.synthesize(out, n=limit or 5000, seed=seed, without=left_out, progress=progress, **own)
    else:
        _refuse_options(context, f"the items of {source} are taken as they come", ("seed",))
        if not Path(source).is_file():
            msg = f"{source} is no file, nor a checkpoint that brings its own data (such as {TESTBED!r})"
            raise typer.BadParameter(msg)
        if analyst is None or target is None:
            msg = "name --analyst and --target"
            raise typer.BadParameter(msg)
        with extra("local"):
            from langchain_vlmguard.rewriting.items import READERS
            from langchain_vlmguard.rewriting.synthesis import Synthesis
        items = list(READERS[reader](Path(source)))[:limit]
        synthesis = Synthesis(
            chat_model(analyst, "--analyst"),
            chat_model(target, "--target"),
            chat_model(guarded, "--guarded") if guarded else None,
            without=left_out,
            pictures=pictures,
        )
        names = {"analyst": analyst, "target": target, "guarded": guarded}
        with bar:
            manifest = synthesis.run(items, out, concurrency=concurrency or 8, progress=progress, **names)
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
    with extra("train"):
        import peft  # noqa: F401 - said before a model is loaded

        from langchain_vlmguard.rewriting.training import TrainingRecipe, train_rewriter

    named = named_checkpoint(model)
    recipe = TrainingRecipe() if named is None or named.recipe is None else named.recipe()
    given = {"form": form, "epochs": epochs, "batch": batch, "accumulate": accumulate, "learning_rate": learning_rate}
    chosen = _chosen(recipe, {**given, "rank": rank, "alpha": 2 * rank if rank else None, "seed": seed})
    with redirect_stdout(sys.stderr):  # where transformers prints its losses
        facts = train_rewriter(model, data, out, chosen, work=work, dtype=dtype)
    typer.echo(f"Wrote {out} in {facts['seconds']} s", err=True)
    typer.echo(json.dumps(facts["metrics"], indent=1))


def _chosen(recipe: TrainingRecipe, options: dict[str, Any]) -> TrainingRecipe:
    return replace(recipe, **{name: value for name, value in options.items() if value is not None})


_OF_A_FILE = ("reader", "analyst", "target", "guarded", "pictures")
"""Options of `synthesize` that a checkpoint with data of its own has no use for."""


def _refuse_options(context: typer.Context, reason: str, options: tuple[str, ...]) -> None:
    """Refuse options that would be ignored.

    Raises:
        BadParameter: One of them was given.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            msg = f"{reason}: leave out {flags[name]}"
            raise typer.BadParameter(msg)
