"""Decode one row of a batch: choose its next token by its own settings, and know when its answer is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from langchain_vlmguard.models.requests import Generated, TokenLogprob
from langchain_vlmguard.models.streaming import GrowingText
from langchain_vlmguard.models.structured import GrammarState

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessor

    from langchain_vlmguard.models.requests import Request, Settings
    from langchain_vlmguard.models.runtime import Runtime
    from langchain_vlmguard.steering.attachment import Trace


class RowDecoder:
    """The state of one row: its tokens, its text if somebody needs it early, its random generator and its grammar."""

    def __init__(self, runtime: Runtime, request: Request, input_tokens: int, trace: Trace | None) -> None:
        """Start after the prefill of `input_tokens` tokens, with the row's steering trace."""
        settings = request.settings
        self.request = request
        self._runtime = runtime
        self._input_tokens = input_tokens
        self._trace = trace
        self._tokens: list[int] = []
        self._hidden = runtime.hidden_tokens(markers=settings.markers)
        self._ends = runtime.end_tokens
        self._limit = min(settings.max_tokens, runtime.context_length - input_tokens)
        self._logprobs: list[TokenLogprob] = []
        self._grammar = GrammarState(runtime.grammar_tokenizer, settings.grammar) if settings.grammar else None
        grows = settings.stop or request.on_piece
        self._text = GrowingText(runtime.processor.tokenizer, settings.stop, self._hidden) if grows else None
        self._skip = request.emitted
        self._reason = "length"
        self._warpers = _warpers(settings) if settings.temperature > 0 else None
        self._generator = None if settings.seed is None else torch.Generator().manual_seed(settings.seed)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is the choice."""
        return self._warpers is None and self._grammar is None

    def choose(self, scores: Tensor) -> int:
        """Choose the next token from `(vocabulary,)` float32 scores."""
        if self._grammar is not None:
            scores = self._grammar.masked(scores)
        if self._warpers is None:
            return int(scores.argmax())
        warped = scores[None].cpu()
        for warper in self._warpers:
            warped = warper(None, warped)
        return int(torch.multinomial(warped.softmax(-1)[0], 1, generator=self._generator))

    def accept(self, token: int, logits: Tensor) -> bool:
        """Take the chosen token.

        Args:
            token: The token.
            logits: The model's own `(vocabulary,)` logits at this step.

        Returns:
            Whether the row is over: at an end token, a stop string, the end of its grammar, or its last token.
        """
        self._tokens.append(token)
        if self.request.settings.logprobs is not None:
            self._logprobs.append(self._logprob(token, logits, self.request.settings.logprobs))
        ended = token in self._ends
        if self._grammar is not None and not ended:
            ended = self._grammar.consume(token)
        if self._text is not None and token not in self._ends:
            self._emit(self._text.add(token))
            ended = ended or self._text.stopped
        stays = not (self.request.settings.until_gate and self._trace and self._trace["open"])
        if stays and not ended and len(self._tokens) < self._limit:
            return False
        self._reason = "stop" if ended else "length"
        if self._text is not None:
            self._emit(self._text.end())
        return True

    def deliver(self) -> None:
        """Give the whole answer to whoever asked."""
        try:
            text = self._whole_text()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's own thread
            self.request.fail(error)
            return
        self.request.finish(
            Generated(
                text=text,
                input_tokens=self._input_tokens,
                output_tokens=len(self._tokens),
                finish_reason=self._reason,
                steering=self._trace,
                logprobs=None if self.request.settings.logprobs is None else tuple(self._logprobs),
            )
        )

    def _whole_text(self) -> str:
        if self._text is not None:
            return self._text.text
        kept = [token for token in self._tokens if token not in self._hidden]
        return self._runtime.decode(kept).strip()

    def _emit(self, piece: str) -> None:
        """Hand a piece on; a restarted row skips what it released before."""
        if self._skip:
            skipped = min(self._skip, len(piece))
            self._skip, piece = self._skip - skipped, piece[skipped:]
        if piece and self.request.on_piece is not None:
            self.request.emitted += len(piece)
            self.request.on_piece(piece)

    def _logprob(self, token: int, logits: Tensor, alternatives: int) -> TokenLogprob:
        values = logits.float().log_softmax(-1)
        decode = self._runtime.decode
        likeliest = values.topk(alternatives) if alternatives else None
        pairs = [] if likeliest is None else zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        top = tuple((decode([other]), value) for other, value in pairs)
        return TokenLogprob(decode([token]), float(values[token]), top)


def _warpers(settings: Settings) -> list[LogitsProcessor]:
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(settings.temperature))]
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None and settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return warpers
