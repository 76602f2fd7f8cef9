"""What may be given to a guard where a rewriter is expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from langchain_core.runnables import Runnable

from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter
from langchain_vlmguard.rewriting.sources import is_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_vlmguard.rewriting.report import Rewriter
    from langchain_vlmguard.verdict.rules import Rule


@runtime_checkable
class TakesRules(Protocol):
    """A rewriter that can be told rules in plain words."""

    rules: tuple[Rule, ...]
    """What it is told."""

    def with_rules(self, rules: Sequence[Rule]) -> Rewriter:
        """Return this rewriter, told these rules and no others."""


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


def under_rules(rewriter: Rewriter | None, rules: Sequence[Rule]) -> Rewriter | None:
    """Return a rewriter that is told a policy's rules.

    Raises:
        ValueError: There are rules, and no rewriter that can be told them.
    """
    given: object = rewriter
    if isinstance(given, TakesRules):
        return given.with_rules(rules) if rules or given.rules else rewriter
    if rules:
        who = "there is no rewriter" if rewriter is None else f"{type(rewriter).__name__} cannot be told them"
        msg = f"the policy has rules in plain words ({rules[0].id}), and {who}: give a chat model as the rewriter"
        raise ValueError(msg)
    return rewriter
