"""Who judges the model's answers in words alone: the answering model, the rewriter's, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_vlmguard.guard.pictures import TextJudge


@dataclass(frozen=True)
class StrictestJudge:
    """Several judges of texts; what any of them finds counts."""

    judges: tuple[TextJudge, ...]

    @property
    def identity(self) -> str:
        """What a verdict calls them."""
        return "+".join(map(identity_of, self.judges))

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the highest risk of each text, in [0, 1]."""
        return [max(risks) for risks in zip(*(judge.judge_texts(texts) for judge in self.judges), strict=True)]


def answer_judge_in(model: Any, rewriter: Any) -> TextJudge | None:
    """Return what can judge answers in a guard's own models, `None` where neither can; one set of weights judges once."""
    both = unbound(model), getattr(rewriter, "model", None)
    found = {identity_of(judge): judge for one in both if (judge := getattr(one, "answer_judge", None))}
    judges = tuple(found.values())
    return StrictestJudge(judges) if len(judges) > 1 else next(iter(judges), None)


def unbound(model: Any) -> Any:
    """Return the model under the tools and options that were bound to it."""
    while hasattr(model, "bound"):
        model = model.bound
    return model


def identity_of(judge: TextJudge) -> str:
    """Return what a verdict calls a judge."""
    return str(getattr(judge, "identity", type(judge).__name__))
