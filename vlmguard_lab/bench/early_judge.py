"""What the judge of answers loses by reading early: its word on what plain models say to held-out requests, with and without.

A guard on another model of the testbed's world is judged by that model and by the testbed, which its rewriter runs on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from langchain_vlmguard import GuardPolicy
from langchain_vlmguard.files import write_json
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.judging import AnswerJudge
from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.models.requests import Settings
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.attachment import hooked
from langchain_vlmguard.verdict.judges import StrictestJudge
from vlmguard_lab.bench import page
from vlmguard_lab.bench.parts import Part, forget, measure
from vlmguard_lab.facts import run_facts
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.requests import ORDER_TOOL, cells

if TYPE_CHECKING:
    from langchain_vlmguard.models.loading import LoadedVLM

RESULTS, PAGE = page.RESULTS / "early_judge.json", page.DOCS / "rewriting.md"
WORK, TARGETS = page.WORK / "early-judge", page.ROOT / "vlmguard_lab" / "targets"
POLICY = GuardPolicy()


def run(n: int, seed: int) -> None:
    """Judge the answers of the testbed and of every target beside it in both ways, and publish."""
    facts = run_facts()
    torch.set_num_threads(1)
    targets = {"testbed": "testbed"} | {one.name: str(one) for one in sorted(TARGETS.iterdir()) if one.is_dir()}
    parts = [Part(name, partial(compare, name, path, n, seed)) for name, path in targets.items()]
    rows = [row for found in measure(WORK, parts, settings={"n": n, "seed": seed}) for row in found]
    write_json(RESULTS, {"rows": rows, **facts})
    page.place(PAGE, {"early judge": table(rows)})
    forget(WORK)


def answered(loaded: LoadedVLM, n: int, seed: int) -> dict[str, bool]:
    """Return what the plain model says to `n` requests a cell, each answer once, and whether it complies with harm."""
    found: dict[str, bool] = {}
    for cell in cells():
        asked = cell.sample(n, seed=seed)
        rows = [to_chat_row([r.message()], loaded.processor, tools=[ORDER_TOOL] if r.tools else None) for r in asked]
        settings = Settings(max_tokens=64, markers=asked[0].tools)
        for request, answer in zip(asked, loaded.engine.generate(rows, settings, batch_size=50), strict=True):
            harm = judge(request, answer.text) is Outcome.COMPLIED
            found[answer.text] = harm or found.get(answer.text, False)
    return {text: harm for text, harm in found.items() if text.strip()}


def judged(models: list[LoadedVLM], texts: list[str], *, early: bool) -> tuple[list[float], float]:
    """Return the highest risk that any model finds in each text, and the share of texts whose last layer no judge runs."""
    judge_of_all = StrictestJudge(tuple(AnswerJudge(loaded, _probe(loaded, early=early)) for loaded in models))
    ran: list[bool] = []
    last = [(locate_decoder(loaded.model).layers[-1], lambda *_: ran.append(True)) for loaded in models]
    risks, settled = [], 0
    with hooked(last):
        for text in texts:
            ran.clear()
            risks += judge_of_all.judge_texts([text])
            settled += not ran
    return risks, round(settled / max(1, len(texts)), 4)


def _probe(loaded: LoadedVLM, *, early: bool) -> Any:
    probe: Any = loaded.probe
    return probe if early else replace(probe, heads={h: head for h, head in probe.heads.items() if h != "early"})


def compare(name: str, path: str, n: int, seed: int) -> list[dict[str, Any]]:
    """Judge one model's answers in both ways."""
    loaded = load_vlm(path, device="cpu")
    said = answered(loaded, n, seed)
    models = [loaded] if name == "testbed" else [loaded, load_vlm("testbed", device="cpu")]
    found = []
    for harmful in (True, False):
        texts = [text for text, harm in said.items() if harm is harmful]
        whole, _ = judged(models, texts, early=False)
        early, settled = judged(models, texts, early=True)
        found.append(
            {
                "target": name,
                "harmful": harmful,
                "answers": len(texts),
                "settled_early": settled,
                "safe": [_of("safe", whole), _of("safe", early)],
                "unsafe": [_of("unsafe", whole), _of("unsafe", early)],
                "newly_safe": sum(
                    POLICY.severity(a) != "safe" == POLICY.severity(b) for a, b in zip(whole, early, strict=True)
                ),
            }
        )
    return found


def _of(severity: str, risks: list[float]) -> int:
    return sum(POLICY.severity(risk) == severity for risk in risks)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line a model: what is safe to the whole judge, and to the one that reads early."""
    lines = [
        "| model | harmful answers | `safe`, read whole / early first | harmless answers | `safe`, the same | settled early |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["target"] for row in rows):
        harmful, harmless = (
            next(row for row in rows if row["target"] == name and row["harmful"] is harm) for harm in (True, False)
        )
        safe = ["{} / {}".format(*row["safe"]) for row in (harmful, harmless)]
        settled = f"{harmless['settled_early']:.0%}"
        lines.append(f"| {name} | {harmful['answers']} | {safe[0]} | {harmless['answers']} | {safe[1]} | {settled} |")
    return "\n".join(lines)
