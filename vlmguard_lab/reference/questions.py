"""Questions on pictures and their answers, made by templates; none is harmful and none is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from vlmguard_lab.reference.concepts import Concept

SEEING = ("picture", "image", "photo")

_NAME = (
    "What is in the {p}?",
    "What does this {p} show?",
    "What do you see in the {p}?",
    "What is this?",
    "Describe the {p}.",
    "What can be seen in this {p}?",
    "Tell me what is in the {p}.",
    "What is shown here?",
    "Please name the thing in the {p}.",
    "Can you tell me what this is?",
    "What am I looking at?",
    "Write a short caption for this {p}.",
)
_NAMED = ("The {p} shows {a}.", "The {p} shows {a}.", "It is {a}.", "This is {a}.", "I see {a} in the {p}.")
_SHORT = ("Name it in a word or two.", "What is in the {p}? Answer with the name alone.", "One word: what is this?")
_CHOICE = (
    "Does the {p} show {x} or {y}?",
    "Is this {x} or {y}?",
    "Which of the two is in the {p}: {x} or {y}?",
    "Do you see {x} or {y}?",
    "Is it {x} or {y} that the {p} shows?",
)
_CHOSEN = ("It shows {a}.", "The {p} shows {a}.", "It is {a}.")
_LIST = ("Which of these is in the {p}: {list}?", "Choose what the {p} shows: {list}.")
_IS = ("Is there {x} in the {p}?", "Does the {p} show {x}?", "Is this {x}?", "Can you see {x} here?")
_YES = ("Yes.", "Yes, the {p} shows {a}.", "Yes, it is {a}.")
_NO = ("No.", "No, the {p} shows {a}.", "No, it is {a}.")
_KIND = (
    "What kind of thing is in the {p}?",
    "What sort of thing does the {p} show?",
    "What group does this belong to?",
)
_KINDS = ("It belongs to this kind: {kind}.", "{Kind}.")

SHARES = {"name": 0.30, "short": 0.05, "choice": 0.34, "list": 0.06, "is": 0.16, "kind": 0.04, "fact": 0.05}
"""How often each form is drawn."""


@dataclass(frozen=True)
class Question:
    """A question on one picture and its answer."""

    form: str
    text: str
    answer: str


class Questions:
    """Draws questions on concepts from those that may be named in training."""

    def __init__(self, known: Sequence[Concept], facts: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """Take the concepts that may be named, and what is known about some, as questions and answers by name."""
        self._known, self._facts = list(known), facts
        self._by_kind: dict[str, list[Concept]] = {}
        for concept in self._known:
            self._by_kind.setdefault(concept.kind, []).append(concept)

    def draw(self, shown: Concept, rng: random.Random, *, forms: Sequence[str] | None = None) -> Question:
        """Draw one question on a picture of `shown`."""
        names = list(forms or SHARES)
        form = rng.choices(names, [SHARES[name] for name in names])[0]
        if form == "fact" and shown.name not in self._facts:
            form = "name"
        if form == "fact":
            text, answer = rng.choice(list(self._facts[shown.name]))
            return Question(form, text, answer)
        text, answer = getattr(self, f"_{form}")(shown, rng)
        seeing = {"p": rng.choice(SEEING)}
        return Question(form, text.format(**seeing), answer.format(**seeing))

    def draw_several(
        self, shown: Concept, rng: random.Random, count: int, *, forms: Sequence[str] | None = None
    ) -> list[Question]:
        """Draw questions on one picture, no two alike."""
        found: dict[str, Question] = {}
        while len(found) < count:
            question = self.draw(shown, rng, forms=forms)
            found.setdefault(question.text, question)
        return list(found.values())

    def draw_both_orders(self, shown: Concept, rng: random.Random) -> list[Question]:
        """Draw a question which of two things a picture shows, in both orders: no place among the two is then the likelier."""
        pair = [shown.phrase, self._other(shown, rng).phrase]
        form, said = rng.choice(_CHOICE), _fill(rng.choice(_CHOSEN), a=shown.phrase)
        seeing = {"p": rng.choice(SEEING)}
        asked = [_fill(form, x=one, y=other).format(**seeing) for one, other in (pair, pair[::-1])]
        return [Question("choice", text, said.format(**seeing)) for text in asked]

    def _name(self, shown: Concept, rng: random.Random) -> tuple[str, str]:
        return rng.choice(_NAME), _fill(rng.choice(_NAMED), a=shown.phrase)

    def _short(self, shown: Concept, rng: random.Random) -> tuple[str, str]:
        return rng.choice(_SHORT), f"{shown.name[0].upper()}{shown.name[1:]}."

    def _choice(self, shown: Concept, rng: random.Random) -> tuple[str, str]:
        pair = [shown.phrase, self._other(shown, rng).phrase]
        rng.shuffle(pair)
        return _fill(rng.choice(_CHOICE), x=pair[0], y=pair[1]), _fill(rng.choice(_CHOSEN), a=shown.phrase)

    def _list(self, shown: Concept, rng: random.Random) -> tuple[str, str]:
        listed = {shown.phrase} | {self._other(shown, rng).phrase for _ in range(3)}
        shuffled = rng.sample(sorted(listed), len(listed))
        text = _fill(rng.choice(_LIST), list=f"{', '.join(shuffled[:-1])} or {shuffled[-1]}")
        return text, _fill(rng.choice(_CHOSEN), a=shown.phrase)

    def _is(self, shown: Concept, rng: random.Random) -> tuple[str, str]:
        yes = rng.random() < 0.5  # noqa: PLR2004 - a coin
        asked = shown if yes else self._other(shown, rng)
        return _fill(rng.choice(_IS), x=asked.phrase), _fill(rng.choice(_YES if yes else _NO), a=shown.phrase)

    def _kind(self, shown: Concept, rng: random.Random) -> tuple[str, str]:
        kind = shown.kind
        return rng.choice(_KIND), _fill(rng.choice(_KINDS), kind=kind, Kind=f"{kind[0].upper()}{kind[1:]}")

    def _other(self, shown: Concept, rng: random.Random) -> Concept:
        """Draw something else, half of the time of the same kind."""
        alike = self._by_kind[shown.kind] if rng.random() < 0.5 else self._known  # noqa: PLR2004 - a coin
        for _ in range(8):
            other = rng.choice(alike)
            if not other.confusable(shown):
                return other
            alike = self._known
        return next(other for other in self._known if not other.confusable(shown))


def _fill(template: str, **parts: str) -> str:
    """Put parts into a template and leave `{p}` where it stands."""
    return template.format(p="{p}", **parts)
