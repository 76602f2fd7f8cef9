"""`VLMGuardNode` and `route_on_verdict`: the guard as one node of somebody's own graph, and the branch after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import END, START, StateGraph

from langchain_vlmguard.agents.options import NO_MODEL
from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.guard.nodes import GuardNodes
from langchain_vlmguard.guard.pictures import HiddenRequests
from langchain_vlmguard.guard.state import GuardContext, GuardInput, GuardOutput, VLMGuardState, current_verdict
from langchain_vlmguard.verdict.policy import GuardPolicy

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.guard.pictures import TextJudge
    from langchain_vlmguard.rewriting.rewriter import Rewrite

Route = Literal["allow", "rewrite", "refuse"]


class VLMGuardNode(Runnable[Any, dict[str, Any]]):
    """Judges the turn, asks a person where the policy wants one, and writes the verdict and a refusal into the state.

    The node that answers stays your own: give it `node.for_model(state)`, which holds the rewritten prompt where there is one.
    The state needs the keys `messages` and `verdict`. Review needs a checkpointer on the graph around the node.

    ??? example "In a graph"

        ```python
        guard = VLMGuardNode(rewriter)
        graph.add_node("guard", guard)
        graph.add_node("answer", lambda state: {"messages": [model.invoke(guard.for_model(state))]})
        graph.add_edge(START, "guard")
        graph.add_conditional_edges("guard", route_on_verdict, {"allow": "answer", "rewrite": "answer", "refuse": END})
        ```
    """

    def __init__(
        self,
        rewriter: Runnable[Any, Rewrite] | None = None,
        *,
        policy: GuardPolicy | None = None,
        fetcher: PictureFetcher | None = None,
        evidence: EvidenceReader | None = None,
        judge: TextJudge | None = None,
    ) -> None:
        """Set the node up.

        Args:
            rewriter: Judges turns and rewrites prompts; without one they are read, and what cannot be read is refused.
            policy: Thresholds and actions; `context={"policy": ...}` replaces it for one run.
            fetcher: How pictures are fetched by address, where the policy lists `image_hosts`.
            evidence: Reads what pictures say (extra `evidence`).
            judge: What judges the words in pictures as if typed, e.g. a `ChatSteeredVLM`; the rewriter alone when `None`.

        Raises:
            TypeError: The rewriter is no `Runnable`.
        """
        given: object = rewriter
        if given is not None and not isinstance(given, Runnable):
            msg = f"the rewriter must be a LangChain Runnable such as ReasoningRewriter, not {type(given).__name__}"
            raise TypeError(msg)
        hidden = None if evidence is None else HiddenRequests(evidence, judge)
        self._nodes = GuardNodes(NO_MODEL, rewriter, policy or GuardPolicy(), fetcher or PictureFetcher(), hidden)
        self.graph = _judging_graph(self._nodes).compile(name="VLMGuardNode")

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Judge the turn of a state; returns the update."""
        return dict(self.graph.invoke({"messages": _messages(input)}, config, **kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Judge the turn of a state without blocking the event loop; returns the update."""
        return dict(await self.graph.ainvoke({"messages": _messages(input)}, config, **kwargs))

    def for_model(self, state: Any) -> list[BaseMessage]:
        """Return the conversation of a judged state as a model may get it.

        Raises:
            ValueError: The state holds no verdict that lets the turn go on, or one that was made under another policy than
                this run's, e.g. by a node cache, which knows nothing of the run's context.
        """
        verdict = current_verdict(state)
        if verdict is None or verdict.action not in ("allow", "rewrite"):
            msg = "the turn has no verdict that lets it go on: route on the verdict before asking the model"
            raise ValueError(msg)
        if verdict.provenance.policy != self._nodes.policy.hash:
            msg = "the verdict was made under another policy than this run's: cache no guard where tenants bring their own"
            raise ValueError(msg)
        draft = {
            "action": verdict.action,
            "rewritten_prompt": verdict.rewritten_prompt,
            "withheld": verdict.withheld,
        }
        return self._nodes.for_model(
            cast("VLMGuardState", {"messages": _messages(state), "draft": draft, "verdict": {}})
        )


def route_on_verdict(state: Any) -> Route:
    """Return the action of the state's verdict, for `add_conditional_edges`; anything that is no clear yes is `refuse`."""
    verdict = current_verdict(state)
    return verdict.action if verdict is not None and verdict.action in ("allow", "rewrite") else "refuse"


def _judging_graph(nodes: GuardNodes) -> StateGraph[VLMGuardState, GuardContext, GuardInput, GuardOutput]:
    """Return the guard's graph without the answer."""

    def let_pass(state: VLMGuardState) -> dict[str, Any]:
        return {"verdict": nodes.verdict(state["draft"]).to_state(), "draft": {}}

    graph = StateGraph(VLMGuardState, context_schema=GuardContext, input_schema=GuardInput, output_schema=GuardOutput)
    graph.add_node("inspect", nodes.inspect)
    graph.add_node("rewrite", RunnableLambda(nodes.rewrite, afunc=nodes.arewrite))
    graph.add_node("refuse", nodes.refuse)
    graph.add_node("review", nodes.review)
    graph.add_node("pass", let_pass)
    graph.add_edge(START, "inspect")
    graph.add_edge("inspect", "rewrite")
    graph.add_conditional_edges("rewrite", _next_step, ["pass", "refuse", "review"])
    graph.add_conditional_edges("review", _next_step, ["pass", "refuse"])
    graph.add_edge("refuse", END)
    graph.add_edge("pass", END)
    return graph


def _next_step(state: VLMGuardState) -> Literal["pass", "refuse", "review"]:
    action = state["draft"]["action"]
    return action if action in ("refuse", "review") else "pass"


def _messages(state: Any) -> list[Any]:
    return list(state["messages"] if isinstance(state, dict) else state.messages)
