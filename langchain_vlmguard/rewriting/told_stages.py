"""The rewriter's reasoning as custom events, one a stage, for whoever watches a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.rewriting.report import Rewrite
    from langchain_vlmguard.verdict.records import Json

EVENT = "vlmguard_rewriter"
"""Name of the custom events that carry the reasoning, one a stage: `{"stage": "threats" | "intent" | "prompt", ...}`."""


def report_stages(rewrite: Rewrite, config: RunnableConfig) -> None:
    """Report what a rewriter wrote."""
    for data in _stages(rewrite):
        dispatch_custom_event(EVENT, data, config=config)


async def areport_stages(rewrite: Rewrite, config: RunnableConfig) -> None:
    """Report what a rewriter wrote, without blocking the event loop."""
    for data in _stages(rewrite):
        await adispatch_custom_event(EVENT, data, config=config)


def _stages(rewrite: Rewrite) -> list[Json]:
    plain = rewrite.model_dump(mode="json")
    return [
        {"stage": "threats", "threats": plain["threats"]},
        {"stage": "intent", "intent": plain["intent"], "legitimate_part": plain["legitimate_part"]},
        {"stage": "prompt", **{key: plain[key] for key in ("action", "risk", "rewritten_prompt")}},
    ]
