"""What synthesis starts from: prompts with pictures and, if the source has them, a safe and an unsafe answer."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage
from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_vlmguard.verdict.records import Json


class Item(BaseModel):
    """One prompt `x_T` with its picture `x_I` and, if the source has them, the answers `y_safe` and `y_unsafe`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    prompt: str
    image: Path | None = None
    """The picture's file."""

    safe: str | None = None
    unsafe: str | None = None
    harmful: bool | None = None
    """Whether the source calls the prompt (with its picture) harmful; `None` if it does not say."""

    source: str = "jsonl"
    note: str = ""
    """What the source says about the reason, e.g. VLSBench's `safety_reason`."""

    def messages(self) -> list[HumanMessage]:
        """Return the prompt as one human message, the picture first.

        Raises:
            OSError: The picture's file cannot be read.
        """
        if self.image is None:
            return [HumanMessage(self.prompt)]
        block = {
            "type": "image",
            "base64": base64.b64encode(self.image.read_bytes()).decode(),
            "mime_type": mimetypes.guess_type(self.image.name)[0] or "image/png",
        }
        return [HumanMessage([block, {"type": "text", "text": self.prompt}])]


def read_jsonl(path: Path) -> Iterator[Item]:
    """Yield triples or single prompts: one JSON object a line with the fields of `Item`; pictures relative to the file.

    Raises:
        ValueError: A line is no item; the message names it.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            fields.setdefault("id", _id("jsonl", fields.get("prompt"), fields.get("image")))
            yield _placed(Item.model_validate(fields), path.parent)
        except (ValueError, AttributeError, ValidationError) as error:
            msg = f"{path}, line {number} is no item: {str(error).splitlines()[0]}"
            raise ValueError(msg) from error


def read_vlguard(path: Path) -> Iterator[Item]:
    """Yield VLGuard's `train.json`: harmful pictures, and safe pictures with one safe and one unsafe instruction.

    Fields: `id`, `image`, `safe`, and `instr-resp`, a list of `instruction` or `safe_instruction` or `unsafe_instruction`
    with `response`. The dataset has only good answers; the unsafe ones are generated later.
    """
    for row in _rows(path):
        for index, pair in enumerate(_field(row, "instr-resp", path)):
            key = next((k for k in ("instruction", "safe_instruction", "unsafe_instruction") if k in pair), None)
            if key is None:
                msg = f"{path}: entry {row.get('id')!r} has no instruction: is this VLGuard's train.json?"
                raise ValueError(msg)
            yield Item(
                id=f"vlguard:{row['id']}:{index}",
                prompt=pair[key],
                image=path.parent / row["image"],
                safe=pair.get("response"),
                harmful=key == "unsafe_instruction" or not row["safe"],
                source="vlguard",
                note=" / ".join(filter(None, (row.get("harmful_category"), row.get("harmful_subcategory")))),
            )


def read_spa_vl(path: Path) -> Iterator[Item]:
    """Yield SPA-VL: `question`, `image`, and the preferred and the other answer as `chosen` and `rejected`; JSON or JSONL."""
    for index, row in enumerate(_rows(path)):
        yield Item(
            id=f"spa-vl:{row.get('id', index)}",
            prompt=_field(row, "question", path),
            image=path.parent / _field(row, "image", path),
            safe=_field(row, "chosen", path),
            unsafe=_field(row, "rejected", path),
            harmful=True,
            source="spa-vl",
            note=" / ".join(filter(None, (row.get(f"class{n}") for n in (1, 2, 3)))),
        )


def read_vlsbench(path: Path) -> Iterator[Item]:
    """Yield VLSBench's `data.json`: `instruction_id`, `instruction`, `image_path`, `safety_reason`; it has no answers."""
    for row in _rows(path):
        yield Item(
            id=f"vlsbench:{_field(row, 'instruction_id', path)}",
            prompt=_field(row, "instruction", path),
            image=path.parent / _field(row, "image_path", path),
            harmful=True,
            source="vlsbench",
            note=row.get("safety_reason", ""),
        )


READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    "jsonl": read_jsonl,
    "vlguard": read_vlguard,
    "spa-vl": read_spa_vl,
    "vlsbench": read_vlsbench,
}


def _rows(path: Path) -> list[Json]:
    text = path.read_text(encoding="utf-8")
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except json.JSONDecodeError as error:
        msg = f"{path} is neither a JSON list nor one JSON object a line: {error}"
        raise ValueError(msg) from error
    return list(rows)


def _field(row: Json, name: str, path: Path) -> Any:
    if name not in row:
        msg = f"{path} has an entry without {name!r} (it has {', '.join(map(str, row))}): is this the right reader?"
        raise ValueError(msg)
    return row[name]


def _placed(item: Item, folder: Path) -> Item:
    return item if item.image is None else item.model_copy(update={"image": folder / item.image})


def _id(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]
