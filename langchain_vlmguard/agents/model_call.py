"""One call of an agent's model: what goes in is checked, what comes out is checked, and the agent's state hears of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from langchain.agents.middleware.types import ExtendedModelResponse, ModelResponse
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import Command

from langchain_vlmguard.agents.held import (
    WAITS,
    call_name,
    call_note,
    new_id,
    packed,
    technical,
    with_calls,
    with_own_ids,
)
from langchain_vlmguard.agents.log import CheckLog
from langchain_vlmguard.agents.prints import fingerprint, turn_fingerprint
from langchain_vlmguard.agents.tool_names import tool_name
from langchain_vlmguard.content.turn import turn_start
from langchain_vlmguard.guard import answers, requests
from langchain_vlmguard.guard.calls import Call
from langchain_vlmguard.guard.effects import ask, start, together, wait, work
from langchain_vlmguard.guard.flow import first_try
from langchain_vlmguard.guard.stopped import bare
from langchain_vlmguard.guard.streams import show_answer
from langchain_vlmguard.guard.turns import Answered, GuardedTurn
from langchain_vlmguard.rewriting.subjects import Scope, result_as_turn
from langchain_vlmguard.verdict.draft import Draft
from langchain_vlmguard.verdict.refusals import refusal_message, with_short_verdict, with_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain.agents.middleware.types import ModelRequest
    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.agents.asked_model import AskedModel
    from langchain_vlmguard.agents.options import AgentGuard
    from langchain_vlmguard.guard.effects import Flow, Started
    from langchain_vlmguard.guard.state import Stage, Update
    from langchain_vlmguard.verdict.records import Json

Response = ExtendedModelResponse[Any]
Said = tuple[AIMessage | None, Call]
"""What the model said, and the step that counts what it cost."""


def guard_model_call(agent: AgentGuard, request: ModelRequest[Any], model: AskedModel) -> Flow[Response]:
    """Guard one call of the model.

    The turn is read and judged, unless it was judged in an earlier round of the agent's loop; results of tools that no check has
    seen are judged; then the model is asked, and its answer and each of its calls are judged before any of it leaves.
    """
    agent.check_tools({tool_name(tool) for tool in request.tools})
    response = yield from _guarded(agent, request, model)
    message = next((one for one in response.model_response.result if isinstance(one, AIMessage)), None)
    if agent.mutes and message is not None:
        yield from show_answer(message, request.messages, model.model_name)
    return response


def _guarded(agent: AgentGuard, request: ModelRequest[Any], model: AskedModel) -> Flow[Response]:
    key, known = yield from work(lambda: _known(agent, request))
    decided = _after_answer(request.messages) if known else 0
    guarded, draft = yield from requests.inspect(agent.guard, request.messages, request.model, decided=decided)
    given = _with_fetched(request.messages, guarded)
    if guarded.turn.fetched:
        key = yield from work(lambda: turn_fingerprint(given, agent.policy.hash))
    call = _ModelCall(agent, request, model, given, CheckLog(agent), key)
    early: Started[Said] | None = None
    try:
        draft = call.recall(draft) if known else draft
        draft = draft.copy_with(enforced=not agent.monitors)
        if known or not agent.check_input:
            tried: Answered | Draft = draft if known else draft.skip("request", "check_input=False")
        elif agent.parallel and agent.policy.rewriting.when == "always" and draft.is_open and not agent.monitors:
            early, tried = (yield from start(call.ask(guarded, draft))), draft
        else:
            tried = yield from first_try(guarded, draft, model)
        if isinstance(tried, Draft) and agent.check_input and not known:
            tried = yield from requests.ask_rewriter(guarded, tried)
        draft = call.enter(guarded, tried, known=known)
        guarded = yield from call.judge_strangers(guarded, draft)
        if not (draft.lets_answer or agent.monitors):
            if draft.action == "review" or agent.exit_behavior != "replace":
                return call.stop(guarded, draft)
            guarded = call.replace_turn(guarded, draft)
        if isinstance(tried, Answered) and not call.log.messages:
            return call.finish(tried)
        if early is not None and draft.is_open and not call.log.messages:
            said = yield from wait(early)
        else:
            call = replace(call, model=model.again())
            said = yield from call.ask(guarded, draft)
        return call.finish((yield from call.hear(guarded, draft, *said)))
    finally:
        if early is not None:
            early.cancel()


@dataclass(frozen=True)
class _ModelCall:
    """One call of the model, and what the agent's state will hear of it."""

    agent: AgentGuard
    request: ModelRequest[Any]
    model: AskedModel
    given: list[BaseMessage]
    """The conversation as it lies in the state, with fetched pictures in place of their addresses."""

    log: CheckLog
    key: str
    """Fingerprint of the turn."""

    def recall(self, draft: Draft) -> Draft:
        """Return what was decided about this turn in an earlier round of the loop, or by a person."""
        before = Draft.from_state(self._notes[self.agent.note("turn")]["draft"])
        return before.copy_with(id=draft.id) if draft.is_open or before.reviewed else draft

    def enter(self, guarded: GuardedTurn, tried: Answered | Draft, *, known: bool) -> Draft:
        """Enter what was decided about the turn, and return it with its review settled."""
        draft = tried.draft if isinstance(tried, Answered) else tried
        if self.agent.check_input and not known:
            self.log.add("input", requests.account(guarded, draft) if isinstance(tried, Answered) else draft)
        before = draft.copy_with(steering=None, model={}) if isinstance(tried, Answered) else draft
        draft = self.agent.settle(draft)
        if draft.lets_answer or self.agent.monitors:
            self.log.note("turn", key=self.key, draft=self.agent.settle(before).to_state())
        self._forget_the_last_round()
        return draft

    def _forget_the_last_round(self) -> None:
        """Drop notes on calls that ran and on results that the model gets now: the state does not grow with the thread."""
        passed, called = self.agent.note("passed"), self.agent.note("call")
        for key, note in self._notes.items():
            if key.startswith(passed) or (key.startswith(called) and note["action"] == "allow"):
                self.log.notes[key] = None

    @property
    def _notes(self) -> Json:
        return _notes(self.request)

    def stop(self, guarded: GuardedTurn, draft: Draft) -> Response:
        """Return what stands in for the answer to a turn that may not go on."""
        if draft.action == "review":
            return self.hold("input", draft, key=self.key, text=guarded.turn.text)
        self.agent.raise_violation("input", draft)
        return self.respond([self.notice(draft, "input")], draft)

    def ask(self, guarded: GuardedTurn, draft: Draft) -> Flow[Said]:
        """Ask the model; the request goes on as it came if the guard only monitors."""
        call = Call("answer", raises=True)
        messages = self.request.messages if self.agent.monitors else guarded.for_model(draft)
        return (yield from ask(self.model, messages, call.config)), call

    def hear(self, guarded: GuardedTurn, draft: Draft, message: AIMessage | None, call: Call) -> Flow[Answered]:
        """Judge what the model said; a response without an AI message goes on as it came."""
        draft = call.charge(draft)
        if message is None:
            return Answered(draft)
        tools = {tool_name(tool): _description(tool) for tool in self.request.tools}
        covered = frozenset(name for name in tools if self.agent.covers(name))
        scope = Scope(tools, covered, answer=self.agent.check_output, calls=self.agent.check_tool_args)
        return (yield from answers.hear(guarded, draft, message, guarded.for_model(draft), scope))

    def judge_strangers(self, guarded: GuardedTurn, draft: Draft) -> Flow[GuardedTurn]:
        """Judge results of tools that no check has seen: other middleware may have put them there.

        Returns:
            The turn with a notice in place of results that did not pass; `log.messages` holds them, too.
        """
        agent, messages = self.agent, [*guarded.turn.messages]
        strange = []
        for at in range(min(guarded.turn.start, _after_answer(self.given)), len(self.given)):
            message = self.given[at]
            if not isinstance(message, ToolMessage) or agent.note("passed", fingerprint([message])) in self._notes:
                continue
            checks = agent.passed.find(message, agent.policy.hash)
            self.log.earlier += checks or ()
            if checks is None and agent.covers(message.name):
                strange.append((at, message))
        if not strange or not agent.check_tool_results or guarded.rewriter is None or not draft.lets_answer:
            return guarded
        asked = [answers.judge_result(guarded, _as_result(message)) for _, message in strange]
        found = yield from together(asked, agent.guard.judges_at_once)
        for (at, message), (judged, _) in zip(strange, found, strict=True):
            judged = agent.settle(judged)  # noqa: PLW2901 - the same draft, with its review decided
            self.log.add("tool_result", judged, tool=message.name, call=message.tool_call_id)
            kept = message
            if not judged.is_open and not agent.monitors:
                agent.raise_violation("tool_result", judged)
                stripped = bare(message, agent.notice(judged, "tool_result"))
                kept = stripped.model_copy(update={"status": "error"})
                messages[at] = self.log.messages[at] = kept
            agent.passed.keep(kept, agent.policy.hash, ())
        return guarded.with_messages(messages)

    def replace_turn(self, guarded: GuardedTurn, draft: Draft) -> GuardedTurn:
        """Put the notice in place of everything that strangers said in the turn."""
        notice = self.agent.notice(draft, "input")
        messages = [*guarded.turn.messages]
        for at in range(guarded.turn.start, len(messages)):
            if isinstance(messages[at], HumanMessage | ToolMessage):
                messages[at] = self.log.messages[at] = bare(self.given[at], notice)
        return guarded.with_messages(messages)

    def finish(self, answered: Answered) -> Response:
        """Let the answer out, or put what stands in for it in its place."""
        agent, answer = self.agent, answered.answer
        if self.model.message is None:
            return self.respond(self.model.result, answered.draft)
        said = [part.draft for part in answered.parts if part.subject.kind == "answer"]
        if answered.draft.answer == "withheld":
            said.insert(0, answered.draft.copy_with(answer="none", usage={}, timings={}))
        for draft in said:
            self.log.add("output", agent.settle(draft))
        whole = agent.settle(answered.joined(calls=False))
        stopped = answered.draft.answer == "withheld" or any(not draft.is_open for draft in said)
        turn_replaced = bool(self.log.messages) and whole.action == "refuse" and agent.exit_behavior == "replace"
        replaces = turn_replaced and not stopped
        if answer is not None and (agent.monitors or whole.lets_answer or replaces):
            if self.model.error is not None:  # harmless, and not what was asked for: as without the guard
                raise self.model.error
            return self._let_out(answered, whole.copy_with(answer="replaced" if replaces else "released"))
        return self._keep_back(whole.copy_with(answer="withheld"))

    def _keep_back(self, draft: Draft) -> Response:
        agent, message = self.agent, cast("AIMessage", self.model.message)
        if agent.monitors:
            return self.respond(self.model.result, draft)
        if draft.action == "review":
            return self.hold("output", draft, message)
        agent.raise_violation("output", draft)
        if agent.exit_behavior == "replace":
            draft = draft.copy_with(answer="replaced")
        notice = self.notice(draft, "output", message.id)
        spent = {"usage_metadata": message.usage_metadata}
        metadata = {**technical(message), **notice.response_metadata}
        return self.respond([notice.model_copy(update={**spent, "response_metadata": metadata})], draft)

    def _let_out(self, answered: Answered, draft: Draft) -> Response:
        agent = self.agent
        judged = [(p.subject.call, agent.settle(p.draft)) for p in answered.parts if p.subject.call]
        said = cast("AIMessage", self.model.message)
        calls = {id(call): call for call in said.tool_calls}
        if not agent.monitors and any(not one.is_open for _, one in judged):
            stopped = {id(call) for call, one in judged if not one.is_open}
            own = with_own_ids(said.tool_calls)
            left = [{**one, "args": {}} if key in stopped else one for key, one in zip(calls, own, strict=True)]
            calls = dict(zip(calls, cast("Any", left), strict=True))
            whole, said = said.model_copy(update={"tool_calls": own}), with_calls(said, [*calls.values()])
        for call, one in judged:
            let_out = calls[id(call)]
            self.log.add("tool_args", one, tool=call["name"], call=let_out["id"])
            self.log.note("call", call_name(let_out), **call_note(one))
        if agent.monitors:
            return self.respond(self.model.result, draft)
        message = with_verdict(said, agent.verdict(draft))
        message = message if message.id else message.model_copy(update={"id": new_id()})
        waiting = {calls[id(call)]["id"]: one.to_state() for call, one in judged if one.action == "review"}
        if waiting:
            raw = whole.model_copy(update={"id": message.id})
            self.log.note("held", message.id, stage="tool_args", message=packed(raw), calls=waiting)
        result = [*self.model.result]
        result[self.model.at] = message
        for made in result[self.model.at + 1 :]:  # what LangChain made of a structured answer
            self.log.note("passed", fingerprint([made]))
        return self.respond(result, draft)

    def hold(self, stage: Stage, draft: Draft, message: AIMessage | None = None, **more: Any) -> Response:
        """Put a placeholder in place of what waits for a person; the thing itself lies in the guard's private state."""
        placeholder = AIMessage(WAITS, id=(message.id if message else None) or new_id())
        held: Json = {"stage": stage, "draft": draft.to_state(), **more}
        if message is not None:
            placeholder = placeholder.model_copy(update={"usage_metadata": message.usage_metadata})
            held["message"] = packed(message)
            held["beside"] = [packed(one) for at, one in enumerate(self.model.result) if at != self.model.at]
            held["structured"] = self.model.structured_response
        self.log.note("held", placeholder.id, **held)
        return self.respond([with_verdict(placeholder, self.agent.verdict(draft))], draft)

    def notice(self, draft: Draft, stage: Stage, message_id: str | None = None) -> AIMessage:
        """Return the message that stands in for what was stopped."""
        verdict = self.agent.verdict(draft)
        message = refusal_message(self.agent.notice(draft, stage), verdict, id=message_id or new_id())
        return with_verdict(message, verdict)

    def respond(self, result: list[BaseMessage], draft: Draft) -> Response:
        """Return what the agent goes on with, and what its state hears of this call."""
        self.log.publish(self.request.runtime.stream_writer)
        update: Update = {"verdict": self.agent.verdict(draft).to_state(), **self.log.update()}
        if not self.agent.monitors and (kept := self._changed()):
            update["messages"] = kept
        parsed = self.model.structured_response if draft.answer == "released" else None
        response = ModelResponse(result=result, structured_response=parsed)
        return ExtendedModelResponse(model_response=response, command=Command(update=update))

    def _changed(self) -> list[BaseMessage]:
        """Return messages that the state must keep otherwise.

        These are replaced ones, those whose pictures were fetched, and answers of earlier turns, whose verdicts become short.
        """
        start = turn_start(self.request.messages)
        changed = []
        for at, (came, given) in enumerate(zip(self.request.messages, self.given, strict=True)):
            now = self.log.messages.get(at, given)
            if at < start and isinstance(now, AIMessage):
                now = with_short_verdict(now)
            if came.id and now is not came:
                changed.append(now)
        return changed


def _with_fetched(messages: Sequence[BaseMessage], guarded: GuardedTurn) -> list[BaseMessage]:
    fetched = guarded.turn.fetched
    if not fetched:
        return [*messages]
    return [
        message.model_copy(update={"content": fetched[at]}) if at in fetched else message
        for at, message in enumerate(messages)
    ]


def _as_result(message: ToolMessage) -> list[BaseMessage]:
    called: ToolCall = {"name": message.name or "tool", "args": {}, "id": message.tool_call_id, "type": "tool_call"}
    return result_as_turn(called, message)


def _known(agent: AgentGuard, request: ModelRequest[Any]) -> tuple[str, bool]:
    """Return the fingerprint of the turn, and whether it was decided on before."""
    key = turn_fingerprint(request.messages, agent.policy.hash)
    return key, _notes(request).get(agent.note("turn"), {}).get("key") == key


def _notes(request: ModelRequest[Any]) -> Json:
    return cast("Any", request.state).get("vlmguard") or {}


def _after_answer(messages: Sequence[BaseMessage]) -> int:
    """Return the index of the first message that the model has not met yet."""
    return next((at + 1 for at in range(len(messages) - 1, -1, -1) if isinstance(messages[at], AIMessage)), 0)


def _description(tool: Any) -> str:
    if isinstance(tool, dict):
        return str(tool.get("description") or (tool.get("function") or {}).get("description") or "")
    return str(tool.description)
