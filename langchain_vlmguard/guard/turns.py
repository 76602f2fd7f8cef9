"""What a flow works on: a turn with its guard and judges, and an answer with what was found about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from langchain_vlmguard.content.turn import Turn, blocks_of
from langchain_vlmguard.rewriting.turns import with_prompt
from langchain_vlmguard.verdict.refusals import in_plain_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.guard.calls import Answer
    from langchain_vlmguard.guard.parts import GuardParts, Judges
    from langchain_vlmguard.rewriting.report import Rewriter
    from langchain_vlmguard.rewriting.subjects import Subject
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.policy import GuardPolicy


@dataclass(frozen=True)
class GuardedTurn:
    """A turn as it was read, once, with the guard and the judges of this run."""

    guard: GuardParts
    """The guard, under the policy of this run."""

    turn: Turn
    judges: Judges

    @classmethod
    def aside(cls, guard: GuardParts, judges: Judges) -> Self:
        """Return a turn without messages, for what is judged outside of any."""
        return cls(guard, Turn([], 0, (), ()), judges)

    @property
    def policy(self) -> GuardPolicy:
        """The policy of this run."""
        return self.guard.policy

    @property
    def rewriter(self) -> Rewriter | None:
        """The rewriter, if the policy lets anybody ask it."""
        return None if self.policy.rewriting.when == "never" else self.guard.rewriter

    def is_unsafe(self, risk: float | None) -> bool:
        """Whether a risk was found that the policy calls unsafe."""
        return risk is not None and self.policy.severity(risk) == "unsafe"

    def with_messages(self, messages: list[BaseMessage]) -> Self:
        """Return the turn with other messages in the same places."""
        return replace(self, turn=self.turn.with_messages(messages))

    def for_model(self, draft: Draft) -> list[BaseMessage]:
        """Return the conversation as the model gets it: checked pictures, and the rewritten prompt if there is one."""
        messages = [*map(in_plain_words, self.turn.for_model)]
        if draft.action != "rewrite" or draft.rewritten_prompt is None:
            return messages
        keep, start = self.policy.rewriting.pictures == "keep", self.turn.start
        rewritten = [*messages[:start], *self.turn.current]
        return with_prompt(rewritten, start, draft.rewritten_prompt, keep_pictures=keep)


@dataclass(frozen=True)
class Part:
    """A part of an answer, and what was found about it alone."""

    subject: Subject
    draft: Draft


@dataclass(frozen=True)
class Answered:
    """An answer and what was found about it."""

    draft: Draft
    """The turn's draft; it counts what judging cost."""

    answer: Answer | None = None
    """`None` if the model or the guard failed."""

    parts: tuple[Part, ...] = ()
    """The answer's words and its tool calls, each judged by itself."""

    def joined(self, *, calls: bool = True) -> Draft:
        """Return the draft joined with what was found about the parts, tool calls included or not."""
        if self.answer is None:
            return self.draft
        draft = self.draft.join(part.draft for part in self.parts if calls or part.subject.kind == "answer")
        return draft if draft.lets_answer else draft.copy_with(answer="withheld")


def shows_pictures(messages: Sequence[BaseMessage]) -> bool:
    """Whether messages that were read hold a picture."""
    return any(block["type"] == "image" for message in messages for block in blocks_of(message))
