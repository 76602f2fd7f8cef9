"""What a tool's `Command` carries beside its messages: keys of the agent's state, and what is sent to other nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import ToolMessage, convert_to_messages
from langgraph.types import Command, Send

from langchain_vlmguard.agents.state import GUARD_KEYS
from langchain_vlmguard.content.carriers import pictures_in, prose_in
from langchain_vlmguard.content.walk import texts_in
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage, ToolCall

    from langchain_vlmguard.verdict.records import Json


def own(part: object) -> object:
    """Return a tool's return value whose messages may be replaced, without state that only the guard writes."""
    if not isinstance(part, Command) or part.update is None:
        return part
    given_update = part.update if isinstance(part.update, dict) else dict(part._update_as_tuples())  # noqa: SLF001 - as the graph reads it
    update = {key: value for key, value in given_update.items() if key not in GUARD_KEYS}
    if "messages" in update:
        given = update["messages"] if isinstance(update["messages"], list) else [update["messages"]]
        update["messages"] = convert_to_messages(given)
    return replace(part, update=update)


def beside_messages(part: object, state: Json, call: ToolCall) -> ToolMessage | None:
    """Return what a `Command` says beside its messages as a result that can be judged, `None` if it says nothing new.

    Args:
        part: What the tool returned, or a part of it.
        state: The agent's state, which handoffs pass on whole.
        call: The call.
    """
    if not isinstance(part, Command):
        return None
    keys, sent = keys_beside(part), [one.arg for one in _targets(part) if isinstance(one, Send)]
    new = [value for key, value in keys.items() if value is not state.get(key)]
    if not new and not sent:
        return None
    messages = (part.update or {}).get("messages", ()) if isinstance(part.update, dict) else ()
    try:
        content = _content([new, sent], state, messages)
    except UnreadableContentError:
        content = [{"type": "too_large_update"}]  # no block that can be read: the result is refused as unread
    return ToolMessage(content, tool_call_id=call["id"] or "", name=call["name"]) if content else None


def _content(new: object, state: Json, messages: Sequence[BaseMessage]) -> list[Any]:
    """Return what is new in a value, beside the state and the messages that come with it, as content blocks."""
    known = {*prose_in(state), *(leaf for one in messages for leaf in texts_in(one.content))}
    words = "\n".join(prose_in(new, known))
    old = {picture for one in pictures_in(state) for picture in one.values()}
    pictures = [one for one in pictures_in(new) if old.isdisjoint({*one.values()} - {"image"})]
    return [*([{"type": "text", "text": words}] if words else []), *pictures]


def keys_beside(part: object) -> Json:
    """Return the keys of the state, other than messages, that a `Command` writes."""
    update = part.update if isinstance(part, Command) and isinstance(part.update, dict) else {}
    return {key: value for key, value in update.items() if key != "messages"}


def without_beside(part: object) -> object:
    """Return a `Command` that writes nothing but its messages, and sends nothing along to where it goes."""
    if not isinstance(part, Command):
        return part
    messages = part.update.get("messages") if isinstance(part.update, dict) else None
    goto = [one.node if isinstance(one, Send) else one for one in _targets(part)]
    return replace(part, update={"messages": messages} if messages else None, goto=goto, resume=None)


def _targets(part: Command[Any]) -> Sequence[object]:
    return part.goto if isinstance(part.goto, list | tuple) else [part.goto]
