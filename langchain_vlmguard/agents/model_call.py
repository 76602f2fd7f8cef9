"""One call of an agent's model: what goes in is checked, what comes out is checked, and the agent's state hears of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from langchain.agents.middleware.types import ExtendedModelResponse, ModelResponse
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import Command

from langchain_vlmguard.agents.held import WAITS, packed, with_calls
from langchain_vlmguard.agents.options import joined, withheld
from langchain_vlmguard.content.messages import turn_start
from langchain_vlmguard.guard.calls import Answer
from langchain_vlmguard.guard.refusals import refusal_message, with_verdict
from langchain_vlmguard.guard.subjects import Subject, call_fingerprint, fingerprint, result_as_turn, turn_fingerprint
from langchain_vlmguard.verdict.records import GuardFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain.agents.middleware.types import ModelRequest
    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.agents.options import AgentGuard
    from langchain_vlmguard.agents.state import CheckRecord
    from langchain_vlmguard.guard.state import VLMGuardState


class ModelCall:
    """The checks around one call of the model, in the order of the methods."""

    def __init__(self, guard: AgentGuard, request: ModelRequest[Any]) -> None:
        """Read the request: every part is read or accounted for."""
        self.guard = guard.with_model(request.model)
        self.request = request
        self._notes: dict[str, Any] = {}
        self._records: list[CheckRecord] = []
        self._replaced: dict[int, BaseMessage] = {}
        self._old_notes: dict[str, Any] = cast("Any", request.state).get("vlmguard") or {}
        self.state = self.guard.nodes.read(request.messages)
        self._key = turn_fingerprint(self.state["messages"], self.guard.nodes.policy.hash)
        self.state["draft"]["enforced"] = not guard.monitors
        self._judged = self._remember()

    def _remember(self) -> bool:
        """Take over what was decided about this turn before, in an earlier round of the agent's loop or by a person."""
        known = self._old_notes.get(self.guard.note("turn"), {})
        if known.get("key") != self._key:
            return False
        if self.draft["action"] == "allow" or known["draft"].get("reviewed"):
            self.state["draft"] = dict(known["draft"])
        return True

    @property
    def draft(self) -> dict[str, Any]:
        """The verdict in the making."""
        return self.state["draft"]

    @property
    def undecided(self) -> bool:
        """Whether the turn must still be judged."""
        return self.draft["action"] == "allow" and not self._judged and self.guard.check_input and self.guard.judges

    @property
    def starts_early(self) -> bool:
        """Whether the model may be asked while its input is judged."""
        return self.guard.parallel and self.undecided and not self.guard.monitors

    @property
    def is_unchanged(self) -> bool:
        """Whether the judged turn goes to the model just as it was read."""
        return self.draft["action"] == "allow" and not self._replaced

    def judged(self, state: VLMGuardState) -> None:
        """Take over the judgement of the turn."""
        self.state = {**state, "draft": {**state["draft"], "enforced": not self.guard.monitors}}

    def strangers(self) -> list[list[BaseMessage]]:
        """Return results of tools that no check has seen, as turns: other middleware may have put them there."""
        if not (self.guard.judges and self.guard.check_tool_results) or self.draft["action"] in ("refuse", "review"):
            return []
        self._strange = [
            at for at in range(turn_start(self.state["messages"]), len(self.state["messages"])) if self._is_strange(at)
        ]
        return [
            result_as_turn({"name": message.name or "tool", "args": {}, "id": message.tool_call_id}, message)
            for message in (self.state["messages"][at] for at in self._strange)
            if isinstance(message, ToolMessage)
        ]

    def _is_strange(self, at: int) -> bool:
        message = self.state["messages"][at]
        if not isinstance(message, ToolMessage) or not self.guard.covers(message.name):
            return False
        return self.guard.note("passed", fingerprint([message])) not in self._old_notes

    def met(self, states: Sequence[VLMGuardState]) -> None:
        """Let through the strangers that passed; replace the others."""
        for at, state in zip(getattr(self, "_strange", ()), states, strict=True):
            message, draft = self.state["messages"][at], state["draft"]
            assert isinstance(message, ToolMessage)  # noqa: S101 - only those are strange
            self._records.append(self.guard.record("tool_result", draft, tool=message.name, call=message.tool_call_id))
            if draft["action"] != "allow" and not self.guard.monitors:
                self.guard.raises("tool_result", draft)
                message = message.model_copy(
                    update={"content": self.guard.notice(draft, "tool_result"), "status": "error", "artifact": None}
                )
                self._put(at, message)
            self._notes[self.guard.note("passed", fingerprint([message]))] = True

    def _put(self, at: int, message: BaseMessage) -> None:
        self._replaced[at] = message
        self.state["messages"][at] = message  # type: ignore[call-overload]

    def stopped(self) -> ExtendedModelResponse[Any] | None:
        """Return what stands in for the model's answer when the turn may not go on."""
        if not self._judged and self.guard.check_input:
            self._records.insert(0, self.guard.record("input", self.draft))
        self.state["draft"] = draft = self.guard.settled(self.draft)
        if self.guard.monitors or draft["action"] in ("allow", "rewrite"):
            self._notes[self.guard.note("turn")] = {"key": self._key, "draft": draft}
            return None
        if draft["action"] == "review":
            return self._held({"stage": "input", "key": self._key, "draft": draft}, _message(WAITS))
        self.guard.raises("input", draft)
        if self.guard.exit_behavior == "end":
            return self._respond([self._notice(draft, "input")], draft)
        self._replace_turn(draft)
        return None

    def _replace_turn(self, draft: dict[str, Any]) -> None:
        """Put the notice in place of everything that strangers said in the turn."""
        notice = self.guard.notice(draft, "input")
        for at in range(turn_start(self.state["messages"]), len(self.state["messages"])):
            message = self.state["messages"][at]
            if isinstance(message, HumanMessage | ToolMessage):
                self._put(at, message.model_copy(update={"content": notice, "additional_kwargs": {}}))

    def prepared(self) -> ModelRequest[Any]:
        """Return the request as the model gets it: checked pictures, and the rewritten prompt where there is one."""
        if self.guard.monitors:
            return self.request
        return self.request.override(messages=self._for_model())

    def _for_model(self) -> list[Any]:
        return self.guard.nodes.for_model(self.state)

    def heard(self, response: ModelResponse[Any]) -> list[list[BaseMessage]]:
        """Take the model's answer; return what of it must be judged, as turns."""
        self._response = response
        self._at = next(
            (i for i in reversed(range(len(response.result))) if isinstance(response.result[i], AIMessage)), None
        )
        self._asked: list[ToolCall | None] = []
        if self._at is None:
            return []
        message = self._message
        self._hear(message)
        if self.draft["answer"] == "withheld" and not self.guard.monitors:
            return []
        known = {_name(tool): _description(tool) for tool in self.request.tools}
        answer = Subject.of_answer(message, known)
        subjects = [answer] if self.guard.check_output and (answer.text.strip() or answer.pictures) else []
        self._asked = [None] * len(subjects)
        if self.guard.check_tool_args:
            covered = [one for one in message.tool_calls if one["name"] in known and self.guard.covers(one["name"])]
            subjects += [Subject.of_call(one, known[one["name"]]) for one in covered]
            self._asked += covered
        context = self._for_model() if self.guard.judges and subjects else []
        return [self.guard.subject_turn(subject, context) for subject in subjects]

    @property
    def _message(self) -> AIMessage:
        message = self._response.result[self._at or 0]
        assert isinstance(message, AIMessage)  # noqa: S101 - that is how it was found
        return message

    def _hear(self, message: AIMessage) -> None:
        """Enter the answer's trace and tokens; broken metadata of a steered model is a failure of the guard."""
        try:
            draft = self.guard.nodes.heard(self.draft, Answer.of(message))
        except (ValueError, TypeError) as error:
            failure = GuardFailure(stage="answer", error=type(error).__name__, reason="the answer's metadata is broken")
            reason = f"The guard could not read the answer's metadata ({failure.error})."
            action = self.guard.nodes.policy.on_error
            draft = {
                **self.draft,
                "action": action,
                "answer": "withheld",
                "failure": failure.model_dump(),
                "reason": reason,
            }
        used = Counter(draft.get("usage", {}))
        used.update({key: value for key, value in (message.usage_metadata or {}).items() if isinstance(value, int)})
        self.state["draft"] = {**draft, "usage": dict(used)}

    def finished(self, states: Sequence[VLMGuardState]) -> ExtendedModelResponse[Any]:
        """Let the answer out, or what stands in for it."""
        if self._at is None:
            return self._respond(self._response.result, self.draft)
        drafts = [state["draft"] for state in states]
        answers = [draft for call, draft in zip(self._asked, drafts, strict=True) if call is None]
        calls = [(call, draft) for call, draft in zip(self._asked, drafts, strict=True) if call is not None]
        self._records += [self.guard.record("output", draft) for draft in [*withheld(self.guard, self.draft), *answers]]
        whole = self.guard.settled(joined(self.draft, answers) if answers else self.draft)
        replaced = bool(self._replaced) and whole["action"] == "refuse" and self.guard.exit_behavior == "replace"
        if (
            self.guard.monitors
            or whole["action"] in ("allow", "rewrite")
            or (replaced and not _stops(answers, self.draft))
        ):
            return self._let_out(whole, calls, fate="replaced" if replaced else "released")
        return self._kept_back(whole)

    def _kept_back(self, draft: dict[str, Any]) -> ExtendedModelResponse[Any]:
        draft = {**draft, "answer": "withheld"}
        message = self._message
        if draft["action"] == "review":
            held = {"stage": "output", "draft": draft, "message": packed(message)}
            return self._held(held, _message(WAITS, message.id))
        self.guard.raises("output", draft)
        if self.guard.exit_behavior == "replace":
            draft["answer"] = "replaced"
        return self._respond([self._notice(draft, "output", message.id)], draft)

    def _let_out(
        self, draft: dict[str, Any], calls: list[tuple[ToolCall, dict[str, Any]]], *, fate: str
    ) -> ExtendedModelResponse[Any]:
        for call, one in calls:
            self._records.append(self.guard.record("tool_args", one, tool=call["name"], call=call["id"]))
            self._notes[self.guard.note("call", str(call["id"]))] = call_note(self.guard, call, one)
        draft = {**draft, "answer": fate}
        if self.guard.monitors:
            return self._respond(self._response.result, draft)
        message = with_verdict(self._message, self.guard.nodes.verdict(draft))
        message = message if message.id else message.model_copy(update={"id": _new_id()})
        released = self._with_checked_calls(message, calls)
        if any(one["action"] == "review" for _, one in calls):
            asked = {str(call["id"]): one for call, one in calls if one["action"] == "review"}
            held = {"stage": "tool_args", "message": packed(message), "calls": asked}
            self._notes[self.guard.note("held", str(message.id))] = held
        result = [*self._response.result]
        result[self._at or 0] = released
        return self._respond(result, draft)

    def _with_checked_calls(self, message: AIMessage, calls: list[tuple[ToolCall, dict[str, Any]]]) -> AIMessage:
        """Empty the arguments of calls that may not run."""
        stopped = {str(call["id"]) for call, one in calls if one["action"] != "allow"}
        if not stopped:
            return message
        left = [{**call, "args": {}} if str(call["id"]) in stopped else call for call in message.tool_calls]
        return with_calls(message, left, stopped)  # type: ignore[arg-type]

    def _held(self, held: dict[str, Any], placeholder: AIMessage) -> ExtendedModelResponse[Any]:
        self._notes[self.guard.note("held", str(placeholder.id))] = held
        draft = held["draft"]
        return self._respond([with_verdict(placeholder, self.guard.nodes.verdict(draft))], draft)

    def _notice(self, draft: dict[str, Any], stage: Any, message_id: str | None = None) -> AIMessage:
        verdict = self.guard.nodes.verdict(draft)
        message = refusal_message(self.guard.notice(draft, stage), verdict, id=message_id or _new_id())
        return with_verdict(message, verdict)

    def _respond(self, result: list[Any], draft: dict[str, Any]) -> ExtendedModelResponse[Any]:
        self.guard.report(self.request.runtime.stream_writer, self._records)
        update: dict[str, Any] = {
            "verdict": self.guard.nodes.verdict(draft).to_state(),
            "verdicts": self._records,
            "vlmguard": self._notes,
        }
        if not self.guard.monitors and (kept := self._changed()):
            update["messages"] = kept
        structured = getattr(getattr(self, "_response", None), "structured_response", None)
        passes = draft.get("answer") == "released"
        response = ModelResponse(result=result, structured_response=structured if passes else None)
        return ExtendedModelResponse(model_response=response, command=Command(update=update))

    def _changed(self) -> list[BaseMessage]:
        """Return messages that the state must keep otherwise: replaced ones, and those whose pictures were fetched."""
        given = {message.id: message for message in self.request.messages}
        return [one for one in self.state["messages"] if one.id in given and one.content != given[one.id].content]


def call_note(guard: AgentGuard, call: ToolCall, draft: dict[str, Any]) -> dict[str, Any]:
    """Return what the guard notes about a judged tool call."""
    verdict = guard.nodes.verdict(draft).to_state()
    return {"action": draft["action"], "print": call_fingerprint(call), "verdict": verdict, "draft": draft}


def _stops(answers: list[dict[str, Any]], draft: dict[str, Any]) -> bool:
    return draft.get("answer") == "withheld" or any(one["action"] != "allow" for one in answers)


def _message(text: str, message_id: str | None = None) -> AIMessage:
    return AIMessage(text, id=message_id or _new_id())


def _new_id() -> str:
    return f"vlmguard-{uuid4()}"


def _name(tool: Any) -> str:
    if isinstance(tool, dict):
        return str(tool.get("name") or (tool.get("function") or {}).get("name") or tool.get("type"))
    return str(tool.name)


def _description(tool: Any) -> str:
    if isinstance(tool, dict):
        return str(tool.get("description") or (tool.get("function") or {}).get("description") or "")
    return str(tool.description)
