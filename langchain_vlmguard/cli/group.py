"""How every command of `vlmguard` ends: one line for an error, and exit codes that scripts can rely on."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from langchain_vlmguard.errors import VLMGuardError

if TYPE_CHECKING:
    from collections.abc import Callable


FAILED, STOPPED = 1, 130
"""Exit codes; a wrong command line is 2, which typer sees to."""

TRACEBACK = "VLMGUARD_TRACEBACK"
"""Environment variable that shows an error whole."""

_ENDS: tuple[type[Exception], ...] = (typer.Exit, typer.Abort, *typer.BadParameter.__mro__[2:3])
"""What typer itself turns into an exit code: the last is its base of every wrong command line."""


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line on stderr."""

    def invoke(self, ctx: Any) -> object:
        """Run a command."""
        return _ended(lambda: super(OneLineErrors, self).invoke(ctx))


def _ended(command: Callable[[], object]) -> object:
    try:
        return command()
    except _ENDS:
        raise
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(STOPPED) from None
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(FAILED) from error


def one_line(error: BaseException) -> str:
    """Return an error as one line; the class of one that is not ours is named, as its words alone may say little."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"there is no file {error.filename}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines)[:_MOST] or "it says no more"
    return said if isinstance(error, VLMGuardError) else f"{type(error).__name__}: {said}"


_MOST = 600
"""Most characters of an error's line: some libraries list everything they know."""
