"""What goes into a guarded graph and comes out of it, and the policy of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph.message import add_messages
from langgraph.runtime import get_runtime
from pydantic import BaseModel, ConfigDict, ValidationError

from langchain_vlmguard.verdict.policy import GuardPolicy
from langchain_vlmguard.verdict.records import Json, SafetyVerdict

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def stage_of(verdict: SafetyVerdict) -> Stage:
    """Say whether a turn's verdict is about its answer, or ended before there was one."""
    failed = verdict.failure is not None and verdict.failure.stage == "answer"
    return "output" if failed or verdict.answer != "none" else "input"


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

    held: NotRequired[AIMessage | None]
    """The answer that waits for a person; private to the graph, and gone once it was decided."""


class GuardContext(BaseModel):
    """Static data of one run: a tenant's own policy.

    A run's context is the caller's to choose, on a server a stranger's. So the guard heeds it only in a graph that was built
    for it: one with this class, or a class that extends it, as its `context_schema`. `create_vlm_guard` has it. Every other
    context is the application's own, whatever its fields are called.

    ??? example "An agent whose tenants bring policies of their own"

        ```python
        agent = create_agent(model, tools, middleware=[guard.middleware()], context_schema=GuardContext)
        agent.invoke(request, context={"policy": {"rewrite": "always"}})
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: GuardPolicy | None = None
    """Used instead of the guard's own; its fields as a plain dict will do."""


def policy_of_run(default: GuardPolicy) -> GuardPolicy:
    """Return the policy in the context of the graph run around this call, or the default."""
    try:
        context = getattr(get_runtime(GuardContext), "context", None)
    except RuntimeError:
        return default
    return context.policy or default if isinstance(context, GuardContext) else default


def current_verdict(state: Any) -> SafetyVerdict | None:
    """Return the verdict of the turn from an agent's or graph's state, `None` if there is no valid one.

    Only the guard writes that key: it is dropped from inputs and from what tools return.
    """
    given = state.get("verdict") if isinstance(state, dict) else getattr(state, "verdict", None)
    try:
        return SafetyVerdict.model_validate(given) if given else None
    except ValidationError:
        return None
