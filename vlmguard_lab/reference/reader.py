"""The language model of a checkpoint folder as training needs it: pictures come as cached features, conversations packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from transformers import AutoProcessor, LlavaForConditionalGeneration

from vlmguard_lab.reference.language import END, IMAGE
from vlmguard_lab.reference.packing import Segment
from vlmguard_lab.reference.projector import Projector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from vlmguard_lab.reference.packing import Packed

_MARK = "\u241e"
"""Stands for the question while the template is looked at."""


@dataclass(frozen=True)
class Asked:
    """A conversation of one question and its answer."""

    question: str
    answer: str
    picture: int | None = None
    system: str | None = None
    picture_last: bool = False
    """Whether the picture comes after the words."""


class Reader:
    """A frozen language model and a projector before it, both in float32."""

    def __init__(self, folder: Path) -> None:
        """Load an assembled checkpoint without its tower."""
        whole = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        whole.requires_grad_(requires_grad=False)
        self.language = whole.model.language_model
        self.head: Tensor = whole.lm_head.weight
        self.table: Tensor = whole.get_input_embeddings().weight
        self.hidden = whole.config.text_config.hidden_size
        self.projector = Projector(whole.config.vision_config.hidden_size, self.hidden)
        self.projector.load_state_dict(whole.model.multi_modal_projector.state_dict())
        self.processor = AutoProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = self.processor.tokenizer
        self._image = self.tokenizer.convert_tokens_to_ids(IMAGE)
        self._patches = whole.config.image_seq_length
        self._frames: dict[tuple[str | None, bool, bool], tuple[str, str]] = {}

    def segments(self, asked: Asked) -> list[Segment]:
        """Return a conversation in pieces that packing can share: system prompt, picture, words."""
        before, after = self._frame(asked.system, pictured=asked.picture is not None, last=asked.picture_last)
        system, turn = self._at_turn(before)
        words = self._tokens(asked.question + after)
        answer = self._tokens(f"{asked.answer}{END}")
        said = Segment(words + answer, (False,) * len(words) + (True,) * len(answer), self._late(asked))
        pieces = [self._plain(system)]
        if asked.picture is not None and not asked.picture_last:
            return [*pieces, self._plain(turn, asked.picture), said]
        if turn:
            pieces.append(self._plain(turn))
        return [*pieces, said]

    def loss(self, packed: Packed, features: Mapping[int, Tensor]) -> Tensor:
        """Return the mean loss of the learned tokens."""
        hidden = self.hidden_states(packed, features)[0]
        logits = functional.linear(hidden[packed.sources], self.head)
        return functional.cross_entropy(logits, packed.targets)

    def hidden_states(self, packed: Packed, features: Mapping[int, Tensor]) -> Tensor:
        """Return the last hidden states, `(1, n, hidden)`."""
        embedded = functional.embedding(packed.tokens, self.table)
        if packed.pictures:
            shown = torch.stack([features[number] for number in packed.pictures]).float()
            said = self.projector(shown).flatten(0, 1)
            embedded = embedded.masked_scatter((packed.tokens == self._image)[..., None], said)
        states: Tensor = self.language(
            inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        return states

    def _late(self, asked: Asked) -> int | None:
        return asked.picture if asked.picture_last else None

    def _plain(self, text: str, picture: int | None = None) -> Segment:
        tokens = self._tokens(text)
        return Segment(tokens, (False,) * len(tokens), picture)

    def _tokens(self, text: str) -> tuple[int, ...]:
        spread = text.replace(IMAGE, IMAGE * self._patches)
        return tuple(self.tokenizer(spread, add_special_tokens=False)["input_ids"])

    def _frame(self, system: str | None, *, pictured: bool, last: bool) -> tuple[str, str]:
        """Return what the chat template puts before and after the question."""
        key = (system, pictured, last)
        if key not in self._frames:
            parts = [{"type": "text", "text": _MARK}]
            if pictured:
                parts.insert(1 if last else 0, {"type": "image"})
            turns: list[dict[str, object]] = [{"role": "user", "content": parts}]
            if system is not None:
                turns.insert(0, {"role": "system", "content": system})
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
            before, _, after = text.partition(_MARK)
            self._frames[key] = (before, after)
        return self._frames[key]

    def _at_turn(self, before: str) -> tuple[str, str]:
        system, mark, turn = before.rpartition("<|im_start|>")
        return system + mark, turn


def features_of(numbers: Sequence[int], features: Tensor) -> dict[int, Tensor]:
    """Return the features of some pictures by their numbers."""
    return {number: features[number] for number in numbers}
