"""The `vlmguard` command."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from langchain_vlmguard.cli.rewriter import app as rewriter_app
from langchain_vlmguard.plugins import plugins

app = typer.Typer(
    help="Guard multimodal agents: reasoning-based rewriting in front of a steered local VLM.", no_args_is_help=True
)

app.add_typer(rewriter_app, name="rewriter")
for _name, _command in plugins("commands"):
    app.command(_name)(_command)


@app.callback()
def main() -> None:
    """Guard multimodal agents."""


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="The testbed, a folder, or a hub id.")],
    *,
    run: Annotated[bool, typer.Option("--run", help="Also load the weights and answer twice.")] = False,
    directions: Annotated[str | None, typer.Option(help="Directions that should fit the model.")] = None,
) -> None:
    """Say what will work with a checkpoint: layers, template, tools, memory, directions."""
    from langchain_vlmguard.models.doctor import examine

    console = Console()
    colours = {"ok": "green", "warning": "yellow", "failure": "red"}
    failed = False
    for finding in examine(model, run=run, directions=directions):
        failed = failed or finding.status == "failure"
        said = f"[{colours[finding.status]}]{finding.status:<8}[/] {finding.subject}: {escape(finding.said)}"
        console.print(said, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
