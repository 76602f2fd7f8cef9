"""Streams: what must not be seen is muted, what everybody may see is published."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from langchain_core.runnables.config import ensure_config, set_config_context
from langgraph.stream import StreamChannel, StreamTransformer

from langchain_vlmguard.guard.calls import without_streams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from langchain_core.runnables import RunnableConfig
    from langgraph.stream._types import ProtocolEvent

    from langchain_vlmguard.agents.state import CheckRecord

T = TypeVar("T")

EVENT = "vlmguard.verdict"
"""`type` of the custom event that carries a check."""


def publish(writer: Callable[[Any], None], records: list[CheckRecord]) -> None:
    """Send each check as a custom event (`stream_mode="custom"`)."""
    for record in records:
        writer({"type": EVENT, **record})


def muted(call: Callable[[], T], callbacks: Any = None) -> T:
    """Run a call whose tokens reach no stream; tracers and other callbacks stay."""
    with set_config_context(muted_config(callbacks)) as context:
        return context.run(call)


async def amuted(call: Callable[[], Awaitable[T]], callbacks: Any = None) -> T:
    """Run an awaitable call whose tokens reach no stream."""

    async def run() -> T:
        return await call()

    with set_config_context(muted_config(callbacks)) as context:
        return await asyncio.create_task(run(), context=context)


def muted_config(callbacks: Any = None) -> RunnableConfig:
    """Return the config around this call, with other callbacks if some are given, without what feeds streams."""
    around = ensure_config()
    tags = [*(around.get("tags") or []), "nostream"]
    chosen = around.get("callbacks") if callbacks is None else callbacks
    return {**around, "callbacks": without_streams(chosen), "tags": tags}


class VerdictTransformer(StreamTransformer):
    """Gives v3 event streams a `verdicts` projection: `run.extensions["verdicts"]` yields every check as it is made."""

    required_stream_modes: ClassVar[tuple[str, ...]] = ("custom",)

    def __init__(self, scope: tuple[str, ...] = ()) -> None:
        """Listen to one namespace."""
        super().__init__(scope)
        self._channel: StreamChannel[dict[str, Any]] = StreamChannel()

    def init(self) -> dict[str, Any]:
        """Name the projection."""
        return {"verdicts": self._channel}

    def process(self, event: ProtocolEvent) -> bool:
        """Copy the guard's custom events into the projection; every event goes on."""
        if event["method"] == "custom":
            data = event["params"]["data"]
            if isinstance(data, dict) and data.get("type") == EVENT:
                self._channel.push(data)
        return True
