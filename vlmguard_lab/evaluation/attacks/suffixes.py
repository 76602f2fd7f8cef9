"""Greedy coordinate gradient on a suffix of words (GCG, arXiv 2307.15043), against model, gate and intervention together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from vlmguard_lab.evaluation.attacks.objective import attack_loss
from vlmguard_lab.evaluation.attacks.pictures import encode_batch, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.rewriting.adapter import RewriterAdapter
    from langchain_vlmguard.steering.attachment import Attachment
    from vlmguard_lab.evaluation.attacks.objective import Batch

    MakeRow = Callable[[str], ChatRow]
    """From the words of a request to its rendered prompt."""


@dataclass(frozen=True)
class SuffixBudget:
    """What an attacker may write behind a request."""

    words: int = 8
    steps: int = 20
    candidates: int = 48
    """Suffixes tried in each step."""

    top: int = 24
    """Words that the gradient proposes for a place."""


@dataclass(frozen=True)
class Suffix:
    """What came of an attack."""

    text: str
    """The words to write behind the request."""

    curve: tuple[float, ...]
    """Loss after each step, the start first; it never rises."""


def attack_suffix(
    loaded: LoadedVLM,
    text: str,
    wanted: str,
    make_row: MakeRow,
    budget: SuffixBudget,
    *,
    defence: Attachment | None = None,
    refuse_at: float | None = None,
    adapter: RewriterAdapter | None = None,
    admitted: str = "",
    seed: int = 0,
) -> Suffix:
    """Look for words behind a request in text alone with which the defended model gives the wanted answer.

    In each step the gradient of the loss for each word's embedding proposes replacements, a sample of them is tried, and the
    best is kept where it is better. Only words that the tokenizer keeps as one token each are used, so that what is optimised
    is what a person could type.

    Args:
        loaded: The model.
        text: The request.
        wanted: Its complying answer.
        make_row: Renders a request (with the suffix) as a prompt without pictures.
        budget: How long and how hard.
        defence: What the attacker knows to be in place.
        refuse_at: See `attack_loss`.
        adapter: The rewriter's adapter, where a rewriter on the same weights is shown the same prompt first.
        admitted: What the rewriter would write of the request if it let it go on unchanged.
        seed: Of the start and the samples.
    """
    wants = (wanted, admitted) if adapter else (wanted,)
    search = _Search(loaded, text, wants, make_row, budget, defence, refuse_at, adapter, seed)
    return search.run()


class _Search:
    def __init__(
        self,
        loaded: LoadedVLM,
        text: str,
        wanted: tuple[str, ...],
        make_row: MakeRow,
        budget: SuffixBudget,
        defence: Attachment | None,
        refuse_at: float | None,
        adapter: RewriterAdapter | None,
        seed: int,
    ) -> None:
        self._loaded, self._text, self._wanted, self._make_row = loaded, text, wanted, make_row
        self._budget, self._defence, self._refuse_at, self._adapter = budget, defence, refuse_at, adapter
        self._generator = torch.Generator().manual_seed(seed)
        self._words = usable_words(loaded)
        self._ids = torch.tensor(list(self._words))

    def run(self) -> Suffix:
        """Search greedily."""
        best = [self._draw() for _ in range(self._budget.words)]
        lowest = float(self._losses([best])[0])
        curve = [lowest]
        for _ in range(self._budget.steps):
            tried = self._candidates(best, self._proposals(best))
            losses = self._losses(tried)
            at = int(losses.argmin())
            if float(losses[at]) < lowest:
                lowest, best = float(losses[at]), tried[at]
            curve.append(lowest)
        return Suffix(self._written(best), tuple(curve))

    def _draw(self) -> int:
        return int(self._ids[torch.randint(len(self._ids), (1,), generator=self._generator)])

    def _written(self, suffix: Sequence[int]) -> str:
        return " ".join(self._words[token] for token in suffix)

    def _row(self, suffix: Sequence[int]) -> ChatRow:
        return self._make_row(f"{self._text} {self._written(suffix)}")

    def _losses(self, suffixes: Sequence[Sequence[int]]) -> Tensor:
        with frozen(self._loaded), torch.no_grad():
            return self._total(self._encoded(suffixes))

    def _encoded(self, suffixes: Sequence[Sequence[int]]) -> Batch:
        answer, *admitted = ([text] * len(suffixes) for text in self._wanted)
        return encode_batch(self._loaded, [self._row(s) for s in suffixes], answer, self._defence, *admitted)

    def _total(self, batch: Batch) -> Tensor:
        return attack_loss(
            self._loaded.model, batch, self._defence, refuse_at=self._refuse_at, adapter=self._adapter
        ).total

    def _proposals(self, suffix: Sequence[int]) -> Tensor:
        """Return the most promising words for each place, `(words, top)` token ids."""
        batch = self._encoded([suffix])
        table = self._loaded.model.get_input_embeddings().weight
        ids = batch.inputs["input_ids"]
        embedded = table[ids].detach().requires_grad_()
        inputs = {"inputs_embeds": embedded, "attention_mask": batch.inputs["attention_mask"]}
        with frozen(self._loaded), torch.enable_grad():
            changed = replace(batch, inputs=inputs, text_inputs=inputs if batch.text_inputs else None)
            (gradient,) = torch.autograd.grad(self._total(changed).sum(), embedded)
        places = _places(ids[0].tolist(), suffix)
        with torch.no_grad():
            gain = -(gradient[0, places] @ table[self._ids].T)
        return self._ids[gain.topk(min(self._budget.top, len(self._ids)), dim=1).indices]

    def _candidates(self, suffix: Sequence[int], proposals: Tensor) -> list[list[int]]:
        """Sample replacements of one word each."""
        tried = []
        for _ in range(self._budget.candidates):
            place, rank = (int(torch.randint(n, (1,), generator=self._generator)) for n in proposals.shape)
            changed = list(suffix)
            changed[place] = int(proposals[place, rank])
            tried.append(changed)
        return tried


def usable_words(loaded: LoadedVLM) -> dict[int, str]:
    """Return tokens that are whole words and stay one token among other words, by id."""
    tokenizer = loaded.processor.tokenizer
    special = set(tokenizer.all_special_ids)
    words = {token: tokenizer.decode([token]).strip() for token in range(len(tokenizer)) if token not in special}
    plain = {token: word for token, word in words.items() if word.isalpha() and word.isascii()}

    def kept(token: int, word: str) -> bool:
        again: list[int] = tokenizer(f"{word} {word}", add_special_tokens=False)["input_ids"]
        return again == [token, token]

    return {token: word for token, word in plain.items() if kept(token, word)}


def _places(ids: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """Return where the suffix stands in a prompt, its last occurrence."""
    length = len(suffix)
    for start in range(len(ids) - length, -1, -1):
        if list(ids[start : start + length]) == list(suffix):
            return list(range(start, start + length))
    msg = "the tokenizer does not keep the suffix as it was written"
    raise ValueError(msg)
