"""What a person decides about held parts, as updates of the agent's state."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, RemoveMessage, ToolMessage
from langchain_core.messages.tool import tool_call

from langchain_vlmguard.agents.held import call_name, call_note, restored, technical, unpacked, with_calls
from langchain_vlmguard.agents.log import CheckLog
from langchain_vlmguard.agents.prints import fingerprint
from langchain_vlmguard.guard.reviews import Waiting, ask_person, words_to_review
from langchain_vlmguard.verdict.draft import Draft
from langchain_vlmguard.verdict.refusals import refusal_message, with_verdict

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.agents.options import AgentGuard
    from langchain_vlmguard.guard.reviews import Decision, Edits
    from langchain_vlmguard.guard.state import Stage, Update
    from langchain_vlmguard.verdict.records import Action, Json

_BY_PERSON = {
    "approve": "A person approved this.",
    "edit": "A person edited this.",
    "reject": "A person rejected this.",
}


_NOT_ANSWERED = "A person let the request above stand, and it was not answered: a newer one came first."
_WITHDRAWN = "This was withdrawn: a newer request came before a person had decided."


def review_held(agent: AgentGuard, state: Any) -> Update | None:
    """Ask about everything that waits in the conversation, oldest first; return the update, `None` if nothing does.

    Tool results wait here. So do a turn or an answer that a new message came upon instead of a decision. Calls that it came upon
    are withdrawn: their place in the conversation is gone.
    """
    notes = state.get("vlmguard") or {}
    if not any(key.startswith(agent.note("held")) for key in notes):
        return None
    waiting = [
        (message, held)
        for message in state["messages"]
        if isinstance(message, ToolMessage | AIMessage) and (held := notes.get(agent.note("held", str(message.id))))
    ]
    if not waiting:
        return None
    agent = agent.for_run()
    log = CheckLog(agent)
    update: Update = {}
    messages: list[BaseMessage] = []
    for message, held in waiting:
        log.drop("held", message.id)
        decide = _DECIDE_LATE[held["stage"]]
        found = decide(agent, held, message, log)
        messages += found.pop("messages", [])
        update |= found
    return {**update, "messages": messages, **log.update()}


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
    update = _DECIDE_NOW[held["stage"]](agent, held, message, log)
    return {**update, **log.update()}


def passed_results(agent: AgentGuard, state: Any) -> Update | None:
    """Return the checks of tool results that no model call follows, as an update of the state."""
    last = [*takewhile(lambda message: isinstance(message, ToolMessage), reversed(state["messages"]))]
    policy = agent.for_run().policy.hash if last else ""
    records = [record for message in last for record in agent.passed.find(message, policy) or ()]
    return {"verdicts": records} if records else None


def _review_result(agent: AgentGuard, held: Json, message: BaseMessage, log: CheckLog) -> Update:
    """Let a tool's result through, a person's version of it, or the notice."""
    result: ToolMessage = unpacked(held["message"])
    shown = {"text": str(result.text)} if agent.guard.show_held else {}
    decision, draft = _decide(agent, held["draft"], "tool_result", "release_result", shown, tool=held["tool"])
    if decision.kind == "reject":
        notice, artifact = agent.notice(draft, "tool_result"), {"verdict": agent.verdict(draft).to_state()}
        chosen = result.model_copy(
            update={"id": message.id, "content": notice, "status": "error", "artifact": artifact}
        )
    else:
        chosen = restored(result, decision.text)
    log.add("tool_result", draft, tool=held["tool"], call=result.tool_call_id)
    log.note("passed", fingerprint([chosen]))
    keys = held.get("keys") or {}
    return {**(keys if decision.kind == "approve" else {}), "messages": [chosen]}


def _decide(
    agent: AgentGuard,
    held: Json,
    stage: Stage,
    name: str,
    shown: Json,
    edits: Edits = "text",
    parsed: object = None,
    **about: Any,
) -> tuple[Decision, Draft]:
    """Ask; return what was decided, and the draft with it."""
    draft = Draft.from_state(held)
    waiting = Waiting(stage, name, shown, agent.verdict(draft), edits, {"guard": agent.name, **about}, parsed)
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


def _review_late_turn(agent: AgentGuard, held: Json, message: BaseMessage, log: CheckLog) -> Update:
    """Let the words of a turn into the history that models get, or keep them out; a newer turn is answered."""
    draft = Draft.from_state(held["draft"])
    shown = {"prompt": held.get("text", "")} if agent.guard.show_held else {}
    decision = ask_person(Waiting("input", "keep_request", shown, agent.verdict(draft), None, {"guard": agent.name}))
    draft = draft.decide(decision.kind, None)
    log.add("input", draft)
    if draft.action == "refuse":
        return {"messages": _refused(agent, draft, "input", message)["messages"]}
    return {"messages": [AIMessage(_NOT_ANSWERED, id=message.id)]}


def _review_output(agent: AgentGuard, held: Json, message: BaseMessage, log: CheckLog) -> Update:
    """Release a withheld answer, or a person's version of it."""
    answer: AIMessage = unpacked(held["message"])
    parsed = held.get("structured")
    shown = {"text": words_to_review(answer)} if agent.guard.show_held else {}
    edits: Edits = "text" if parsed is None else "structured"
    decision, draft = _decide(agent, held["draft"], "output", "release_answer", shown, edits, parsed)
    if decision.kind == "reject":
        log.add("output", draft)
        return _refused(agent, draft, "output", message)
    draft = draft.copy_with(answer="released" if decision.text is None else "replaced")
    beside = [unpacked(one) for one in held.get("beside", ())]
    released = answer.model_copy(update={"id": message.id})
    if decision.text is not None:
        beside, parsed = [], decision.parsed
        released = AIMessage(decision.text, id=message.id, response_metadata=technical(answer))
    log.add("output", draft)
    verdict = agent.verdict(draft)
    update: Update = {"messages": [with_verdict(released, verdict), *beside], "verdict": verdict.to_state()}
    return update if parsed is None else {**update, "structured_response": parsed}


def _review_calls(agent: AgentGuard, held: Json, message: BaseMessage, log: CheckLog) -> Update:
    """Give approved calls their arguments back, edited ones a person's."""
    raw: AIMessage = unpacked(held["message"])
    left = {call["id"]: call for call in cast("AIMessage", message).tool_calls}
    calls: list[ToolCall] = []
    for asked in raw.tool_calls:
        waits = held["calls"].get(asked["id"])
        if waits is None:
            calls.append(left[asked["id"]])
            continue
        shown = asked["args"] if agent.guard.show_held else {}
        about = {"tool": asked["name"], "call_id": asked["id"]}
        decision, draft = _decide(agent, waits, "tool_args", asked["name"], shown, "args", **about)
        args = {"approve": asked["args"], "edit": decision.args or {}, "reject": {}}[decision.kind]
        calls.append(tool_call(name=asked["name"], args=args, id=asked["id"]))
        log.note("call", call_name(calls[-1]), **call_note(draft))
        log.add("tool_args", draft, tool=asked["name"], call=asked["id"])
    chosen = raw if calls == raw.tool_calls else with_calls(raw, calls)
    metadata = {**chosen.response_metadata, **message.response_metadata}
    return {"messages": [chosen.model_copy(update={"id": message.id, "response_metadata": metadata})]}


def _withdraw_calls(_agent: AgentGuard, _held: Json, message: BaseMessage, _log: CheckLog) -> Update:
    """Take calls out of the conversation that nobody decided about before it went on."""
    without = with_calls(cast("AIMessage", message), [])
    return {"messages": [without.model_copy(update={"content": without.content or _WITHDRAWN})]}


def _refused(agent: AgentGuard, draft: Draft, stage: Stage, message: BaseMessage) -> Update:
    verdict = agent.verdict(draft)
    notice = with_verdict(refusal_message(agent.notice(draft, stage), verdict, id=message.id), verdict)
    return {"messages": [notice], "verdict": verdict.to_state()}


_DECIDE_NOW = {"input": _review_turn, "output": _review_output, "tool_args": _review_calls}
_DECIDE_LATE = {
    "input": _review_late_turn,
    "output": _review_output,
    "tool_args": _withdraw_calls,
    "tool_result": _review_result,
}
