"""What is fitted, as one safetensors file: tensors, and what says where they come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file

from langchain_vlmguard.errors import DirectionsMismatchError

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata; the file appears whole or not at all."""
    path = Path(path)
    beside = path.with_suffix(path.suffix + ".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, metadata)
    os.replace(beside, path)


def read_tensors(path: str | Path, marks: dict[str, str], what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors (CPU) and its metadata.

    Args:
        path: A file of `write_tensors`.
        marks: What its metadata must say; looked at before any tensor is read.
        what: What the file should be and what writes it, for the error.

    Raises:
        DirectionsMismatchError: The metadata says something else.
    """
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if marks.items() - metadata.items():
            msg = f"{path} holds no {what}"
            raise DirectionsMismatchError(msg)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a dict
