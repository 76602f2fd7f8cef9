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
from vlmguard_lab.testbed.measure import CellResult
from vlmguard_lab.testbed.release import answer_requests
from vlmguard_lab.testbed.requests import ORDER_TOOL, Cell, Request, cells, order_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
class Turn:
    """One request, answered by the plain model and by the guard."""

    request: Request
    plain: str
    guarded: str
    verdict: dict[str, Any]
    rewritten: str | None = None
    """The guard's answer with the rewriter in front, where there is one."""

    rewritten_verdict: dict[str, Any] | None = None


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
) -> DemoResult:
    """Run held-out requests of every family through all arms.

    Args:
        model: The testbed, or a checkpoint that was built by its recipe.
        per_cell: Requests a cell.
        shown: How many of them are kept to look at.
        seed: Seed of the sample.
        policy: The guard's policy; the default one keeps every steered answer.
        on_cell: Called before each cell, for progress.
    """
    started = time.perf_counter()
    chat = ChatSteeredVLM.from_pretrained(model, max_tokens=64, batch_size=BATCH)
    guarded = _GuardedTestbed(chat, policy or GuardPolicy())
    rewriting = _rewriting(chat, policy or GuardPolicy()) if model == "testbed" else None
    results: list[CellResult] = []
    turns: list[Turn] = []
    for cell in cells("held_out"):
        on_cell(cell)
        asked = cell.sample(per_cell, seed=seed)
        said = {"plain": answer_requests(chat.loaded, asked, None)}
        said["guarded"], verdicts = guarded.answer(asked)
        rows = list(zip(asked, said["plain"], said["guarded"], verdicts, strict=True))
        shown_turns = [Turn(*row) for row in rows[:shown]]
        if rewriting:
            said["guarded_rewriter"], others = rewriting.answer(asked)
            both = zip(shown_turns, said["guarded_rewriter"], others, strict=False)
            shown_turns = [replace(turn, rewritten=text, rewritten_verdict=other) for turn, text, other in both]
        said["project_out"] = answer_requests(chat.loaded, asked, guarded.project_out)
        results += [CellResult.of(cell, arm, asked, texts) for arm, texts in said.items()]
        turns += shown_turns
    return DemoResult(tuple(turns), tuple(results), time.perf_counter() - started)


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
