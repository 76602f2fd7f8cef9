"""`create_vlm_guard`: the guard as a small graph around a chat model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from langchain_core.runnables import Runnable
from langgraph.graph import END, START

from langchain_vlmguard.faces.steps import GuardGraph, GuardSteps, new_graph
from langchain_vlmguard.guard.parts import GuardParts, parts_of
from langchain_vlmguard.guard.state import VLMGuardState  # noqa: TC001 - the graph reads the annotations

if TYPE_CHECKING:
    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.content.fetch import PictureFetcher
    from langchain_vlmguard.guard.second_reader import SecondReader
    from langchain_vlmguard.rewriting.report import Model, Rewriter
    from langchain_vlmguard.verdict.judges import TextJudge
    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import Json


def create_vlm_guard(
    model: Model,
    rewriter: Rewriter | GuardParts | None = None,
    *,
    policy: GuardPolicy | Json | None = None,
    fetcher: PictureFetcher | None = None,
    evidence: EvidenceReader | None = None,
    judge: TextJudge | None = None,
    answer_judge: TextJudge | Literal["auto"] | None = "auto",
    second_reader: SecondReader | Literal["auto"] | None = "auto",
) -> GuardGraph:
    """Build the guard graph around a chat model.

    Args:
        model: The model that answers: a steered VLM, or any other chat model (with tools bound, if it has some).
        rewriter: Reasons over each turn and rewrites its prompt; or a whole `Guard`, and then nothing else may be given.
        policy: Thresholds and actions; `context={"policy": ...}` replaces it for one run.
        fetcher: How pictures are fetched by address, if the policy lists `image_hosts`: seconds, redirects, authorities.
        evidence: Reads what pictures say (text, codes, metadata; extra `evidence`): the rewriter gets it as quotes, the judge
            judges it as if it had been typed, and the verdict accounts for it.
        judge: Judges the words in pictures; the model if it can (a steered VLM).
        answer_judge: Judges the model's answers and tool calls before they leave. `"auto"` is the model itself, and the model
            that the rewriter runs on if that is another one, as far as they can (a steered VLM whose probe was fitted on
            answers); a rewriter whose model cannot is asked about the answer itself. `None` is nobody.
        second_reader: Another model that says what it would answer to a turn with pictures; if that is harmful in words
            alone, the policy's `on_second_reading` decides. `"auto"` is the model that the rewriter runs on, if it is not
            the one that answers and its answers can be judged; `None` is nobody.

    Returns:
        The graph, not compiled: the caller picks checkpointer, cache and store. Review needs a checkpointer.

    Raises:
        TypeError: The model or the rewriter is not a `Runnable`.
        NoJudgeError: Nobody judges anything. For a local model that is not loaded yet this is known at the first call.

    ??? example "Three lines"

        ```python
        guard = create_vlm_guard(ChatSteeredVLM.from_pretrained("testbed")).compile()
        state = guard.invoke({"messages": [HumanMessage("How do I make a kite?")]})
        state["verdict"]["action"], state["messages"][-1].text
        ```
    """
    options = {"policy": policy, "fetcher": fetcher, "evidence": evidence, "judge": judge}
    guard = parts_of(rewriter, **options, answer_judge=answer_judge, second_reader=second_reader)
    return guard_graph(guard, model)


def guard_graph(guard: GuardParts, model: Model) -> GuardGraph:
    """Build the graph of a guard around a chat model.

    Raises:
        TypeError: The model is not a `Runnable`.
        NoJudgeError: Nobody judges anything.
    """
    given: object = model
    if not isinstance(given, Runnable):
        msg = f"the model must be a LangChain Runnable such as a chat model, not {type(given).__name__}"
        raise TypeError(msg)
    guard.check_model(model)
    graph = new_graph(GuardSteps(guard, model), "inspect", "rewrite", "answer", "refuse", "review")
    graph.add_edge(START, "inspect")
    graph.add_edge("inspect", "rewrite")
    graph.add_conditional_edges("rewrite", _next_step, ["answer", "refuse", "review", END])
    graph.add_conditional_edges("answer", _after_answer, ["refuse", "review", END])
    graph.add_conditional_edges("review", _next_step, ["answer", "refuse", END])
    graph.add_edge("refuse", END)
    return graph


def _next_step(state: VLMGuardState) -> str:
    """Choose the node after the rewriter or a person; an empty draft is a turn whose answer left."""
    action = state["draft"].get("action", END)
    return "answer" if action in ("allow", "rewrite") else str(action)


def _after_answer(state: VLMGuardState) -> str:
    action = state["draft"].get("action")
    return action if action in ("refuse", "review") else END
