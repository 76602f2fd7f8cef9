"""The flow in steps, for graphs: what one node found, the next one goes on from.

LangGraph runs a node again after an interrupt, so that review is a step of its own and nothing is asked twice. The draft lies in
the graph's state, as JSON. The turn that was read stays in this process; a run that goes on elsewhere reads it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import StateGraph

from langchain_vlmguard.content.recent import Recent
from langchain_vlmguard.guard import answers, flow, requests
from langchain_vlmguard.guard.effects import arun, run
from langchain_vlmguard.guard.events import publish, stream_writer
from langchain_vlmguard.guard.reviews import Waiting, ask_person, can_wait, words_to_review
from langchain_vlmguard.guard.state import (
    GuardContext,
    GuardInput,
    GuardOutput,
    VLMGuardState,
    check_record,
    current_verdict,
    policy_of_run,
    stage_of,
)
from langchain_vlmguard.guard.turns import Answered, GuardedTurn
from langchain_vlmguard.verdict.draft import Draft
from langchain_vlmguard.verdict.refusals import (
    NO_CHECKPOINTER,
    refusal_message,
    refusal_text,
    verdict_metadata,
    with_verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.guard.state import Update
    from langchain_vlmguard.rewriting.report import Model
    from langchain_vlmguard.verdict.records import SafetyVerdict

GuardGraph = StateGraph[VLMGuardState, GuardContext, GuardInput, GuardOutput]

_KEPT_BYTES = 128_000_000


def new_graph(steps: Any, *names: str, input_schema: type[Any] = GuardInput) -> GuardGraph:
    """Return a graph whose nodes are steps, without any edge."""
    graph: GuardGraph = StateGraph(
        VLMGuardState, context_schema=GuardContext, input_schema=input_schema, output_schema=GuardOutput
    )
    for name in names:
        graph.add_node(name, as_node(getattr(steps, name)))
    return graph


def as_node(step: Callable[[VLMGuardState], Flow[Update]]) -> Model:
    """Return a step as a node of a graph, sync and async."""

    async def on_the_loop(state: VLMGuardState) -> Update:
        return await arun(step(state))

    def here(state: VLMGuardState) -> Update:
        return run(step(state))

    return RunnableLambda(here, afunc=on_the_loop, name=getattr(step, "__name__", None))


class RecentTurns:
    """Turns that were read in this process: by the draft's id, and by the very messages that hold them."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_id: Recent[GuardedTurn] = Recent(_KEPT_BYTES)
        self._by_messages: Recent[tuple[Sequence[BaseMessage], GuardedTurn]] = Recent(_KEPT_BYTES)

    def keep(self, guarded: GuardedTurn, messages: Sequence[BaseMessage], draft: Draft) -> None:
        """Keep a turn until others need the memory."""
        weight = guarded.turn.weight
        self._by_id.put(draft.id, guarded, weight)
        # The messages are kept with their turn: as long as they live, no other object has their ids.
        self._by_messages.put((*map(id, messages), guarded.policy.hash), (messages, guarded), weight)

    def of_draft(self, draft: Draft) -> GuardedTurn | None:
        """Return the turn of a draft."""
        return self._by_id.get(draft.id)

    def of_messages(self, messages: Sequence[BaseMessage], policy_hash: str) -> GuardedTurn | None:
        """Return the turn that these very messages hold."""
        kept = self._by_messages.get((*map(id, messages), policy_hash))
        return None if kept is None else kept[1]


@dataclass(frozen=True)
class GuardSteps:
    """The steps of the guard: inspect, rewrite, answer, refuse, review."""

    guard: GuardParts
    model: Model | None = None
    """The model that answers."""

    turns: RecentTurns = field(default_factory=RecentTurns)
    asks: bool = True
    """Whether these steps ask the model; another node does otherwise."""

    name: str = "create_vlm_guard"
    """Who checks, for the custom stream."""

    def inspect(self, state: VLMGuardState) -> Flow[Update]:
        """Read the turn; a part that cannot be read decides it."""
        guarded, draft = yield from requests.inspect(self.guard.for_run(), state["messages"], self.model)
        self.turns.keep(guarded, state["messages"], draft)
        # An address may lead to another picture the next time: the state keeps what was fetched.
        fetched = guarded.turn.fetched.items()
        changed = [state["messages"][at].model_copy(update={"content": content}) for at, content in fetched]
        return {"draft": draft.to_state(), "verdict": {}, "held": None, **({"messages": changed} if changed else {})}

    def rewrite(self, state: VLMGuardState) -> Flow[Update]:
        """Answer at once if the policy allows it and what gate and judges find lets the answer out; else ask the rewriter."""
        guarded, draft = yield from self.resume(state)
        if self.asks and self.model is not None:
            tried = yield from flow.first_try(guarded, draft, self.model)
            if isinstance(tried, Answered):
                return self._leave(guarded, tried)
            draft = tried
        return self._go_on(guarded, (yield from requests.ask_rewriter(guarded, draft)))

    def answer(self, state: VLMGuardState) -> Flow[Update]:
        """Ask the model, with the rewritten prompt if there is one, and judge what it says."""
        guarded, draft = yield from self.resume(state)
        assert self.model is not None  # noqa: S101 - a graph without a model has no such node
        return self._leave(guarded, (yield from flow.answer(guarded, draft, self.model)))

    def refuse(self, state: VLMGuardState) -> Flow[Update]:
        """Say why, in general terms, and offer the safe way."""
        guarded, draft = yield from self.resume(state)
        verdict = draft.to_verdict(guarded.policy)
        words = refusal_text(verdict, guarded.policy)
        message = refusal_message(words, verdict, response_metadata=verdict_metadata(verdict))
        return {"messages": [message], **self._end(verdict)}

    def review(self, state: VLMGuardState) -> Flow[Update]:
        """Stop and ask a person; go on with what they decide. A graph that cannot wait refuses."""
        guarded, draft = yield from self.resume(state)
        if not can_wait():
            return {"draft": draft.stop("refuse", f"{draft.reason} {NO_CHECKPOINTER}".strip()).to_state()}
        decision = ask_person(self._waiting(state, guarded, draft))
        held, draft = state.get("held"), draft.decide(decision.kind, decision.text)
        if held is None or not draft.lets_answer:
            return {"draft": draft.to_state(), "held": None}
        return {**self._let_out(guarded, draft, held), "held": None}

    def let_pass(self, state: VLMGuardState) -> Flow[Update]:
        """Write the verdict of a turn that another node answers."""
        guarded, draft = yield from self.resume(state)
        return self._end(requests.account(guarded, draft).to_verdict(guarded.policy))

    def resume(self, state: VLMGuardState) -> Flow[tuple[GuardedTurn, Draft]]:
        """Return the turn that an earlier step read, and its draft."""
        draft = Draft.from_state(state["draft"])
        guarded = self.turns.of_draft(draft)
        if guarded is None:
            guarded = yield from requests.read(self.guard.for_run(), state["messages"], self.model, draft.withheld)
        return guarded, draft

    def turn_of(self, messages: Sequence[BaseMessage], verdict: SafetyVerdict) -> Flow[GuardedTurn]:
        """Return the turn of a verdict, which these messages hold."""
        guarded = self.turns.of_messages(messages, verdict.provenance.policy)
        if guarded is None:
            guarded = yield from requests.read(self.guard.for_run(), messages, self.model, verdict.withheld)
        return guarded

    def _waiting(self, state: VLMGuardState, guarded: GuardedTurn, draft: Draft) -> Waiting:
        if (held := state.get("held")) is not None:
            return self._waiting_answer(held, guarded, draft)
        proposed = {"proposed_prompt": draft.rewritten_prompt} if draft.rewritten_prompt else {}
        shown = {"prompt": draft.rewritten_prompt or guarded.turn.text} if self.guard.show_held else {}
        return Waiting("input", "answer_request", shown, draft.to_verdict(guarded.policy), "prompt", proposed)

    def _waiting_answer(self, answer: AIMessage, guarded: GuardedTurn, draft: Draft) -> Waiting:
        """Ask about an answer: the very one that leaves if a person lets it."""
        shown = {"text": words_to_review(answer)} if self.guard.show_held else {}
        return Waiting("output", "release_answer", shown, draft.to_verdict(guarded.policy), "text")

    def _let_out(self, guarded: GuardedTurn, draft: Draft, answer: AIMessage) -> Update:
        """Let an answer out that a person approved, or a person's version of it."""
        if draft.reviewed == "edit" and draft.rewritten_prompt is not None:
            answer = AIMessage(draft.rewritten_prompt, id=answer.id)
            draft = draft.copy_with(action="allow", answer="replaced", rewritten_prompt=None)
        else:
            draft = draft.copy_with(answer="released")
        return self._end_with(guarded, draft, answer)

    def _leave(self, guarded: GuardedTurn, answered: Answered) -> Update:
        draft = answered.joined()
        if answered.answer is None:
            return self._go_on(guarded, draft)
        if not draft.lets_answer:
            waits = draft.action == "review" and can_wait()
            return {**self._go_on(guarded, draft), "held": answered.answer.message if waits else None}
        return self._end_with(guarded, draft.copy_with(answer="released"), answered.answer.message)

    def _go_on(self, guarded: GuardedTurn, draft: Draft) -> Update:
        """Hand the draft on to the next step; what will wait for a person is told here, for the review itself runs again."""
        if draft.action == "review" and can_wait():
            self._publish(draft.to_verdict(guarded.policy))
        return {"draft": draft.to_state()}

    def _end_with(self, guarded: GuardedTurn, draft: Draft, answer: AIMessage) -> Update:
        """End the turn with an answer, which carries the verdict."""
        verdict = draft.to_verdict(guarded.policy)
        return {"messages": [with_verdict(answer, verdict)], **self._end(verdict)}

    def _end(self, verdict: SafetyVerdict) -> Update:
        """Tell the verdict, and end the turn with it."""
        self._publish(verdict)
        return {"verdict": verdict.to_state(), "draft": {}}

    def _publish(self, verdict: SafetyVerdict) -> None:
        records = [check_record(stage_of(verdict), self.name, verdict)]
        publish(stream_writer(), records)
        if self.guard.telemetry is not None:
            self.guard.telemetry.record(records)


@dataclass(frozen=True)
class AnswerSteps(GuardSteps):
    """The steps for an answer that another node made and put last in the state: hear, then let pass, refuse or review."""

    def hear(self, state: VLMGuardState) -> Flow[Update]:
        """Judge the last message as the answer to the turn before it."""
        verdict, asked = checked_verdict(self.guard, state), state["messages"][:-1]
        guarded = yield from self.turn_of(asked, verdict)
        draft = Draft.of_verdict(verdict).copy_with(id=uuid4().hex)
        self.turns.keep(guarded, asked, draft)
        answered = yield from answers.hear(guarded, draft, state["messages"][-1], guarded.for_model(draft))
        return self._go_on(guarded, answered.joined())

    def let_pass(self, state: VLMGuardState) -> Flow[Update]:
        """Leave the answer where it is, with the verdict; a person's version takes its place."""
        guarded, draft = yield from self.resume(state)
        answer: Any = state["messages"][-1]
        return self._let_out(guarded, draft, answer)

    def refuse(self, state: VLMGuardState) -> Flow[Update]:
        """Put a refusal in the answer's place."""
        update = yield from GuardSteps.refuse(self, state)
        refusal, last = update["messages"][0], state["messages"][-1]
        return {**update, "messages": [refusal.model_copy(update={"id": last.id})]}

    def _waiting(self, state: VLMGuardState, guarded: GuardedTurn, draft: Draft) -> Waiting:
        answer: Any = state["messages"][-1]
        return self._waiting_answer(answer, guarded, draft)


def checked_verdict(guard: GuardParts, state: Any) -> SafetyVerdict:
    """Return the verdict of a state that may go on.

    Raises:
        ValueError: The state holds no verdict that lets the turn go on, or one that was made under another policy than
            this run's, e.g. by a node cache, which knows nothing of the run's context.
    """
    verdict = current_verdict(state)
    if verdict is None:
        msg = (
            "the state has no verdict: give the graph's state a key `verdict: dict`, and put the guard before this node"
        )
        raise ValueError(msg)
    if verdict.action not in ("allow", "rewrite"):
        msg = "the turn has no verdict that lets it go on: route on the verdict before asking the model"
        raise ValueError(msg)
    if verdict.provenance.policy != policy_of_run(guard.policy).hash:
        msg = "the verdict was made under another policy than this run's: cache no guard where tenants bring their own"
        raise ValueError(msg)
    return verdict
