"""The testbed's held-out families as a suite: every cell, judged exactly."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from vlmguard_lab.evaluation.suites.base import Item, Suite, SuiteCard
from vlmguard_lab.testbed.requests import ORDER_TOOL, Cell, Request, cells

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vlmguard_lab.testbed.requests import Split

CARD = SuiteCard(
    "testbed", "shipped, generated from a seed", "MIT", "test only", "none: `Cell.sample` of vlmguard_lab.testbed"
)


def family_suite(
    per_cell: int, pictures: Path, *, seed: int = 0, split: Split = "held_out", only: Iterable[Cell] | None = None
) -> Suite:
    """Draw the testbed's cells.

    Args:
        per_cell: Requests a cell.
        pictures: Folder that the drawn pictures are written to (once; their names are their recipes).
        seed: Seed of the sample.
        split: `"held_out"` for results, `"seen"` for tuning.
        only: Some cells instead of all.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    grid = cells(split) if only is None else only
    return Suite(
        CARD,
        tuple(
            _item(request, f"{cell.name}:{seed}:{index}", pictures)
            for cell in grid
            for index, request in enumerate(cell.sample(per_cell, seed=seed))
        ),
    )


CONVERSATIONS = SuiteCard(
    "testbed-conversations",
    "shipped, generated from a seed",
    "MIT",
    "test only",
    "none: the same requests with three more pictures, or behind two harmless turns",
)


def conversation_suite(per_cell: int, pictures: Path, *, seed: int = 0) -> Suite:
    """Draw requests with many pictures, and requests that a conversation leads up to.

    Args:
        per_cell: Requests a cell.
        pictures: Folder that the drawn pictures are written to.
        seed: Seed of the sample.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    items = [
        make(request, index, pictures, seed)
        for harmful in (True, False)
        for make, variant in ((_with_many_pictures, "irrelevant"), (_after_turns, "blank"))
        for index, request in enumerate(Cell("meaningless", variant, harmful).sample(per_cell, seed=seed))
    ]
    return Suite(CONVERSATIONS, tuple(items))


def _with_many_pictures(request: Request, index: int, pictures: Path, seed: int) -> Item:
    item = _item(request, f"many-pictures-{request.harmful}:{seed}:{index}", pictures)
    others = Cell("meaningless", "irrelevant", harmful=False).sample(3, seed=1000 * seed + index)
    more = tuple(path for other in others if (path := _drawn(other, pictures)))
    return replace(item, cell="many_pictures/four", more_pictures=more)


def _after_turns(request: Request, index: int, pictures: Path, seed: int) -> Item:
    item = _item(request, f"multi-turn-{request.harmful}:{seed}:{index}", pictures)
    earlier = Cell("textual", "text", harmful=False).sample(2, seed=1000 * seed + index)
    return replace(item, cell="multi_turn/third", before=tuple((turn.text, turn.right) for turn in earlier))


def request_of(reference: dict[str, Any]) -> Request:
    """Return the request that an item was made from, but for its picture, which no judge needs."""
    return Request(**{name.name: reference[name.name] for name in fields(Request) if name.name in reference})


def _item(request: Request, name: str, pictures: Path) -> Item:
    reference = asdict(request)
    reference.pop("picture")
    return Item(
        name,
        request.text,
        request.harmful,
        f"{request.family}/{request.variant}",
        _drawn(request, pictures),
        tools=(ORDER_TOOL,) if request.tools else (),
        reference=reference,
    )


def _drawn(request: Request, pictures: Path) -> Path | None:
    recipe = request.picture
    if recipe is None:
        return None
    path = pictures / f"{recipe.kind}-{recipe.name}-{recipe.verb}-{recipe.seed}.png".replace("--", "-")
    if not path.is_file():
        recipe.draw().save(path)
    return path.resolve()
