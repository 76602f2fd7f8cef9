"""`vlmguard fit` and `vlmguard calibrate`: give a model a gate and a steering of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_vlmguard.cli.progress import progress_bar
from langchain_vlmguard.errors import extra
from langchain_vlmguard.models.checkpoints import named_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from langchain_vlmguard.steering.anchors import AnchorSet

FalseAlarms = Annotated[
    float, typer.Option(min=0.001, max=0.5, help="Share of harmless requests for which the gate may open.")
]


def fit(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or testbed.")],
    out: Annotated[Path, typer.Option(help="Folder to write, which from_pretrained takes in place of the model.")],
    *,
    anchors: Annotated[
        str | None, typer.Option(help="A JSON file of pairs, or how_to, requests, all; all, or the model's own.")
    ] = None,
    false_alarms: FalseAlarms = 0.05,
    tried: Annotated[int, typer.Option(min=2, help="Held-out anchors that edits are tried on.")] = 16,
    tokens: Annotated[int, typer.Option(min=4, help="Tokens of their answers.")] = 24,
    batch: Annotated[int, typer.Option(min=1, help="Rows that run together.")] = 16,
    work: Annotated[
        Path | None, typer.Option(help="Folder of finished parts, kept; beside --out if not named.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Torch device.")] = None,
    dtype: Annotated[str, typer.Option(help="Torch dtype, or auto.")] = "auto",
) -> None:
    """Fit directions, a gate and an edit on text alone; says how long it takes, and goes on after a stop."""
    with extra("local"):
        from langchain_vlmguard.models.fitting import FitOptions, fit_model
        from langchain_vlmguard.models.loading import load_vlm
    pairs = _anchors(model, anchors)
    options = FitOptions(false_alarms=false_alarms, tried=tried, tokens=tokens, batch_size=batch)
    parts = work or out.with_name(f".{out.name}.parts")
    bar = progress_bar()
    with bar:
        facts = fit_model(
            load_vlm(model, device=device, dtype=dtype),
            pairs,
            out,
            parts,
            options,
            progress=_shown(bar),
            say=lambda text: typer.echo(text, err=True),
        )
    if work is None:
        shutil.rmtree(parts, ignore_errors=True)
    typer.echo(f"{out} is ready: ChatSteeredVLM.from_pretrained({str(out)!r})", err=True)
    typer.echo(json.dumps({name: facts[name] for name in ("gate", "edit", "minutes")}, indent=1))


def calibrate(
    model: Annotated[str, typer.Argument(help="A folder of vlmguard fit.")],
    requests: Annotated[
        Path, typer.Argument(help='Harmless requests of your own, a JSON object {"text": ...} a line.')
    ],
    *,
    false_alarms: FalseAlarms = 0.05,
    device: Annotated[str | None, typer.Option(help="Torch device.")] = None,
    dtype: Annotated[str, typer.Option(help="Torch dtype, or auto.")] = "auto",
) -> None:
    """Place the gate's threshold on your own harmless traffic, and say what changes."""
    with extra("local"):
        from langchain_vlmguard.models.calibrating import calibrate_folder
    bar = progress_bar()
    with bar:
        changed = calibrate_folder(
            model, requests, false_alarms=false_alarms, device=device, dtype=dtype, progress=_shown(bar)
        )
    typer.echo(json.dumps(changed, indent=1))


def _shown(bar: Progress) -> Callable[[str, int, int], None]:
    tasks: dict[str, int] = {}

    def progress(stage: str, done: int, of: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=of)
        bar.update(tasks[stage], completed=done, total=of)  # type: ignore[arg-type]

    return progress


def _anchors(model: str, name: str | None) -> AnchorSet:
    """Return the named anchors, the checkpoint's own, or all that are shipped.

    Raises:
        BadParameter: The name is no file and no shipped set.
    """
    from langchain_vlmguard.steering.anchors import AnchorSet, load_anchors

    named = named_checkpoint(model)
    if name is None and named is not None and named.anchors is not None:
        own: AnchorSet = named.anchors()
        return own
    if name is not None and Path(name).is_file():
        return AnchorSet.from_json(name)
    try:
        return load_anchors(name or "all")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
