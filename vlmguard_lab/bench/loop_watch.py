"""How long anything holds the event loop at a stretch."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TICK = 0.001


@dataclass
class LoopWatch:
    """The longest stretches in which a task that only wants to tick could not."""

    computed_ms: float = 0.0
    """Computed by the loop's own thread; neighbours on the machine do not count."""

    waited_ms: float = 0.0
    """By the clock: other threads that hold the interpreter, and neighbours, count too."""


@asynccontextmanager
async def watched() -> AsyncIterator[LoopWatch]:
    """Watch the running loop."""
    watch = LoopWatch()
    ticking = asyncio.create_task(_tick(watch))
    await asyncio.sleep(0)
    try:
        yield watch
        await asyncio.sleep(2 * _TICK)
    finally:
        ticking.cancel()


async def _tick(watch: LoopWatch) -> None:
    computed, waited = time.thread_time(), time.perf_counter()
    while True:
        await asyncio.sleep(_TICK)
        now, clock = time.thread_time(), time.perf_counter()
        watch.computed_ms = max(watch.computed_ms, (now - computed) * 1000)
        watch.waited_ms = max(watch.waited_ms, (clock - waited - _TICK) * 1000)
        computed, waited = now, clock
