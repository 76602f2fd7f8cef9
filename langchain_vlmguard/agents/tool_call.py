"""One call of an agent's tool: arguments are checked before it runs, results before the model sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.messages import RemoveMessage, ToolMessage, convert_to_messages
from langgraph.types import Command

from langchain_vlmguard.agents.held import WAITS, packed
from langchain_vlmguard.agents.model_call import call_note
from langchain_vlmguard.agents.state import GUARD_KEYS
from langchain_vlmguard.guard.subjects import Subject, call_fingerprint, fingerprint, result_as_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain.agents.middleware.types import ToolCallRequest
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.agents.options import AgentGuard
    from langchain_vlmguard.agents.state import CheckRecord
    from langchain_vlmguard.guard.state import VLMGuardState

_LONGEST_ERROR = 4000


class ToolCheck:
    """The checks around one tool call, in the order of the methods."""

    def __init__(self, guard: AgentGuard, request: ToolCallRequest) -> None:
        """Look up what was decided about this call when the model made it."""
        self.guard = guard
        self.request = request
        self.call = request.tool_call
        self._notes: dict[str, Any] = {}
        self._records: list[CheckRecord] = []
        state = request.state if isinstance(request.state, dict) else {}
        self._state = state
        self._known = (state.get("vlmguard") or {}).get(guard.note("call", str(self.call["id"])))
        self._covered = guard.covers(self.call["name"])

    def arguments(self) -> list[list[BaseMessage]]:
        """Return the call as a turn to be judged, unless it was judged just as it stands."""
        if not (self._covered and self.guard.check_tool_args) or self._is_decided():
            return []
        subject = Subject.of_call(self.call, getattr(self.request.tool, "description", "") or "")
        return [self.guard.subject_turn(subject, ())]

    def _is_decided(self) -> bool:
        known = self._known
        return known is not None and (known["action"] != "allow" or known["print"] == call_fingerprint(self.call))

    def denied(self, states: Sequence[VLMGuardState]) -> Command[Any] | None:
        """Return the error message that stands in for a call that may not run."""
        note = self._known
        for state in states:
            note = call_note(self.guard, self.call, self._settled(state["draft"]))
            record = self.guard.record("tool_args", note["draft"], tool=self.call["name"], call=self.call["id"])
            self._records.append(record)
        if note is None or note["action"] == "allow" or self.guard.monitors or not self._covered:
            return None
        self.guard.raises("tool_args", note["draft"])
        return self._update(self._error(note["draft"], "tool_args"))

    def _settled(self, draft: dict[str, Any]) -> dict[str, Any]:
        """Refuse where a person should decide about a call that changed after it was checked: nobody can be asked here."""
        return {**draft, "action": "refuse"} if draft["action"] == "review" else draft

    def prepared(self) -> ToolCallRequest:
        """Return the request with a tool whose raw result reaches no stream."""
        tool = self.request.tool
        if tool is None or self.guard.monitors or not (self._covered and self.guard.check_tool_results):
            return self.request
        return self.request.override(tool=tool.model_copy(update={"tags": [*(tool.tags or []), "nostream"]}))

    def failed(self, error: Exception) -> list[list[BaseMessage]]:
        """Return an exception's text as a result to be judged: other middleware may show it to the model."""
        self._error_raised = error
        if not (self._covered and self.guard.check_tool_results):
            return []
        return [result_as_turn(self.call, self._tool_message(str(error)[:_LONGEST_ERROR]))]

    def after_failure(self, states: Sequence[VLMGuardState]) -> Command[Any]:
        """Raise a harmless exception again; return an error message in place of any other."""
        for state in states:
            draft = self._settled(state["draft"])
            self._records.append(self._result_record(draft))
            if draft["action"] != "allow" and not self.guard.monitors:
                self.guard.raises("tool_result", draft)
                return self._update(self._error(draft, "tool_result"))
        raise self._error_raised

    def returned(self, result: Any) -> list[list[BaseMessage]]:
        """Take what the tool returned; return its messages as turns to be judged."""
        self._several = isinstance(result, list)
        self._parts = [_own(part) for part in (result if self._several else [result])]
        self._found = [place for at, part in enumerate(self._parts) for place in self._new_messages(at, part)]
        if not (self._covered and self.guard.check_tool_results):
            return []
        return [result_as_turn(self.call, self._as_result(self._get(place))) for place in self._found]

    def _new_messages(self, at: int, part: Any) -> list[tuple[int, int | None]]:
        """Return the places of messages that the conversation does not hold yet."""
        if isinstance(part, ToolMessage):
            return [(at, None)]
        if not isinstance(part, Command) or not isinstance(part.update, dict):
            return []
        old = {message.id for message in self._state.get("messages", []) if message.id}
        messages = part.update.get("messages") or []
        return [(at, i) for i, one in enumerate(messages) if not isinstance(one, RemoveMessage) and one.id not in old]

    def _get(self, place: tuple[int, int | None]) -> Any:
        at, inside = place
        return self._parts[at] if inside is None else self._parts[at].update["messages"][inside]

    def _set(self, place: tuple[int, int | None], message: BaseMessage) -> None:
        at, inside = place
        if inside is None:
            self._parts[at] = message
        else:
            self._parts[at].update["messages"][inside] = message

    def _as_result(self, message: BaseMessage) -> ToolMessage:
        return message if isinstance(message, ToolMessage) else self._tool_message(message.content)

    def finished(self, states: Sequence[VLMGuardState]) -> Any:
        """Let the results out, or what stands in for them."""
        for place, state in zip(self._found, states, strict=False):
            message, draft = self._get(place), state["draft"]
            self._records.append(self._result_record(draft))
            if self.guard.monitors:
                self._notes[self.guard.note("passed", fingerprint([message]))] = True
            else:
                self._set(place, self._checked(message, state))
        self.guard.report(self.request.runtime.stream_writer, self._records)
        return self._combined()

    def _checked(self, message: BaseMessage, state: VLMGuardState) -> BaseMessage:
        draft = state["draft"]
        if draft["action"] == "allow":
            released = message.model_copy(update={"content": state["messages"][-1].content})
        elif draft["action"] == "review":
            released = self._held(message, draft)
        else:
            self.guard.raises("tool_result", draft)
            released = self._error(draft, "tool_result", message.id)
        self._notes[self.guard.note("passed", fingerprint([released]))] = True
        return released

    def _held(self, message: BaseMessage, draft: dict[str, Any]) -> ToolMessage:
        placeholder = self._tool_message(WAITS, message.id or f"vlmguard-{uuid4()}")
        raw = packed(message.model_copy(update={"id": placeholder.id}))
        held = {"stage": "tool_result", "tool": self.call["name"], "draft": draft, "message": raw}
        self._notes[self.guard.note("held", str(placeholder.id))] = held
        return placeholder

    def _combined(self) -> Any:
        """Return the parts, with what the guard notes in the same update where the graph is the agent's own."""
        parts = [self._with_notes(part) if at == 0 else part for at, part in enumerate(self._parts)]
        return parts if self._several else parts[0]

    def _with_notes(self, part: Any) -> Any:
        notes = {"verdicts": self._records, "vlmguard": self._notes}
        if isinstance(part, ToolMessage):
            return Command(update={"messages": [part], **notes})
        if isinstance(part, Command) and part.graph is None and isinstance(part.update, dict | None):
            return replace(part, update={**(part.update or {}), **notes})
        return part

    def _error(self, draft: dict[str, Any], stage: Any, message_id: str | None = None) -> ToolMessage:
        verdict = self.guard.nodes.verdict(draft).to_state()
        return self._tool_message(
            self.guard.notice(draft, stage), message_id, status="error", artifact={"verdict": verdict, "stage": stage}
        )

    def _update(self, message: ToolMessage) -> Command[Any]:
        self.guard.report(self.request.runtime.stream_writer, self._records)
        self._notes[self.guard.note("passed", fingerprint([message]))] = True
        return Command(update={"messages": [message], "verdicts": self._records, "vlmguard": self._notes})

    def _tool_message(self, content: Any, message_id: str | None = None, **fields: Any) -> ToolMessage:
        return ToolMessage(content, tool_call_id=self.call["id"] or "", name=self.call["name"], id=message_id, **fields)

    def _result_record(self, draft: dict[str, Any]) -> CheckRecord:
        return self.guard.record("tool_result", draft, tool=self.call["name"], call=self.call["id"])


def _own(part: Any) -> Any:
    """Return a tool's return value whose messages may be replaced, without state that only the guard writes."""
    if not isinstance(part, Command) or part.update is None:
        return part
    given_update = part.update if isinstance(part.update, dict) else dict(part._update_as_tuples())  # noqa: SLF001 - as the graph reads it
    update = {key: value for key, value in given_update.items() if key not in GUARD_KEYS}
    if "messages" in update:
        given = update["messages"] if isinstance(update["messages"], list) else [update["messages"]]
        update["messages"] = convert_to_messages(given)
    return replace(part, update=update)
