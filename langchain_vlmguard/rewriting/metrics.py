"""Validation metrics of a rewriter: how often it can be read, what it finds, and whether it leaves harmless prompts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.exceptions import ContextOverflowError

from langchain_vlmguard.errors import RewriteError
from langchain_vlmguard.rewriting.report import Rewrite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.rewriting.synthesis import Example
    from langchain_vlmguard.verdict.records import Json

CHANNELS = ("textual", "visual", "cross_modal")


def measure_rewriter(
    rewriter: Runnable[list[BaseMessage], Rewrite], examples: Sequence[Example], *, concurrency: int = 64
) -> Json:
    """Compare a rewriter with the examples' own reports.

    Returns:
        `parse_rate` of all items; with unreadable answers and prompts too long to read counted as wrong, `action_accuracy`,
        `hazard_f1` by channel (a hit is the right hazard id in the right channel; `None` for a channel without hazards), and
        `benign_faithfulness`, the share of harmless prompts that go on unchanged.
    """
    asked: list[Any] = [example.item.messages() for example in examples]
    answers: list[Any] = rewriter.batch(asked, {"max_concurrency": concurrency}, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, RewriteError | ContextOverflowError):
            raise answer
    said = [answer if isinstance(answer, Rewrite) else None for answer in answers]
    wanted = [example.rewrite for example in examples]
    benign = [found for found, right in zip(said, wanted, strict=True) if right.action == "allow"]
    return {
        "n": len(examples),
        "parse_rate": _share([found is not None for found in said]),
        "action_accuracy": _share(
            [found is not None and found.action == right.action for found, right in zip(said, wanted, strict=True)]
        ),
        "hazard_f1": {channel: _f1(channel, said, wanted) for channel in CHANNELS},
        "benign_n": len(benign),
        "benign_faithfulness": _share([found is not None and found.action == "allow" for found in benign]),
    }


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0


def _f1(channel: str, said: Sequence[Rewrite | None], wanted: Sequence[Rewrite]) -> float | None:
    found = [_hazards(one, channel) for one in said]
    right = [_hazards(one, channel) for one in wanted]
    hits = sum(len(one & other) for one, other in zip(found, right, strict=True))
    named = sum(map(len, found)) + sum(map(len, right))
    return 2 * hits / named if named else None


def _hazards(rewrite: Rewrite | None, channel: str) -> set[str]:
    return {threat.hazard for threat in rewrite.threats if threat.channel == channel} if rewrite else set()
