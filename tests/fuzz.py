"""Fuzz the reading of messages and picture files, and hunt for secrets, guided by coverage (`make fuzz`).

    python -m tests.fuzz --cases 1000000 --json docs/results/fuzz.json

Atheris (libFuzzer) keeps what reaches new code under `--work` and builds on it. A case fails on an exception that is not
ours, on anything unread that would reach a model, after 5 s of computing (or a minute by the clock), or beyond 512 MB; its
input is kept and named. PDFs are made by number (tests/pdf_hunt.py), since their reader is native code. A case of the hunt
for secrets runs a whole agent (tests/secret_hunt.py), and fails where a secret in something that was blocked can be found. A
case of the endpoint is a random answer or request that goes through the server (tests/fuzz_endpoint.py), and fails where
something that was judged bad gets out. A stopped run goes on where it was.
"""

import json
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from langchain_vlmguard.files import read_json, write_json
from vlmguard_lab.bench import page
from vlmguard_lab.facts import run_facts

RESULTS = page.RESULTS / "fuzz.json"
TARGETS = ("messages", "files")
PDFS, HUNT, ENDPOINT = "pdfs", "secrets", "endpoint"
Target = StrEnum("Target", [*TARGETS, PDFS, HUNT, ENDPOINT])
SECONDS, MEGABYTES = 5, 512


def fuzz(target, cases, folder, progress):
    """Run one target in a process of its own until it has been through so many cases; raise with what broke it."""
    folder.mkdir(parents=True, exist_ok=True)
    task = progress.add_task(target, total=cases)
    program = {PDFS: ["tests.pdf_hunt"], ENDPOINT: ["tests.fuzz_endpoint"]}.get(target, ["tests.fuzz_targets", target])
    arguments = [sys.executable, "-W", "ignore", "-m", *program, str(cases), str(folder)]
    with (folder / "log.txt").open("w") as log, subprocess.Popen(arguments, stderr=log, stdout=log) as running:  # noqa: S603
        while running.poll() is None:
            time.sleep(0.2)
            progress.update(task, completed=seen_in(folder)["cases"])
    seen = seen_in(folder)
    if running.returncode:
        kept = ", ".join(str(path) for kind in ("crash", "timeout", "oom") for path in folder.glob(f"{kind}-*"))
        msg = f"{target} broke after {seen['cases']} cases on {kept or 'no input'}; {folder / 'log.txt'} says how"
        raise AssertionError(msg)
    return seen


def seen_in(folder):
    """Return what a target has been through in a folder: cases, those with a picture, ms of the slowest, MB at the most."""
    path = folder / "seen.json"
    return json.loads(path.read_text()) if path.exists() else {"cases": 0, "pictures": 0, "slowest_ms": 0, "peak_mb": 0}


def peak_mb():
    """Return this program's own peak; what getrusage says, and libFuzzer asks, counts the process that started it too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def table(found):
    """Return what was seen as a Markdown table."""
    lines = [
        "| fuzzed | cases | with a picture read, or something blocked | slowest | memory at the most | when |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in (name for name in Target if name in found):
        seen = found[name]
        counted = f"{seen['cases']:,} | {seen['pictures']:,} | {seen['slowest_ms']} ms | {seen['peak_mb']} MB"
        lines += [f"| {name} | {counted} | {seen['date']} |"]
    return "\n".join(lines)


def main(
    cases: Annotated[int, typer.Option(help="Cases in all, shared by the targets.")] = 1_000_000,
    pdfs: Annotated[int, typer.Option(help="PDFs, some twenty minutes.")] = 20_000,
    secrets: Annotated[int, typer.Option(help="Cases of the hunt for secrets, an hour and a half.")] = 100_000,
    answers: Annotated[int, typer.Option(help="Cases of the endpoint, an hour.")] = 100_000,
    work: Annotated[Path, typer.Option(help="Inputs found so far; a stopped run goes on from here.")] = Path(
        "build/fuzz"
    ),
    output: Annotated[Path | None, typer.Option("--json", help="Write here what was seen.")] = None,
    only: Annotated[list[Target] | None, typer.Option(help="Run this target alone; the others' rows are kept.")] = None,
) -> None:
    """Fuzz and write what was seen."""
    facts = run_facts("atheris", "pillow")
    found = read_json(output) if output and output.is_file() else {}
    wanted = dict.fromkeys(TARGETS, cases // len(TARGETS)) | {PDFS: pdfs, HUNT: secrets, ENDPOINT: answers}
    with Progress() as progress:
        for name in map(str, only or wanted):
            seen = fuzz(name, wanted[name], work / name, progress)
            found[name] = seen | {"date": facts["date"], "machine": facts["machine"]}
    found = {name: found[name] for name in wanted if name in found}
    found |= {"limits": {"seconds": SECONDS, "mb": MEGABYTES}, "versions": facts["versions"]}
    if output:
        write_json(output, found)
    if output and output.resolve() == RESULTS:
        page.place(page.DOCS / "content.md", {"fuzz": table(found)})
    typer.echo(table(found))


if __name__ == "__main__":
    typer.run(main)
