"""One call of an agent's tool: arguments are checked before it runs, results before the model sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import RemoveMessage, ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from langchain_vlmguard.agents.commands import beside_messages, keys_beside, own, without_beside
from langchain_vlmguard.agents.held import WAITS, call_name, new_id, packed
from langchain_vlmguard.agents.log import CheckLog
from langchain_vlmguard.agents.quiet_tool import HeldEnds, QuietTool
from langchain_vlmguard.guard import answers
from langchain_vlmguard.guard.effects import handle, together, work
from langchain_vlmguard.guard.turns import GuardedTurn
from langchain_vlmguard.rewriting.subjects import Subject, result_as_turn
from langchain_vlmguard.verdict.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain.agents.middleware.types import ToolCallRequest
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.agents.options import AgentGuard
    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.state import CheckRecord, Stage
    from langchain_vlmguard.verdict.records import Json


def guard_tool_call(agent: AgentGuard, request: ToolCallRequest, handler: Callable[..., Any], model: Any) -> Flow[Any]:
    """Guard one call of a tool.

    The arguments are judged unless they were when the model made the call. What the tool returns or raises is judged before the
    model, or other middleware, sees it.

    Args:
        agent: The guard.
        request: The call.
        handler: Runs the tool.
        model: The model that this agent asked last, whose judges are used.
    """
    judges = yield from work(lambda: agent.guard.judges_for(model, required=False))
    call = _ToolCall(agent, request, GuardedTurn.aside(agent.guard, judges), CheckLog(agent))
    denied = yield from call.judge_arguments()
    if denied is not None:
        return denied
    held = HeldEnds()
    try:
        result = yield from handle(handler, call.prepared(held))
    except GraphBubbleUp as stop:
        yield from held.tell(error=stop)
        raise
    except Exception as error:
        shown = yield from call.judge_error(error)
        yield from held.tell(shown, None if shown else error)
        if shown is None:
            raise
        return shown
    judged = yield from call.judge_results(result)
    yield from held.tell(first_message(judged))
    return judged


@dataclass(frozen=True)
class _ToolCall:
    """One call of a tool, and what the agent's state will hear of it."""

    agent: AgentGuard
    request: ToolCallRequest
    guarded: GuardedTurn
    log: CheckLog

    @property
    def name(self) -> str:
        return self.request.tool_call["name"]

    @property
    def state(self) -> Json:
        return self.request.state if isinstance(self.request.state, dict) else {}

    @property
    def checks_results(self) -> bool:
        return self.agent.covers(self.name) and self.agent.check_tool_results

    def judge_arguments(self) -> Flow[ToolMessage | None]:
        """Judge the call unless it was judged just as it stands; return what stands in for one that may not run."""
        agent, call = self.agent, self.request.tool_call
        if not agent.covers(self.name):
            return None
        known = (self.state.get("vlmguard") or {}).get(agent.note("call", call_name(call)))
        draft = None if known is None else Draft.from_state(known["draft"])
        if agent.check_tool_args and draft is None:
            subject = Subject.of_call(call, getattr(self.request.tool, "description", "") or "")
            [draft] = yield from answers.judge_subjects(self.guarded, [subject])
            draft = _refused(draft)
            self._add("tool_args", draft)
        if draft is None or draft.is_open or agent.monitors:
            return None
        agent.raise_violation("tool_args", draft)
        return self._told(self._error(draft, "tool_args"))

    def prepared(self, held: HeldEnds) -> ToolCallRequest:
        """Return the request with a tool whose raw result reaches no stream."""
        tool = self.request.tool
        if tool is None or self.agent.monitors or not self.checks_results:
            return self.request
        return self.request.override(tool=QuietTool.of(tool, held))

    def judge_error(self, error: Exception) -> Flow[ToolMessage | None]:
        """Judge an exception's words, which other middleware may show to the model; return what stands in for harmful ones."""
        if not self.checks_results:
            return None
        said = self._tool_message(str(error))
        asked = answers.judge_result(self.guarded, result_as_turn(self.request.tool_call, said))
        [(draft, _)] = yield from together([asked], self.agent.guard.judges_at_once)
        draft = _refused(draft)
        self._add("tool_result", draft)
        if draft.is_open or self.agent.monitors:
            return None
        self.agent.raise_violation("tool_result", draft)
        return self._told(self._error(draft, "tool_result"))

    def judge_results(self, result: Any) -> Flow[Any]:
        """Judge the messages that a tool returned; return what it returned with a notice in place of harmful ones."""
        parts = [own(part) for part in (result if isinstance(result, list) else [result])]
        places = [place for at, part in enumerate(parts) for place in self._new_messages(at, part)]
        if self.checks_results:
            beside = {at: one for at, part in enumerate(parts) if (one := self._beside(part)) is not None}
            said = [*(self._as_result(_get(parts, place)) for place in places), *beside.values()]
            turns = [result_as_turn(self.request.tool_call, one) for one in said]
            asked = [answers.judge_result(self.guarded, turn) for turn in turns]
            found = yield from together(asked, self.agent.guard.judges_at_once)
            about = {at: draft for at, (draft, _) in zip(beside, found[len(places) :], strict=True)}
            self._enter(parts, places, found[: len(places)], about)
        self.log.publish(self.request.runtime.stream_writer)
        waits = bool(self.log.notes)
        messages = [one for place in places if isinstance(one := _get(parts, place), ToolMessage)]
        self._remember([one for one in messages if one.content != WAITS], [] if waits else self.log.records)
        if waits:  # the state must hear of it at once
            parts = [self._with_notes(part) if at == 0 else part for at, part in enumerate(parts)]
        return parts if isinstance(result, list) else parts[0]

    def _beside(self, part: Any) -> ToolMessage | None:
        return beside_messages(part, self.state, self.request.tool_call)

    def _enter(
        self,
        parts: list[Any],
        places: list[tuple[int, int | None]],
        found: list[tuple[Draft, BaseMessage]],
        beside: dict[int, Draft],
    ) -> None:
        """Enter what was found about each message, and put a notice in place of those that may not pass.

        What a `Command` brings beside its messages passes if all of them do. What is found about it decides about them, too.
        """
        shut = set()
        for place, (draft, read) in zip(places, found, strict=True):
            message, at = _get(parts, place), place[0]
            settled = self.agent.settle(draft.join([beside[at]]) if at in beside else draft)
            self._add("tool_result", settled)
            if self.agent.monitors:
                continue
            if not settled.is_open:
                shut.add(at)
            _set(parts, place, self._checked(message, settled, read, keys_beside(parts[at])))
        for at, draft in beside.items():
            if at not in {place[0] for place in places}:
                self._add("tool_result", refused := _refused(draft))
                if not refused.is_open and not self.agent.monitors:
                    self.agent.raise_violation("tool_result", refused)
                    shut.add(at)
        for at in shut:
            parts[at] = without_beside(parts[at])

    def _remember(self, messages: list[ToolMessage], records: list[CheckRecord]) -> None:
        """Keep what the agent's state will hear of these results with the next model call."""
        for at, message in enumerate(messages):
            self.agent.passed.keep(message, self.agent.policy.hash, () if at else records)

    def _new_messages(self, at: int, part: Any) -> list[tuple[int, int | None]]:
        """Return the places of messages that the conversation does not hold yet."""
        if isinstance(part, ToolMessage):
            return [(at, None)]
        if not isinstance(part, Command) or not isinstance(part.update, dict):
            return []
        old = {message.id for message in self.state.get("messages", []) if message.id}
        messages = part.update.get("messages") or []
        return [(at, i) for i, one in enumerate(messages) if not isinstance(one, RemoveMessage) and one.id not in old]

    def _as_result(self, message: BaseMessage) -> ToolMessage:
        return message if isinstance(message, ToolMessage) else self._tool_message(message.content)

    def _checked(self, message: BaseMessage, draft: Draft, read: BaseMessage, keys: Json) -> BaseMessage:
        if draft.is_open:
            return message.model_copy(update={"content": read.content})
        if draft.action == "review":
            placeholder = self._tool_message(WAITS, message.id or new_id())
            raw = packed(message.model_copy(update={"id": placeholder.id}))
            held = {"stage": "tool_result", "tool": self.name, "draft": draft.to_state(), "message": raw, "keys": keys}
            self.log.note("held", placeholder.id, **held)
            return placeholder
        self.agent.raise_violation("tool_result", draft)
        return self._error(draft, "tool_result", message.id)

    def _with_notes(self, part: Any) -> Any:
        """Return a part with what the guard notes in the same update, if the graph is the agent's own."""
        if isinstance(part, ToolMessage):
            return Command(update={"messages": [part], **self.log.update()})
        if isinstance(part, Command) and part.graph is None and isinstance(part.update, dict | None):
            return replace(part, update={**(part.update or {}), **self.log.update()})
        return part

    def _error(self, draft: Draft, stage: Stage, message_id: str | None = None) -> ToolMessage:
        artifact = {"verdict": self.agent.verdict(draft).to_state(), "stage": stage}
        return self._tool_message(self.agent.notice(draft, stage), message_id, status="error", artifact=artifact)

    def _told(self, message: ToolMessage) -> ToolMessage:
        self.log.publish(self.request.runtime.stream_writer)
        self._remember([message], self.log.records)
        return message

    def _tool_message(self, content: Any, message_id: str | None = None, **fields: Any) -> ToolMessage:
        call_id = self.request.tool_call["id"] or ""
        return ToolMessage(content, tool_call_id=call_id, name=self.name, id=message_id, **fields)

    def _add(self, stage: Stage, draft: Draft) -> None:
        self.log.add(stage, draft, tool=self.name, call=self.request.tool_call["id"])


def first_message(result: Any) -> Any:
    """Return the message that a tool's result shows first, or the result itself."""
    first = result[0] if isinstance(result, list) and result else result
    if isinstance(first, Command) and isinstance(first.update, dict):
        return next((one for one in first.update.get("messages", ()) if isinstance(one, ToolMessage)), first)
    return first


def _refused(draft: Draft) -> Draft:
    """Refuse what a person should decide about: nobody can be asked while a tool is called."""
    return draft.settle(asks_people=False)


def _get(parts: list[Any], place: tuple[int, int | None]) -> Any:
    at, inside = place
    return parts[at] if inside is None else parts[at].update["messages"][inside]


def _set(parts: list[Any], place: tuple[int, int | None], message: BaseMessage) -> None:
    at, inside = place
    if inside is None:
        parts[at] = message
    else:
        parts[at].update["messages"][inside] = message
