"""Encode prompts for a processor: chat template, left padding, pictures in row order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from torch import Tensor
    from transformers import ProcessorMixin


@dataclass(frozen=True)
class Prompt:
    """A user's text, optionally beside one picture."""

    text: str
    picture: Image.Image | None = None

    def message(self) -> dict[str, object]:
        """Return the prompt as one user message in Hugging Face chat form, picture first."""
        pictures = [{"type": "image"}] if self.picture is not None else []
        return {"role": "user", "content": [*pictures, {"type": "text", "text": self.text}]}


def encode_prompts(processor: ProcessorMixin, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Render prompts with the chat template and encode them, left-padded.

    Args:
        processor: The model's processor.
        prompts: Rows that either all show a picture or all show none (families disagree on mixed rows).

    Returns:
        The processor's tensors: `input_ids` and `attention_mask` `(rows, tokens)` int64, and pixel entries with pictures.
    """
    texts = [
        processor.apply_chat_template([prompt.message()], tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    return encode_texts(processor, texts, [[p.picture] for p in prompts if p.picture is not None])


def encode_texts(
    processor: ProcessorMixin, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]] = ()
) -> dict[str, Tensor]:
    """Encode rendered texts, left-padded, with no pictures at all or a non-empty list of them for every row.

    Raises:
        ValueError: Some rows show pictures and others do not.
    """
    if pictures and (len(pictures) != len(texts) or not all(pictures)):
        msg = "rows with and without pictures cannot be encoded together: encode them in two calls"
        raise ValueError(msg)
    shown = {"images": [list(row) for row in pictures]} if pictures else {}
    encoded = processor(text=list(texts), **shown, padding=True, padding_side="left", return_tensors="pt")
    return dict(encoded)
