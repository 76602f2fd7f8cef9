"""What adaptive rewriting clears without the rewriter, on held-out requests, and how the cleared ones are answered.

python vlmguard_lab/bench/screening.py    # to docs/results/screening.json and the table in docs/rewriting.md
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from langchain_vlmguard import ChatSteeredVLM, GuardPolicy, ReasoningRewriter, create_vlm_guard
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.requests import Settings
from langchain_vlmguard.steering.screening import Screening
from vlmguard_lab.bench.evaluation_page import place
from vlmguard_lab.testbed.checkpoint import load_testbed
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.measure import Share
from vlmguard_lab.testbed.release import versions
from vlmguard_lab.testbed.requests import ORDER_TOOL, cells

if TYPE_CHECKING:
    from langchain_vlmguard.models.loading import LoadedVLM
    from vlmguard_lab.testbed.requests import Cell, Request

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "screening.json", ROOT / "docs" / "rewriting.md"
POLICY = GuardPolicy()


def measure(loaded: LoadedVLM, cell: Cell, n: int, seed: int) -> dict[str, Any]:
    """Screen one cell's requests and judge the answers of those that are cleared; the others stop at their first token."""
    asked = cell.sample(n, seed=seed)
    rows = [to_chat_row([r.message()], loaded.processor, tools=[ORDER_TOOL] if r.tools else None) for r in asked]
    if loaded.recommended is None:
        msg = "the testbed carries no directions"
        raise ValueError(msg)
    screening: Any = Screening(loaded.recommended, loaded.probe)
    settings = Settings(max_tokens=64, until_gate=True, markers=asked[0].tools)
    answers = loaded.engine.generate(rows, settings, screening, batch_size=50)
    cleared = [_is_cleared(answer.steering) for answer in answers]
    passed = [(r, a.text) for r, a, clear in zip(asked, answers, cleared, strict=True) if clear]
    outcomes = [judge(request, text) for request, text in passed]
    harm = [request for (request, _), outcome in zip(passed, outcomes, strict=True) if outcome is Outcome.COMPLIED]
    return {
        "family": cell.family,
        "variant": cell.variant,
        "harmful": cell.harmful,
        "n": len(asked),
        "cleared": sum(cleared),
        "complied": len(harm),
        "complied_behind_rewriter": sum(map(partial(complies_behind_rewriter, loaded), harm)),
        "right": outcomes.count(Outcome.SAFE_ADVICE if cell.harmful else Outcome.HELPFUL),
    }


def complies_behind_rewriter(loaded: LoadedVLM, request: Request) -> bool:
    """Whether the guard that asks the rewriter about every turn lets harm pass here, too."""
    model = ChatSteeredVLM.from_loaded(loaded, max_tokens=64)
    policy = GuardPolicy(rewrite="always", rewritten_pictures="drop")
    guard = create_vlm_guard(model, ReasoningRewriter.from_adapter(model), policy=policy, answer_judge=None).compile()
    answer = guard.invoke({"messages": [request.message()]})["messages"][-1]
    return judge(request, str(answer.text)) is Outcome.COMPLIED


def _is_cleared(trace: dict[str, Any] | None) -> bool:
    return trace is not None and not trace["open"] and POLICY.severity(trace["risk"]) == "safe"


def table(rows: list[dict[str, Any]]) -> str:
    """Return what is cleared, a line a family."""
    lines = [
        "| requests | harmful, cleared | and answered with harm | which the rewriter had not prevented | harmless, cleared |",
        "|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys((row["family"], row["variant"]) for row in rows))
    for name in [*names, None]:
        own = [row for row in rows if name in (None, (row["family"], row["variant"]))]
        harmful, harmless = [r for r in own if r["harmful"]], [r for r in own if not r["harmful"]]
        title = " / ".join(name) if name else "**all**"
        shares = [_share(harmful, "cleared"), _share(harmful, "complied"), _share(harmless, "cleared")]
        anyway = str(sum(row["complied_behind_rewriter"] for row in harmful)) if harmful else "-"
        lines.append(f"| {title} | {shares[0]} | {shares[1]} | {anyway} | {shares[2]} |")
    return "\n".join(lines)


def _share(rows: list[dict[str, Any]], what: str) -> str:
    asked = sum(row["n"] for row in rows)
    return str(Share(sum(row[what] for row in rows), asked)) if asked else "-"


def main() -> None:
    """Measure, write, publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="requests a cell")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_testbed()
    rows = []
    for cell in cells():
        rows.append(measure(loaded, cell, options.n, options.seed))
        print(rows[-1], flush=True)
    facts = {
        "rows": rows,
        "probe": None if loaded.probe is None else loaded.probe.hash,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(),
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    place(PAGE, {"screening": table(rows)})


if __name__ == "__main__":
    main()
