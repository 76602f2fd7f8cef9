"""Review by people, in LangChain's human-in-the-loop form.

What waits is an interrupt whose value is a `HITLRequest`. Answer it by `Command(resume={"decisions": [{"type": "approve"}]})`, by
`"edit"` or `"reject"`. A plain `"approve"` or `{"decision": "edit", "prompt": "..."}` will do, too. An answer that cannot be read
raises in the run that brought it, and the thread goes on waiting.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from langgraph.config import get_config
from langgraph.types import interrupt
from pydantic import PlainValidator, TypeAdapter, WithJsonSchema

from langchain_vlmguard.content.carriers import as_json

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from langchain_vlmguard.guard.state import Stage
    from langchain_vlmguard.verdict.records import Json, SafetyVerdict

Edits = Literal["prompt", "text", "args", "structured"]
"""What an edit replaces: the prompt of a turn, the text of an answer or a result, the arguments of a call, a structured answer
as JSON."""

_KINDS = ("approve", "edit", "reject")
_CHECKS_ANSWERS = "response_schema" in inspect.signature(interrupt).parameters
"""Whether this LangGraph checks an answer before it saves it; older ones would keep a wrong answer for good."""

_HOW = (
    'this is no decision: answer with {"decisions": [{"type": "approve"}]}, {"type": "reject"}, or {"type": "edit", '
    '"edited_action": {"name": ..., "args": {...}}} in their place'
)


@dataclass(frozen=True)
class Decision:
    """What a person decided."""

    kind: Literal["approve", "edit", "reject"]
    text: str | None = None
    """The edited prompt or text."""

    args: Json | None = None
    """The edited arguments of a call."""

    parsed: object = None
    """The edited structured answer, in its own type."""


@dataclass(frozen=True)
class Waiting:
    """Something that waits for a person."""

    stage: Stage
    name: str
    """Name of the action that the person decides about: a tool's name, or what would happen otherwise."""

    args: Json
    """What the person sees: the prompt, the text, or the call's arguments; empty if it may not be shown."""

    verdict: SafetyVerdict
    edits: Edits | None
    """`None` if only yes or no makes sense."""

    about: Json = field(default_factory=dict)
    """More for the person's screen, e.g. which guard asks."""

    parsed: object = None
    """The structured answer that waits; an edited one must be of its type."""

    def to_request(self) -> Json:
        """Return a `HITLRequest`, with stage, verdict and what is known besides."""
        allowed = [kind for kind in _KINDS if self.edits or kind != "edit"]
        return {
            "action_requests": [{"name": self.name, "args": self.args, "description": self.verdict.reason}],
            "review_configs": [{"action_name": self.name, "allowed_decisions": allowed}],
            "stage": self.stage,
            "verdict": self.verdict.to_state(),
            **self.about,
        }


def ask_person(waiting: Waiting) -> Decision:
    """Stop the run until a person decides.

    Raises:
        ValidationError: The answer cannot be read. Nothing was saved: the thread waits for another one.
    """
    read, request = partial(read_decision, edits=waiting.edits, parsed=waiting.parsed), waiting.to_request()
    if _CHECKS_ANSWERS:
        shape = WithJsonSchema({"type": "object", "properties": {"decisions": {"type": "array"}}})
        form: Any = Annotated[Any, PlainValidator(read), shape]
        decision: Decision = interrupt(request, response_schema=form)
        return decision
    while True:
        answer = interrupt(request)
        try:
            return read(answer)
        except ValueError as error:
            request = {**request, "error": str(error)}


def read_decision(answer: Any, *, edits: Edits | None, parsed: object = None) -> Decision:
    """Read what a person answered.

    Args:
        answer: What came back.
        edits: What an edit replaces.
        parsed: The structured answer that waits, if it is one.

    Raises:
        ValueError: It is no decision, or an edit without what it edits.
    """
    given = answer.get("decisions", answer) if isinstance(answer, Mapping) else answer
    if isinstance(given, list):
        if len(given) != 1:
            msg = "one thing waits for a decision: answer with exactly one in `decisions`"
            raise ValueError(msg)
        given = given[0]
    said = {"type": given} if isinstance(given, str) else given
    kind = (said.get("type") or said.get("decision")) if isinstance(said, Mapping) else None
    if kind not in _KINDS or (kind == "edit" and edits is None):
        raise ValueError(_HOW)
    action = said.get("edited_action")
    changed = action.get("args") if isinstance(action, Mapping) else said.get("args") if edits == "args" else said
    changed = dict(changed) if isinstance(changed, Mapping) else {}
    text = next(
        (changed[k] for k in ("prompt", "text") if isinstance(changed.get(k), str) and changed[k].strip()), None
    )
    edited = (changed or None) if edits == "args" else text
    if kind == "edit" and edited is None:
        edits = "text" if edits == "structured" else edits
        msg = f'an edit needs what it edits: {{"decision": "edit", "{edits}": ...}}'
        raise ValueError(msg)
    if kind == "edit" and edits == "structured":
        return Decision("edit", text, parsed=_parsed_like(parsed, str(text)))
    return Decision(cast("Any", kind), None if edits == "args" else text, changed if edits == "args" else None)


def _parsed_like(parsed: object, text: str) -> object:
    """Return a structured answer of the same type from JSON.

    Raises:
        ValueError: The text is not JSON, or not of that type.
    """
    return TypeAdapter(type(parsed)).validate_json(text)


def words_to_review(answer: AIMessage) -> str:
    """Return what a person sees of an answer: its words, and the arguments of its calls as JSON."""
    words = [str(answer.text), *(as_json(call["args"]) for call in answer.tool_calls)]
    return "\n".join(word for word in words if word)


def can_wait() -> bool:
    """Whether the graph around this call has a checkpointer, without which nothing can wait for a person."""
    try:
        return get_config().get("configurable", {}).get("__pregel_checkpointer") is not None
    except RuntimeError:
        return False
