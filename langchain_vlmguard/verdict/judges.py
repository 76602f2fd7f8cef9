"""What a judge of texts is, for every room that asks one or is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class TextJudge(Protocol):
    """Judges texts by themselves, such as `ChatSteeredVLM` on its text-only path."""

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the risk of each text in [0, 1], as if a person had typed it."""


def identity_of(judge: object) -> str:
    """Return what a verdict calls a judge."""
    return str(getattr(judge, "identity", type(judge).__name__))
