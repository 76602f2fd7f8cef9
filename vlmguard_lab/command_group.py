"""How the lab's commands end: an error of ours is printed without a traceback."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from langchain_vlmguard.errors import VLMGuardError


class LabCommands(TyperGroup):
    """Commands whose own errors are printed without a traceback."""

    def invoke(self, ctx: Any) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except VLMGuardError as error:
            Console(stderr=True).print(f"[red]{escape(str(error))}[/red]")
            raise typer.Exit(2) from error
