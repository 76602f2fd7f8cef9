"""Everything that is measured of the endpoint, part by part, in one file of results."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import read_json, write_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.choices import ServingPart
from vlmguard_lab.bench.endpoint.load import faults, load
from vlmguard_lab.bench.endpoint.proxy import loop_delay, proxy
from vlmguard_lab.bench.endpoint.soak import soak
from vlmguard_lab.bench.parts import Part, forget, measure
from vlmguard_lab.facts import run_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

WORK = page.WORK / "serving"
PLAYED = page.WORK / "endpoint-answers"
"""Random answers that were played; apart, for they go on whatever else is measured."""

SCHEMA_EXAMPLES = 100


def run(
    only: Sequence[ServingPart], callers: int, load_minutes: float, soak_minutes: float, examples: int, output: Path
) -> None:
    """Measure some parts, all by default, keep what is known of the others, and write the file.

    Args:
        only: What to measure; everything if empty.
        callers: Callers of load, faults and soak.
        load_minutes: Length of the load.
        soak_minutes: Length of the soak.
        examples: Random answers and requests of the property.
        output: The results.

    Raises:
        EvaluationError: A part could not be measured.
    """
    facts = run_facts("fastapi", "httpx", "langgraph", "uvicorn", "schemathesis")
    known: dict[str, Callable[[], Any]] = {
        ServingPart.proxy: partial(proxy, WORK / "proxy"),
        ServingPart.load: partial(load, WORK / "load", callers, load_minutes),
        ServingPart.faults: partial(faults, WORK / "faults", callers),
        ServingPart.cases: cases,
        ServingPart.property: partial(played, examples),
        ServingPart.schema_fuzz: schema_fuzz,
        ServingPart.soak: partial(soak, WORK / "soak", callers, soak_minutes),
    }
    chosen = [str(one) for one in only or known]
    settings = {"callers": callers, "load_minutes": load_minutes, "soak_minutes": soak_minutes, "examples": examples}
    values = measure(WORK, [Part(name, known[name]) for name in chosen], settings=settings)
    found = read_json(output) if output.is_file() else {}
    for name, value in zip(chosen, values, strict=True):
        if name == ServingPart.cases:
            found["cases"] = {**found.get("cases", {}), "endpoint": value}
        else:
            found[name] = value
    when = {key: facts[key] for key in ("date", "machine")}
    measured = {**found.get("measured", {}), **dict.fromkeys(chosen, when)}
    found |= {"measured": measured, "machine": facts["machine"], "versions": facts["versions"]}
    if ServingPart.proxy in chosen:
        found["wakes_late_ms"] = loop_delay()
    write_json(output, found)
    forget(WORK)
    if ServingPart.property in chosen:
        forget(PLAYED)


def cases() -> dict[str, Any]:
    """Run the tests of every rule and count the rules that hold."""
    return _told("tests.serving.cases")


def schema_fuzz() -> dict[str, Any]:
    """Send requests that the routes' schema suggests, and count what is wrong with their answers."""
    return _told("tests.serving.schema_fuzz", "--examples", str(SCHEMA_EXAMPLES))


def played(examples: int) -> dict[str, Any]:
    """Play random answers and requests; goes on where a stopped run was."""
    PLAYED.mkdir(parents=True, exist_ok=True)
    log = PLAYED / "log.txt"
    with log.open("ab") as written:
        command = [sys.executable, "-m", "tests.fuzz_endpoint", str(examples), str(PLAYED)]
        code = subprocess.run(command, cwd=page.ROOT, stdout=written, stderr=written, check=False).returncode  # noqa: S603
    seen = read_json(PLAYED / "seen.json") if (PLAYED / "seen.json").is_file() else {"cases": 0}
    if code < 0:
        msg = f"the random answers were stopped after {seen['cases']}: run this again to go on"
        raise EvaluationError(msg)
    return {"examples": seen["cases"], "finds": int(code != 0)}


def _told(module: str, *options: str) -> dict[str, Any]:
    """Run a module of the tests and return what it counted."""
    told = WORK / f"{module.rpartition('.')[2]}.told"
    told.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, "--json", str(told), *options]
    subprocess.run(command, cwd=page.ROOT, check=False)  # noqa: S603
    if not told.is_file():
        msg = f"{module} counted nothing"
        raise EvaluationError(msg)
    found: dict[str, Any] = read_json(told)
    return found
