"""The guard as one small graph: inspect, rewrite, then answer, refuse or review."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypedDict, cast

from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, ensure_config
from langchain_core.runnables.config import merge_configs
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.content.images import ImageLimits
from langchain_vlmguard.content.messages import ReadLimits, Turn, blocks_of, read_turn
from langchain_vlmguard.errors import RewriteError
from langchain_vlmguard.hazards import HAZARDS, title_of
from langchain_vlmguard.hidden import HiddenRequests, judge_in, quotes_message
from langchain_vlmguard.policy import GuardPolicy
from langchain_vlmguard.refusals import in_plain_words, refusal_message
from langchain_vlmguard.rewriting.rewriter import Rewrite, repeats_prompt
from langchain_vlmguard.rewriting.turns import with_prompt
from langchain_vlmguard.verdict import GuardFailure, Hazard, Provenance, SafetyVerdict, SteeringTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.hidden import EvidenceReport, TextJudge

_log = logging.getLogger(__name__)

Messages = Annotated[list[AnyMessage], add_messages]


class GuardInput(TypedDict):
    """What a caller may pass in: messages. A verdict that is passed in is ignored."""

    messages: Messages


class GuardOutput(TypedDict):
    """What comes out."""

    messages: Messages
    verdict: dict[str, Any]
    """The verdict of the last turn as a plain dict; empty while that turn is under way or under review."""


class VLMGuardState(GuardOutput):
    """State of the guard graph."""

    draft: dict[str, Any]
    """The verdict in the making; private to the graph."""


class GuardContext(TypedDict, total=False):
    """Static data of one run."""

    policy: GuardPolicy
    """A tenant's policy, used instead of the graph's own; its fields as a plain dict will do."""


def create_vlm_guard(
    model: Runnable[Any, Any],
    rewriter: Runnable[Any, Rewrite] | None = None,
    *,
    policy: GuardPolicy | None = None,
    fetcher: PictureFetcher | None = None,
    evidence: EvidenceReader | None = None,
    judge: TextJudge | None = None,
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
    nodes = GuardNodes(model, rewriter, policy or GuardPolicy(), fetcher or PictureFetcher(), hidden)
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


def _limits(policy: GuardPolicy, fetcher: PictureFetcher) -> ReadLimits:
    image = ImageLimits(
        max_bytes=policy.max_image_bytes,
        max_pixels=policy.max_pixels,
        max_ratio=policy.max_image_ratio,
        max_frames=policy.max_frames,
        frames=policy.frames,
        heif=policy.heif,
        isolate=policy.isolate_decoding,
    )
    return ReadLimits(
        image,
        max_images=policy.max_images,
        max_text_chars=policy.max_text_chars,
        hosts=policy.image_hosts,
        fetcher=fetcher,
    )


def _next_step(state: VLMGuardState) -> str:
    """Choose the node after the rewriter; an empty draft is a turn that was answered without it."""
    action = state["draft"].get("action", END)
    return "answer" if action in ("allow", "rewrite") else str(action)


def _after_answer(state: VLMGuardState) -> str:
    action = state["draft"].get("action")
    return action if action in ("refuse", "review") else END


@dataclass(frozen=True)
class GuardNodes:
    """The steps of the guard; the graph runs them as nodes, the other faces call them."""

    model: Runnable[Any, Any]
    rewriter: Runnable[Any, Rewrite] | None
    default_policy: GuardPolicy
    fetcher: PictureFetcher
    hidden: HiddenRequests | None = None

    @property
    def policy(self) -> GuardPolicy:
        """The policy of this run: the context's, or the default."""
        context = _context()
        given = context.get("policy") if isinstance(context, Mapping) else getattr(context, "policy", None)
        return self.default_policy if given is None else GuardPolicy.model_validate(given)

    def inspect(self, state: VLMGuardState) -> dict[str, Any]:
        """Read the turn; a part that cannot be read decides the turn."""
        started = time.perf_counter()
        turn = self._turn(state)
        draft: dict[str, Any] = {"action": "allow", "unjudged": [part.model_dump() for part in turn.unjudged]}
        if turn.unjudged:
            first = turn.unjudged[0]
            draft["action"] = self.policy.on_unreadable
            draft["reason"] = f"A part of the request could not be read: {first.where}, {first.reason}."
        elif not any(isinstance(message, HumanMessage | ToolMessage) for message in turn.current):
            draft["action"], draft["reason"] = "refuse", "There is no new message since the last answer."
        elif self.hidden is not None:
            draft = self._with_evidence(draft, turn, self.hidden)
        return {"draft": _timed(draft, "inspect", started), "verdict": {}, **_kept(state, turn)}

    def _with_evidence(self, draft: dict[str, Any], turn: Turn, hidden: HiddenRequests) -> dict[str, Any]:
        """Enter what the pictures say; words that would be unsafe if typed, or that could not be read, decide the turn."""
        call = _Call("inspect")
        with call:
            call.result = hidden.check(turn, self.policy.unsafe_at)
        if call.failure is not None:
            return call.into(draft, self.policy)
        report: EvidenceReport = call.result
        draft |= {
            "evidence": [note.model_dump() for note in report.notes],
            "evidence_risk": report.risk,
            "security": [finding.model_dump() for finding in report.security],
            "quotes": list(report.quotes),
            "withheld": list(report.withheld),
        }
        if report.unjudged:
            first = report.unjudged[0]
            draft |= {"unjudged": [part.model_dump() for part in report.unjudged], "action": self.policy.on_unreadable}
            draft["reason"] = f"A part of the request could not be read: {first.where}, {first.reason}."
        elif report.risk is not None and self.policy.severity(report.risk) == "unsafe":
            draft["action"] = self.policy.on_hidden_request
            draft["reason"] = "Words in a picture ask for something that would be unsafe if somebody had typed it."
        return draft

    def skip_or_rewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Answer at once where an adaptive policy and a closed gate allow it, otherwise ask the rewriter."""
        call = self._probing(state)
        if call is None:
            return self.rewrite(state)
        with call:
            call.result = Answer.of(self.model.invoke(self.for_model(state), call.config, until_gate=True))
        return self._skipped(state, call) or self.rewrite(_after_probe(state, call))

    async def askip_or_rewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Answer at once or ask the rewriter, without blocking the event loop."""
        call = await asyncio.to_thread(self._probing, state)
        if call is None:
            return await self.arewrite(state)
        with call:
            messages = await asyncio.to_thread(self.for_model, state)
            call.result = Answer.of(await self.model.ainvoke(messages, call.config, until_gate=True))
        return self._skipped(state, call) or await self.arewrite(_after_probe(state, call))

    def rewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the rewriter, where there is one and the turn is still open."""
        call = self._rewriting(state)
        if call is None:
            return {}
        with call:
            call.result = _checked_rewrite(call.rewriter.invoke(call.messages, call.config), call.messages)
        return self._rewritten(state, call)

    async def arewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the rewriter without blocking the event loop."""
        call = await asyncio.to_thread(self._rewriting, state)
        if call is None:
            return {}
        with call:
            call.result = _checked_rewrite(await call.rewriter.ainvoke(call.messages, call.config), call.messages)
        return self._rewritten(state, call)

    def answer(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the model, with the rewritten prompt where there is one."""
        call = _Call("answer")
        with call:
            call.result = Answer.of(self.model.invoke(self.for_model(state), call.config))
        return self._answered(state, call)

    async def aanswer(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the model without blocking the event loop."""
        call = _Call("answer")
        with call:
            messages = await asyncio.to_thread(self.for_model, state)
            call.result = Answer.of(await self.model.ainvoke(messages, call.config))
        return self._answered(state, call)

    def refuse(self, state: VLMGuardState) -> dict[str, Any]:
        """Say why, in general terms, and offer the safe way."""
        verdict = self.verdict(state["draft"])
        message = refusal_message(refusal_text(verdict, self.policy), verdict, response_metadata=_metadata(verdict))
        return {"messages": [message], "verdict": verdict.to_state(), "draft": {}}

    def review(self, state: VLMGuardState) -> dict[str, Any]:
        """Stop and ask a person; go on with what they decide."""
        draft = state["draft"]
        asked: dict[str, Any] = {
            "verdict": self.verdict(draft).to_state(),
            "options": ["approve", "edit", "reject"],
        }
        if draft.get("rewritten_prompt"):
            asked["proposed_prompt"] = draft["rewritten_prompt"]
        return {"draft": {**draft, **decided(interrupt(asked), draft.get("rewritten_prompt"))}}

    def _turn(self, state: VLMGuardState) -> Turn:
        policy = self.policy
        turn = read_turn(state["messages"], _limits(policy, self.fetcher))
        return turn.without(state.get("draft", {}).get("withheld", ()))

    def _rewriting(self, state: VLMGuardState) -> _RewriteCall | None:
        if self.rewriter is None or self.policy.rewrite == "never" or state["draft"]["action"] != "allow":
            return None
        messages, quotes = self._turn(state).messages, state["draft"].get("quotes")
        quoted = [*messages, quotes_message(quotes)] if quotes else messages
        return _RewriteCall("rewrite", rewriter=self.rewriter, messages=quoted)

    def _probing(self, state: VLMGuardState) -> _Call | None:
        """Return the call that tries the gate first, or `None` where the rewriter is asked anyway or never.

        A gate that reads the text alone says nothing about pictures: without a probe that has read them, they skip the
        rewriter only if the policy says so.
        """
        draft = state["draft"]
        open_turn = self.rewriter is not None and self.policy.rewrite == "adaptive" and draft["action"] == "allow"
        if not open_turn or draft.get("security") or draft.get("evidence"):
            return None
        screening = _screening_of(self.model)
        if screening is None:
            return None
        blind = not screening.sees_pictures and self.policy.adaptive_pictures == "rewrite"
        return None if blind and _shows_pictures(self._turn(state).messages) else _Call("answer")

    def _skipped(self, state: VLMGuardState, call: _Call) -> dict[str, Any] | None:
        """Release the answer of a turn whose gate is clearly closed."""
        trace = call.result.steering if call.failure is None else None
        if trace is None or trace["open"] or self.policy.severity(trace["risk"]) != "safe":
            return None
        return self._answered(state, call)

    def _rewritten(self, state: VLMGuardState, call: _Call) -> dict[str, Any]:
        draft = {**call.into(state["draft"], self.policy), "asked": True}
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

    def for_model(self, state: VLMGuardState) -> list[BaseMessage]:
        """Return the conversation as the model gets it: checked pictures, and the rewritten prompt where there is one."""
        turn, draft = self._turn(state), state["draft"]
        messages = [*map(in_plain_words, turn.messages)]
        if draft["action"] != "rewrite":
            return messages
        keep = self.policy.rewritten_pictures == "keep"
        return with_prompt(messages, turn.start, draft["rewritten_prompt"], keep_pictures=keep)

    def _answered(self, state: VLMGuardState, call: _Call) -> dict[str, Any]:
        draft = call.into(state["draft"], self.policy)
        if call.failure is not None:
            return {"draft": draft}
        draft = self.heard(draft, call.result)
        if draft.get("answer") == "withheld":
            return {"draft": draft}
        verdict = self.verdict({**draft, "answer": "released"})
        return {"messages": [with_verdict(call.result.message, verdict)], "verdict": verdict.to_state(), "draft": {}}

    def heard(self, draft: dict[str, Any], answer: Answer) -> dict[str, Any]:
        """Enter what the model said into the draft; an open gate may withhold it."""
        draft = {**draft, "answer": "none", "steering": answer.steering, "provenance": answer.provenance}
        if (action := self._gate_action(draft)) != "keep":
            draft |= {"action": action, "answer": "withheld"}
            draft["reason"] = "The model's own states mark this request as harmful."
        return draft

    def read(self, messages: Sequence[BaseMessage]) -> VLMGuardState:
        """Inspect a conversation outside the graph, for faces that are none; fetched pictures are in the state returned."""
        state = cast("VLMGuardState", {"messages": list(messages), "draft": {}, "verdict": {}})
        found = self.inspect(state)
        kept = cast("Any", add_messages(cast("Any", state["messages"]), found.get("messages", [])))
        return {**state, "messages": kept, "draft": found["draft"]}

    def judge(self, state: VLMGuardState) -> VLMGuardState:
        """Ask the rewriter about a conversation that was read, where there is one and the turn is still open."""
        return cast("VLMGuardState", {**state, **self.rewrite(state)})

    async def ajudge(self, state: VLMGuardState) -> VLMGuardState:
        """Ask the rewriter without blocking the event loop."""
        return cast("VLMGuardState", {**state, **await self.arewrite(state)})

    def _gate_action(self, draft: dict[str, Any]) -> Literal["keep", "refuse", "review"]:
        trace = draft["steering"]
        if draft.get("reviewed") or not trace or not trace["open"]:
            return "keep"
        return self.policy.on_gate(trace["risk"], rewritten=draft["action"] == "rewrite")

    def verdict(self, draft: dict[str, Any]) -> SafetyVerdict:
        """Make the verdict of a draft."""
        policy = self.policy
        trace = SteeringTrace.model_validate(draft["steering"]) if draft.get("steering") else None
        risk = max(draft.get("risk", 0.0), trace.risk if trace else 0.0, draft.get("evidence_risk") or 0.0)
        return SafetyVerdict(
            action=draft["action"],
            risk=risk,
            severity=policy.severity(risk),
            hazards=draft.get("hazards", []),
            unjudged=draft["unjudged"],
            security=draft.get("security", []),
            evidence=draft.get("evidence", []),
            evidence_risk=draft.get("evidence_risk"),
            withheld=draft.get("withheld", []),
            intent=draft.get("intent"),
            rewritten_prompt=draft.get("rewritten_prompt") if draft["action"] == "rewrite" else None,
            steering=trace,
            answer=draft.get("answer", "none"),
            reviewed=draft.get("reviewed"),
            enforced=draft.get("enforced", True),
            failure=draft.get("failure"),
            reason=draft.get("reason", ""),
            provenance=self._provenance(draft),
            usage=draft.get("usage", {}),
            timings=draft.get("timings", {}),
        )

    def _provenance(self, draft: dict[str, Any]) -> Provenance:
        policy = self.policy
        return Provenance(
            rewriter=getattr(self.rewriter, "identity", None) if draft.get("asked") else None,
            evidence=self.hidden.reader.identity if self.hidden else None,
            policy=policy.hash,
            thresholds=policy.thresholds,
            **draft.get("provenance", {}),
        )


def _screening_of(model: Any) -> Any:
    """Return the screening of a model that can stop where its gate opens, tools bound or not; `None` for any other."""
    while hasattr(model, "bound"):
        model = model.bound
    return getattr(model, "screening", None)


def _shows_pictures(messages: Sequence[BaseMessage]) -> bool:
    return any(block["type"] == "image" for message in messages for block in blocks_of(message))


def _after_probe(state: VLMGuardState, call: _Call) -> VLMGuardState:
    """Return the state with the tokens and seconds of a call whose answer was not used."""
    spent = call.into(state["draft"], GuardPolicy())
    timings = {**state["draft"].get("timings", {}), "probe": spent["timings"]["answer"]}
    return cast("VLMGuardState", {**state, "draft": {**state["draft"], "usage": spent["usage"], "timings": timings}})


@dataclass
class _Call:
    """One call of a model from a node: catches its failure, counts its tokens and its seconds."""

    stage: Literal["inspect", "rewrite", "answer"]
    result: Any = None
    failure: GuardFailure | None = None
    usage: UsageMetadataCallbackHandler = field(default_factory=UsageMetadataCallbackHandler)
    started: float = field(default_factory=time.perf_counter)

    @property
    def config(self) -> RunnableConfig:
        """Config of the inner call.

        It is traced under the node like any other. Its tokens reach no stream before they are judged: handlers that feed
        streams (`stream_mode="messages"`, `astream_events`) are left out.
        """
        around = ensure_config()
        return merge_configs(
            {**around, "callbacks": without_streams(around.get("callbacks"))},
            {"tags": ["nostream"], "callbacks": [self.usage]},
        )

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Exception) or isinstance(error, GraphBubbleUp):
            return False
        _log.warning(
            "the %s step failed: %s", self.stage, type(error).__name__, exc_info=_log.isEnabledFor(logging.DEBUG)
        )
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
    messages: Sequence[BaseMessage] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said, with the metadata that verdicts use checked."""

    message: AIMessage
    steering: dict[str, Any] | None
    provenance: dict[str, str]

    @classmethod
    def of(cls, message: Any) -> Self:
        """Read an answer.

        Raises:
            TypeError: It is no AI message.
            ValidationError: Its steering trace is none.
        """
        if not isinstance(message, AIMessage):
            msg = f"the model returned {type(message).__name__} where an AIMessage was expected: use a chat model"
            raise TypeError(msg)
        metadata = message.response_metadata
        trace = metadata.get("steering")
        steering = None if trace is None else SteeringTrace.model_validate(trace).model_dump()
        given = metadata.get("provenance") or {}
        named = {"model": metadata.get("model_name"), **{key: given.get(key) for key in _FROM_MODEL}}
        return cls(message, steering, {key: value for key, value in named.items() if isinstance(value, str)})


_FROM_MODEL = ("steering", "directions", "anchors", "probe")
"""Fields of a verdict's provenance that a steered model knows."""


def _checked_rewrite(result: Any, messages: Sequence[BaseMessage]) -> Rewrite:
    """Check what any rewriter returned: the original prompt must not pass as rewritten."""
    rewrite = result if isinstance(result, Rewrite) else Rewrite.model_validate(result)
    if repeats_prompt(rewrite, messages):
        msg = "the rewritten prompt is the original one"
        raise RewriteError(msg)
    return rewrite


def without_streams(callbacks: Any) -> Any:
    """Return callbacks without the handlers that feed streams; tracers and other callbacks stay."""
    if callbacks is None or isinstance(callbacks, list):
        return [handler for handler in callbacks or [] if not _feeds_stream(handler)]
    kept = callbacks.copy()
    for handler in [*kept.handlers, *kept.inheritable_handlers]:
        if _feeds_stream(handler):
            kept.remove_handler(handler)
    return kept


def _feeds_stream(handler: object) -> bool:
    return hasattr(handler, "tap_output_iter")


def _context() -> Any:
    """Return the context of the graph run around this call, `None` outside of any."""
    try:
        return getattr(get_runtime(GuardContext), "context", None)
    except RuntimeError:
        return None


def _kept(state: VLMGuardState, turn: Turn) -> dict[str, Any]:
    """Return what keeps fetched pictures in the state: an address may lead to another picture the next time."""
    changed = [state["messages"][at].model_copy(update={"content": content}) for at, content in turn.fetched.items()]
    return {"messages": changed} if changed else {}


def _timed(draft: dict[str, Any], stage: str, started: float) -> dict[str, Any]:
    return {**draft, "timings": {**draft.get("timings", {}), stage: round(time.perf_counter() - started, 4)}}


def decided(decision: Any, proposed: str | None) -> dict[str, Any]:
    """Translate what a person answered; anything that is not one of the three options refuses.

    Approving a turn whose rewriting the policy wanted reviewed approves the rewritten prompt.
    """
    said = decision.get("decision") if isinstance(decision, dict) else decision
    edited = decision.get("prompt") if isinstance(decision, dict) else None
    if said == "approve":
        action = "rewrite" if proposed else "allow"
        return {"action": action, "reviewed": "approve", "reason": "A person approved this turn."}
    if said == "edit" and isinstance(edited, str) and edited.strip():
        reason = "A person edited the prompt."
        return {"action": "rewrite", "reviewed": "edit", "rewritten_prompt": edited, "reason": reason}
    if said == "reject":
        return {"action": "refuse", "reviewed": "reject", "reason": "A person rejected this turn."}
    reason = "The review ended without a usable decision: answer approve, reject, or edit with a prompt."
    return {"action": "refuse", "reason": reason}


def refusal_text(verdict: SafetyVerdict, policy: GuardPolicy) -> str:
    """Say why, in general terms, and offer the safe way."""
    titles = list(dict.fromkeys(title_of(hazard.id) for hazard in verdict.hazards if _named(hazard.id, policy)))
    about = f" ({', '.join(titles)})" if titles else ""
    words = policy.refusal.format(about=about, safe_way=policy.safe_way)
    return f"{words} {verdict.reason}".strip() if verdict.unjudged or verdict.failure or verdict.reviewed else words


def _named(hazard: str, policy: GuardPolicy) -> bool:
    """Say whether a refusal names a hazard: one that counts and is a category, not a signal of our own."""
    return policy.counts(hazard) and not hazard.startswith("vlmguard:")


def with_verdict(message: AIMessage, verdict: SafetyVerdict) -> AIMessage:
    """Return the message with the verdict in its response metadata."""
    return message.model_copy(update={"response_metadata": {**message.response_metadata, **_metadata(verdict)}})


def _metadata(verdict: SafetyVerdict) -> dict[str, Any]:
    return {"verdict": verdict.to_state()}


def _alias(hazard: str) -> str | None:
    return HAZARDS[hazard].alias if hazard in HAZARDS else None
