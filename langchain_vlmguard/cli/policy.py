"""`vlmguard policy`: begin a `guard.yaml`, check it, and read in sentences what it does."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from langchain_vlmguard.cli.named_object import search_here
from langchain_vlmguard.errors import extra

app = typer.Typer(help="The guard's config: templates, checks, and what it does in sentences.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A guard.yaml.")]


def _templates() -> dict[str, str]:
    folder = files("langchain_vlmguard.serving") / "templates"
    found = {one.name.removesuffix(".yaml"): one for one in folder.iterdir() if one.name.endswith(".yaml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


@app.command()
def template(
    name: Annotated[str | None, typer.Argument(help="Which one; without a name, all are listed.")] = None,
) -> None:
    """Print a guard.yaml to begin with."""
    known = _templates()
    if name is None:
        for one, text in known.items():
            typer.echo(f"{one:<10} {text.splitlines()[0].removeprefix('# ')}")
        return
    if name not in known:
        msg = f"there is no template {name!r}; there are {', '.join(known)}"
        raise typer.BadParameter(msg)
    typer.echo(known[name], nl=False)


@app.command()
def check(file: File) -> None:
    """Say whether a guard.yaml can be used, and which line cannot."""
    search_here()
    with extra("serve"):
        from langchain_vlmguard.serving.config import read_config

        config = read_config(file)
    typer.echo(f"{file}: this can be used (policy {config.policy.hash})")


@app.command()
def explain(file: File) -> None:
    """Say in sentences what a guard.yaml does."""
    search_here()
    with extra("serve"):
        from langchain_vlmguard.serving.config import read_config
        from langchain_vlmguard.serving.explain import explain_config

        found = explain_config(read_config(file))
    for subject, sentences in found.items():
        typer.echo(f"\n{subject}")
        for sentence in sentences:
            typer.echo(f"  {sentence}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of guard.yaml, for editors."""
    with extra("serve"):
        from langchain_vlmguard.serving.config import ServeConfig

        typer.echo(json.dumps(ServeConfig.model_json_schema(), indent=2))
