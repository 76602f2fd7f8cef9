"""Who judges: judges of texts, what a local model knows about its own turns, and how both are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from langchain_vlmguard.verdict.judges import StrictestJudge, identity_of

if TYPE_CHECKING:
    from langchain_vlmguard.verdict.judges import TextJudge


class Screen(Protocol):
    """What clears a turn on the answer's own prefill: a gate, or a probe on whole turns."""

    @property
    def sees_pictures(self) -> bool:
        """Whether it reads a turn's pictures."""

    @property
    def probe(self) -> object | None:
        """The probe, if there is one beside the gate."""


def answer_judge_in(model: Any, rewriter: Any) -> TextJudge | None:
    """Return what judges answers among a guard's own models: the model, the rewriter's model, or both.

    One set of weights judges once.
    """
    both = unbound(model), getattr(rewriter, "model", None)
    found = {identity_of(judge): judge for one in both if (judge := getattr(one, "answer_judge", None))}
    judges = tuple(found.values())
    return StrictestJudge(judges) if len(judges) > 1 else next(iter(judges), None)


def text_judge_in(model: Any) -> TextJudge | None:
    """Return the model, without what was bound to it, if it judges texts."""
    inner = unbound(model)
    return inner if getattr(inner, "can_judge", False) else None


def screen_in(model: Any) -> Screen | None:
    """Return what clears turns in a model, tools bound or not."""
    found: Screen | None = getattr(unbound(model), "screening", None)
    return found


def unbound(model: Any) -> Any:
    """Return the model under the tools and options that were bound to it."""
    while hasattr(model, "bound"):
        model = model.bound
    return model
