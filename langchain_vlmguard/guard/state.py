"""What goes into a guarded graph and comes out of it, and the policy of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.messages import AnyMessage
from langgraph.config import get_config
from langgraph.graph.message import add_messages
from langgraph.runtime import get_runtime
from pydantic import ValidationError

from langchain_vlmguard.verdict.policy import GuardPolicy
from langchain_vlmguard.verdict.records import Json, SafetyVerdict

Update = dict[str, Any]
"""What a node or a hook writes into the graph's state."""

Messages = Annotated[list[AnyMessage], add_messages]

Stage = Literal["input", "output", "tool_args", "tool_result"]
"""What was checked."""


class CheckRecord(TypedDict):
    """One check and its verdict."""

    stage: Stage
    guard: str
    """Name of the middleware or model that checked."""

    tool: str | None
    call_id: str | None
    verdict: Json


def check_record(
    stage: Stage, guard: str, verdict: SafetyVerdict, call: Mapping[str, Any] | None = None
) -> CheckRecord:
    """Return the record of a check; `call` is the tool call that was checked, if it was one."""
    named = call or {"name": None, "id": None}
    return {
        "stage": stage,
        "guard": guard,
        "tool": named["name"],
        "call_id": named["id"],
        "verdict": verdict.to_state(),
    }


class GuardInput(TypedDict):
    """What a caller may pass in: messages. A verdict that is passed in is ignored."""

    messages: Messages


class GuardOutput(TypedDict):
    """What comes out."""

    messages: Messages
    verdict: Json
    """The verdict of the last turn as a plain dict; empty while that turn is under way or under review."""


class VLMGuardState(GuardOutput):
    """State of the guard graph."""

    draft: Json
    """The verdict in the making; private to the graph."""


class GuardContext(TypedDict, total=False):
    """Static data of one run."""

    policy: GuardPolicy
    """A tenant's policy, used instead of the graph's own; its fields as a plain dict will do."""


def policy_of_run(default: GuardPolicy) -> GuardPolicy:
    """Return the policy in the context of the graph run around this call, or the default.

    Raises:
        ValidationError: The context's policy is not a policy.
    """
    context = _context()
    given = context.get("policy") if isinstance(context, Mapping) else getattr(context, "policy", None)
    return default if given is None else GuardPolicy.model_validate(given)


def check_context() -> None:
    """Check the names in the context of a guard graph's own run; as a part of another graph it gets that graph's context.

    Raises:
        ValueError: The context holds an unknown name: nothing would come of it.
    """
    context = _context()
    if not isinstance(context, Mapping) or "|" in get_config()["configurable"].get("checkpoint_ns", ""):
        return
    if unknown := sorted(map(str, context.keys() - GuardContext.__annotations__.keys())):
        msg = f"the context of a guard holds `policy` alone, not {', '.join(unknown)}"
        raise ValueError(msg)


def _context() -> Any:
    try:
        return getattr(get_runtime(GuardContext), "context", None)
    except RuntimeError:
        return None


def current_verdict(state: Any) -> SafetyVerdict | None:
    """Return the verdict of the turn from an agent's or graph's state, `None` if there is no valid one.

    Only the guard writes that key: it is dropped from inputs and from what tools return.
    """
    given = state.get("verdict") if isinstance(state, dict) else getattr(state, "verdict", None)
    try:
        return SafetyVerdict.model_validate(given) if given else None
    except ValidationError:
        return None
