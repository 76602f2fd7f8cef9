"""Checkpoints that have a name of their own, such as `"testbed"`: other packages ship and register them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.plugins import plugin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint that a package ships; registered under its name in the entry points `vlmguard.checkpoints`."""

    weights: Path
    """Folder of the model."""

    rewriter: Path | None = None
    """Folder of the rewriter's adapter, if there is one."""

    recipe: Callable[[], Any] | None = None
    """Returns the `TrainingRecipe` of that adapter."""

    synthesize: Callable[..., dict[str, object]] | None = None
    """Makes that adapter's training data, as `Synthesis.run` does."""

    anchors: Callable[[], Any] | None = None
    """Returns the `AnchorSet` to fit on, for a model that does not know plain English."""


def named_checkpoint(name: str) -> NamedCheckpoint | None:
    """Return the checkpoint that is registered under a name; `None` for a folder or a hub id."""
    found: NamedCheckpoint | None = plugin("checkpoints", name)
    return found


def checkpoint_path(model: str) -> str:
    """Return the folder of a named checkpoint, any other name unchanged."""
    found = named_checkpoint(model)
    return model if found is None else str(found.weights)
