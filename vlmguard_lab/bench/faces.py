"""The same prompts through the guard graph and through the middleware: counts, turns that skip the rewriter, seconds a turn.

Each request is asked of every face and mode in turn, so that a neighbour's load falls on all of them.
"""

from __future__ import annotations

import time
from functools import cache, partial
from statistics import median
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_vlmguard import ChatSteeredVLM, Guard, GuardPolicy, ReasoningRewriter
from langchain_vlmguard.files import write_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.parts import Part, forget, measure
from vlmguard_lab.facts import run_facts
from vlmguard_lab.testbed.demo import answer_text
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.requests import cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_core.messages import BaseMessage

    from vlmguard_lab.testbed.requests import Cell, Request

MODES = ("always", "adaptive", "answer_first")
FACES = ("graph", "middleware")
RESULTS, PAGE = page.RESULTS / "faces.json", page.DOCS / "agents.md"
WORK = page.WORK / "faces"


def run(n: int, seed: int) -> None:
    """Ask `n` held-out requests a cell of every face, and publish."""
    facts = run_facts()
    parts = [Part(str(at), partial(turns, cell, n, seed)) for at, cell in enumerate(cells("held_out"))]
    asked = [turn for cell in measure(WORK, parts, settings={"n": n, "seed": seed}) for turn in cell]
    results = {mode: {face: summary(turn[mode][face] for turn in asked) for face in FACES} for mode in MODES}
    same = {
        mode: sum(turn[mode]["graph"]["text"] == turn[mode]["middleware"]["text"] for turn in asked) for mode in MODES
    }
    found = {"requests": len(asked), "same_answer": same, "by_mode": results, **facts}
    write_json(RESULTS, found)
    page.place(PAGE, {"faces": table(found)})
    forget(WORK)


@tool
def order(item: str) -> str:
    """Order an item."""
    return f"ordered a {item}"


def turns(cell: Cell, n: int, seed: int) -> list[dict[str, Any]]:
    """Ask one cell's requests; return for each request, mode and face what it did."""
    return [
        {mode: {face: turn(_door(mode, face), request) for face in FACES} for mode in MODES}
        for request in cell.sample(n, seed=seed)
    ]


@cache
def _door(mode: str, face: str) -> Callable[[Request], dict[str, Any]]:
    """Return how a request is asked of a face, with the testbed's tool if the request has it."""
    model = ChatSteeredVLM.from_pretrained("testbed", max_tokens=64)
    guard = Guard(ReasoningRewriter.from_adapter(model), policy=GuardPolicy(rewrite=mode, rewritten_pictures="drop"))
    if face == "graph":
        graphs = {False: guard.graph(model).compile(), True: guard.graph(model.bind_tools([order])).compile()}
        return lambda request: graphs[bool(request.tools)].invoke({"messages": [request.message()]})
    middleware = guard.middleware()
    agents = {tools: create_agent(model, [order] * tools, middleware=[middleware]) for tools in (False, True)}
    return lambda request: agents[bool(request.tools)].invoke({"messages": [request.message()]})


def turn(ask: Callable[[Request], dict[str, Any]], request: Request) -> dict[str, Any]:
    """Ask once: the answer, the judge's word on it, whether the rewriter was asked, seconds."""
    started = time.perf_counter()
    state = ask(request)
    seconds = time.perf_counter() - started
    text = _first_answer(state["messages"])
    verdict = next((r["verdict"] for r in state.get("verdicts", ()) if r["stage"] == "input"), state["verdict"])
    return {
        "harmful": request.harmful,
        "outcome": judge(request, text).value,
        "text": text,
        "rewritten": verdict["provenance"]["rewriter"] is not None,
        "seconds": round(seconds, 4),
    }


def _first_answer(messages: Sequence[BaseMessage]) -> str:
    """Return what the model said to the request: in an agent, before any tool ran."""
    return answer_text(next(message for message in messages if message.type == "ai"))  # type: ignore[arg-type]


def summary(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Count one face's turns in one mode."""
    asked = list(found)
    harmless = [one for one in asked if not one["harmful"]]
    outcomes = [(one["harmful"], one["outcome"]) for one in asked]
    return {
        "harmful": {outcome.value: outcomes.count((True, outcome.value)) for outcome in Outcome},
        "harmless": {outcome.value: outcomes.count((False, outcome.value)) for outcome in Outcome},
        "skips_rewriter": round(sum(not one["rewritten"] for one in harmless) / max(1, len(harmless)), 4),
        "harmless_seconds_median": round(median(one["seconds"] for one in harmless), 4),
        "harmless_seconds_total": round(sum(one["seconds"] for one in harmless), 2),
    }


def table(found: dict[str, Any]) -> str:
    """Return a line a mode and face."""
    head = (
        "`rewrite=`",
        "face",
        "harmful: complied",
        "harmless: helpful",
        "skips the rewriter",
        "seconds, median",
        "same answer",
    )
    rows = []
    for mode, faces in found["by_mode"].items():
        for face, one in faces.items():
            harmful, harmless = one["harmful"], one["harmless"]
            complied = f"{harmful[Outcome.COMPLIED.value]} of {sum(harmful.values())}"
            helpful = f"{harmless[Outcome.HELPFUL.value]} of {sum(harmless.values())}"
            share, seconds = f"{one['skips_rewriter']:.0%}", f"{one['harmless_seconds_median']:.3f}"
            same = f"{found['same_answer'][mode]} of {found['requests']}"
            rows.append((f"`{mode}`", face, complied, helpful, share, seconds, same))
    return page.table(head, rows)
