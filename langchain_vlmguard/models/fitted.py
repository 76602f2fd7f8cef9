"""Folders that `vlmguard fit` wrote: they name their model, and load as if they were its checkpoint."""

from __future__ import annotations

from pathlib import Path

from langchain_vlmguard.errors import DirectionsMismatchError
from langchain_vlmguard.files import read_json

FIT_FILE = "vlmguard_fit.json"
"""What a fitted folder says about itself."""


def fitted_folder(model: str) -> tuple[Path, str] | None:
    """Return a fitted folder and the model that it belongs to; `None` for a checkpoint or a hub id.

    Raises:
        DirectionsMismatchError: Its file names no model.
    """
    folder = Path(model).expanduser()
    if not (folder / FIT_FILE).is_file() or (folder / "config.json").is_file():
        return None
    base = read_json(folder / FIT_FILE).get("model")
    if not isinstance(base, str):
        msg = f"{folder / FIT_FILE} does not name its model: fit it again with `vlmguard fit`"
        raise DirectionsMismatchError(msg)
    return folder, base
