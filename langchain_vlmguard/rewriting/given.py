"""What may be given to a guard where a rewriter is expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.runnables import Runnable

from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter
from langchain_vlmguard.rewriting.sources import is_model

if TYPE_CHECKING:
    from langchain_vlmguard.rewriting.report import Rewriter


def rewriter_of(given: object) -> Rewriter | None:
    """Return the rewriter; a chat model, or the name of one, becomes a `ReasoningRewriter`.

    Raises:
        TypeError: It is no rewriter and names no model.
        ValueError: Tools are bound to the model.
        ImportError: The package of the named provider is not installed.

    ??? example

        ```python
        rewriter_of("openai:gpt-4o")
        rewriter_of(chat_model.with_retry())
        ```
    """
    if isinstance(given, str):
        try:
            return ReasoningRewriter.from_model(given)
        except ValueError as error:
            msg = f"the rewriter must be a LangChain Runnable such as ReasoningRewriter, or a chat model or its name: {error}"
            raise TypeError(msg) from error
    if is_model(given):
        return ReasoningRewriter.from_model(given)
    if given is not None and not isinstance(given, Runnable):
        msg = (
            f"the rewriter must be a LangChain Runnable such as ReasoningRewriter, or a chat model or its name, not "
            f"{type(given).__name__}"
        )
        raise TypeError(msg)
    return given
