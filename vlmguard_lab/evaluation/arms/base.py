"""What an arm is: a card that says by what formula, and a defence around a target."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from langchain_vlmguard.errors import EvaluationError
from vlmguard_lab.evaluation.tasks import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inspect_ai.solver import Solver
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter
    from langchain_vlmguard.steering.anchors import AnchorSet
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.screening import Screening
    from vlmguard_lab.evaluation.provider import Build

Evidence = Literal["primary", "secondary", "recalled", "contradictory", "ours"]
"""How a formula is known: read at the source, in somebody else's summary, from memory, from sources that disagree, or ours."""

ANSWER_TOKENS = 64


@dataclass(frozen=True)
class ArmCard:
    """Where an arm comes from, and how far its formula can be trusted."""

    name: str
    source: str
    formula: str
    evidence: Evidence
    caveat: str = ""
    needs: Literal["chat", "local"] = "chat"
    """Whether any chat model will do, or a local one whose hidden states can be reached."""


@dataclass(frozen=True)
class Defence:
    """A defence in place: the model that inspect_ai asks, and the solver that asks it."""

    build: Build
    solver: Callable[[], Solver] = ask
    options: dict[str, Any] = field(default_factory=dict)
    """What it was set to, as JSON, for the record."""

    chat: BaseChatModel | None = None
    """The model whose answers reach the person, for attacks that look inside; the target's own where `None`."""

    refuse_at: float | None = None
    """Gate risk from which the guard withholds an answer, where it does."""

    rewriter: ReasoningRewriter | None = None
    """The rewriter that is asked first, where there is one."""

    past: tuple[Screening | None, ...] = ()
    """Ways into the arm past rewriter and steering, for an attacker to take instead: by a screening that clears the turn, or
    (`None`) by the plain model."""


@dataclass(frozen=True)
class Arm:
    """A defence that can be put around a target."""

    card: ArmCard
    make: Callable[..., Defence]
    """`make(target, **options)`."""

    grid: tuple[dict[str, Any], ...] = ({},)
    """Options to choose from on tuning requests; the first is the default."""

    def around(self, target: Target, **options: Any) -> Defence:
        """Put the arm around a target.

        Raises:
            EvaluationError: The arm reads hidden states and the target is an API.
        """
        if self.card.needs == "local" and target.loaded is None:
            msg = f"the arm {self.card.name!r} reads hidden states: it needs a local model, not {target.name!r}"
            raise EvaluationError(msg)
        return self.make(target, **{**self.grid[0], **options})


@dataclass(frozen=True, eq=False)
class Target:
    """The model that is defended, and what defences may be fitted on."""

    name: str
    chat: BaseChatModel
    """The plain model."""

    loaded: LoadedVLM | None = None
    """Its weights, where they are at hand."""

    anchors: AnchorSet | None = None
    """What peers are fitted on; the package's own set when `None`."""

    adapter: str | None = None
    """A trained rewriter's adapter, where there is one."""

    rewriter: ReasoningRewriter | None = None
    """A rewriter on weights of its own that stands in front of this target, instead of an adapter on the target's."""

    plain_words: bool = False
    """Whether the model knows few words (the testbed): prompts are then said in its own."""

    @cached_property
    def directions(self) -> SafetyDirections:
        """Directions of the target: those beside the checkpoint, or fitted now on its anchors."""
        from langchain_vlmguard.steering.directions import SafetyDirections

        loaded = self.weights
        if loaded.directions is not None:
            return loaded.directions
        return SafetyDirections.fit(loaded.model, loaded.processor, self.anchors, progress=False)

    @property
    def weights(self) -> LoadedVLM:
        """The weights.

        Raises:
            EvaluationError: They are not at hand.
        """
        if self.loaded is None:
            msg = f"{self.name!r} is no local model: its hidden states cannot be reached"
            raise EvaluationError(msg)
        return self.loaded


def with_tools(model: BaseChatModel) -> Build:
    """Return the build of a chat model: itself, or itself with tools bound."""

    def build(tools: Sequence[dict[str, Any]]) -> Runnable[Any, Any]:
        return model.bind_tools(list(tools)) if tools else model

    return build
