"""`vlmguard audit`: read, check and label what a guard decided, and see which thresholds it suggests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from langchain_vlmguard.audit.log import AuditLog
from langchain_vlmguard.audit.rows import Label  # noqa: TC001 - typer reads the annotations
from langchain_vlmguard.audit.tuning import FEWEST, tuned
from langchain_vlmguard.files import write_text

app = typer.Typer(help="The audit log: what a guard decided, and what follows from it.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The log, a file that AuditLog wrote.")]
Action = Annotated[str | None, typer.Option(help="Rows of this action alone: allow, rewrite, review or refuse.")]
Since = Annotated[str | None, typer.Option(help="Rows from this time on, e.g. 2026-11-28 or 2026-11-28T12:00, in UTC.")]


@app.command("list")
def rows(
    file: File,
    *,
    action: Action = None,
    stage: Annotated[str | None, typer.Option(help="Rows of this kind of check alone, e.g. input or output.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Most rows.")] = 20,
) -> None:
    """List rows, the newest first."""
    table = Table("row", "when (UTC)", "stage", "action", "risks", "hazards", "label", box=None)
    for row in AuditLog(file).rows(action=action, stage=stage, since=since, limit=limit):
        risks = " ".join(f"{name} {value:.2f}" for name, value in row.record["risks"].items())
        hazards = " ".join(dict.fromkeys(one["id"] for one in row.record["hazards"]))
        did = row.record["action"] if row.record["enforced"] else f"{row.record['action']} (not enforced)"
        table.add_row(str(row.number), row.at[:19], row.record["stage"], did, risks, hazards, row.label or "")
    Console().print(table)


@app.command()
def export(
    file: File,
    out: Annotated[Path, typer.Argument(help="File of rows as JSON, one a line, the oldest first.")],
    *,
    action: Action = None,
    since: Since = None,
) -> None:
    """Write rows to a file."""
    found = [vars(row) for row in AuditLog(file).rows(action=action, since=since)]
    write_text(out, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in reversed(found)))
    typer.echo(f"{len(found)} rows in {out}")


@app.command()
def verify(
    file: File, *, head: Annotated[str | None, typer.Option(help="The last row's hash, as it was said before.")] = None
) -> None:
    """Say whether every row is what was written, and the last row's hash."""
    log = AuditLog(file)
    last = log.verify()
    if head is not None and head != last and not any(row.hash == head for row in log.rows()):
        msg = f"no row of {file} has the hash {head}: the log was written anew, or that row is older than what it keeps"
        raise typer.BadParameter(msg)
    typer.echo(f"every row is what was written; the last one's hash is {last}")


@app.command()
def label(
    file: File,
    number: Annotated[int, typer.Argument(help="The row's number.")],
    word: Annotated[Label, typer.Argument(help="What the turn was.")],
) -> None:
    """Say of a row whether its turn was fine or harmful; `vlmguard audit tune` learns from it."""
    AuditLog(file).label(number, word)


@app.command()
def forget(file: File, days: Annotated[float, typer.Option(min=0, help="Rows older than this are deleted.")]) -> None:
    """Delete old rows; that they are gone stays in the log."""
    typer.echo(f"{AuditLog(file).forget(days)} rows deleted")


@app.command()
def tune(
    file: File,
    *,
    false_alarms: Annotated[
        float, typer.Option(min=0, max=1, help="Share of harmless turns that may be acted on.")
    ] = 0.02,
    since: Since = None,
) -> None:
    """Say how often each check acts and is right, and which threshold a wanted rate of false alarms suggests."""
    console = Console()
    table = Table(
        "risk", "rows", "acts from", "acts on", "precision", "recall", "suggested from", "would act on", box=None
    )
    for one in tuned(AuditLog(file).rows(since=since), false_alarms=false_alarms):
        found = one.suggestion
        suggested = "-" if found is None else f"{found.threshold:.3f} [{found.low:.3f}, {found.high:.3f}]"
        would = "-" if one.would_act is None else str(one.would_act)
        now = (str(one.rows), f"{one.threshold:g}", str(one.acts), str(one.precision), str(one.recall))
        table.add_row(one.risk, *now, suggested, would)
    console.print(table)
    console.print(
        f"A threshold is suggested from {FEWEST} rows labelled fine on; the policy's fields are unsafe_at, and gate_unsafe_at "
        "for the gate. Nothing was changed.",
        soft_wrap=True,
    )
