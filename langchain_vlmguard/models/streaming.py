"""Text that grows token by token: finds stop strings, and releases pieces once they are final."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


class GrowingText:
    """Decodes tokens one at a time and cuts at the first stop string.

    Blanks at the beginning are dropped. Text that could be the beginning of a stop string, and blanks that could turn out to
    be the end of the answer, are held back, so that no part of either leaves.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], hidden: frozenset[int]) -> None:
        """Decode for a tokenizer, without the tokens that are `hidden`."""
        self._tokenizer, self._stop, self._hidden = tokenizer, tuple(stop), hidden
        self._backend: Tokenizer | None = getattr(tokenizer, "_tokenizer", None)
        self._stream = DecodeStream(skip_special_tokens=False)
        self._ids: list[int] = []
        self._decoded = ""
        self._released = 0
        self.text = ""
        """What was decoded so far, without blanks at its beginning, cut at a stop string."""

        self.stopped = False
        """Whether a stop string was found."""

    def add(self, token: int) -> str:
        """Take one token and return the text that may leave now."""
        if self.stopped or token in self._hidden:
            return ""
        self.text += self._piece(token) if self.text else self._piece(token).lstrip()
        found = [at for stop in self._stop if (at := self.text.find(stop, self._released)) >= 0]
        if found:
            self.stopped, self.text = True, self.text[: min(found)]
            return ""
        held = max((_overlap(self.text, stop) for stop in self._stop), default=0)
        return self._release(len(self.text[: len(self.text) - held].rstrip()))

    def end(self) -> str:
        """Return the text that was still held back, without blanks at the end."""
        whole = str(self._tokenizer.decode(self._ids)).lstrip()
        if not self.stopped and whole.startswith(self.text):  # bytes at the end that make no character
            self.text = whole
        self.text = self.text.rstrip()
        return self._release(len(self.text))

    def _piece(self, token: int) -> str:
        self._ids.append(token)
        if self._backend is not None:
            return self._stream.step(self._backend, token) or ""
        decoded = str(self._tokenizer.decode(self._ids))
        if decoded.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        before, self._decoded = self._decoded, decoded
        return decoded[len(before) :]

    def _release(self, until: int) -> str:
        piece = self.text[self._released : until]
        self._released = max(self._released, until)
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
