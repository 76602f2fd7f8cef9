"""`VLMGuardNode` and `route_on_verdict`: the guard as one node of your own graph, and the branch after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.runnables import Runnable
from langgraph.graph import END, START

from langchain_vlmguard.faces.steps import AnswerSteps, GuardGraph, GuardSteps, RecentTurns, checked_verdict, new_graph
from langchain_vlmguard.guard.effects import run
from langchain_vlmguard.guard.events import as_one_node
from langchain_vlmguard.guard.parts import GuardParts, parts_of
from langchain_vlmguard.guard.state import GuardOutput, VLMGuardState, current_verdict
from langchain_vlmguard.verdict.draft import Draft

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.content.fetch import PictureFetcher
    from langchain_vlmguard.guard.second_reader import SecondReader
    from langchain_vlmguard.guard.state import Update
    from langchain_vlmguard.rewriting.report import Model, Rewriter
    from langchain_vlmguard.verdict.judges import TextJudge
    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import Json

Route = Literal["allow", "rewrite", "refuse"]


class VLMGuardNode(Runnable[Any, "Update"]):
    """Judges the turn, asks a person if the policy wants one, and writes the verdict and a refusal into the state.

    The node that answers stays your own: give it `node.for_model(state)`, which holds the rewritten prompt if there is one. Add
    `node.judge_answer` behind it, and the answer is judged as on every other face. This node makes no answer, so that it has none
    to try first: `rewrite="adaptive"` and `"answer_first"` ask the rewriter as `"always"` does.

    The state needs the keys `messages` and `verdict`. Review needs a checkpointer on the graph around the node.

    ??? example "In a graph"

        ```python
        guard = VLMGuardNode(rewriter)
        graph.add_node("guard", guard)
        graph.add_node("answer", lambda state: {"messages": [model.invoke(guard.for_model(state))]})
        graph.add_node("judge", guard.judge_answer)
        graph.add_edge(START, "guard")
        graph.add_conditional_edges("guard", route_on_verdict, {"allow": "answer", "rewrite": "answer", "refuse": END})
        graph.add_edge("answer", "judge")
        ```
    """

    def __init__(
        self,
        rewriter: Rewriter | GuardParts | None = None,
        *,
        policy: GuardPolicy | Json | None = None,
        fetcher: PictureFetcher | None = None,
        evidence: EvidenceReader | None = None,
        judge: TextJudge | None = None,
        answer_judge: TextJudge | Literal["auto"] | None = "auto",
        second_reader: SecondReader | Literal["auto"] | None = "auto",
        model: Model | None = None,
    ) -> None:
        """Set the node up.

        Args:
            rewriter: Judges turns and rewrites prompts; or a whole `Guard`, and then only `model` may be given beside it.
            policy: Thresholds and actions. In a graph with `context_schema=GuardContext`, `context={"policy": ...}` replaces it
                for one run.
            fetcher: How pictures are fetched by address, if the policy lists `image_hosts`.
            evidence: Reads what pictures say (extra `evidence`).
            judge: Judges the words in pictures as if typed, e.g. a `ChatSteeredVLM`; `model` if it can.
            answer_judge: Judges answers for `judge_answer`; see `create_vlm_guard`.
            second_reader: See `create_vlm_guard`.
            model: The model that your own node asks. It is never asked here; what can judge in it is used.

        Raises:
            TypeError: The rewriter is not a `Runnable`.
            NoJudgeError: Nobody judges anything.
        """
        options = {"policy": policy, "fetcher": fetcher, "evidence": evidence, "judge": judge}
        self._guard = parts_of(rewriter, **options, answer_judge=answer_judge, second_reader=second_reader)
        self._guard.check_model(model)
        turns = RecentTurns()
        self._steps = GuardSteps(self._guard, model, turns, asks=False, name="VLMGuardNode")
        self.graph = _judging_graph(self._steps).compile(name="VLMGuardNode")
        self._judging = _OneNode(self.graph)
        answers = AnswerSteps(self._guard, model, turns, name="judge_answer")
        self.judge_answer: Model = _OneNode(_answer_graph(answers).compile(name="judge_answer"))
        """Judges the answer that your own node made, as a node: a harmful one is replaced by a refusal under its id."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Update:  # noqa: A002
        """Judge the turn of a state; returns the update."""
        return self._judging.invoke({"messages": _messages(input)}, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Update:  # noqa: A002
        """Judge the turn of a state; returns the update."""
        return await self._judging.ainvoke({"messages": _messages(input)}, config, **kwargs)

    def for_model(self, state: Any) -> list[BaseMessage]:
        """Return the conversation of a judged state as a model may get it.

        Raises:
            ValueError: The state holds no verdict that lets the turn go on, or one that was made under another policy than
                this run's, e.g. by a node cache, which knows nothing of the run's context.
        """
        verdict = checked_verdict(self._guard, state)
        guarded = run(self._steps.turn_of(_messages(state), verdict))
        return guarded.for_model(Draft.of_verdict(verdict))


class _OneNode(Runnable[object, "Update"]):
    """A graph that is one node to whoever runs it."""

    def __init__(self, graph: Model) -> None:
        """Run a compiled graph, under its name."""
        self._graph = graph
        self.name = graph.get_name()

    def invoke(self, input: object, config: RunnableConfig | None = None, **kwargs: object) -> Update:  # noqa: A002
        """Run the graph; returns the update."""
        with as_one_node():
            return dict(self._graph.invoke(input, config, **kwargs))

    async def ainvoke(self, input: object, config: RunnableConfig | None = None, **kwargs: object) -> Update:  # noqa: A002
        """Run the graph; returns the update."""
        with as_one_node():
            return dict(await self._graph.ainvoke(input, config, **kwargs))


def route_on_verdict(state: Any) -> Route:
    """Return the action of the state's verdict, for `add_conditional_edges`; anything that is no clear yes is `refuse`."""
    verdict = current_verdict(state)
    return verdict.action if verdict is not None and verdict.action in ("allow", "rewrite") else "refuse"


def _judging_graph(steps: GuardSteps) -> GuardGraph:
    """Return the guard's graph without the answer."""
    graph = new_graph(steps, "inspect", "rewrite", "refuse", "review", "let_pass")
    graph.add_edge(START, "inspect")
    graph.add_edge("inspect", "rewrite")
    graph.add_conditional_edges("rewrite", _next_step, ["let_pass", "refuse", "review"])
    graph.add_conditional_edges("review", _next_step, ["let_pass", "refuse"])
    graph.add_edge("refuse", END)
    graph.add_edge("let_pass", END)
    return graph


def _answer_graph(steps: AnswerSteps) -> GuardGraph:
    """Return the graph that judges an answer which stands in the state."""
    graph = new_graph(steps, "hear", "refuse", "review", "let_pass", input_schema=GuardOutput)
    graph.add_edge(START, "hear")
    graph.add_conditional_edges("hear", _next_step, ["let_pass", "refuse", "review"])
    graph.add_conditional_edges("review", _next_step, ["let_pass", "refuse"])
    graph.add_edge("refuse", END)
    graph.add_edge("let_pass", END)
    return graph


def _next_step(state: VLMGuardState) -> Literal["let_pass", "refuse", "review"]:
    action = state["draft"]["action"]
    return action if action in ("refuse", "review") else "let_pass"


def _messages(state: Any) -> list[Any]:
    return list(state["messages"] if isinstance(state, dict) else state.messages)
