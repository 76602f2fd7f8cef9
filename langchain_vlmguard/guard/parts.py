"""What a guard is made of, and who judges for one model."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.content.messages import read_turn
from langchain_vlmguard.content.picture_words import PictureWords
from langchain_vlmguard.errors import NoJudgeError
from langchain_vlmguard.guard.judges import answer_judge_in, screen_in, text_judge_in, unbound
from langchain_vlmguard.guard.second_reader import second_reader_in
from langchain_vlmguard.guard.slots import MOST_AT_ONCE
from langchain_vlmguard.guard.state import policy_of_run
from langchain_vlmguard.guard.stopped import without_stopped_turns
from langchain_vlmguard.rewriting.given import rewriter_of, under_rules
from langchain_vlmguard.rewriting.subjects import describe
from langchain_vlmguard.verdict.policy import GuardPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.content.turn import Turn
    from langchain_vlmguard.guard.judges import Screen
    from langchain_vlmguard.guard.second_reader import SecondReader
    from langchain_vlmguard.guard.state import CheckRecord
    from langchain_vlmguard.rewriting.report import Rewriter
    from langchain_vlmguard.rewriting.subjects import Phrase
    from langchain_vlmguard.verdict.judges import TextJudge


class Telemetry(Protocol):
    """Where checks are reported, such as `GuardTelemetry`."""

    def record(self, records: Sequence[CheckRecord]) -> None:
        """Report checks that are done."""


@dataclass(frozen=True)
class GuardParts:
    """What a guard is made of. Every face takes the same parts and does the same with them."""

    rewriter: Rewriter | None = None
    """Judges turns, tool calls and tool results, and rewrites prompts; a chat model, or `"provider:model"`, becomes one."""

    _: KW_ONLY

    policy: GuardPolicy = field(default_factory=GuardPolicy)
    """Thresholds and actions, as a `GuardPolicy` or a dict of its fields; `context={"policy": ...}` replaces it for one run."""

    evidence: EvidenceReader | None = None
    """Reads what pictures say (extra `evidence`): the rewriter gets it as quotes, and `judge` judges it as if typed."""

    judge: TextJudge | None = None
    """Judges the words in pictures; the answering model if it can (a steered VLM)."""

    answer_judge: TextJudge | Literal["auto"] | None = "auto"
    """Judges answers and tool calls before they leave. `"auto"`: the answering model and the rewriter's model, as far as they
    can (a steered VLM whose probe was fitted on answers), and the rewriter itself if its model cannot. `None`: nobody."""

    second_reader: SecondReader | Literal["auto"] | None = "auto"
    """Another model that says what it would answer to a turn with pictures. `"auto"`: the rewriter's model, if it is not the
    one that answers and its answers can be judged. `None`: nobody."""

    fetcher: PictureFetcher = field(default_factory=PictureFetcher)
    """Fetches pictures by address, if the policy lists `image_hosts`."""

    phrase: Phrase | None = None
    """Words answers and calls for the rewriter; a rewriter may bring its own as attribute `phrase`."""

    telemetry: Telemetry | None = None
    """Where every check is reported, e.g. `GuardTelemetry` (extra `otel`)."""

    judges_at_once: int = MOST_AT_ONCE
    """Judge calls at the same time, for the parts of one answer and for the tools that one step of an agent runs."""

    show_held: bool = True
    """Show a reviewer what waits. It is then in the interrupt, which checkpoints and every stream show."""

    def __post_init__(self) -> None:
        """Check the parts.

        Raises:
            TypeError: The rewriter is neither a `Runnable` nor the name of a model.
            ValueError: The rewriter is a model with tools bound to it, or no judge call could ever be made; or the policy has
                rules, and nobody could be told them.
            ValidationError: The policy is not a policy.
        """
        object.__setattr__(self, "rewriter", rewriter_of(self.rewriter))
        if self.judges_at_once < 1:
            msg = f"judges_at_once must be 1 or more, not {self.judges_at_once}"
            raise ValueError(msg)
        object.__setattr__(self, "policy", GuardPolicy.model_validate(self.policy or {}))
        object.__setattr__(self, "rewriter", under_rules(self.rewriter, self.policy.rules))
        object.__setattr__(self, "fetcher", self.fetcher or PictureFetcher())

    @property
    def phrased(self) -> Phrase:
        """The words for answers and calls that the rewriter judges."""
        return self.phrase or getattr(self.rewriter, "phrase", None) or describe

    @property
    def identity(self) -> dict[str, str | None]:
        """What a cache of answers has to know of this guard."""
        judges = (self.rewriter, self.evidence, self.judge, self.answer_judge, self.second_reader)
        rewriter, evidence, judge, answers, second = (_named(one) for one in judges)
        found = {"rewriter": rewriter, "evidence": evidence, "judge": judge, "answer_judge": answers, "second": second}
        return {**found, "policy": self.policy.hash}

    def for_run(self) -> Self:
        """Return the guard under the policy of the graph run around this call."""
        policy = policy_of_run(self.policy)
        return self if policy is self.policy else replace(self, policy=policy)

    def read(self, messages: Sequence[BaseMessage], *, decided: int = 0) -> Turn:
        """Read a conversation within the policy's limits, without the words of turns that did not go on.

        Args:
            messages: The conversation, oldest first.
            decided: How many of the first messages were decided on before.
        """
        limits = self.policy.reading
        if self.evidence is not None:
            limits = limits.model_copy(update={"max_earlier_images": min(limits.max_images, limits.max_earlier_images)})
        return read_turn(without_stopped_turns(messages), limits, self.fetcher, decided=decided)

    def judges_for(self, model: Any, *, required: bool = True) -> Judges:
        """Return who judges if a model answers, `None` for a model that is not known.

        The weights of a local model are loaded for it.

        Args:
            model: The model.
            required: Raise if nobody judges.

        Raises:
            NoJudgeError: Nobody judges anything.
        """
        answers = answer_judge_in(model, self.rewriter) if self.answer_judge == "auto" else self.answer_judge
        second = self.second_reader
        if second == "auto":
            second = None if self.answer_judge is None else second_reader_in(model, self.rewriter)
        pictures = None
        if self.evidence is not None:
            pictures = PictureWords(self.evidence, self.judge or text_judge_in(model))
        speaks = getattr(getattr(self.rewriter, "model", None), "answer_judge", None) is not None
        found = Judges(answers, not speaks, screen_in(model), second, pictures)
        if required:
            self._check_judges(model, found)
        return found

    def check_model(self, model: Any) -> None:
        """Check that somebody judges, as far as this can be known without loading weights.

        Raises:
            NoJudgeError: Nobody judges anything, whatever is loaded.
        """
        inner = unbound(model)
        if getattr(inner, "is_loaded", True):
            self.judges_for(model)

    def _check_judges(self, model: Any, found: Judges) -> None:
        by_words = found.pictures is not None and found.pictures.judge is not None
        asked = self.rewriter is not None or self.answer_judge not in ("auto", None)
        if asked or by_words or found.answers or found.second or text_judge_in(model):
            return
        raise NoJudgeError


def parts_of(rewriter: Rewriter | GuardParts | None, **options: Any) -> GuardParts:
    """Return the parts that a face was given, one by one or as a whole guard.

    Raises:
        TypeError: A whole guard was given, and options beside it.
    """
    if not isinstance(rewriter, GuardParts):
        return GuardParts(rewriter, **options)
    beside = [name for name, value in options.items() if value not in (None, "auto")]
    if beside:
        msg = f"the guard brings its own {', '.join(beside)}: give them to Guard(...) instead"
        raise TypeError(msg)
    return rewriter


@dataclass(frozen=True)
class Judges:
    """Who judges what while one model answers."""

    answers: TextJudge | None = None
    """Judges what the model is about to say, in words alone."""

    rewriter: bool = True
    """Whether the rewriter judges it, too; not if its own model is among the judges of texts."""

    screen: Screen | None = None
    """Clears turns on the answer's own prefill."""

    second: SecondReader | None = None
    pictures: PictureWords | None = None
    """Reads and judges the words in pictures."""


def _named(part: object) -> str | None:
    if part is None or isinstance(part, str):
        return part
    return str(getattr(part, "identity", None) or getattr(part, "_identifying_params", None) or type(part).__name__)
