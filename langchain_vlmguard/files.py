"""Files that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import glob
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import DirectionsMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield the path of a file beside `path` to write to; it replaces `path` if the block ends well.

    Folders that are missing are made. If the block fails, `path` stays as it was and the other file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to write to; it becomes `path` if the block ends well.

    What an older folder holds beside that stays. If the block fails, `path` stays as it was and the new folder is removed; what
    a killed process left beside `path` is put in order first.

    Raises:
        NotADirectoryError: `path` is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        msg = f"{path} is a file: name a folder"
        raise NotADirectoryError(msg)
    _clear_up(path)
    beside, old = _spare(path, os.getpid())
    beside.mkdir(parents=True)
    try:
        yield beside
        if path.is_dir():
            os.replace(path, old)
        os.replace(beside, path)
    finally:
        _settle(path, os.getpid())


def _spare(path: Path, pid: int) -> tuple[Path, Path]:
    """Return where a process writes the new folder, and where it puts the old one aside."""
    return path.with_name(f"{path.name}.{pid}.tmp"), path.with_name(f"{path.name}.{pid}.old")


def _settle(path: Path, pid: int) -> None:
    """Leave one folder: the new one with what only the old one holds if it is in its place, the old one otherwise."""
    beside, old = _spare(path, pid)
    if old.is_dir() and not path.exists():
        os.replace(old, path)
    for other in old.iterdir() if old.is_dir() else ():
        if not (path / other.name).exists():
            os.replace(other, path / other.name)
    for folder in (beside, old):
        shutil.rmtree(folder, ignore_errors=True)


def _clear_up(path: Path) -> None:
    """Settle what processes left beside a folder that were killed while they wrote it."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
        pid, _, kind = left.name.removeprefix(f"{path.name}.").partition(".")
        if kind in ("tmp", "old") and pid.isdigit() and not _runs(int(pid)):
            _settle(path, int(pid))


def _runs(pid: int) -> bool:
    """Whether a process runs, as far as this can be asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file."""
    with written_whole(path) as beside:
        beside.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path: str | Path, value: object, *, indent: int | None = 1) -> None:
    """Write a value as indented JSON with a newline at its end.

    Raises:
        TypeError: It holds something that JSON has no form for; the old file stays.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and what says where they come from as one safetensors file."""
    from safetensors.torch import save_file

    with written_whole(path) as beside:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, metadata)


def read_tensors(path: str | Path, marks: dict[str, str], what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors (CPU) and its metadata.

    Args:
        path: A file of `write_tensors`.
        marks: What its metadata must say; checked before any tensor is read.
        what: What the file should be and what writes it, for the error.

    Raises:
        DirectionsMismatchError: The metadata says something else.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if marks.items() - metadata.items():
            msg = f"{path} holds no {what}"
            raise DirectionsMismatchError(msg)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a dict
