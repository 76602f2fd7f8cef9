"""Checks as a projection of v3 event streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from langgraph.stream import StreamChannel, StreamTransformer

from langchain_vlmguard.guard.events import EVENT

if TYPE_CHECKING:
    from langgraph.stream._types import ProtocolEvent

    from langchain_vlmguard.verdict.records import Json


class VerdictTransformer(StreamTransformer):
    """Gives v3 event streams a `verdicts` projection: `run.extensions["verdicts"]` yields every check as it is made."""

    required_stream_modes: ClassVar[tuple[str, ...]] = ("custom",)

    def __init__(self, scope: tuple[str, ...] = ()) -> None:
        """Listen to one namespace."""
        super().__init__(scope)
        self._channel: StreamChannel[Json] = StreamChannel()

    def init(self) -> Json:
        """Name the projection."""
        return {"verdicts": self._channel}

    def process(self, event: ProtocolEvent) -> bool:
        """Copy the guard's custom events into the projection; every event goes on."""
        if event["method"] == "custom":
            data = event["params"]["data"]
            if isinstance(data, dict) and data.get("type") == EVENT:
                self._channel.push(data)
        return True
