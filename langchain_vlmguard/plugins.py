"""What other installed packages register by name (entry points): checkpoints, written forms, commands."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Group = Literal["checkpoints", "forms", "commands"]
"""A package registers in `[project.entry-points."vlmguard.checkpoints"]`, and so on."""


def plugin(group: Group, name: str) -> Any:
    """Return the object that is registered under a name, or `None`."""
    found = entry_points(group=f"vlmguard.{group}", name=name)
    return next(iter(found)).load() if found else None


def plugins(group: Group) -> Iterator[tuple[str, Any]]:
    """Yield every registered name with its object, in the order of the names."""
    for entry in sorted(entry_points(group=f"vlmguard.{group}"), key=lambda one: one.name):
        yield entry.name, entry.load()
