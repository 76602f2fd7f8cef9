"""An object of somebody's program by its name, `module:object`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import typer


def named_object(spec: str) -> object:
    """Return the object that `module:object` names; the folder of the command is searched first.

    Raises:
        BadParameter: The words are of another form, or nothing has this name.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        msg = f"{spec!r} names no object: write module:object, e.g. --guard my_app.agent:guard"
        raise typer.BadParameter(msg)
    search_here()
    try:
        found: object = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        msg = f"there is no module {error.name!r} here: run the command in the folder of your program, or install it"
        raise typer.BadParameter(msg) from error
    for name in path.split("."):
        if not hasattr(found, name):
            has = ", ".join(one for one in vars(found) if not one.startswith("_")) if hasattr(found, "__dict__") else ""
            msg = f"{module_name} has no {path!r}; it has {has[:300]}"
            raise typer.BadParameter(msg)
        found = getattr(found, name)
    return found


def search_here() -> None:
    """Let programs in the folder of the command be imported."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
