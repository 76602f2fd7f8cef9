"""The steps of the guard: inspect, rewrite, answer, refuse, review."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.messages import HumanMessage, ToolMessage
from langgraph.graph.message import add_messages
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from langchain_vlmguard.content.messages import ReadLimits, Turn, blocks_of, read_turn
from langchain_vlmguard.guard.calls import Answer, Call, RewriteCall, checked_rewrite, timed
from langchain_vlmguard.guard.judges import answer_judge_in, unbound
from langchain_vlmguard.guard.pictures import HiddenRequests, quotes_message
from langchain_vlmguard.guard.refusals import (
    in_plain_words,
    refusal_message,
    refusal_text,
    verdict_metadata,
    with_verdict,
)
from langchain_vlmguard.guard.reviews import decided
from langchain_vlmguard.guard.second_reader import second_reader_in
from langchain_vlmguard.guard.state import GuardContext, VLMGuardState
from langchain_vlmguard.rewriting.turns import with_prompt
from langchain_vlmguard.verdict.hazards import HAZARDS
from langchain_vlmguard.verdict.limits import ImageLimits
from langchain_vlmguard.verdict.policy import GuardPolicy
from langchain_vlmguard.verdict.records import Hazard, Provenance, SafetyVerdict, SteeringTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableConfig

    from langchain_vlmguard.content.fetch import PictureFetcher
    from langchain_vlmguard.guard.pictures import EvidenceReport, TextJudge
    from langchain_vlmguard.guard.second_reader import SecondReader
    from langchain_vlmguard.rewriting.rewriter import Rewrite


@dataclass(frozen=True)
class GuardNodes:
    """The steps of the guard; the graph runs them as nodes, the other faces call them."""

    model: Runnable[Any, Any]
    rewriter: Runnable[Any, Rewrite] | None
    default_policy: GuardPolicy
    fetcher: PictureFetcher
    hidden: HiddenRequests | None = None
    answers: TextJudge | Literal["auto"] | None = None
    """What judges the model's answers, `"auto"`: the model itself and the rewriter's, where they can."""

    second: SecondReader | Literal["auto"] | None = None
    """What reads turns with pictures once more, `"auto"`: the rewriter's model, where it is another one and can be judged."""

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
        return {"draft": timed(draft, "inspect", started), "verdict": {}, **_kept(state, turn)}

    def _with_evidence(self, draft: dict[str, Any], turn: Turn, hidden: HiddenRequests) -> dict[str, Any]:
        """Enter what the pictures say; words that would be unsafe if typed, or that could not be read, decide the turn."""
        call = Call("inspect")
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
        """Answer at once where the policy and what the gate or the answer shows allow it, otherwise ask the rewriter."""
        call = self._probing(state)
        if call is None:
            return self.rewrite(state)
        with call:
            messages, config = self.for_model(state), call.config
            answer = self._first_of(self.model.invoke(messages, config, **self._first))
            call.result = self._heard(answer, messages, config, state) if self._may_skip(answer) else answer
        return self._skipped(state, call) or self.rewrite(_after_probe(state, call))

    async def askip_or_rewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Answer at once or ask the rewriter, without blocking the event loop."""
        call = await asyncio.to_thread(self._probing, state)
        if call is None:
            return await self.arewrite(state)
        with call:
            messages, config = await asyncio.to_thread(self.for_model, state), call.config
            answer = self._first_of(await self.model.ainvoke(messages, config, **self._first))
            call.result = await self._aheard(answer, messages, config, state) if self._may_skip(answer) else answer
        return self._skipped(state, call) or await self.arewrite(_after_probe(state, call))

    def rewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the rewriter, where there is one and the turn is still open."""
        call = self._rewriting(state)
        if call is None:
            return {}
        with call:
            call.result = checked_rewrite(call.rewriter.invoke(call.messages, call.config), call.messages)
        return self._rewritten(state, call)

    async def arewrite(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the rewriter without blocking the event loop."""
        call = await asyncio.to_thread(self._rewriting, state)
        if call is None:
            return {}
        with call:
            call.result = checked_rewrite(await call.rewriter.ainvoke(call.messages, call.config), call.messages)
        return self._rewritten(state, call)

    def answer(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the model, with the rewritten prompt where there is one."""
        call = Call("answer")
        with call:
            messages = self.for_model(state)
            answer = Answer.of(self.model.invoke(messages, call.config))
            call.result = self._heard(answer, messages, call.config, state)
        return self._answered(state, call)

    async def aanswer(self, state: VLMGuardState) -> dict[str, Any]:
        """Ask the model without blocking the event loop."""
        call = Call("answer")
        with call:
            messages = await asyncio.to_thread(self.for_model, state)
            answer = Answer.of(await self.model.ainvoke(messages, call.config))
            call.result = await self._aheard(answer, messages, call.config, state)
        return self._answered(state, call)

    def refuse(self, state: VLMGuardState) -> dict[str, Any]:
        """Say why, in general terms, and offer the safe way."""
        verdict = self.verdict(state["draft"])
        message = refusal_message(
            refusal_text(verdict, self.policy), verdict, response_metadata=verdict_metadata(verdict)
        )
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

    def _rewriting(self, state: VLMGuardState) -> RewriteCall | None:
        if self.rewriter is None or self.policy.rewrite == "never" or state["draft"]["action"] != "allow":
            return None
        messages, quotes = self._turn(state).messages, state["draft"].get("quotes")
        quoted = [*messages, quotes_message(quotes)] if quotes else messages
        return RewriteCall("rewrite", rewriter=self.rewriter, messages=quoted)

    def _probing(self, state: VLMGuardState) -> Call | None:
        """Return the call that tries the gate first, or `None` where the rewriter is asked anyway or never.

        A gate that reads the text alone says nothing about pictures: without a probe that has read them, they skip the
        rewriter only if the policy says so.
        """
        draft, mode = state["draft"], self.policy.rewrite
        open_turn = self.rewriter is not None and mode in ("adaptive", "answer_first") and draft["action"] == "allow"
        if not open_turn or draft.get("security") or draft.get("evidence"):
            return None
        if mode == "answer_first":
            return None if self.answer_judge is None else Call("answer")
        screening = _screening_of(self.model)
        if screening is None:
            return None
        blind = not screening.sees_pictures and self.policy.adaptive_pictures == "rewrite"
        return None if blind and _shows_pictures(self._turn(state).messages) else Call("answer")

    @property
    def answer_judge(self) -> TextJudge | None:
        """What judges the model's answers."""
        return answer_judge_in(self.model, self.rewriter) if self.answers == "auto" else self.answers

    @property
    def _first(self) -> dict[str, bool]:
        """How a model with a gate is asked before the rewriter."""
        screening, policy = _screening_of(self.model), self.policy
        if screening is None:
            return {}
        if policy.rewrite == "adaptive":
            return {"until_gate": True}
        read_along = policy.judge_answers == "uncleared" and screening.probe is not None
        return {"screened": True} if read_along else {"unsteered": True}

    def _first_of(self, message: Any) -> Answer:
        """Read what came of a first call; a probe that was only read along and clears nothing has nothing to say."""
        answer = Answer.of(message)
        if answer.steering is None or self._gate_clears(answer) or "screened" not in self._first:
            return answer
        return replace(answer, steering=None)

    def _gate_clears(self, answer: Answer) -> bool:
        """Say whether the gate, or the probe, that a first call was asked to read found the turn clearly harmless."""
        trace = answer.steering
        if trace is None or trace["open"] or not {"until_gate", "screened"} & self._first.keys():
            return False
        return self.policy.severity(trace["risk"]) == "safe"

    def _may_skip(self, answer: Answer) -> bool:
        """Say whether what a first call gave may yet be released, and is to be judged for it."""
        if self._gate_clears(answer):
            return self.policy.judge_answers == "always"
        return self.policy.rewrite == "answer_first"

    def _clears(self, answer: Answer) -> bool:
        """Say whether the answer of a first call may be released, unless it says harm."""
        risk, unread = answer.worst, answer.second_reader is not None and answer.second_risk is None
        if self._gate_clears(answer):
            return not unread
        return risk is not None and not unread and self.policy.severity(risk) == "safe"

    def _heard(
        self, answer: Answer, messages: list[BaseMessage], config: RunnableConfig, state: VLMGuardState
    ) -> Answer:
        """Judge an answer: its words, and what a second reader of the same messages says."""
        answer = answer.judged(self.answer_judge)
        reader = self._second_for(answer, messages, state)
        return answer if reader is None else _read_again(answer, reader, reader.risk(messages, config))

    async def _aheard(
        self, answer: Answer, messages: list[BaseMessage], config: RunnableConfig, state: VLMGuardState
    ) -> Answer:
        """Judge an answer without blocking the event loop."""
        answer = await asyncio.to_thread(lambda: answer.judged(self.answer_judge))
        reader = await asyncio.to_thread(self._second_for, answer, messages, state)
        return answer if reader is None else _read_again(answer, reader, await reader.arisk(messages, config))

    def _second_for(self, answer: Answer, messages: Sequence[BaseMessage], state: VLMGuardState) -> SecondReader | None:
        """Return who reads a turn once more: nobody where there is no picture, or where it could change nothing."""
        settled = state["draft"].get("asked") and self.policy.on_second_reading == "ask"
        if self.second is None or settled or not _shows_pictures(messages) or self._withheld_for(answer) is not None:
            return None
        if self.second != "auto":
            return self.second
        return None if self.answers is None else second_reader_in(self.model, self.rewriter)

    def _withheld_for(self, answer: Answer) -> tuple[Literal["review", "refuse"], str] | None:
        """Return what is done about an answer that says harm, or would where read otherwise, and why; `None` where nothing is."""
        policy = self.policy
        if policy.on_unsafe_answer != "keep" and _is_unsafe(policy, answer.risk):
            return policy.on_unsafe_answer, "What the model was about to say is harmful."
        if _is_unsafe(policy, answer.second_risk):
            action = "refuse" if policy.on_second_reading == "ask" else policy.on_second_reading
            return action, "A second model reads the request's pictures otherwise, and would say something harmful."
        return None

    def _skipped(self, state: VLMGuardState, call: Call) -> dict[str, Any] | None:
        """Release the answer of a turn that is cleared; one that says harm sends the turn to the rewriter."""
        if call.failure is not None or not self._clears(call.result) or self._withheld_for(call.result) is not None:
            return None
        return self._answered(state, call)

    def _rewritten(self, state: VLMGuardState, call: Call) -> dict[str, Any]:
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

    def _answered(self, state: VLMGuardState, call: Call) -> dict[str, Any]:
        draft = call.into(state["draft"], self.policy)
        if call.failure is not None:
            return {"draft": draft}
        draft = self.heard(draft, call.result)
        if draft.get("answer") == "withheld":
            return {"draft": draft}
        verdict = self.verdict({**draft, "answer": "released"})
        return {"messages": [with_verdict(call.result.message, verdict)], "verdict": verdict.to_state(), "draft": {}}

    def heard(self, draft: dict[str, Any], answer: Answer) -> dict[str, Any]:
        """Enter what the model said into the draft; an open gate may withhold it, and so may its own words."""
        draft = {**draft, "answer": "none", "steering": answer.steering, "provenance": answer.provenance}
        if answer.risk is not None:
            draft |= {"answer_risk": answer.risk, "answers": answer.judge}
        if answer.second_reader is not None:
            draft |= {"second_risk": answer.second_risk, "second_reader": answer.second_reader}
        if (action := self._gate_action(draft)) != "keep":
            draft |= {"action": action, "answer": "withheld"}
            draft["reason"] = "The model's own states mark this request as harmful."
        elif not draft.get("reviewed") and (withheld := self._withheld_for(answer)) is not None:
            draft |= {"action": withheld[0], "answer": "withheld", "reason": withheld[1]}
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
        found = [draft.get(name) or 0.0 for name in ("risk", "evidence_risk", "answer_risk", "second_risk")]
        risk = max([*found, trace.risk if trace else 0.0])
        return SafetyVerdict(
            action=draft["action"],
            risk=risk,
            severity=policy.severity(risk),
            hazards=draft.get("hazards", []),
            unjudged=draft["unjudged"],
            security=draft.get("security", []),
            evidence=draft.get("evidence", []),
            evidence_risk=draft.get("evidence_risk"),
            answer_risk=draft.get("answer_risk"),
            second_risk=draft.get("second_risk"),
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
            answers=draft.get("answers"),
            second_reader=draft.get("second_reader"),
            policy=policy.hash,
            thresholds=policy.thresholds,
            **draft.get("provenance", {}),
        )


def _screening_of(model: Any) -> Any:
    """Return the screening of a model that can stop where its gate opens, tools bound or not; `None` for any other."""
    return getattr(unbound(model), "screening", None)


def _read_again(answer: Answer, reader: SecondReader, risk: float | None) -> Answer:
    return replace(answer, second_risk=risk, second_reader=reader.identity)


def _is_unsafe(policy: GuardPolicy, risk: float | None) -> bool:
    return risk is not None and policy.severity(risk) == "unsafe"


def _shows_pictures(messages: Sequence[BaseMessage]) -> bool:
    return any(block["type"] == "image" for message in messages for block in blocks_of(message))


def _after_probe(state: VLMGuardState, call: Call) -> VLMGuardState:
    """Return the state with the tokens and seconds of a call whose answer was not used."""
    spent = call.into(state["draft"], GuardPolicy())
    timings = {**state["draft"].get("timings", {}), "probe": spent["timings"]["answer"]}
    return cast("VLMGuardState", {**state, "draft": {**state["draft"], "usage": spent["usage"], "timings": timings}})


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


def _alias(hazard: str) -> str | None:
    return HAZARDS[hazard].alias if hazard in HAZARDS else None
