"""What adaptive rewriting clears without the rewriter, on held-out requests, and how the cleared ones are answered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from langchain_vlmguard import ChatSteeredVLM, GuardPolicy, ReasoningRewriter, create_vlm_guard
from langchain_vlmguard.files import write_json
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.requests import Settings
from langchain_vlmguard.steering.screening import Screening
from vlmguard_lab.bench import page
from vlmguard_lab.bench.parts import Part, forget, measure
from vlmguard_lab.facts import run_facts
from vlmguard_lab.statistics import Share
from vlmguard_lab.testbed.checkpoint import load_testbed
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.requests import ORDER_TOOL, cells

if TYPE_CHECKING:
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.steering.attachment import Trace
    from vlmguard_lab.testbed.requests import Cell, Request

RESULTS, PAGE = page.RESULTS / "screening.json", page.DOCS / "rewriting.md"
WORK = page.WORK / "screening"
POLICY = GuardPolicy()


def run(n: int, seed: int) -> None:
    """Screen `n` requests a cell and publish."""
    facts = run_facts()
    torch.set_num_threads(1)
    loaded = load_testbed()
    probe = None if loaded.probe is None else loaded.probe.hash
    parts = [Part(str(at), partial(screen, loaded, cell, n, seed)) for at, cell in enumerate(cells())]
    rows = measure(WORK, parts, settings={"n": n, "seed": seed, "probe": probe})
    write_json(RESULTS, {"rows": rows, "probe": probe, **facts})
    page.place(PAGE, {"screening": table(rows)})
    forget(WORK)


def screen(loaded: LoadedVLM, cell: Cell, n: int, seed: int) -> dict[str, Any]:
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


def _is_cleared(trace: Trace | None) -> bool:
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
