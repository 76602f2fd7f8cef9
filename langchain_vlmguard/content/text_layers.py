"""Compare the text layer of a page with what the page shows."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from langchain_core.messages import ToolMessage

from langchain_vlmguard.verdict.records import SecurityFinding

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.evidence import PictureEvidence
    from langchain_vlmguard.verdict.records import Channel

_SHORT = 4
"""Letters from which a word is looked for; shorter ones stand anywhere by chance."""

_RUN = 3
"""Words in a row that the page does not show: a reader that errs does so here and there."""

_ALIKE = 0.75


def says_otherwise(layer: str, evidence: PictureEvidence) -> bool:
    """Whether a page's text layer has words in a row that the page does not show.

    Where the page shows text that could not be read, nothing can be told, and it is listed as unread anyway.

    Args:
        layer: The words of the text layer.
        evidence: What was read of the drawn page.
    """
    if not layer or evidence.unread:
        return False
    read = [_letters(finding.text) for finding in evidence.findings if finding.kind == "text"]
    together, words = "\n".join(read), {_letters(word) for f in evidence.findings for word in f.text.split()}
    missing = 0
    for word in filter(lambda one: len(one) >= _SHORT, map(_letters, layer.split())):
        shown = word in together or bool(difflib.get_close_matches(word, words, n=1, cutoff=_ALIKE))
        missing = 0 if shown else missing + 1
        if missing == _RUN:
            return True
    return False


def hidden_text(where: str, message: BaseMessage) -> SecurityFinding:
    """Return the finding about a page whose text layer has words that it does not show.

    Args:
        where: Place of the page.
        message: The message that the document came with.
    """
    channel: Channel = "tool_result" if isinstance(message, ToolMessage) else "cross_modal"
    rationale = f"the text layer of the page at {where} has words that the page does not show"
    return SecurityFinding(kind="prompt_injection", channel=channel, rationale=rationale)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
