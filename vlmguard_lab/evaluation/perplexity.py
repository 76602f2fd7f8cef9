"""Perplexity of answers under the plain target: whether a defence keeps to language at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.models.chat_format import ChatRow
from vlmguard_lab.evaluation.attacks.objective import attack_loss
from vlmguard_lab.evaluation.attacks.pictures import encode_batch, frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_vlmguard.models.loading import LoadedVLM


def perplexity(loaded: LoadedVLM, answers: Sequence[str], *, batch_size: int = 64) -> float:
    """Return the exponential of the mean token loss of answers, read alone after the chat template's empty turn.

    The request plays no part, so that a refusal is not unlikely just because the request would have been answered.

    Args:
        loaded: The plain model.
        answers: Answers; empty ones are left out.
        batch_size: Answers a forward pass.

    Raises:
        ValueError: There is no answer.
    """
    said = [answer for answer in answers if answer.strip()]
    if not said:
        msg = "perplexity needs at least one answer"
        raise ValueError(msg)
    turn = [{"role": "user", "content": [{"type": "text", "text": ""}]}]
    empty = loaded.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    losses: list[float] = []
    for start in range(0, len(said), batch_size):
        part = said[start : start + batch_size]
        batch = encode_batch(loaded, [ChatRow(empty, empty)] * len(part), part, None)
        with frozen(loaded), torch.no_grad():
            losses += attack_loss(loaded.model, batch).answer.tolist()
    return math.exp(sum(losses) / len(losses))
