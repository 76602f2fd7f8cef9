"""The state that a guarded agent keeps: verdicts for everybody, notes for the guard alone."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from langchain.agents.middleware.types import AgentState, OmitFromInput, PrivateStateAttr

from langchain_vlmguard.guard.state import CheckRecord  # noqa: TC001 - the graph reads the annotations
from langchain_vlmguard.verdict.records import Json  # noqa: TC001

MOST_RECORDS = 64
MOST_NOTES = 512

GUARD_KEYS = frozenset({"verdict", "verdicts", "vlmguard"})
"""State that the guard alone writes."""


def newest(_old: Any, new: Any) -> Any:
    """Keep what was written last."""
    return new


def last_records(old: list[CheckRecord] | None, new: list[CheckRecord]) -> list[CheckRecord]:
    """Append; a guard that judged a new turn drops its checks of the turn before. The newest `MOST_RECORDS` stay.

    What a person decided about a turn belongs to it, and begins no other.
    """
    judged = [record for record in new if record["stage"] == "input" and record["verdict"]["reviewed"] is None]
    begun = {record["guard"] for record in judged}
    return [*(record for record in old or [] if record["guard"] not in begun), *new][-MOST_RECORDS:]


def merge_notes(old: Json | None, new: Json) -> Json:
    """Merge by key, newest last; a note of `None` removes one. The newest `MOST_NOTES` stay.

    A note that is gone makes the guard check again, never skip a check.
    """
    kept = {key: value for key, value in (old or {}).items() if key not in new}
    merged = {**kept, **{key: value for key, value in new.items() if value is not None}}
    return dict(list(merged.items())[-MOST_NOTES:])


class VLMGuardAgentState(AgentState[Any]):
    """Keys that `VLMGuardMiddleware` adds to an agent's state; callers cannot pass them in."""

    verdict: NotRequired[Annotated[Json, OmitFromInput, newest]]
    """Verdict of the last model call's turn, as a plain dict."""

    verdicts: NotRequired[Annotated[list[CheckRecord], OmitFromInput, last_records]]
    """The checks of the newest turn, oldest first."""

    vlmguard: NotRequired[Annotated[Json, PrivateStateAttr, merge_notes]]
    """The guard's own notes: what was judged, and what is held for review."""
