"""The `vlmguard` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from langchain_vlmguard._version import __version__
from langchain_vlmguard.cli.audit import app as audit_app
from langchain_vlmguard.cli.fit import calibrate, fit
from langchain_vlmguard.cli.group import TRACEBACK, OneLineErrors
from langchain_vlmguard.cli.hook import hook
from langchain_vlmguard.cli.policy import app as policy_app
from langchain_vlmguard.cli.rewriter import app as rewriter_app
from langchain_vlmguard.cli.serve import serve
from langchain_vlmguard.plugins import plugins

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_vlmguard.models.doctor import Finding

app = typer.Typer(
    cls=OneLineErrors,
    help=f"Guard multimodal agents. {TRACEBACK}=1 in the environment shows an error whole.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(rewriter_app, name="rewriter")
app.add_typer(policy_app, name="policy")
app.add_typer(audit_app, name="audit")
app.command()(serve)
app.command()(hook)
app.command()(fit)
app.command()(calibrate)
for _name, _command in plugins("commands"):
    app.command(_name)(_command)


def _say_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        typer.echo(f"langchain-vlmguard {__version__}")
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Guard multimodal agents."""


@app.command()
def doctor(
    model: Annotated[str | None, typer.Argument(help="The testbed, a folder, or a hub id.")] = None,
    *,
    guard: Annotated[
        str | None, typer.Option(help="A guard of yours, as module:object: three harmless probes go through it.")
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Also load the weights and answer twice.")] = False,
    directions: Annotated[str | None, typer.Option(help="Directions that should fit the model.")] = None,
) -> None:
    """Say what will work with a checkpoint, or why a guard refuses."""
    if (model is None) == (guard is None):
        msg = "name a model, or a guard with --guard module:object"
        raise typer.BadParameter(msg)
    if guard is not None:
        if run or directions:
            msg = "--run and --directions are about a model, not about a guard"
            raise typer.BadParameter(msg)
        from langchain_vlmguard.cli.guard_probes import probe
        from langchain_vlmguard.cli.named_object import named_object

        _report(probe(named_object(guard)))
    elif model is not None:
        from langchain_vlmguard.errors import extra
        from langchain_vlmguard.models.doctor import examine

        with extra("local"):
            _report(examine(model, run=run, directions=directions))


def _report(findings: Iterable[Finding]) -> None:
    console = Console()
    colours = {"ok": "green", "warning": "yellow", "failure": "red"}
    failed = False
    for finding in findings:
        failed = failed or finding.status == "failure"
        said = f"[{colours[finding.status]}]{finding.status:<8}[/] {finding.subject}: {escape(finding.said)}"
        console.print(said, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
