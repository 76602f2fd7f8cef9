"""Tables that a hub keeps as Parquet or JSON lines, with pictures inside or beside."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import SuiteError
from vlmguard_lab.evaluation.suites.base import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNPACKED = "vlmguard-pictures"


def read_table(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of every `*.jsonl` and `*.parquet` in a folder; `image` becomes a path relative to it.

    Pictures that lie in a Parquet column are written beside, once, under a name made from their bytes.

    Raises:
        SuiteError: There is no table, or Parquet cannot be read here.
    """
    tables = sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.parquet")])
    if not tables:
        msg = f"{folder} holds no *.jsonl and no *.parquet"
        raise SuiteError(msg)
    for table in tables:
        if table.suffix == ".jsonl":
            yield from read_json(table)
        else:
            yield from _parquet(table, folder)


def _parquet(table: Path, folder: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        msg = f"{table} needs pyarrow: pip install 'langchain-vlmguard[eval]'"
        raise SuiteError(msg) from error
    for batch in parquet.ParquetFile(table).iter_batches(64):
        for row in batch.to_pylist():
            if isinstance(row.get("image"), dict):
                row["image"] = _unpack(row["image"], folder)
            yield row


def _unpack(image: dict[str, Any], folder: Path) -> str:
    if not image.get("bytes"):
        return str(image["path"])
    name = f"{_UNPACKED}/{hashlib.sha256(image['bytes']).hexdigest()[:24]}.img"
    path = folder / name
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image["bytes"])
    return name
