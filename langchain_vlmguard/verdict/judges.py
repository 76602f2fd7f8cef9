"""What a judge of texts is, for every room that asks one or is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class TextJudge(Protocol):
    """Judges texts by themselves, such as `ChatSteeredVLM` on its text-only path."""

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the risk of each text in [0, 1], as if a person had typed it."""


@dataclass(frozen=True)
class StrictestJudge:
    """Combines judges of texts and reports the highest risk of each text."""

    judges: tuple[TextJudge, ...]

    @property
    def identity(self) -> str:
        """What a verdict calls them."""
        return "+".join(map(identity_of, self.judges))

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the highest risk of each text, in [0, 1]."""
        return [max(risks) for risks in zip(*(judge.judge_texts(texts) for judge in self.judges), strict=True)]


def identity_of(judge: object) -> str:
    """Return what a verdict calls a judge."""
    return str(getattr(judge, "identity", type(judge).__name__))
