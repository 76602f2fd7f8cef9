"""The guard as one small graph: inspect, rewrite, then answer, refuse or review."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import END, START, StateGraph

from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.guard.nodes import GuardNodes
from langchain_vlmguard.guard.pictures import HiddenRequests, judge_in
from langchain_vlmguard.guard.state import GuardContext, GuardInput, GuardOutput, VLMGuardState
from langchain_vlmguard.verdict.policy import GuardPolicy

if TYPE_CHECKING:
    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.guard.pictures import TextJudge
    from langchain_vlmguard.guard.second_reader import SecondReader
    from langchain_vlmguard.rewriting.rewriter import Rewrite


def create_vlm_guard(
    model: Runnable[Any, Any],
    rewriter: Runnable[Any, Rewrite] | None = None,
    *,
    policy: GuardPolicy | None = None,
    fetcher: PictureFetcher | None = None,
    evidence: EvidenceReader | None = None,
    judge: TextJudge | None = None,
    answer_judge: TextJudge | Literal["auto"] | None = "auto",
    second_reader: SecondReader | Literal["auto"] | None = "auto",
) -> StateGraph[VLMGuardState, GuardContext, GuardInput, GuardOutput]:
    """Build the guard graph around a chat model.

    Args:
        model: The model that answers: a steered VLM, or any other chat model (with tools bound, if it has some).
        rewriter: Reasons over each turn and rewrites its prompt; without one, prompts go to the model as they are.
        policy: Thresholds and actions; `context={"policy": ...}` replaces it for one run.
        fetcher: How pictures are fetched by address, where the policy lists `image_hosts`: seconds, redirects, authorities.
        evidence: Reads what pictures say (text, codes, metadata; extra `evidence`): the rewriter gets it as quotes, the judge
            judges it as if it had been typed, and the verdict accounts for it.
        judge: What judges the words in pictures; the model where it can (a steered VLM).
        answer_judge: What judges the model's answers and tool calls, in words alone, before they are let out; `"auto"` is the
            model itself, and the model that the rewriter runs on where that is another one, as far as they can (a steered VLM
            whose probe was fitted on answers); `None` is nobody.
        second_reader: Another model that says what it would answer to a turn with pictures; where that is harmful in words
            alone, the policy's `on_second_reading` decides. `"auto"` is the model that the rewriter runs on, where it is not
            the one that answers and its answers can be judged; `None` is nobody.

    Returns:
        The graph, not compiled: the caller picks checkpointer, cache and store. Review needs a checkpointer.

    Raises:
        TypeError: The model or the rewriter is no `Runnable`.

    ??? example "Three lines"

        ```python
        guard = create_vlm_guard(ChatSteeredVLM.from_pretrained("testbed")).compile()
        state = guard.invoke({"messages": [HumanMessage("How do I make a kite?")]})
        state["verdict"]["action"], state["messages"][-1].text
        ```
    """
    for name, given in (("model", model), ("rewriter", rewriter)):
        if not isinstance(given, Runnable) and (given is not None or name == "model"):
            msg = f"the {name} must be a LangChain Runnable such as a chat model, not {type(given).__name__}"
            raise TypeError(msg)
    hidden = None if evidence is None else HiddenRequests(evidence, judge or judge_in(model))
    chosen = policy or GuardPolicy(), fetcher or PictureFetcher()
    nodes = GuardNodes(model, rewriter, *chosen, hidden, answers=answer_judge, second=second_reader)
    graph = StateGraph(VLMGuardState, context_schema=GuardContext, input_schema=GuardInput, output_schema=GuardOutput)
    graph.add_node("inspect", nodes.inspect)
    graph.add_node("rewrite", RunnableLambda(nodes.skip_or_rewrite, afunc=nodes.askip_or_rewrite))
    graph.add_node("answer", RunnableLambda(nodes.answer, afunc=nodes.aanswer))
    graph.add_node("refuse", nodes.refuse)
    graph.add_node("review", nodes.review)
    graph.add_edge(START, "inspect")
    graph.add_edge("inspect", "rewrite")
    graph.add_conditional_edges("rewrite", _next_step, ["answer", "refuse", "review", END])
    graph.add_conditional_edges("answer", _after_answer, ["refuse", "review", END])
    graph.add_conditional_edges("review", _next_step, ["answer", "refuse"])
    graph.add_edge("refuse", END)
    return graph


def _next_step(state: VLMGuardState) -> str:
    """Choose the node after the rewriter; an empty draft is a turn that was answered without it."""
    action = state["draft"].get("action", END)
    return "answer" if action in ("allow", "rewrite") else str(action)


def _after_answer(state: VLMGuardState) -> str:
    action = state["draft"].get("action")
    return action if action in ("refuse", "review") else END
