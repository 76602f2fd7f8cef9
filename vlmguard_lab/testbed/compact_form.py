"""The compact form: how a model of a few hundred words writes a rewrite."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from langchain_vlmguard.content.turn import turn_start
from langchain_vlmguard.rewriting.report import Rewrite, Threat
from langchain_vlmguard.verdict.hazards import HAZARDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.rewriting.report import Model
    from langchain_vlmguard.rewriting.stages import CausalReport
    from langchain_vlmguard.verdict.records import Channel

_KEYS = ("threats", "textual", "visual", "cross_modal", "intent", "legitimate", "action", "risk", "prompt")
_CHANNELS: tuple[Channel, ...] = ("textual", "visual", "cross_modal")
_ACTIONS = ("allow", "rewrite", "refuse", "review")
_RISKS = MappingProxyType({"low": 0.05, "medium": 0.5, "high": 0.95})


_IMITATED = 3
"""Keys in order from which words count as a report."""


@dataclass(frozen=True)
class CompactForm:
    """Bare words, for a model whose vocabulary is a few hundred words: the testbed.

    `threats textual NOTE ID visual NOTE ID cross_modal NOTE ID intent ... legitimate ... action ... risk ... prompt ...`,
    where ID is a hazard id or "none". A note says what is there and, after "is", what kind of thing that is; only the kind
    becomes the threat's rationale. What is told in free words ends with a full stop, as the sentences do that a small model
    knows: after a noun that its training as a rewriter never named it finds a stop, but hardly the next key. The model is asked
    with the last turn alone. Nothing fences the turn but the chat template's own control tokens, which no text can write; a turn
    that is written in this very form is not given to the model (`imitated`), since a tiny one copies it.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    """How the model writes keys, actions, risks, hazard ids and "none"; what is missing is written as it is. A tiny model
    learns to say words that it has said before, and hardly ever others."""

    name: str = "compact"

    def __post_init__(self) -> None:
        """Check that the words can be told apart.

        Raises:
            ValueError: Two keys are written alike, or a word is not one word.
        """
        keys = [self._word(key) for key in _KEYS]
        written = [*keys, *self.words.values()]
        if len(set(keys)) != len(keys) or len(set(self.words.values())) != len(self.words) or any(map(_split, written)):
            msg = "the words of a compact form must be single words, and all different"
            raise ValueError(msg)

    def ask(
        self,
        messages: Sequence[BaseMessage],
        *,
        system_prompt: str | None = None,  # noqa: ARG002 - a form of few words takes no instruction
        problem: str | None = None,  # noqa: ARG002
    ) -> list[BaseMessage]:
        """Return the last turn."""
        return list(messages[turn_start(messages) :])

    def bound(self, model: Model, messages: Sequence[BaseMessage]) -> Model:  # noqa: ARG002 - its tags are not enforced
        """Return the model as it is."""
        return model

    def imitated(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether three keys stand in the form's order, one of them with a value that only a report gives it."""
        tokens = " ".join(str(message.text) for message in messages[turn_start(messages) :]).split()
        ranks = {self._word(key): rank for rank, key in enumerate(_KEYS)}
        # by key: its next place, the length of the run from there, and whether a value in it gives it away
        runs: dict[int, tuple[int, int, bool]] = {}
        for at in range(len(tokens) - 1, -1, -1):
            if (rank := ranks.get(tokens[at])) is None:
                continue
            _, length, closed = min((run for other, run in runs.items() if other > rank), default=(at, 0, False))
            runs[rank] = at, length + 1, closed or tokens[at + 1 : at + 2] in self._closed(tokens[at])
            if length + 1 >= _IMITATED and runs[rank][2]:
                return True
        return False

    def _closed(self, key: str) -> list[list[str]]:
        """Return what a report may say after a key, as lists of one word, where that is not free."""
        values = {self._word("action"): _ACTIONS, self._word("risk"): tuple(_RISKS)}.get(key, ("none",))
        return [[self._word(value)] for value in values]

    def write(self, report: CausalReport, rewrite: Rewrite) -> str:
        """Return report and rewrite in bare words."""
        found = (report.textual, report.visual, report.cross_modal)
        notes = [f"{_sentence(cause.finding)} {self._word(cause.hazard or 'none')}".strip() for cause in found]
        none = self._word("none")
        values = (
            "",
            *notes,
            _sentence(rewrite.intent) or none,
            _sentence(rewrite.legitimate_part) or none,
            self._word(rewrite.action),
            self._word(min(_RISKS, key=lambda word: abs(_RISKS[word] - rewrite.risk))),
            rewrite.rewritten_prompt or none,
        )
        return " ".join(f"{self._word(key)} {value}".strip() for key, value in zip(_KEYS, values, strict=True))

    def parse(self, text: str) -> Rewrite:
        """Read the words strictly: every key once and in order."""
        keys = [self._word(key) for key in _KEYS]
        tokens = text.split()
        if [token for token in tokens if token in keys] != keys or tokens[0] != keys[0]:
            msg = f"it does not hold exactly the keys {', '.join(keys)}, each once and in this order"
            raise ValueError(msg)
        starts = [*(tokens.index(key) for key in keys), len(tokens)]
        fields = {key: tokens[starts[at] + 1 : starts[at + 1]] for at, key in enumerate(_KEYS)}
        if fields["threats"]:
            msg = "something stands before the first channel"
            raise ValueError(msg)
        prompt = " ".join(fields["prompt"])
        return Rewrite(
            threats=[threat for channel in _CHANNELS if (threat := self._noted(channel, fields[channel]))],
            intent=_told(fields["intent"]),
            legitimate_part=_told(fields["legitimate"]),
            action=self._meant(fields["action"], _ACTIONS),  # type: ignore[arg-type]
            risk=_RISKS[self._meant(fields["risk"], tuple(_RISKS))],
            rewritten_prompt=None if prompt == self._word("none") else prompt or None,
        )

    def _word(self, key: str) -> str:
        return self.words.get(key, key)

    def _meant(self, said: list[str], options: Iterable[str]) -> str:
        """Return the one of some options that was said.

        Raises:
            ValueError: None of them was.
        """
        known = {self._word(option): option for option in options}
        if len(said) != 1 or said[0] not in known:
            msg = f"{' '.join(said) or 'nothing'} stands where one of {', '.join(known)} must"
            raise ValueError(msg)
        return known[said[0]]

    def _noted(self, channel: Channel, said: list[str]) -> Threat | None:
        hazard = self._meant(said[-1:], ("none", *HAZARDS))
        if hazard == "none":
            return None
        return Threat(channel=channel, hazard=hazard, rationale=_told(said[:-1]).rpartition(" is ")[2])


def _sentence(text: str) -> str:
    return f"{text} ." if text else ""


def _told(said: list[str]) -> str:
    return " ".join(said).removesuffix(" .")


def _split(word: str) -> bool:
    return word.split() != [word]
