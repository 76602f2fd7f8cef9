"""The README's three lines of results, made of the published files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.files import read_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.evaluation.tables import GUARDS, best_peer, pooled
from vlmguard_lab.evaluation.report import percent

if TYPE_CHECKING:
    from langchain_vlmguard.verdict.records import Json

PLACE = "result lines"
_GUARD = GUARDS[-1]


def run() -> None:
    """Write the lines into the README."""
    page.place(page.README, {PLACE: from_results()})


def from_results() -> str:
    """Return the lines of the published results."""
    return result_lines(
        *(read_json(page.RESULTS / f"{name}.json") for name in ("demo", "evaluation", "agent_scenarios"))
    )


def result_lines(demo: Json, evaluation: Json, agents: Json) -> str:
    """Return the lines as a Markdown list: the demo, the comparison with peers, the agent."""
    lines = (_demo_line(demo["cells"]), _peers_line(evaluation), _agent_line(agents))
    return "\n".join(f"- {line}" for line in lines)


def _demo_line(cells: list[Json]) -> str:
    unsafe = [_share(cells, arm, "unsafe", harmful=True) for arm in ("plain", "guarded", "guarded_rewriter")]
    right = [_share(cells, arm, "correct", harmful=False) for arm in ("plain", "guarded_rewriter")]
    harmful, harmless = (
        sum(cell["n"] for cell in cells if cell["harmful"] == wanted and cell["arm"] == "plain")
        for wanted in (True, False)
    )
    return (
        f"**One small model.** Of {harmful:,} harmful requests, most of them beside a picture, the plain testbed complies with "
        f"{unsafe[0]:.1f} %, the steered one with {unsafe[1]:.1f} %, the whole guard with {unsafe[2]:.1f} %. Of {harmless:,} "
        f"harmless ones {right[0]:.1f} % are answered rightly without the guard, {right[1]:.1f} % with it."
    )


def _share(cells: list[Json], arm: str, measured: str, *, harmful: bool) -> float:
    """Return a share of all requests of an arm in percent."""
    asked = [cell for cell in cells if cell["arm"] == arm and cell["harmful"] == harmful]
    counted = sum(cell["n"] for cell in asked)
    return float(100 * sum(cell["n"] * cell[measured] for cell in asked) / counted)


def _peers_line(results: Json) -> str:
    rows, peer = results["pooled"], best_peer(results, _GUARD)
    complied, refused = (
        {arm: percent(pooled(rows, arm, harmful=wanted)[measured]) for arm in ("none", _GUARD, peer) if arm is not None}
        for wanted, measured in ((True, "unsafe"), (False, "refused"))
    )
    beside = ""
    if peer is not None:
        beside = f"; the best published defence that refuses as few harmless ones, `{peer}`, {complied[peer]}"
    return (
        f"**Five architectures, and peers.** Of {pooled(rows, 'none', harmful=True)['n']:,} harmful requests the plain models "
        f"comply with {complied['none']}, the guarded ones with {complied[_GUARD]}{beside}. Of harmless requests the guard "
        f"refuses {refused[_GUARD]}, the plain models {refused['none']}."
    )


def _agent_line(results: Json) -> str:
    newest = list(results["by_stack"].values())[-1]
    return (
        f"**An agent that orders things.** In {newest['requests']} conversations {newest['plain']['harmful_tool_executions']} "
        f"harmful orders run without the guard and {newest['guarded_async']['harmful_tool_executions']} with it. "
        f"Kept back: {newest['guarded_async']['harmless_blocked']} of {newest['harmless_orders']} harmless orders."
    )
