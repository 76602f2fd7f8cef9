"""One model as it runs: what prefill and decoding need to know of it, and what all its calls share."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from langchain_vlmguard.models.picture_features import PictureFeatures
from langchain_vlmguard.models.structured import grammar_tokenizer
from langchain_vlmguard.models.tool_calls import CALL_MARKERS
from langchain_vlmguard.steering.encoding import encode_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLTokenizer
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.models.requests import Request
    from langchain_vlmguard.steering.attachment import QueryForm


@dataclass(frozen=True, eq=False)
class Runtime:
    """A model with its processor, its lock and its picture features."""

    model: PreTrainedModel
    processor: ProcessorMixin
    features: PictureFeatures = field(default_factory=PictureFeatures)
    lock: Lock = field(default_factory=Lock)
    """Held while the model runs, because some families keep per-call state on their modules."""

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        end = self.model.generation_config.eos_token_id
        return frozenset({end} if isinstance(end, int) else end or ())

    @cached_property
    def context_length(self) -> int:
        """Most tokens that a prompt and its answer may have together."""
        text = self.model.config.get_text_config(decoder=True)
        return int(getattr(text, "max_position_embeddings", None) or sys.maxsize)

    @cached_property
    def grammar_tokenizer(self) -> LLTokenizer:
        """The tokenizer as llguidance sees it."""
        tokenizer = self.processor.tokenizer
        vocabulary = max(self.model.get_output_embeddings().weight.shape[0], len(tokenizer))
        return grammar_tokenizer(tokenizer, vocabulary, self.end_tokens)

    def hidden_tokens(self, *, markers: bool) -> frozenset[int]:
        """Return the special tokens that are left out of texts; with `markers`, those around tool calls stay in."""
        tokenizer = self.processor.tokenizer
        special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special |= {number: token.content for number, token in added.items() if token.special}
        return frozenset(number for number, token in special.items() if not (markers and token in CALL_MARKERS))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return str(self.processor.tokenizer.decode(tokens))

    def encode(self, requests: Sequence[Request], query: QueryForm | None = None) -> dict[str, Tensor]:
        """Encode the rows of requests, left-padded, on the model's device; as a `query`, without their pictures."""
        rows = [request.row for request in requests]
        if query is None:
            encoded = encode_texts(self.processor, [row.text for row in rows], [r.pictures for r in rows if r.pictures])
        else:
            encoded = encode_texts(self.processor, [row.query(query) for row in rows])
        return {name: tensor.to(self.model.device) for name, tensor in encoded.items()}
