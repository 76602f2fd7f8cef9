"""`Guard`: one value that every face takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.agents.middleware import VLMGuardMiddleware
from langchain_vlmguard.faces.chat_model import GuardedChatModel
from langchain_vlmguard.faces.graph import guard_graph
from langchain_vlmguard.faces.node import VLMGuardNode
from langchain_vlmguard.guard.parts import GuardParts

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

    from langchain_vlmguard.faces.steps import GuardGraph
    from langchain_vlmguard.rewriting.report import Model


@dataclass(frozen=True)
class Guard(GuardParts):
    """A guard, put together once and used behind any face.

    The same parts do the same behind each: same action, same risks, same words leave.

    ??? example "One guard, four faces"

        ```python
        guard = Guard(ReasoningRewriter.from_model(chat_model), policy={"rewrite": "adaptive"})
        agent = create_agent(model, tools, middleware=[guard.middleware()])
        graph = guard.graph(model).compile()
        node = guard.node()
        wrapped = guard.wrap(model)
        ```
    """

    def middleware(self, **options: Any) -> VLMGuardMiddleware:
        """Return the guard for `create_agent`; options say what this agent checks, e.g. `tools=[...]`, `mode="monitor"`."""
        return VLMGuardMiddleware(self, **options)

    def graph(self, model: Model) -> GuardGraph:
        """Return the guard as a graph around a model, not compiled."""
        return guard_graph(self, model)

    def node(self, *, model: Model | None = None) -> VLMGuardNode:
        """Return the guard as a node of your own graph; `model` is the one that your own node asks, if it can judge."""
        return VLMGuardNode(self, model=model)

    def wrap(self, model: BaseChatModel, **options: Any) -> GuardedChatModel:
        """Return a chat model behind the guard; options are fields of `GuardedChatModel`, e.g. `on_refusal="error"`."""
        return GuardedChatModel.of(model, self, **options)
