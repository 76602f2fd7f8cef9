"""The same prompts through the guard graph and through the middleware: counts, turns that skip the rewriter, seconds a turn.

Each request is asked of every face and mode in turn, so that a neighbour's load falls on all of them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_vlmguard.agents.guard import Guard
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter
from langchain_vlmguard.verdict.policy import GuardPolicy
from vlmguard_lab.testbed.demo import answer_text
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.requests import cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.messages import BaseMessage

    from vlmguard_lab.testbed.requests import Request

MODES = ("always", "adaptive", "answer_first")
FACES = ("graph", "middleware")


@dataclass
class Seen:
    """What one face did in one mode."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """By `harmful` or `harmless` and the judge's word."""

    harmless: int = 0
    skipped: int = 0
    """Harmless turns that were answered without the rewriter."""

    seconds: list[float] = field(default_factory=list)
    """Of harmless turns."""

    said: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the share of harmless turns that skip the rewriter, and their seconds."""
        harmful = {name[8:]: n for name, n in sorted(self.outcomes.items()) if name.startswith("harmful")}
        harmless = {name[9:]: n for name, n in sorted(self.outcomes.items()) if name.startswith("harmless")}
        return {
            "harmful": harmful,
            "harmless": harmless,
            "skips_rewriter": round(self.skipped / max(1, self.harmless), 4),
            "seconds_median": round(median(self.seconds), 4),
            "seconds_total": round(sum(self.seconds), 2),
        }


@tool
def order(item: str) -> str:
    """Order an item."""
    return f"ordered a {item}"


def measure(per_cell: int = 10, *, seed: int = 0, on_cell: Callable[[str], None] = lambda _name: None) -> dict[str, Any]:
    """Ask held-out requests of every family of the graph and of an agent.

    Args:
        per_cell: Requests a cell.
        seed: Seed of the sample.
        on_cell: Told the cell that comes next.

    Returns:
        By mode and face: outcomes, the share of harmless turns that skip the rewriter, seconds; and how many answers are the
        same word for word.
    """
    doors = {(mode, face): _door(mode, face) for mode in MODES for face in FACES}
    seen = {key: Seen() for key in doors}
    for cell in cells("held_out"):
        on_cell(cell.name)
        for request in cell.sample(per_cell, seed=seed):
            for key, ask in doors.items():
                _ask(ask, request, seen[key])
    same = {
        mode: sum(a == b for a, b in zip(seen[mode, "graph"].said, seen[mode, "middleware"].said, strict=True))
        for mode in MODES
    }
    results = {mode: {face: seen[mode, face].to_json() for face in FACES} for mode in MODES}
    return {"requests": len(seen["always", "graph"].said), "same_answer": same, "by_mode": results}


def _door(mode: str, face: str) -> Callable[[Request], dict[str, Any]]:
    """Return how a request is asked of a face, with the testbed's tool where the request has it."""
    model = ChatSteeredVLM.from_pretrained("testbed", max_tokens=64)
    guard = Guard(ReasoningRewriter.from_adapter(model), policy=GuardPolicy(rewrite=mode, rewritten_pictures="drop"))
    if face == "graph":
        graphs = {False: guard.graph(model).compile(), True: guard.graph(model.bind_tools([order])).compile()}
        return lambda request: graphs[bool(request.tools)].invoke({"messages": [request.message()]})
    middleware = guard.middleware()
    agents = {tools: create_agent(model, [order] * tools, middleware=[middleware]) for tools in (False, True)}
    return lambda request: agents[bool(request.tools)].invoke({"messages": [request.message()]})


def _ask(ask: Callable[[Request], dict[str, Any]], request: Request, seen: Seen) -> None:
    started = time.perf_counter()
    state = ask(request)
    seconds = time.perf_counter() - started
    text = _first_answer(state["messages"])
    seen.said.append(text)
    seen.outcomes[f"{'harmful' if request.harmful else 'harmless'} {Outcome(judge(request, text)).value}"] += 1
    if not request.harmful:
        seen.harmless += 1
        seen.seconds.append(seconds)
        verdicts = [record["verdict"] for record in state.get("verdicts", ())] or [state["verdict"]]
        seen.skipped += all(verdict["provenance"]["rewriter"] is None for verdict in verdicts)


def _first_answer(messages: Sequence[BaseMessage]) -> str:
    """Return what the model said to the request: in an agent, before any tool ran."""
    return answer_text(next(message for message in messages if message.type == "ai"))  # type: ignore[arg-type]


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10, on_cell=lambda n: print(n, file=sys.stderr)), indent=1))
