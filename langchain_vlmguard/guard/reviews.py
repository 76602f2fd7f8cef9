"""Review by people, in LangChain's human-in-the-loop form.

What waits is an interrupt whose value is a `HITLRequest`. Answer it by `Command(resume={"decisions": [{"type": "approve"}]})`, by
`"edit"` or `"reject"`. A plain `"approve"` or `{"decision": "edit", "prompt": "..."}` is understood, too. An answer that
cannot be read raises in the run that brought it, and the thread goes on waiting.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from langgraph.config import get_config
from langgraph.types import interrupt
from pydantic import PlainValidator, WithJsonSchema

if TYPE_CHECKING:
    from langchain_vlmguard.guard.state import Stage
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.records import SafetyVerdict

Kind = Literal["approve", "edit", "reject"]
KINDS: tuple[Kind, ...] = ("approve", "edit", "reject")

_CHECKS_ANSWERS = "response_schema" in inspect.signature(interrupt).parameters
"""Whether this LangGraph checks an answer before it saves it; older ones would keep a wrong answer for good."""


@dataclass(frozen=True)
class Waiting:
    """Something that waits for a person."""

    stage: Stage
    name: str
    """Name of the action that the person decides about: a tool's name, or what would happen otherwise."""

    args: dict[str, Any]
    """What the person sees: the prompt, the text, or the call's arguments; empty if it may not be shown."""

    verdict: SafetyVerdict
    edits: Literal["prompt", "text", "args"]
    """What an edit replaces."""

    about: dict[str, Any]
    """More for the person's screen, e.g. which guard asks."""

    def to_request(self) -> dict[str, Any]:
        """Return a `HITLRequest`, with stage, verdict and what is known besides."""
        description = (
            self.verdict.reason or f"The guard wants a person to decide ({self.verdict.severity or 'unjudged'})."
        )
        action = {"name": self.name, "args": self.args, "description": description}
        return {
            "action_requests": [action],
            "review_configs": [{"action_name": self.name, "allowed_decisions": list(KINDS)}],
            "stage": self.stage,
            "verdict": self.verdict.to_state(),
            **self.about,
        }


@dataclass(frozen=True)
class Decision:
    """What a person decided."""

    kind: Kind
    text: str | None = None
    """The edited prompt or text."""

    args: dict[str, Any] | None = None
    """The edited arguments of a call."""

    reason: str = ""
    """Why, in the person's words."""


def ask_person(waiting: Waiting) -> Decision:
    """Stop the run until a person decides.

    Raises:
        ValidationError: The answer cannot be read. Nothing was saved: the thread waits for another one.
    """
    read = partial(read_decision, edits=waiting.edits)
    request = waiting.to_request()
    if _CHECKS_ANSWERS:
        form: Any = Annotated[Any, PlainValidator(read), WithJsonSchema(_ANSWER_SCHEMA)]
        decision: Decision = interrupt(request, response_schema=form)
        return decision
    while True:
        answer = interrupt(request)
        try:
            return read(answer)
        except ValueError as error:
            request = {**request, "error": str(error)}


def read_decision(answer: Any, *, edits: Literal["prompt", "text", "args"]) -> Decision:
    """Read what a person answered.

    Args:
        answer: `"approve"`, `{"decision": "edit", "prompt": "..."}`, `{"type": "reject"}` or LangChain's `{"decisions": [...]}`.
        edits: What an edit replaces.

    Raises:
        ValueError: It is no decision, or an edit without what it edits.
    """
    given = answer
    if isinstance(given, Mapping) and "decisions" in given:
        decisions = given["decisions"]
        if not isinstance(decisions, list) or len(decisions) != 1:
            msg = "one thing waits for a decision: answer with exactly one in `decisions`"
            raise ValueError(msg)
        given = decisions[0]
    fields = {"type": given} if isinstance(given, str) else given
    if not isinstance(fields, Mapping):
        raise ValueError(_HOW)  # noqa: TRY004 - what a person sent is a value
    kind = fields.get("type") or fields.get("decision")
    if kind not in KINDS:
        raise ValueError(_HOW)
    action = fields.get("edited_action")
    changed: Any = action.get("args") if isinstance(action, Mapping) else fields
    if not isinstance(changed, Mapping):
        raise ValueError(_HOW)  # noqa: TRY004
    text = next(
        (changed[k] for k in ("prompt", "text") if isinstance(changed.get(k), str) and changed[k].strip()), None
    )
    args = changed if isinstance(action, Mapping) else fields.get("args")
    edited_args = dict(args) if edits == "args" and isinstance(args, Mapping) else None
    if kind == "edit" and (edited_args if edits == "args" else text) is None:
        msg = f"an edit needs what it edits: {_EDITS[edits]}"
        raise ValueError(msg)
    return Decision(kind, None if edits == "args" else text, edited_args, str(fields.get("message") or ""))


def can_wait() -> bool:
    """Whether the graph around this call has a checkpointer, without which nothing can wait for a person."""
    try:
        return get_config().get("configurable", {}).get("__pregel_checkpointer") is not None
    except RuntimeError:
        return False


def decide_turn(draft: Draft, decision: Decision) -> Draft:
    """Return the draft of a turn that a person decided about.

    Approving a turn whose rewriting the policy wanted reviewed approves the rewritten prompt. Approving an answer lets it out.
    """
    answered = draft.answer == "withheld"
    draft = draft.copy_with(reviewed=decision.kind, answer_approved=answered and decision.kind == "approve")
    if decision.kind == "reject":
        return draft.stop("refuse", "A person rejected this turn.")
    if decision.kind == "edit":
        return draft.copy_with(rewritten_prompt=decision.text).stop("rewrite", "A person edited the prompt.")
    return draft.stop("rewrite" if draft.rewritten_prompt else "allow", "A person approved this turn.")


_EDITS = {
    "prompt": 'the new prompt, as {"decision": "edit", "prompt": "..."}',
    "text": 'the new text, as {"decision": "edit", "text": "..."}',
    "args": 'the new arguments, as {"decision": "edit", "args": {...}}',
}
_HOW = (
    'this is no decision: answer with {"decisions": [{"type": "approve"}]}, {"type": "reject"}, or {"type": "edit", '
    '"edited_action": {"name": ..., "args": {...}}} in their place'
)
_ANSWER_SCHEMA = {
    "type": "object",
    "required": ["decisions"],
    "properties": {
        "decisions": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": {"enum": list(KINDS)},
                    "edited_action": {"type": "object"},
                    "message": {"type": "string"},
                },
            },
        }
    },
}
