"""What goes into the guard, comes out of it, and stands in between."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from pydantic import ValidationError

from langchain_vlmguard.verdict.policy import GuardPolicy
from langchain_vlmguard.verdict.records import SafetyVerdict

Messages = Annotated[list[AnyMessage], add_messages]


class GuardInput(TypedDict):
    """What a caller may pass in: messages. A verdict that is passed in is ignored."""

    messages: Messages


class GuardOutput(TypedDict):
    """What comes out."""

    messages: Messages
    verdict: dict[str, Any]
    """The verdict of the last turn as a plain dict; empty while that turn is under way or under review."""


class VLMGuardState(GuardOutput):
    """State of the guard graph."""

    draft: dict[str, Any]
    """The verdict in the making; private to the graph."""


class GuardContext(TypedDict, total=False):
    """Static data of one run."""

    policy: GuardPolicy
    """A tenant's policy, used instead of the graph's own; its fields as a plain dict will do."""


def current_verdict(state: Any) -> SafetyVerdict | None:
    """Return the verdict of the turn from an agent's or graph's state, `None` when there is no valid one.

    Only the guard writes that key: it is dropped from inputs and from what tools return.
    """
    given = state.get("verdict") if isinstance(state, dict) else getattr(state, "verdict", None)
    try:
        return SafetyVerdict.model_validate(given) if given else None
    except ValidationError:
        return None
