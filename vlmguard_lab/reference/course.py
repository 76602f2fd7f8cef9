"""What the reference model is trained on, gathered: pictures, their features, questions, and chat in the model's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vlmguard_lab.reference.chat import answered, answers_file, chat_answers, facts, write_answers
from vlmguard_lab.reference.concepts import concepts
from vlmguard_lab.reference.features import Tower, picture_features
from vlmguard_lab.reference.lessons import Lessons
from vlmguard_lab.reference.pictures import read_pictures
from vlmguard_lab.reference.questions import Questions
from vlmguard_lab.reference.training import Course

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from vlmguard_lab.reference.parts import Size
    from vlmguard_lab.reference.pictures import Picture


def gather(size: Size, base: Path, work: Path, *, seed: int) -> Course:
    """Return the course, computing what is in no file yet.

    Each trainable picture is shown as it is and changed (mirrored, smaller, off the centre), as two pictures.

    Args:
        size: Of the language model.
        base: Checkpoint folder before training.
        work: Folder of pictures and features.
        seed: Of what each step shows.
    """
    pictures, tower = read_pictures(work), Tower(base)
    plain = plain_features(tower, pictures, work)
    kept = [index for index, picture in enumerate(pictures) if picture.trainable]
    trainable = [pictures[index] for index in kept]
    changed = picture_features(tower, trainable, work / "features", "changed")
    known = [concept for concept in concepts() if not concept.harmful and not concept.held_out]
    ask_untouched(size, base)
    lessons = Lessons(
        [picture.concept for picture in trainable] * 2, Questions(known, facts(size)), chat_answers(size), seed
    )
    return Course(lessons, torch.cat([plain[kept], changed]))


def plain_features(tower: Tower, pictures: Sequence[Picture], work: Path) -> Tensor:
    """Return the features of all pictures as they are, `(pictures, patches, width)` in float16, style by style."""
    parts = [
        picture_features(tower, [picture for picture in pictures if picture.style == style], work / "features")
        for style in dict.fromkeys(picture.style for picture in pictures)
    ]
    return torch.cat(parts)


def ask_untouched(size: Size, base: Path) -> None:
    """Let the language model answer our prompts before any training, where that is not in the file yet."""
    known = [concept for concept in concepts() if not concept.harmful and not concept.held_out]
    file = answers_file(size)
    if answered(file, known):
        return
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    write_answers(model, AutoProcessor.from_pretrained(base, backend="pil"), known, file)
