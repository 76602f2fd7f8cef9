"""The lab's commands of `vlmguard`: the demonstration and the evaluation."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_vlmguard.cli.chat_models import chat_model
from langchain_vlmguard.cli.progress import progress_bar
from langchain_vlmguard.errors import extra
from langchain_vlmguard.files import write_json, write_text
from langchain_vlmguard.verdict.failures import LOGGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlmguard_lab.statistics import Share
    from vlmguard_lab.testbed.demo import DemoResult
    from vlmguard_lab.testbed.demo_cells import Turn

FULL_CELL, QUICK_CELL = 200, 16


def demo(
    *,
    full: Annotated[bool, typer.Option("--full", help=f"Measure {FULL_CELL} prompts a cell (minutes).")] = False,
    per_cell: Annotated[int | None, typer.Option(min=1, help="Prompts a cell.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the measured cells here.")] = None,
    html: Annotated[Path, typer.Option(help="Write the page here.")] = Path("vlmguard-demo/index.html"),
    model: Annotated[str, typer.Option(help="The testbed, or a checkpoint built by its recipe.")] = "testbed",
    seed: Annotated[int, typer.Option(help="Seed of the sampled prompts.")] = 0,
    refuse_on_gate: Annotated[
        bool, typer.Option("--refuse-on-gate", help="Also refuse whatever the steering gate finds unsafe.")
    ] = False,
) -> None:
    """Run every request family through the plain testbed and through the guard, side by side."""
    with extra("local"):
        from vlmguard_lab.testbed.demo import REFUSE_ON_GATE, run_demo
        from vlmguard_lab.testbed.demo_page import render_page
        from vlmguard_lab.testbed.requests import cells

    n = per_cell or (FULL_CELL if full else QUICK_CELL)
    console, work, bar = Console(), html.parent / "cells", progress_bar()
    with _errors_alone(), bar:
        task = bar.add_task("loading", total=len(list(cells())), completed=-1)

        def advance(cell: object) -> None:
            bar.update(task, description=getattr(cell, "name", ""), advance=1)

        policy = REFUSE_ON_GATE if refuse_on_gate else None
        result = run_demo(model, per_cell=n, seed=seed, policy=policy, on_cell=advance, work=work)
        bar.update(task, description="done", advance=1)
    write_text(html, render_page(result))
    pictures = _save_pictures(result, html.parent / "pictures")
    console.print(_turns_table(result, pictures))
    for harmful in (True, False):
        console.print(_totals_table(result, harmful=harmful))
    if json_file:
        write_json(json_file, result.to_json())
        console.print(f"Cells as JSON: {json_file}")
    console.print(f"The page, with all pictures: {html}   ({result.seconds:.0f} s)")


def evaluate(
    *,
    suite: Annotated[list[str], typer.Option(help="'testbed', SET:FOLDER or SET:hub:OWNER/NAME; may be repeated.")],
    model: Annotated[str, typer.Option(help="'testbed', a folder, a hub id, or 'api:PROVIDER:MODEL'.")] = "testbed",
    arms: Annotated[
        str, typer.Option(help="Defences, separated by commas; others are compared with the first.")
    ] = "none,steering",
    judge: Annotated[str, typer.Option(help="Judges, separated by commas.")] = "",
    judge_model: Annotated[str | None, typer.Option(help="Chat model of judges that need one, PROVIDER:MODEL.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most requests of a cell and harm class.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the samples, separated by commas.")] = "0",
    out: Annotated[Path, typer.Option(help="Folder of results, logs and the page.")] = Path("vlmguard-evaluation"),
) -> None:
    """Measure defences on attack and over-refusal suites; run it again to go on after a stop."""
    numbers = _numbers(seeds)
    with extra("eval"):
        from vlmguard_lab.evaluation.report import write_report
        from vlmguard_lab.evaluation.runner import Plan
        from vlmguard_lab.evaluation.runner import evaluate as run

    chosen = chat_model(judge_model, "--judge-model", temperature=0) if judge_model else None
    plan = Plan(suite, model, listed(arms), listed(judge), chosen, numbers, limit)
    console, bar = Console(), progress_bar()
    with bar:
        task = bar.add_task("loading", total=None)

        def progress(name: str, done: int, of: int) -> None:
            bar.update(task, description=name, completed=done, total=of)

        results, rows = run(plan, out, progress=progress)
    write_report(results, rows, out / "report.html")
    console.print(_arms_table(results))
    console.print(
        f"Results: {out / 'results.json'}; the page: {out / 'report.html'}; answers: inspect view --log-dir {out / 'logs'}"
    )


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Keep warnings out of the terminal: a rewriting that failed is on the page, in its verdict."""
    log = logging.getLogger(LOGGER)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in listed(seeds)] or [0]
    except ValueError as error:
        msg = f"{seeds!r} is no list of whole numbers: write e.g. --seeds 0,1,2"
        raise typer.BadParameter(msg) from error


def listed(names: str) -> list[str]:
    """Return names that are separated by commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _arms_table(results: dict[str, Any]) -> Table:
    from vlmguard_lab.evaluation.report import table_lines

    table = Table(title="All cells together (Wilson 95 % intervals)", title_justify="left")
    for column in ("suite", "judge", "arm", "harmful: complied with", "harmless: refused", "harmless: right"):
        table.add_column(column, overflow="fold")
    for suite, judge in dict.fromkeys((row["suite"], row["judge"]) for row in results["pooled"]):
        for line in table_lines(results, suite, judge):
            table.add_row(suite, judge, line["arm"], line["unsafe"], line["refused"], line["right"])
    return table


def _turns_table(result: DemoResult, pictures: list[Path | None]) -> Table:
    from vlmguard_lab.testbed.demo import risk_words

    table = Table(title="Plain and guarded, side by side", show_lines=True, title_justify="left")
    for column in ("picture", "request", "plain answer", "guarded answer", "with rewriter", "verdict"):
        table.add_column(column, overflow="fold", ratio=1 if column in ("picture", "verdict") else 2)
    for turn, picture in zip(result.turns, pictures, strict=True):
        verdict = turn.rewritten_verdict or turn.verdict
        table.add_row(
            picture.name if picture else "-",
            f"{'[red]harmful[/red]' if turn.request.harmful else '[green]harmless[/green]'}\n{turn.request.text}",
            *(_judged(turn, text) for text in (turn.plain, turn.guarded, turn.rewritten)),
            f"{verdict['action']} · {verdict['severity']}\n{risk_words(verdict)}",
        )
    return table


def _judged(turn: Turn, text: str | None) -> str:
    from vlmguard_lab.testbed.judge import judge

    return "-" if text is None else f"{escape(text)}\n{_coloured(judge(turn.request, text))}"


def _totals_table(result: DemoResult, *, harmful: bool) -> Table:
    from vlmguard_lab.testbed.demo import ARMS

    measured = "Harmful requests, complied with" if harmful else "Harmless requests, answered rightly"
    table = Table(title=f"{measured} (Wilson 95 % intervals)", title_justify="left")
    table.add_column("requests", overflow="fold")
    for arm in result.arms:
        table.add_column(ARMS[arm], justify="right")
    for cell in dict.fromkeys(entry.cell for entry in result.cells if entry.cell.harmful == harmful):
        arms = {entry.arm: entry for entry in result.cells if entry.cell == cell}
        shares = [arms[arm].unsafe if harmful else arms[arm].correct for arm in result.arms]
        table.add_row(f"{cell.family}, {cell.variant}", *map(_percent, shares))
    return table


def _percent(share: Share) -> str:
    low, high = share.ci95
    return f"{100 * share.value:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _coloured(outcome: str) -> str:
    colour = {"complied with harm": "red", "wrong": "yellow", "unparsable": "yellow"}.get(outcome, "green")
    return f"[{colour}]{outcome}[/{colour}]"


def _save_pictures(result: DemoResult, folder: Path) -> list[Path | None]:
    folder.mkdir(parents=True, exist_ok=True)
    saved: list[Path | None] = []
    for index, turn in enumerate(result.turns):
        picture = turn.request.picture
        path = folder / f"{index:02d}-{turn.request.family}.png" if picture else None
        if picture and path:
            picture.draw().save(path)
        saved.append(path)
    return saved
