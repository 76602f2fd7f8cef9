"""The guard as one small graph: inspect, rewrite, then answer, refuse or review."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from langchain_vlmguard.content.images import ImageLimits
from langchain_vlmguard.content.messages import ReadLimits, Turn, read_turn
from langchain_vlmguard.hazards import HAZARDS, title_of
from langchain_vlmguard.policy import GuardPolicy
from langchain_vlmguard.verdict import GuardFailure, Hazard, Provenance, SafetyVerdict, SteeringTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableConfig

    from langchain_vlmguard.rewriting.rewriter import Rewrite

Messages = Annotated[list[AnyMessage], add_messages]


class GuardInput(TypedDict):
    """What a caller may pass in: messages. A verdict that is passed in is ignored."""

    messages: Messages


class GuardOutput(TypedDict):
    """What comes out: messages and the verdict of the last turn, a plain dict."""

    messages: Messages
    verdict: dict[str, Any]


class VLMGuardState(GuardOutput):
    """State of the guard graph."""

    draft: dict[str, Any]
    """The verdict in the making; private to the graph."""


class GuardContext(TypedDict, total=False):
    """Static data of one run."""

    policy: GuardPolicy
    """A tenant's policy, used instead of the graph's own."""


def create_vlm_guard(
    model: Runnable[Any, Any], rewriter: Runnable[Any, Rewrite] | None = None, *, policy: GuardPolicy | None = None
) -> StateGraph[VLMGuardState, GuardContext, GuardInput, GuardOutput]:
    """Build the guard graph around a chat model.

    Args:
        model: The model that answers: a steered VLM, or any other chat model (with tools bound, if it has some).
        rewriter: Reasons over each turn and rewrites its prompt; without one, prompts go to the model as they are.
        policy: Thresholds and actions; `context={"policy": ...}` replaces it for one run.

    Returns:
        The graph, not compiled: the caller picks checkpointer, cache and store. Review needs a checkpointer.

    ??? example "Three lines"

        ```python
        guard = create_vlm_guard(ChatSteeredVLM.from_pretrained("testbed")).compile()
        state = guard.invoke({"messages": [HumanMessage("How do I make a kite?")]})
        state["verdict"]["action"], state["messages"][-1].text
        ```
    """
    nodes = _Nodes(model, rewriter, policy or GuardPolicy())
    graph = StateGraph(VLMGuardState, context_schema=GuardContext, input_schema=GuardInput, output_schema=GuardOutput)
    graph.add_node("inspect", nodes.inspect)
    graph.add_node("rewrite", RunnableLambda(nodes.rewrite, afunc=nodes.arewrite))
    graph.add_node("answer", RunnableLambda(nodes.answer, afunc=nodes.aanswer))
    graph.add_node("refuse", nodes.refuse)
    graph.add_node("review", nodes.review)
    graph.add_edge(START, "inspect")
    graph.add_edge("inspect", "rewrite")
    graph.add_conditional_edges("rewrite", _next_step, ["answer", "refuse", "review"])
    graph.add_conditional_edges("answer", _after_answer, ["refuse", "review", END])
    graph.add_conditional_edges("review", _next_step, ["answer", "refuse"])
    graph.add_edge("refuse", END)
    return graph


def _next_step(state: VLMGuardState) -> Literal["answer", "refuse", "review"]:
    action = state["draft"]["action"]
    return action if action in ("refuse", "review") else "answer"


def _after_answer(state: VLMGuardState) -> str:
    action = state["draft"].get("action")
    return action if action in ("refuse", "review") else END


@dataclass(frozen=True)
class _Nodes:
    model: Runnable[Any, Any]
    rewriter: Runnable[Any, Rewrite] | None
    default_policy: GuardPolicy

    @property
    def policy(self) -> GuardPolicy:
        return (get_runtime(GuardContext).context or {}).get("policy") or self.default_policy

    def inspect(self, state: VLMGuardState) -> dict[str, Any]:
        """Read the turn; a part that cannot be read decides the turn."""
        started = time.perf_counter()
        turn = self._turn(state)
        draft: dict[str, Any] = {"action": "allow", "unjudged": [part.model_dump() for part in turn.unjudged]}
        if turn.unjudged:
            first = turn.unjudged[0]
            draft["action"] = self.policy.on_unreadable
            draft["reason"] = f"A part of the request could not be read: {first.where}, {first.reason}."
        elif turn.start >= len(turn.messages):
            draft["action"], draft["reason"] = "refuse", "There is no new message since the last answer."
        return {"draft": _timed(draft, "inspect", started)}

    def rewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the rewriter, where there is one and the turn is still open."""
        call = self._rewriting(state)
        if call is None:
            return {}
        with call:
            call.result = call.rewriter.invoke(call.turn, call.config)
        return self._rewritten(state, call)

    async def arewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the rewriter without blocking the event loop."""
        call = self._rewriting(state)
        if call is None:
            return {}
        with call:
            call.result = await call.rewriter.ainvoke(call.turn, call.config)
        return self._rewritten(state, call)

    def answer(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the model, with the rewritten prompt where there is one."""
        call = _Call("answer")
        with call:
            call.result = self.model.invoke(self._for_model(state), call.config)
        return self._answered(state, call)

    async def aanswer(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the model without blocking the event loop."""
        call = _Call("answer")
        with call:
            call.result = await self.model.ainvoke(self._for_model(state), call.config)
        return self._answered(state, call)

    def refuse(self, state: VLMGuardState) -> dict[str, Any]:
        """Say why, in general terms, and offer the safe way."""
        verdict = self._verdict(state["draft"])
        message = AIMessage(_refusal(verdict, self.policy), response_metadata=_metadata(verdict))
        return {"messages": [message], "verdict": verdict.to_state(), "draft": {}}

    def review(self, state: VLMGuardState) -> dict[str, Any]:
        """Stop and ask a person; go on with what they decide."""
        options = ["approve", "edit", "reject"]
        verdict = self._verdict(state["draft"])
        decision = interrupt({"verdict": verdict.to_state(), "options": options})
        return {"draft": {**state["draft"], **_decided(decision)}}

    def _turn(self, state: VLMGuardState) -> Turn:
        policy = self.policy
        image = ImageLimits(policy.max_image_bytes, policy.max_pixels)
        return read_turn(state["messages"], ReadLimits(image, policy.max_images, policy.max_text_chars))

    def _rewriting(self, state: VLMGuardState) -> _RewriteCall | None:
        if self.rewriter is None or self.policy.rewrite == "never" or state["draft"]["action"] != "allow":
            return None
        turn = self._turn(state)
        return _RewriteCall("rewrite", rewriter=self.rewriter, turn=turn.messages[turn.start :])

    def _rewritten(self, state: VLMGuardState, call: _Call) -> dict[str, Any]:
        draft = call.into(state["draft"], self.policy)
        if call.failure is None:
            rewrite: Rewrite = call.result
            hazards = [
                Hazard(id=t.hazard, channel=t.channel, rationale=t.rationale, alias=_alias(t.hazard))
                for t in rewrite.threats
            ]
            draft |= {
                "action": self.policy.decide(rewrite.action, rewrite.risk, [hazard.id for hazard in hazards]),
                "risk": rewrite.risk,
                "hazards": [hazard.model_dump() for hazard in hazards],
                "intent": rewrite.intent,
                "rewritten_prompt": rewrite.rewritten_prompt,
            }
        return {"draft": draft}

    def _for_model(self, state: VLMGuardState) -> list[BaseMessage]:
        messages, draft = self._turn(state).messages, state["draft"]
        if draft["action"] != "rewrite":
            return messages
        return _with_prompt(messages, draft["rewritten_prompt"])

    def _answered(self, state: VLMGuardState, call: _Call) -> dict[str, Any]:
        draft = call.into(state["draft"], self.policy)
        if call.failure is not None:
            return {"draft": draft}
        message: AIMessage = call.result
        draft |= {
            "steering": message.response_metadata.get("steering"),
            "model": message.response_metadata.get("model_name"),
        }
        draft["provenance"] = message.response_metadata.get("provenance") or {}
        if self._gate_objects(draft):
            draft |= {"action": self.policy.on_gate_open, "answer": "withheld"}
            draft["reason"] = "The model's own states mark this request as harmful."
            return {"draft": draft}
        verdict = self._verdict({**draft, "answer": "released"})
        metadata = {**message.response_metadata, **_metadata(verdict)}
        released = message.model_copy(update={"response_metadata": metadata})
        return {"messages": [released], "verdict": verdict.to_state(), "draft": {}}

    def _gate_objects(self, draft: dict[str, Any]) -> bool:
        trace = draft["steering"]
        watching = self.policy.on_gate_open != "keep" and not draft.get("reviewed")
        return bool(watching and trace and trace["open"] and self.policy.severity(trace["risk"]) == "unsafe")

    def _verdict(self, draft: dict[str, Any]) -> SafetyVerdict:
        policy = self.policy
        trace = SteeringTrace.model_validate(draft["steering"]) if draft.get("steering") else None
        risk = max(draft.get("risk", 0.0), trace.risk if trace else 0.0)
        return SafetyVerdict(
            action=draft["action"],
            risk=risk,
            severity=policy.severity(risk),
            hazards=draft.get("hazards", []),
            unjudged=draft["unjudged"],
            intent=draft.get("intent"),
            rewritten_prompt=draft.get("rewritten_prompt") if draft["action"] == "rewrite" else None,
            steering=trace,
            answer=draft.get("answer", "none"),
            reviewed=draft.get("reviewed"),
            failure=draft.get("failure"),
            reason=draft.get("reason", ""),
            provenance=self._provenance(draft),
            usage=draft.get("usage", {}),
            timings=draft.get("timings", {}),
        )

    def _provenance(self, draft: dict[str, Any]) -> Provenance:
        policy = self.policy
        return Provenance(
            model=draft.get("model"),
            rewriter=getattr(self.rewriter, "identity", None) if self.rewriter else None,
            policy=policy.hash,
            thresholds=policy.thresholds,
            **draft.get("provenance", {}),
        )


@dataclass
class _Call:
    """One call of a model from a node: catches its failure, counts its tokens and its seconds."""

    stage: Literal["rewrite", "answer"]
    result: Any = None
    failure: GuardFailure | None = None
    usage: UsageMetadataCallbackHandler = field(default_factory=UsageMetadataCallbackHandler)
    started: float = field(default_factory=time.perf_counter)

    @property
    def config(self) -> RunnableConfig:
        """Config of the inner call: none of its tokens may reach a stream before they are judged."""
        return {"tags": ["nostream"], "callbacks": [self.usage]}

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.failure = GuardFailure(
            stage=self.stage, error=type(error).__name__, reason=f"the {self.stage} step failed"
        )
        return True

    def into(self, draft: dict[str, Any], policy: GuardPolicy) -> dict[str, Any]:
        """Return the draft with this call's tokens, time and failure."""
        used = Counter(draft.get("usage", {}))
        for one in self.usage.usage_metadata.values():
            used.update({key: value for key, value in one.items() if isinstance(value, int)})
        draft = _timed({**draft, "usage": dict(used)}, self.stage, self.started)
        if self.failure is not None:
            draft |= {"action": policy.on_error, "failure": self.failure.model_dump()}
            draft["reason"] = f"The guard could not finish the {self.stage} step ({self.failure.error})."
        return draft


@dataclass
class _RewriteCall(_Call):
    rewriter: Runnable[Any, Rewrite] = None  # type: ignore[assignment]
    turn: Sequence[BaseMessage] = ()


def _timed(draft: dict[str, Any], stage: str, started: float) -> dict[str, Any]:
    return {**draft, "timings": {**draft.get("timings", {}), stage: round(time.perf_counter() - started, 4)}}


def _decided(decision: Any) -> dict[str, Any]:
    """Translate what a person answered; anything that is not one of the three options refuses."""
    said = decision.get("decision") if isinstance(decision, dict) else decision
    edited = decision.get("prompt") if isinstance(decision, dict) else None
    if said == "approve":
        return {"action": "allow", "reviewed": "approve", "reason": "A person approved this turn.", "failure": None}
    if said == "edit" and isinstance(edited, str) and edited.strip():
        reason = "A person edited the prompt."
        return {"action": "rewrite", "reviewed": "edit", "rewritten_prompt": edited, "reason": reason, "failure": None}
    if said == "reject":
        return {"action": "refuse", "reviewed": "reject", "reason": "A person rejected this turn."}
    reason = "The review ended without a usable decision: answer approve, reject, or edit with a prompt."
    return {"action": "refuse", "reason": reason}


def _with_prompt(messages: list[BaseMessage], prompt: str) -> list[BaseMessage]:
    """Put the prompt in place of the last human message's words; its pictures stay."""
    last = max(index for index, message in enumerate(messages) if isinstance(message, HumanMessage))
    content = messages[last].content
    pictures = [b for b in content if isinstance(b, dict) and b["type"] == "image"] if isinstance(content, list) else []
    changed = [*pictures, {"type": "text", "text": prompt}] if pictures else prompt
    return [*messages[:last], messages[last].model_copy(update={"content": changed}), *messages[last + 1 :]]


def _refusal(verdict: SafetyVerdict, policy: GuardPolicy) -> str:
    titles = list(dict.fromkeys(title_of(hazard.id) for hazard in verdict.hazards if policy.counts(hazard.id)))
    about = f" ({', '.join(titles)})" if titles else ""
    words = policy.refusal.format(about=about, safe_way=policy.safe_way)
    return f"{words} {verdict.reason}".strip() if verdict.unjudged or verdict.failure or verdict.reviewed else words


def _metadata(verdict: SafetyVerdict) -> dict[str, Any]:
    return {"verdict": verdict.to_state()}


def _alias(hazard: str) -> str | None:
    return HAZARDS[hazard].alias if hazard in HAZARDS else None
