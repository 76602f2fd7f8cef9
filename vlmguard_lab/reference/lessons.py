"""What a step of training shows: pictures, questions on them, and some conversations without a picture."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmguard_lab.reference.packing import Packing
from vlmguard_lab.reference.reader import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vlmguard_lab.reference.concepts import Concept
    from vlmguard_lab.reference.packing import Packed
    from vlmguard_lab.reference.questions import Question, Questions
    from vlmguard_lab.reference.reader import Reader
    from vlmguard_lab.reference.recipe import Stage

_NAMES = ("name", "short")
"""Forms of question in the stages of captions and of names."""

_COMPARED_ONE_IN = 2
"""In the stage of names, which of two is asked beside one picture of this many, too: it is not unlearned."""

_LAST_ONE_IN = 4
"""In one picture of this many, the picture comes after the words."""


@dataclass(frozen=True)
class Lessons:
    """Draws what each step shows, the same for the same seed, stage and step."""

    shown: Sequence[Concept]
    """What each picture shows, by the number of its features."""

    questions: Questions
    chat: Mapping[str, str]
    """Prompts without a picture and their answers."""

    seed: int

    def draw(self, stage: Stage, step: int) -> list[Asked]:
        """Return the conversations of a step.

        Each thing is as likely as every other, however many pictures show it.
        """
        rng = random.Random(f"{self.seed}:{stage.name}:{step}")
        found: list[Asked] = []
        for concept in rng.sample(self._concepts(), stage.pictures):
            number = rng.choice([n for n, shown in enumerate(self.shown) if shown is concept])
            last = stage.name != "caption" and rng.randrange(_LAST_ONE_IN) == 0
            asked = self._questions(concept, stage, rng)
            found += [Asked(question.text, question.answer, number, picture_last=last) for question in asked]
        prompts = sorted(self.chat)
        found += [Asked(prompt, self.chat[prompt]) for prompt in rng.sample(prompts, stage.chats)]
        return found

    def _questions(self, concept: Concept, stage: Stage, rng: random.Random) -> list[Question]:
        compared = self.questions.draw_both_orders
        if stage.name == "compare":
            asked = compared(concept, rng)
            return asked + self.questions.draw_several(concept, rng, stage.questions - len(asked))
        forms = _NAMES if stage.name in {"caption", "name"} else None
        asked = self.questions.draw_several(concept, rng, stage.questions, forms=forms)
        also = stage.name == "name" and rng.randrange(_COMPARED_ONE_IN) == 0
        return asked + compared(concept, rng) if also else asked

    def _concepts(self) -> list[Concept]:
        return list(dict.fromkeys(self.shown))


def pack(reader: Reader, lessons: Sequence[Asked]) -> Packed:
    """Return conversations as one sequence."""
    packing = Packing()
    for asked in lessons:
        packing.add(reader.segments(asked))
    return packing.packed()
