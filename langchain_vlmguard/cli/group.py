"""How every command ends: one line for an error, and exit codes that scripts can rely on."""

from __future__ import annotations

import os
import re
import sys
import traceback
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING, Any, cast

import typer
from typer.core import TyperGroup

from langchain_vlmguard.cli.program import STOPPED
from langchain_vlmguard.errors import EvaluationError, SuiteError, VLMGuardError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FAILED, WRONG = 1, 2
"""Exit codes: something failed; something was asked for that there is not."""

TRACEBACK = "VLMGUARD_TRACEBACK"
"""Environment variable that shows an error whole."""

_WRONG_WORDS = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
"""typer's base of every wrong command line, which has no public name."""


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line on stderr."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - typer's own signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002
        **extra: Any,
    ) -> object:
        """Run a command and leave with its exit code."""

        def command() -> object:
            return super(OneLineErrors, self).main(
                args, prog_name, complete_var, standalone_mode=False, windows_expand_args=windows_expand_args, **extra
            )

        if not standalone_mode:
            return command()
        sys.exit(_code(command))


def _code(command: Callable[[], object]) -> int:
    """Run a command, say its error, and return the exit code."""
    try:
        left_with = command()
    except _WRONG_WORDS as error:
        _say(_wrong_words(error))
        return WRONG
    except typer.Abort:
        left_with = STOPPED
    except KeyboardInterrupt:
        left_with = STOPPED
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends as one line
        if not _is_stopped(error):
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            _say(f"error: {one_line(error)}")
            return WRONG if isinstance(error, (EvaluationError, SuiteError)) else FAILED
        left_with = STOPPED
    if left_with == STOPPED:
        _say("stopped")
    return left_with if isinstance(left_with, int) else 0


def _is_stopped(error: BaseException) -> bool:
    """Whether a library made an error of its own from Ctrl-C."""
    return any(isinstance(one, KeyboardInterrupt) for one in _behind(error))


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _wrong_words(error: typer.BadParameter) -> str:
    """Say what is wrong with a command line, and where it says what is right."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help, which rich has printed by now
        return error.message.strip()
    ours = type(error) is typer.BadParameter and error.param is None and error.param_hint is None
    said = _joined(error.message if ours else error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    where = "" if context is None else f"; see {context.command_path} --help"
    return f"error: {said.replace(': Value error, ', ': ')}{where}"


def _say(line: str) -> None:
    if line:
        typer.echo(line, err=True)


def one_line(error: BaseException) -> str:
    """Return an error as one line; the class of one that is not ours is named, as its words alone may say little."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"there is no file {error.filename}"
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error.name or "")) is not None:
        return f"this needs {error.name}, which is not installed: pip install 'langchain-vlmguard[{extra}]'"
    said = _joined(str(error))[:_MOST] or "it says no more"
    return said if isinstance(error, VLMGuardError) else f"{type(error).__name__}: {said}"


_MOST = 600
"""Most characters of an error's line: some libraries list everything they know."""


def _joined(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _extra_of(module: str) -> str | None:
    """Return the extra of ours that brings a module and the least beside it."""
    try:
        needed = requires("langchain-vlmguard") or []
    except PackageNotFoundError:
        return None
    brought: dict[str, set[str]] = {}
    for one in needed:
        found = re.match(r"([\w.-]+).*;.*\bextra == ['\"](\w+)['\"]", one)
        if found is not None:
            brought.setdefault(found[2], set()).add(_plain(found[1]))
    having = [extra for extra, packages in brought.items() if _plain(module.partition(".")[0]) in packages]
    return min(having, key=lambda extra: len(brought[extra]), default=None)


def _plain(name: str) -> str:
    return name.replace("_", "-").lower()
