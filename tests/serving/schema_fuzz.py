"""Requests that fit the routes' OpenAPI schema, and such that do not, sent to a server: `schemathesis` makes them up."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import requests
import schemathesis
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis.generation import GenerationMode

from langchain_vlmguard.files import write_json
from tests.serving.running import running
from tests.serving.upstream import Upstream

SECONDS = 5.0
"""Most that any answer may take."""

SAID = {"message", "type", "param", "code"}
QUIET = {"deadline": None, "suppress_health_check": [*HealthCheck], "database": None, "phases": [Phase.generate]}


@dataclass
class Found:
    """How many requests were sent, and what was wrong with their answers."""

    requests: int = 0
    failures: list = field(default_factory=list)
    statuses: set = field(default_factory=set)


def fuzz_schema(app, url, examples, seed=0):
    """Send so many requests of each kind to every route."""
    found = Found()
    schema = schemathesis.openapi.from_dict(app.openapi())
    for wrapped in schema.get_all_operations():
        operation = wrapped.ok()
        kinds = [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * (operation.method.upper() == "POST")
        for kind in kinds:
            _fuzz(operation, kind, url, examples, seed, found)
    return found


def _fuzz(operation, kind, url, examples, seed, found):
    @seeded(seed)
    @settings(max_examples=examples, **QUIET)
    @given(operation.as_strategy(generation_mode=kind))
    def ask(case):
        if isinstance(case.body, dict):
            case.body.pop("model", None)  # hardly any name is a model's
        started = time.monotonic()
        try:
            answer = case.call(base_url=url, timeout=SECONDS)
        except requests.exceptions.Timeout:
            found.failures.append((operation.label, "no answer in time"))
            return
        except (requests.exceptions.InvalidHeader, UnicodeEncodeError):
            return  # nothing that can be sent
        found.requests += 1
        found.statuses.add(answer.status_code)
        wrong = _wrong(answer, time.monotonic() - started)
        if wrong:
            found.failures.append((operation.label, answer.status_code, wrong))

    ask()


def _wrong(answer, seconds):
    """What is wrong with an answer, None if nothing is."""
    headers = {name.lower(): values[0] for name, values in answer.headers.items()}
    status, kind = answer.status_code, headers.get("content-type", "").partition(";")[0]
    if status >= 500 and status != 503:
        return "a server error"
    if seconds > SECONDS:
        return "too slow"
    if kind not in ("application/json", "text/event-stream", "text/plain"):
        return f"an answer of type {kind}"
    if status >= 400:
        said = answer.json() if kind == "application/json" else {}
        error = said.get("error")
        if not isinstance(error, dict) or set(error) != SAID or not isinstance(error["code"], str):
            return "another error shape"
        if status in (429, 503) and not 1 <= int(headers.get("retry-after", 0)) <= 60:
            return "a shortage that does not say when to come back"
    return None


def main(
    examples: Annotated[int, typer.Option(help="Requests of each kind a route.")] = 100,
    output: Annotated[Path | None, typer.Option("--json", help="Write here what was counted.")] = None,
) -> None:
    """Send such requests to a server with stub rules, and count."""
    with tempfile.TemporaryDirectory() as folder, Upstream() as up, running(up, Path(folder)) as server:
        found = fuzz_schema(server.app, f"http://127.0.0.1:{server.port}", examples)
    told = {"requests": found.requests, "failures": len(found.failures)}
    typer.echo(f"{told}; {found.failures[:5]}")
    if output:
        write_json(output, told)


if __name__ == "__main__":
    typer.run(main)
