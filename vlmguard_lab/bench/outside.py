"""`vlmguard-bench outside-tools`: its subcommands, one a tool."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vlmguard_lab.bench.checkout import CheckoutCommand

app = typer.Typer(
    help="Run tools that nobody here wrote against the guard, offline: garak, PyRIT, agent_threat_bench. They take minutes each "
    "and write docs/results/outside_tools.json and the table in docs/testbed_results.md.",
    no_args_is_help=True,
)
in_checkout = partial(app.command, cls=CheckoutCommand)

Packages = Annotated[
    Path, typer.Option(help="Folder of `pip install --target FOLDER TOOL`.", exists=True, file_okay=False)
]


@in_checkout()
def garak(
    packages: Packages,
    figstep: Annotated[Path, typer.Option(help="FigStep's folder, with images/.", exists=True)],
    *,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Read the words in the pictures (seconds each).")
    ] = False,
) -> None:
    """Send garak's FigStep probe through the guard: the published pictures, judged by its own detector.

    Takes minutes, half an hour with --evidence. Writes "garak" in docs/results/outside_tools.json and the table.
    """
    from vlmguard_lab.bench import outside_tools

    outside_tools.run_garak(packages, figstep, evidence=evidence)


@in_checkout()
def pyrit(packages: Packages, n: Annotated[int, typer.Option(min=1, help="Requests of each kind.")] = 20) -> None:
    """Hide requests in pictures by PyRIT's converters, and count which the guard refuses, with evidence and without.

    Takes about ten minutes. Writes "pyrit" in docs/results/outside_tools.json and the table.
    """
    from vlmguard_lab.bench import outside_tools

    outside_tools.run_pyrit(packages, n)


@in_checkout()
def threats(packages: Packages) -> None:
    """Run inspect_evals' agent_threat_bench with the plain and the guarded testbed as its model.

    Takes minutes. Writes "agent_threat_bench" in docs/results/outside_tools.json and the table.
    """
    from vlmguard_lab.bench import outside_tools

    outside_tools.run_threats(packages)


@in_checkout()
def publish() -> None:
    """Write the table in docs/testbed_results.md again from the results. Takes seconds."""
    from vlmguard_lab.bench import outside_tools

    outside_tools.publish()
