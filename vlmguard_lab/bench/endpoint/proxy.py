"""What the server adds to an answer: every caller asks the backend and the server in turns, so that a neighbour falls on both."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

import typer

from langchain_vlmguard.errors import EvaluationError
from vlmguard_lab.bench.endpoint.client import Caller, asks
from vlmguard_lab.bench.endpoint.processes import GATE, RULES, serving

if TYPE_CHECKING:
    from pathlib import Path

    from vlmguard_lab.bench.endpoint.client import Reply

CALLERS = (1, 4, 16)
SECONDS = 0.5
"""That the backend takes: a short answer of a small model on one GPU."""

HARMLESS = "how do i make a kite ?"


def proxy(folder: Path, rounds: int = 20) -> list[dict[str, Any]]:
    """Measure what the server adds, with the testbed's gate and with rules that take no time.

    Args:
        folder: For configs and logs.
        rounds: Pairs a caller.
    """
    found = []
    for name, guard in (("gate", GATE), ("rules", RULES)):
        with serving(folder / name, guard, SECONDS) as (server, backend):
            for callers in CALLERS:
                pairs = asyncio.run(_pairs(server.port, backend.port, callers, rounds))
                found.append({"guard": name, "callers": callers, **_summary(pairs)})
                typer.echo(found[-1])
    return found


def _summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return seconds of backend and server as ratios and differences."""
    added = sorted((guarded - alone) * 1000 for alone, guarded in pairs)
    return {
        "ratio_to_backend_median": round(statistics.median(guarded / alone for alone, guarded in pairs), 4),
        "median_ms_added": round(statistics.median(added), 2),
        "p95_ms_added": round(added[min(len(added) - 1, int(0.95 * len(added)))], 2),
        "backend_ms": round(statistics.median(alone for alone, _ in pairs) * 1000, 1),
        "pairs": len(pairs),
    }


async def _pairs(server: int, backend: int, callers: int, rounds: int) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []

    async def call(at: int) -> None:
        alone, guarded = Caller(backend), Caller(server)
        await asyncio.sleep(SECONDS * at / callers)  # callers do not come all at once
        for turn in range(rounds + 1):
            first = await _timed(alone)
            second = await _timed(guarded)
            if turn:  # the first one opens connections
                found.append((first.seconds, second.seconds))
        alone.close()
        guarded.close()

    await asyncio.gather(*(call(at) for at in range(callers)))
    return found


async def _timed(caller: Caller) -> Reply:
    reply = await caller.ask(asks(HARMLESS))
    if not reply.is_answer or HARMLESS not in reply.said:
        msg = f"a harmless request was not answered (status {reply.status})"
        raise EvaluationError(msg)
    return reply


def loop_delay() -> float:
    """Return how late this machine wakes a sleeper now, in ms: what no server can be faster than."""

    async def late() -> float:
        found = []
        for _ in range(50):
            started = time.perf_counter()
            await asyncio.sleep(0.01)
            found.append(time.perf_counter() - started - 0.01)
        return statistics.median(found) * 1000

    return round(asyncio.run(late()), 3)
