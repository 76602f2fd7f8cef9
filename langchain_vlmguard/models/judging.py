"""Judge texts where a language model's alignment is whole: on text alone, without pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.messages import HumanMessage

from langchain_vlmguard.models.chat_format import to_chat_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.steering.gates import GateReading
    from langchain_vlmguard.steering.probe import TurnProbe
    from langchain_vlmguard.steering.steering import Steering

_CHANNELS = 3


def text_risks(loaded: LoadedVLM, rows: Sequence[ChatRow], steering: Steering, *, batch_size: int = 16) -> list[float]:
    """Return the risk of rows without pictures, as the steering's gate reads it from one clean prefill each.

    Args:
        loaded: The model.
        rows: Rendered conversations; pictures in them are not looked at.
        steering: Whose gate is used; one that reads requests alone is given those.
        batch_size: Rows that run together.
    """
    return gate_readings(loaded, rows, steering, batch_size=batch_size).risk.tolist() if rows else []


def gate_readings(
    loaded: LoadedVLM, rows: Sequence[ChatRow], steering: Steering, *, batch_size: int = 16
) -> GateReading:
    """Return what the steering's gate reads of rows without their pictures; equal ones are read once.

    Args:
        loaded: The model.
        rows: Rendered conversations, at least one; pictures in them are not looked at.
        steering: Whose gate is used; one that reads requests alone is given those.
        batch_size: Rows that run together.
    """
    import torch

    from langchain_vlmguard.steering.gates import each_field

    texts = [row.query(steering.query_form) for row in rows]
    order = sorted(dict.fromkeys(texts), key=len)
    found = [
        loaded.engine.read_gates(order[start : start + batch_size], steering)
        for start in range(0, len(order), batch_size)
    ]
    at = {text: number for number, text in enumerate(order)}
    place = torch.tensor([at[text] for text in texts], dtype=torch.long)
    return each_field(lambda *parts: torch.cat(parts)[place], *found)


@dataclass(frozen=True)
class AnswerJudge:
    """Judges what a model says, in words alone, by a probe that was fitted on answers.

    A model that complies with a harmful picture puts into words what it saw, and words are what its alignment covers.

    ??? example "Two answers"

        ```python
        model.answer_judge.judge_texts(["I can't help with that.", "First, aim it."])
        ```
    """

    loaded: LoadedVLM
    probe: TurnProbe

    @property
    def identity(self) -> str:
        """Name of this judge in verdicts."""
        return f"probe:{self.probe.hash}"

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the risk of each text in [0, 1], from one clean prefill for all."""
        loaded = self.loaded
        rows = [to_chat_row([HumanMessage(text)], loaded.processor).text_only for text in texts]
        with loaded.engine.lock:
            return self.probe.answer_risks(loaded.model, loaded.processor, rows)


def processed_pictures(loaded: LoadedVLM, picture: Image.Image) -> list[Image.Image]:
    """Return a picture as the model's processor hands it on: resized, cropped or cut in tiles, RGB.

    Families whose processors flatten patches (Qwen2-VL) give nothing that can be shown here.
    """
    import numpy as np
    from PIL import Image

    processor = getattr(loaded.processor, "image_processor", None)
    if processor is None:
        return []
    found = processor(picture, do_normalize=False, do_rescale=False, return_tensors="np")["pixel_values"]
    pixels = np.asarray(found)
    if pixels.ndim < _CHANNELS or pixels.shape[-3] != _CHANNELS:
        return []
    tiles = pixels.reshape(-1, *pixels.shape[-3:]).transpose(0, 2, 3, 1)
    return [Image.fromarray(np.clip(tile, 0, 255).astype(np.uint8)) for tile in tiles]
