"""What a person decides about held parts, as updates of the agent's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, RemoveMessage, ToolMessage
from langchain_core.messages.tool import tool_call

from langchain_vlmguard.agents.held import call_note, restored, unpacked, with_calls
from langchain_vlmguard.agents.log import CheckLog
from langchain_vlmguard.agents.prints import fingerprint
from langchain_vlmguard.guard.reviews import Waiting, ask_person
from langchain_vlmguard.verdict.draft import Draft
from langchain_vlmguard.verdict.refusals import refusal_message, with_verdict

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.agents.options import AgentGuard
    from langchain_vlmguard.guard.reviews import Decision
    from langchain_vlmguard.guard.state import Stage, Update
    from langchain_vlmguard.verdict.records import Action, Json

_BY_PERSON = {
    "approve": "A person approved this.",
    "edit": "A person edited this.",
    "reject": "A person rejected this.",
}


def review_results(agent: AgentGuard, state: Any) -> Update | None:
    """Ask about tool results that are held, oldest first; return the update, `None` if there are none."""
    notes, messages = state.get("vlmguard") or {}, []
    waiting = [
        (message, held)
        for message in state["messages"]
        if isinstance(message, ToolMessage) and (held := notes.get(agent.note("held", str(message.id))))
    ]
    if not waiting:
        return None
    agent = agent.for_run()
    log = CheckLog(agent)
    for message, held in waiting:
        result: ToolMessage = unpacked(held["message"])
        shown = {"text": str(result.text)} if agent.guard.show_held else {}
        decision, draft = _decide(agent, held["draft"], "tool_result", "release_result", shown, tool=held["tool"])
        if decision.kind == "reject":
            notice, artifact = agent.notice(draft, "tool_result"), {"verdict": agent.verdict(draft).to_state()}
            chosen = message.model_copy(update={"content": notice, "status": "error", "artifact": artifact})
        else:
            chosen = restored(result, decision.text)
        messages.append(chosen)
        log.add("tool_result", draft, tool=held["tool"], call=message.tool_call_id)
        log.drop("held", message.id)
        log.note("passed", fingerprint([chosen]))
    return {"messages": messages, **log.update()}


def review_answer(agent: AgentGuard, state: Any) -> Update | None:
    """Ask about the turn, the answer or the calls that the last message waits for; return the update."""
    message = state["messages"][-1] if state["messages"] else None
    if not isinstance(message, AIMessage):
        return None
    held = (state.get("vlmguard") or {}).get(agent.note("held", str(message.id)))
    if held is None:
        return None
    agent = agent.for_run()
    log = CheckLog(agent)
    log.drop("held", message.id)
    by_stage = {"input": _review_turn, "output": _review_output, "tool_args": _review_calls}
    update = by_stage[held["stage"]](agent, held, message, log)
    return {**update, **log.update()}


def _decide(
    agent: AgentGuard, held: Json, stage: Stage, name: str, shown: Json, **about: Any
) -> tuple[Decision, Draft]:
    """Ask; return what was decided, and the draft with it."""
    draft = Draft.from_state(held)
    edits: Literal["args", "text"] = "args" if stage == "tool_args" else "text"
    waiting = Waiting(stage, name, shown, agent.verdict(draft), edits, {"guard": agent.name, **about})
    decision = ask_person(waiting)
    action: Action = "refuse" if decision.kind == "reject" else "allow"
    return decision, draft.copy_with(reviewed=decision.kind).stop(action, _BY_PERSON[decision.kind])


def _review_turn(agent: AgentGuard, held: Json, message: AIMessage, log: CheckLog) -> Update:
    """Let the model answer a turn that a person approved or put in other words."""
    draft = Draft.from_state(held["draft"])
    proposed = {"proposed_prompt": draft.rewritten_prompt} if draft.rewritten_prompt else {}
    shown = {"prompt": draft.rewritten_prompt or held.get("text", "")} if agent.guard.show_held else {}
    about = {"guard": agent.name, **proposed}
    waiting = Waiting("input", "answer_request", shown, agent.verdict(draft), "prompt", about)
    decision = ask_person(waiting)
    draft = draft.decide(decision.kind, decision.text)
    log.add("input", draft)
    if draft.action == "refuse":
        return _refused(agent, draft, "input", message)
    log.note("turn", key=held["key"], draft=draft.to_state())
    return {"messages": [RemoveMessage(str(message.id))], "jump_to": "model"}


def _review_output(agent: AgentGuard, held: Json, message: AIMessage, log: CheckLog) -> Update:
    """Release a withheld answer, or a person's version of it."""
    answer: AIMessage = unpacked(held["message"])
    shown = {"text": str(answer.text)} if agent.guard.show_held else {}
    decision, draft = _decide(agent, held["draft"], "output", "release_answer", shown)
    if decision.kind == "reject":
        log.add("output", draft)
        return _refused(agent, draft, "output", message)
    draft = draft.copy_with(answer="released" if decision.text is None else "replaced")
    released = answer.model_copy(update={"id": message.id})
    if decision.text is not None:
        released = AIMessage(decision.text, id=message.id, response_metadata=released.response_metadata)
    log.add("output", draft)
    verdict = agent.verdict(draft)
    return {"messages": [with_verdict(released, verdict)], "verdict": verdict.to_state()}


def _review_calls(agent: AgentGuard, held: Json, message: AIMessage, log: CheckLog) -> Update:
    """Give approved calls their arguments back, edited ones a person's."""
    raw = {str(call["id"]): call for call in unpacked(held["message"]).tool_calls}
    calls: list[ToolCall] = [*message.tool_calls]
    for at, call in enumerate(calls):
        waits = held["calls"].get(str(call["id"]))
        if waits is None:
            continue
        asked = raw[str(call["id"])]
        shown = asked["args"] if agent.guard.show_held else {}
        decision, draft = _decide(agent, waits, "tool_args", call["name"], shown, tool=call["name"], call_id=call["id"])
        args = {"approve": asked["args"], "edit": decision.args or {}, "reject": {}}[decision.kind]
        calls[at] = tool_call(name=asked["name"], args=args, id=asked["id"])
        log.note("call", call["id"], **call_note(calls[at], draft))
        log.add("tool_args", draft, tool=call["name"], call=call["id"])
    return {"messages": [with_calls(message, calls, set())]}


def _refused(agent: AgentGuard, draft: Draft, stage: Stage, message: BaseMessage) -> Update:
    verdict = agent.verdict(draft)
    notice = with_verdict(refusal_message(agent.notice(draft, stage), verdict, id=message.id), verdict)
    return {"messages": [notice], "verdict": verdict.to_state()}
