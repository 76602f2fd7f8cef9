"""What one hook of the guard found, for the agent's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langgraph.types import StreamWriter

    from langchain_vlmguard.agents.options import AgentGuard
    from langchain_vlmguard.guard.state import CheckRecord, Stage, Update
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.records import Json


class CheckLog:
    """Collects the checks of one hook, the notes that the guard keeps, and messages that the state must keep otherwise."""

    def __init__(self, agent: AgentGuard) -> None:
        """Start empty."""
        self._agent = agent
        self.records: list[CheckRecord] = []
        self.earlier: list[CheckRecord] = []
        """Checks that were reported before, and that the state has not heard of."""

        self.notes: Json = {}
        self.messages: dict[int, BaseMessage] = {}
        """Changed messages by their place in the conversation."""

    def add(self, stage: Stage, draft: Draft, *, tool: str | None = None, call: str | None = None) -> None:
        """Enter a check."""
        self.records.append(self._agent.record(stage, draft, tool=tool, call=call))

    def note(self, kind: str, of: str | None = "", /, **fields: Any) -> None:
        """Keep a note; without fields it says that something is so."""
        self.notes[self._agent.note(kind, str(of))] = fields or True

    def drop(self, kind: str, of: str | None) -> None:
        """Remove a note."""
        self.notes[self._agent.note(kind, str(of))] = None

    def publish(self, writer: StreamWriter) -> None:
        """Report the checks on streams and to telemetry."""
        self._agent.report(writer, self.records)

    def update(self) -> Update:
        """Return what the agent's state hears."""
        return {"verdicts": [*self.earlier, *self.records], "vlmguard": self.notes}
