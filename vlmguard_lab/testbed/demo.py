"""The demo: every request family through the plain model and through the guard, side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from langchain_vlmguard.faces.graph import create_vlm_guard
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import ProjectOut
from langchain_vlmguard.verdict.policy import GuardPolicy
from vlmguard_lab.facts import versions
from vlmguard_lab.testbed.demo_cells import CellAnswers, KeptCells, Turn
from vlmguard_lab.testbed.measure import CellResult
from vlmguard_lab.testbed.release import answer_requests
from vlmguard_lab.testbed.requests import ORDER_TOOL, Cell, Request, cells, order_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from langchain_core.messages import AIMessage

    from langchain_vlmguard.guard.state import GuardInput

ARMS = {
    "plain": "plain",
    "guarded": "guarded",
    "guarded_rewriter": "guarded, with rewriter",
    "project_out": "ProjectOut",
}
"""Arms and how they are called. `guarded` steers; `guarded_rewriter` also rewrites, with the testbed's own adapter;
`project_out` is the negative control: VLM-Guard's abstract taken literally, no gate, on the guard's own layers."""

BATCH = 64

REFUSE_ON_GATE = GuardPolicy(on_gate_open="refuse", refusal="sorry , i can not help with that .")
"""Withholds answers given while the gate was open at unsafe risk, and refuses in the world's own words."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured."""

    turns: tuple[Turn, ...]
    """A few turns of each cell, to look at."""

    cells: tuple[CellResult, ...]
    seconds: float

    @property
    def arms(self) -> list[str]:
        """The arms that ran, in the order of `ARMS`."""
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    def to_json(self) -> dict[str, Any]:
        """Return the published form: one row a cell and arm."""
        return {
            "cells": [result.row() for result in self.cells],
            "seconds": round(self.seconds, 1),
            "versions": versions(),
        }


def run_demo(
    model: str = "testbed",
    *,
    per_cell: int = 24,
    shown: int = 2,
    seed: int = 0,
    policy: GuardPolicy | None = None,
    on_cell: Callable[[Cell], None] = lambda _cell: None,
    work: Path | None = None,
) -> DemoResult:
    """Run held-out requests of every family through all arms.

    Args:
        model: The testbed, or a checkpoint that was built by its recipe.
        per_cell: Requests a cell.
        shown: How many of them are kept to look at.
        seed: Seed of the sample.
        policy: The guard's policy; the default one keeps every steered answer.
        on_cell: Called before each cell, for progress.
        work: Folder of finished cells, from which a stopped run goes on; removed at the end.
    """
    started = time.perf_counter()
    chat = ChatSteeredVLM.from_pretrained(model, max_tokens=64, batch_size=BATCH)
    policy = policy or GuardPolicy()
    guarded = _GuardedTestbed(chat, policy)
    rewriting = _rewriting(chat, policy) if model == "testbed" else None
    kept = None if work is None else KeptCells(work, [model, per_cell, shown, seed, policy.model_dump(), versions()])
    results: list[CellResult] = []
    turns: list[Turn] = []
    seconds = time.perf_counter() - started
    for cell in cells("held_out"):
        on_cell(cell)
        asked = cell.sample(per_cell, seed=seed)
        answers = kept.of(cell.name) if kept else None
        if answers is None:
            answers = _answered(chat, guarded, rewriting, asked, shown)
            if kept:
                kept.keep(cell.name, answers)
        results += [CellResult.of(cell, arm, asked, texts) for arm, texts in answers.said.items()]
        turns += answers.turns(asked)
        seconds += answers.seconds
    if kept:
        kept.forget()
    return DemoResult(tuple(turns), tuple(results), seconds)


def _answered(
    chat: ChatSteeredVLM,
    guarded: _GuardedTestbed,
    rewriting: _GuardedTestbed | None,
    asked: Sequence[Request],
    shown: int,
) -> CellAnswers:
    started = time.perf_counter()
    said = {"plain": answer_requests(chat.loaded, asked, None)}
    said["guarded"], verdicts = guarded.answer(asked)
    others: list[dict[str, Any]] = []
    if rewriting:
        said["guarded_rewriter"], others = rewriting.answer(asked)
    said["project_out"] = answer_requests(chat.loaded, asked, guarded.project_out)
    return CellAnswers(said, verdicts[:shown], others[:shown], time.perf_counter() - started)


def _rewriting(chat: ChatSteeredVLM, policy: GuardPolicy) -> _GuardedTestbed:
    settings = policy.model_copy(update={"rewrite": "adaptive", "rewritten_pictures": "drop"})
    return _GuardedTestbed(chat, settings, ReasoningRewriter.from_adapter(chat, "testbed"))


class _GuardedTestbed:
    """The guard graph around the steered testbed, with and without its tool: the whole guard, or steering alone."""

    def __init__(self, model: ChatSteeredVLM, policy: GuardPolicy, rewriter: ReasoningRewriter | None = None) -> None:
        self.model = model
        judge: Literal["auto"] | None = "auto" if rewriter else None
        self._guard, self._guard_with_tool = (
            create_vlm_guard(one, rewriter, policy=policy, answer_judge=judge).compile()
            for one in (model, model.bind_tools([ORDER_TOOL]))
        )
        steering = model.loaded.recommended
        if steering is None:
            msg = f"{model.model!r} carries no recommended steering: there is nothing to demonstrate"
            raise ValueError(msg)
        self.project_out = replace(
            steering, intervention=ProjectOut(), gate=AlwaysOpen(), gate_layer=None, reads="input", decode=True
        )

    def answer(self, asked: Sequence[Request]) -> tuple[list[str], list[dict[str, Any]]]:
        """Send requests through the guard graph, concurrently; return answers as text, and verdicts."""
        graph = self._guard_with_tool if asked[0].tools else self._guard
        inputs: list[GuardInput] = [{"messages": [request.message()]} for request in asked]
        states = graph.batch(inputs, {"max_concurrency": BATCH})
        return [answer_text(state["messages"][-1]) for state in states], [state["verdict"] for state in states]


def risk_words(verdict: dict[str, Any]) -> str:
    """Return a verdict's risk for a reader; a turn that nobody judged has none."""
    return "risk not judged" if verdict["risk"] is None else f"risk {verdict['risk']:.2f}"


def answer_text(message: AIMessage) -> str:
    """Return an answer as the testbed writes it, tool calls included."""
    if message.tool_calls:
        return order_call(str(message.tool_calls[0]["args"].get("item", "")))
    return str(message.text)
