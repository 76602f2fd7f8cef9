"""What a person decides about held parts, as updates of the agent's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, RemoveMessage, ToolMessage

from langchain_vlmguard.agents.held import ask, restored, unpacked, with_calls
from langchain_vlmguard.agents.model_call import call_note
from langchain_vlmguard.guard.refusals import refusal_message, with_verdict
from langchain_vlmguard.guard.reviews import decided
from langchain_vlmguard.guard.subjects import fingerprint

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.agents.options import AgentGuard

_BY_PERSON = {
    "approve": "A person approved this.",
    "edit": "A person edited this.",
    "reject": "A person rejected this.",
}


def review_results(guard: AgentGuard, state: Any) -> dict[str, Any] | None:
    """Ask about tool results that are held, oldest first; return the update, `None` when there are none."""
    notes, messages, records = state.get("vlmguard") or {}, [], []
    update: dict[str, Any] = {}
    for message in state["messages"]:
        held = notes.get(guard.note("held", str(message.id))) if isinstance(message, ToolMessage) else None
        if held is None:
            continue
        decision, draft = _decision(guard, held, tool=held["tool"])
        said, text, _ = decision
        if said == "reject":
            notice, artifact = guard.notice(draft, "tool_result"), {"verdict": guard.nodes.verdict(draft).to_state()}
            chosen = message.model_copy(update={"content": notice, "status": "error", "artifact": artifact})
        else:
            chosen = restored(held["message"], text)
        messages.append(chosen)
        records.append(guard.record("tool_result", draft, tool=held["tool"], call=message.tool_call_id))
        update |= {guard.note("held", str(message.id)): None, guard.note("passed", fingerprint([chosen])): True}
    return {"messages": messages, "verdicts": records, "vlmguard": update} if messages else None


def review_answer(guard: AgentGuard, state: Any) -> dict[str, Any] | None:
    """Ask about the turn, the answer or the calls that the last message waits for; return the update."""
    message = state["messages"][-1] if state["messages"] else None
    if not isinstance(message, AIMessage):
        return None
    key = guard.note("held", str(message.id))
    held = (state.get("vlmguard") or {}).get(key)
    if held is None:
        return None
    by_stage = {"input": _review_turn, "output": _review_output, "tool_args": _review_calls}
    update = by_stage[held["stage"]](guard, held, message)
    update["vlmguard"] = {**update.get("vlmguard", {}), key: None}
    return update


def _decision(guard: AgentGuard, held: dict[str, Any], **about: Any) -> tuple[Any, dict[str, Any]]:
    """Ask; return what was said, and the draft with it."""
    draft = held["draft"]
    about["verdict"] = guard.nodes.verdict(draft).to_state()
    if guard.show_held and "message" in held:
        about["content"] = held["message"]["data"]["content"]
    said, text, args = ask(guard, held, **about)
    action = "refuse" if said == "reject" else "allow"
    return (said, text, args), {**draft, "action": action, "reviewed": said, "reason": _BY_PERSON[said]}


def _review_turn(guard: AgentGuard, held: dict[str, Any], message: AIMessage) -> dict[str, Any]:
    """Let the model answer a turn that a person approved or put in other words."""
    draft = held["draft"]
    proposed = draft.get("rewritten_prompt")
    about = {"proposed_prompt": proposed} if proposed else {}
    said, text, _ = ask(guard, held, verdict=guard.nodes.verdict(draft).to_state(), **about)
    draft = {**draft, **decided({"decision": said, "prompt": text}, proposed)}
    records = [guard.record("input", draft)]
    if draft["action"] == "refuse":
        return _refused(guard, draft, "input", message, records)
    note = {guard.note("turn"): {"key": held["key"], "draft": draft}}
    return {"messages": [RemoveMessage(str(message.id))], "verdicts": records, "vlmguard": note, "jump_to": "model"}


def _review_output(guard: AgentGuard, held: dict[str, Any], message: AIMessage) -> dict[str, Any]:
    """Release a withheld answer, or a person's version of it."""
    (said, text, _), draft = _decision(guard, held)
    if said == "reject":
        return _refused(guard, draft, "output", message, [guard.record("output", draft)])
    draft["answer"] = "released" if text is None else "replaced"
    released: AIMessage = unpacked(held["message"]).model_copy(update={"id": message.id})
    if text is not None:
        released = AIMessage(text, id=message.id, response_metadata=released.response_metadata)
    verdict = guard.nodes.verdict(draft)
    return {
        "messages": [with_verdict(released, verdict)],
        "verdict": verdict.to_state(),
        "verdicts": [guard.record("output", draft)],
    }


def _review_calls(guard: AgentGuard, held: dict[str, Any], message: AIMessage) -> dict[str, Any]:
    """Give approved calls their arguments back, edited ones a person's."""
    raw = {str(call["id"]): call for call in unpacked(held["message"]).tool_calls}
    calls, records, notes = [*message.tool_calls], [], {}
    for at, call in enumerate(calls):
        draft = held["calls"].get(str(call["id"]))
        if draft is None:
            continue
        shown = {"args": raw[str(call["id"])]["args"]} if guard.show_held else {}
        about = {"stage": "tool_args", "draft": draft}
        (said, _, args), draft = _decision(guard, about, tool=call["name"], call_id=call["id"], **shown)
        calls[at] = _chosen(raw[str(call["id"])], said, args)
        if said == "edit" and args is None:
            draft = {**draft, "action": "refuse", "reason": "An edit of a call needs its arguments."}
        notes[guard.note("call", str(call["id"]))] = call_note(guard, calls[at], draft)
        records.append(guard.record("tool_args", draft, tool=call["name"], call=call["id"]))
    return {"messages": [with_calls(message, calls, set())], "verdicts": records, "vlmguard": notes}


def _chosen(raw: ToolCall, said: str, args: dict[str, Any] | None) -> ToolCall:
    return {**raw, "args": {"approve": raw["args"], "edit": args or {}}.get(said, {})}


def _refused(
    guard: AgentGuard, draft: dict[str, Any], stage: Any, message: BaseMessage, records: list[Any]
) -> dict[str, Any]:
    verdict = guard.nodes.verdict(draft)
    notice = with_verdict(refusal_message(guard.notice(draft, stage), verdict, id=message.id), verdict)
    return {"messages": [notice], "verdict": verdict.to_state(), "verdicts": records}
