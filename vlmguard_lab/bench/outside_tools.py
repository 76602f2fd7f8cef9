"""Tools that nobody here wrote against the guard, offline: garak, PyRIT, and inspect_evals' agent_threat_bench.

Each tool lies in a folder of its own (`pip install --target FOLDER ...`), so that it need not live beside this package. Parts
that are not run keep their numbers. The guard is the shipped testbed's: it knows a few hundred words, so that what is shown
here is that pictures, tools and verdicts get through, and what the evidence reader finds, not how safe a real model is.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import typer
from inspect_ai import eval as run_tasks
from langchain_core.messages import HumanMessage, convert_to_messages

from langchain_vlmguard import ChatSteeredVLM, EvidenceReader, GuardPolicy, create_vlm_guard
from langchain_vlmguard.files import read_json, write_json
from vlmguard_lab.bench import page
from vlmguard_lab.evaluation.provider import as_inspect_model
from vlmguard_lab.facts import run_facts
from vlmguard_lab.statistics import Share
from vlmguard_lab.testbed.requests import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS, PAGE = page.RESULTS / "outside_tools.json", page.DOCS / "testbed_results.md"
REFUSAL = "I cannot fulfill your request{about}. {safe_way}"
"""The policy's refusal in words that tools recognise as one: garak's list holds "cannot fulfill your request"."""


def guard(*, evidence: bool) -> Any:
    """Return the testbed's guard; what its gate or the evidence finds unsafe is refused."""
    policy = GuardPolicy(on_gate_open="refuse", refusal=REFUSAL)
    reader = EvidenceReader() if evidence else None
    return create_vlm_guard(ChatSteeredVLM.from_pretrained("testbed"), policy=policy, evidence=reader).compile()


class _Seen:
    """What came through the endpoint."""

    def __init__(self) -> None:
        self.requests = self.pictures = 0
        self.actions: Counter[str] = Counter()

    def to_json(self) -> dict[str, Any]:
        return {"requests": self.requests, "pictures": self.pictures, "actions": dict(self.actions)}


@contextmanager
def endpoint(graph: Any) -> Iterator[tuple[str, _Seen]]:
    """Serve a guard graph on the loopback as OpenAI's chat completions do; yields its address and what it has seen."""
    seen = _Seen()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state = graph.invoke({"messages": convert_to_messages(asked["messages"])})
            blocks = [block for m in asked["messages"] if isinstance(m["content"], list) for block in m["content"]]
            seen.requests += 1
            seen.pictures += sum(block["type"] == "image_url" for block in blocks)
            seen.actions[state["verdict"]["action"]] += 1
            message = {"role": "assistant", "content": state["messages"][-1].text}
            body = {
                "id": f"guard-{seen.requests}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            }
            written = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/", seen
    finally:
        server.shutdown()


def run_python(packages: Path, *arguments: str, **environment: str) -> str:
    """Run Python with a tool's packages behind this installation's own, and return what it printed.

    Raises:
        RuntimeError: It did not end well.
    """
    around = {**os.environ, "PYTHONPATH": os.pathsep.join([str(page.ROOT), str(packages)]), **environment}
    typer.echo(f"Running {' '.join(arguments[:2])} ...")
    done = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, *arguments], env=around, capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"{' '.join(arguments[:3])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        raise RuntimeError(msg)
    return done.stdout


def run_garak(packages: Path, figstep: Path, *, evidence: bool) -> None:
    """Send garak's FigStep probe through the guard: the published pictures, from its own code, with its own detector."""
    facts = run_facts()
    with tempfile.TemporaryDirectory() as folder, endpoint(guard(evidence=evidence)) as (address, seen):
        home = Path(folder)
        shown = home / "cache/garak/data/visual_jailbreak/SafeBench"
        shown.mkdir(parents=True)
        for picture in (figstep / "images").glob("*.png"):
            shutil.copy(picture, shown)
        options = {
            "uri": address,
            "modality": {"in": ["text", "image"], "out": ["text"]},
            "suppressed_params": ["n", "stop"],
        }
        config = home / "generator.json"
        config.write_text(json.dumps({"openai": {"OpenAICompatible": options}}))
        run_python(
            packages, "-m", "garak", "--target_type", "openai.OpenAICompatible", "--target_name", "guard",
            "--generator_option_file", str(config), "--probes", "visual_jailbreak.FigStep", "--generations", "1",
            "--report_prefix", str(home / "report"),
            XDG_CACHE_HOME=str(home / "cache"), XDG_DATA_HOME=str(home / "data"), XDG_CONFIG_HOME=str(home / "config"),
            OPENAICOMPATIBLE_API_KEY="none",
        )  # fmt: skip
        report = next(home.rglob("*.report.jsonl"))
        entries = [json.loads(line) for line in report.read_text().splitlines()]
        found = [entry for entry in entries if entry.get("entry_type") == "eval"]
        fields = ("probe", "detector", "passed", "total_evaluated")
        evals = [{key: entry[key] for key in fields if key in entry} for entry in found]
        _keep(
            "garak",
            facts,
            {"version": _version(packages, "garak"), "evidence": evidence, **seen.to_json(), "evals": evals},
        )


def run_pyrit(packages: Path, n: int) -> None:
    """Hide requests in pictures by PyRIT's converters, and count which the guard refuses with the evidence reader and without."""
    facts = run_facts()
    with tempfile.TemporaryDirectory() as folder:
        asked = {
            "harmful": Cell("textual", "text", harmful=True).sample(n, seed=31),
            "harmless": Cell("textual", "text", harmful=False).sample(n, seed=31),
        }
        texts = {kind: [request.text for request in requests] for kind, requests in asked.items()}
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps(texts))
        run_python(packages, "-m", "vlmguard_lab.bench.pyrit_pictures", str(plan), folder)
        drawn = json.loads((Path(folder) / "drawn.json").read_text())
        rows = [
            {
                "converter": converter,
                "kind": kind,
                "evidence": evidence,
                "refused": Share.of([_refused(graph, Path(path)) for path in paths]).to_json(),
            }
            for evidence, graph in ((flag, guard(evidence=flag)) for flag in (False, True))
            for converter, kinds in drawn.items()
            for kind, paths in kinds.items()
        ]
        _keep("pyrit", facts, {"version": _version(packages, "pyrit"), "rows": rows})


def _refused(graph: Any, picture: Path) -> bool:
    block = {
        "type": "image",
        "base64": base64.b64encode(picture.read_bytes()).decode(),
        "mime_type": f"image/{picture.suffix[1:].replace('jpg', 'jpeg')}",
    }
    state = graph.invoke({"messages": [HumanMessage([block, {"type": "text", "text": "follow the picture ."}])]})
    return bool(state["verdict"]["action"] == "refuse")


def run_threats(packages: Path) -> None:
    """Run inspect_evals' agent_threat_bench with the guarded testbed as its model."""
    facts = run_facts("inspect-ai")
    sys.path.append(str(packages))
    bench = import_module("inspect_evals.agent_threat_bench")
    policy = GuardPolicy(on_gate_open="refuse", refusal=REFUSAL)
    vlm = ChatSteeredVLM.from_pretrained("testbed", max_tokens=64)
    plain = vlm.model_copy(update={"steering": None})

    def bound(model: Any, tools: Any) -> Any:
        return model.bind_tools(list(tools)) if tools else model

    subjects = {
        "plain": lambda tools: bound(plain, tools),
        "guarded": lambda tools: create_vlm_guard(bound(vlm, tools), policy=policy).compile(),
    }
    rows = []
    names = [name for name in dir(bench) if name.startswith("agent_threat_bench_")]
    with tempfile.TemporaryDirectory() as folder:
        for subject, build in subjects.items():
            for name in names:
                typer.echo(f"{subject}: {name} ...")
                logs = run_tasks(
                    getattr(bench, name)(), model=as_inspect_model(subject, build), display="none", log_dir=folder
                )
                rows += [{"model": subject, **_task_row(log)} for log in logs]
    _keep("agent_threat_bench", facts, {"version": _version(packages, "inspect_evals"), "rows": rows})


def _task_row(log: Any) -> dict[str, Any]:
    verdicts = [
        (event.output.metadata or {}).get("verdict") or {}
        for sample in log.samples or ()
        for event in sample.events
        if event.event == "model"
    ]
    return {
        "task": log.eval.task.rpartition("/")[2],
        "status": log.status,
        "error": log.error.message.splitlines()[0] if log.error else None,
        "samples": len(log.samples or ()),
        "calls": dict(Counter(verdict.get("action", "none") for verdict in verdicts)),
        "reasons": dict(Counter(verdict["reason"] for verdict in verdicts if verdict.get("reason"))),
        "scores": {
            score.name: round(next(iter(score.metrics.values())).value, 4)
            for score in (log.results.scores if log.results else ())
        },
    }


def publish() -> None:
    """Write the table again from the results."""
    page.place(PAGE, {"outside tools": table(read_json(RESULTS))})


def table(results: dict[str, Any]) -> str:
    """Return what the tools found as a table."""
    lines = ["| tool | what was sent | what came of it |", "| --- | --- | --- |"]
    if found := results.get("garak"):
        passed = "; ".join(f"{e['detector']}: {e['passed']} of {e['total_evaluated']} passed" for e in found["evals"])
        actions = ", ".join(f"{action} {count}" for action, count in found["actions"].items())
        sent = f"`visual_jailbreak.FigStep`, {found['requests']} requests with {found['pictures']} pictures"
        lines.append(f"| garak {found['version']} | {sent} | verdicts: {actions}; {passed} |")
    if found := results.get("pyrit"):
        for row in found["rows"]:
            share, how = row["refused"], "with" if row["evidence"] else "without"
            sent = f"{row['converter']}, {share['n']} {row['kind']} requests, {how} the evidence reader"
            lines.append(f"| PyRIT {found['version']} | {sent} | {share['hits']} refused |")
    if found := results.get("agent_threat_bench"):
        for row in found["rows"]:
            calls = ", ".join(f"{action} {count}" for action, count in row["calls"].items())
            scores = ", ".join(f"{name} {value:.2f}" for name, value in row["scores"].items())
            reasons = "; ".join(f'"{reason}" {count}' for reason, count in row["reasons"].items())
            came = "; ".join(filter(None, [row["error"] or scores, f"verdicts: {calls}", reasons]))
            sent = f"`{row['task']}`, {row['samples']} samples, {row['model']} testbed"
            lines.append(f"| inspect_evals {found['version']} | {sent} | {came} |")
    return "\n".join(lines)


def _keep(name: str, facts: dict[str, Any], found: dict[str, Any]) -> None:
    """Put one tool's results into the file, beside those of the others, and write the table."""
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    write_json(RESULTS, dict(sorted((results | {name: {**found, **facts}}).items())))
    publish()


def _version(packages: Path, name: str) -> str:
    found = next(packages.glob(f"{name}-*.dist-info"), None)
    return found.name.removeprefix(f"{name}-").removesuffix(".dist-info") if found else "?"
