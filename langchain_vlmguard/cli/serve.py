"""`vlmguard serve`: the guard as an HTTP endpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from langchain_vlmguard.cli.named_object import search_here
from langchain_vlmguard.errors import extra


def serve(
    *,
    config: Annotated[
        Path | None, typer.Option(help="A guard.yaml; without one, the testbed on loopback, for a first try.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="In place of the config's; 0 is any.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the config, say that it can be used, and end.")] = False,
) -> None:
    """Serve the guard as an OpenAI-compatible endpoint."""
    search_here()  # a `guard: module:object` may be a program in this folder
    with extra("serve"):
        from langchain_vlmguard.serving.config import Listen, read_config
        from langchain_vlmguard.serving.server import serve as run

        chosen = read_config(config)
    if port is not None:
        chosen = chosen.model_copy(update={"listen": Listen(host=chosen.listen.host, port=port)})
    if check:
        typer.echo(f"{config or 'the testbed'}: this can be used")
        return
    run(chosen)
    sys.stderr.flush()
    os._exit(0)  # threads of judges that nobody waits for any more would hold the process up
