"""A second reader: another model says what it would answer, since two models seldom misread one picture in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.guard.calls import Answer
from langchain_vlmguard.guard.effects import ask, work
from langchain_vlmguard.guard.judges import unbound
from langchain_vlmguard.rewriting.subjects import subjects_of
from langchain_vlmguard.verdict.judges import identity_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.rewriting.report import Model
    from langchain_vlmguard.verdict.judges import TextJudge


@dataclass(frozen=True)
class SecondReader:
    """Another model that is asked what the answering model was asked, and a judge of what it says.

    A model that misreads a picture answers harmlessly about what it took the picture for, and no judge of words can know. Its
    answer only leaves if a model that reads the picture for itself says nothing harmful either.
    """

    model: Model
    """Answers without any guard or steering: what it says is judged, and never shown."""

    judge: TextJudge

    @property
    def identity(self) -> str:
        """What a verdict calls this reader."""
        return f"{getattr(unbound(self.model), 'model', type(self.model).__name__)}, {identity_of(self.judge)}"

    def read(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Flow[float | None]:
        """Return the risk of what the model says to a conversation, in [0, 1]; `None` if it says nothing."""
        answer = Answer.of((yield from ask(self.model, messages, config)))
        texts = [subject.words for subject in subjects_of(answer.message) if subject.words.strip()]
        if not texts:
            return None
        return max((yield from work(lambda: self.judge.judge_texts(texts))))


def second_reader_in(model: Any, rewriter: Any) -> SecondReader | None:
    """Return the model behind the rewriter as a second reader, if its answers can be judged and its weights are others."""
    other = getattr(rewriter, "model", None)
    judge = getattr(other, "answer_judge", None)
    if other is None or judge is None or _weights(other) is _weights(unbound(model)):
        return None
    return SecondReader(other.bind(unsteered=True), judge)


def _weights(model: Any) -> Any:
    return getattr(getattr(model, "loaded", None), "model", model)
