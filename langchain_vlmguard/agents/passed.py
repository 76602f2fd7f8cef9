"""Tool results that this process judged a moment ago: what the agent's state will hear of them with the next model call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.runnables.config import ensure_config

from langchain_vlmguard.agents.prints import fingerprint
from langchain_vlmguard.content.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import ToolMessage

    from langchain_vlmguard.guard.state import CheckRecord

_MOST_BYTES = 4_000_000
_RECORD_BYTES = 2_000


class PassedResults:
    """Remembers results by their content, thread and policy; what it forgets is judged again, never skipped.

    A tool's result goes on as the message that the tool made: what the guard has to say about it waits here.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: Recent[tuple[CheckRecord, ...]] = Recent(_MOST_BYTES)

    def keep(self, message: ToolMessage, policy: str, records: Sequence[CheckRecord]) -> None:
        """Remember that a result was judged, or made by the guard."""
        self._kept.put(_key(message, policy), tuple(records), _RECORD_BYTES * (1 + len(records)))

    def find(self, message: ToolMessage, policy: str) -> tuple[CheckRecord, ...] | None:
        """Return the checks of a result, `None` if it was not judged lately."""
        return self._kept.get(_key(message, policy))


def _key(message: ToolMessage, policy: str) -> str:
    thread = ensure_config().get("configurable", {}).get("thread_id")
    return fingerprint([message], str(thread), policy, message.tool_call_id)
