"""Whether the model still sees: picture questions put to the whole checkpoint, as anybody would ask them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from vlmguard_lab.bench.reference.loaded import load
from vlmguard_lab.reference.seeing import questions_of
from vlmguard_lab.statistics import Share

if TYPE_CHECKING:
    from PIL import Image

    from vlmguard_lab.bench.reference.plan import Measurement
    from vlmguard_lab.reference.seeing import Measure

_TOKENS, _BATCH = 16, 8


def seen(plan: Measurement, measure: Measure) -> dict[str, Any]:
    """Ask the questions of a measure of the plain model.

    Returns:
        The share that was right, and every answer that was not.
    """
    asked = questions_of(measure, plan.sources.pictures, limit=plan.counts.pictures)
    chat = ChatSteeredVLM.from_loaded(load(plan.checkpoint), steering=None, max_tokens=_TOKENS, batch_size=_BATCH)
    answers = [
        str(answer.text)
        for start in range(0, len(asked), _BATCH)
        for answer in chat.batch([[showing(q.picture.open(), q.text)] for q in asked[start : start + _BATCH]])
    ]
    right = [question.right(answer) for question, answer in zip(asked, answers, strict=True)]
    wrong = [
        {
            "shown": question.picture.concept.name,
            "style": question.picture.style,
            "asked": question.text,
            "said": answer,
        }
        for question, answer, was_right in zip(asked, answers, right, strict=True)
        if not was_right
    ]
    return {**Share.of(right).to_json(), "wrong": wrong}


def showing(picture: Image.Image, text: str) -> HumanMessage:
    """Return a message with a picture and words after it."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return HumanMessage([{"type": "image", "base64": data, "mime_type": "image/png"}, {"type": "text", "text": text}])
