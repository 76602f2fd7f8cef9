"""The testbed's probe on whole turns: fitted on requests of the `seen` split alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.loading import PROBE_FILE, TESTBED, checkpoint_path, load_vlm
from langchain_vlmguard.steering.probe import LabelledTurn, TurnProbe
from langchain_vlmguard.testbed import world
from langchain_vlmguard.testbed.requests import ORDER_TOOL, cells

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.testbed.requests import Request

TURNS = 600
"""Requests a cell."""

FOLDS = 4
MISSED = 0.002


def fit_probe(loaded: LoadedVLM, *, n: int = TURNS, progress: bool = True) -> TurnProbe:
    """Fit the probe on `n` requests a cell of the split that training has seen; nothing held out is in any of them."""
    turns = probe_turns(loaded.processor, n)
    return TurnProbe.fit(
        loaded.model,
        loaded.processor,
        turns,
        missed=MISSED,
        folds=FOLDS,
        model_id=TESTBED,
        batch_size=64,
        progress=progress,
    )


def probe_turns(processor: ProcessorMixin, n: int, *, seed: int = 11) -> list[LabelledTurn]:
    """Return labelled turns; their groups put one thing of every kind, and a quarter of the settings, into each fold."""
    return [
        _turn(processor, request, f"{cell.family}/{cell.variant}")
        for cell in cells("seen")
        for request in cell.sample(n, seed=seed)
        if not _held_out(request)
    ]


def _turn(processor: ProcessorMixin, request: Request, kind: str) -> LabelledTurn:
    row = to_chat_row([request.message()], processor, tools=[ORDER_TOOL] if request.tools else None)
    things = [thing for thing in world.KIND_OF[request.thing].things if thing not in world.HELD_OUT_THINGS]
    groups = [f"thing {things.index(request.thing) % FOLDS}"]
    if request.setting:
        settings = [one for one in world.PLACES + world.PEOPLE if one not in world.HELD_OUT_SETTINGS]
        groups.append(f"setting {settings.index(request.setting) % FOLDS}")
    return LabelledTurn(row.text, request.harmful, row.pictures, kind, tuple(groups))


def _held_out(request: Request) -> bool:
    shown = request.picture.name if request.picture else ""
    return bool({request.thing, shown} & (world.HELD_OUT_THINGS | set(world.HELD_OUT_SETTINGS)))


def refit(checkpoint: str = TESTBED) -> TurnProbe:
    """Fit the probe on a model of the testbed's world and write it beside the weights.

    `python -m langchain_vlmguard.testbed.probe [FOLDER]` does it; without a folder, for the shipped weights.
    """
    found = fit_probe(load_vlm(checkpoint, device="cpu"))
    found.save(Path(checkpoint_path(checkpoint)) / PROBE_FILE)
    return found


if __name__ == "__main__":
    refit(*sys.argv[1:])
