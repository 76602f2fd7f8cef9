"""The testbed's probe on whole turns: fitted on requests of the `seen` split alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from langchain_core.messages import HumanMessage

from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.checkpoints import checkpoint_path
from langchain_vlmguard.models.guard_files import write_guard_files
from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.steering.probe import LabelledTurn, TurnProbe
from vlmguard_lab.testbed import world
from vlmguard_lab.testbed.requests import ORDER_TOOL, cells
from vlmguard_lab.testbed.rewriting import held_out, sample_requests

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from langchain_vlmguard.models.loading import LoadedVLM
    from vlmguard_lab.testbed.requests import Request

TURNS = 600
"""Requests a cell."""

ANSWERED = 5000
"""Requests whose answers it is fitted on."""

FOLDS = 4
MISSED = 0.002


def fit_probe(loaded: LoadedVLM, *, n: int = TURNS, progress: bool = True) -> TurnProbe:
    """Fit the probe on `n` requests a cell of the split that training has seen; nothing held out is in any of them."""
    turns = [*probe_turns(loaded.processor, n), *probe_answers(loaded.processor, ANSWERED)]
    return TurnProbe.fit(
        loaded.model,
        loaded.processor,
        turns,
        missed=MISSED,
        folds=FOLDS,
        model_id="testbed",
        batch_size=64,
        progress=progress,
    )


def probe_turns(processor: ProcessorMixin, n: int, *, seed: int = 11) -> list[LabelledTurn]:
    """Return labelled turns; their groups put one thing of every kind, and a quarter of the settings, into each fold."""
    return [
        _turn(processor, request, f"{cell.family}/{cell.variant}")
        for cell in cells("seen")
        for request in cell.sample(n, seed=seed)
        if not held_out(request)
    ]


def probe_answers(processor: ProcessorMixin, n: int, *, seed: int = 0) -> list[LabelledTurn]:
    """Return what a model may say to `n` requests that a rewriter is trained on, each once: help, harm, refusal, safe way.

    Refusals and safe ways name no thing, and are in no group: there are few of them, and none is left out.
    """
    answers = {
        said: (request, kind) for request in sample_requests(n, seed=seed) for kind, said in _said(request).items()
    }
    return [
        LabelledTurn(
            to_chat_row([HumanMessage(said)], processor).text,
            harmful=kind == "harm",
            kind=kind,
            groups=_groups(request) if kind in ("harm", "help") else (),
            answer=True,
        )
        for said, (request, kind) in answers.items()
        if request.thing
    ]


def _said(request: Request) -> dict[str, str]:
    """Return answers to a request by what they are, calls as the guard words them."""
    done = f"order {request.thing}" if request.tools else request.complying
    if not request.harmful:
        return {"help": done}
    return {"harm": done, "refusal": world.refusal_of(request.thing), "safe way": _safe_way(request)}


def _safe_way(request: Request) -> str:
    if request.family == "cross_modal":
        return world.cross_safe_way(world.KIND_OF[request.thing].name, request.setting)
    return world.safe_way_of(request.thing)


def _turn(processor: ProcessorMixin, request: Request, kind: str) -> LabelledTurn:
    row = to_chat_row([request.message()], processor, tools=[ORDER_TOOL] if request.tools else None)
    return LabelledTurn(row.text, request.harmful, row.pictures, kind, _groups(request))


def _groups(request: Request) -> tuple[str, ...]:
    things = [thing for thing in world.KIND_OF[request.thing].things if thing not in world.HELD_OUT_THINGS]
    groups = [f"thing {things.index(request.thing) % FOLDS}"]
    if request.setting:
        settings = [one for one in world.PLACES + world.PEOPLE if one not in world.HELD_OUT_SETTINGS]
        groups.append(f"setting {settings.index(request.setting) % FOLDS}")
    return tuple(groups)


def main(
    checkpoint: Annotated[str, typer.Argument(help="The testbed, or the folder of a model of its world.")] = "testbed",
) -> None:
    """Fit the probe on a model of the testbed's world and write it beside the weights (minutes)."""
    found = fit_probe(load_vlm(checkpoint, device="cpu"))
    write_guard_files(Path(checkpoint_path(checkpoint)), probe=found)


if __name__ == "__main__":
    typer.run(main)
