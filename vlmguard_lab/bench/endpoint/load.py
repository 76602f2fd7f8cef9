"""Many callers with mixed requests, and faults under them: none is lost without an error, none is answered unguarded."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from math import inf
from typing import TYPE_CHECKING, Any

import typer
from PIL import Image

from vlmguard_lab.bench.endpoint.backend import ASK_FOR_BAD, BAD
from vlmguard_lab.bench.endpoint.client import Caller, asks
from vlmguard_lab.bench.endpoint.processes import RULES, seen_by, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vlmguard_lab.bench.endpoint.client import Reply
    from vlmguard_lab.bench.endpoint.processes import Process

SECONDS = 0.2
"""That the backend takes."""

PAUSE = 0.5
"""Seconds between two requests of a caller: many wait for people and tools most of the time."""


def picture(colour: str) -> str:
    """Return a picture of one colour as a data URI."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Traffic:
    """Callers, and what they saw."""

    port: int
    callers: int
    until: float
    seen: Counter[str] = field(default_factory=Counter)
    good_at: list[float] = field(default_factory=list)
    """When whole answers came."""

    async def run(self) -> None:
        """Ask until the end."""
        await asyncio.gather(*(self._call(at) for at in range(self.callers)))

    async def _call(self, seed: int) -> None:
        rng, caller, number = random.Random(seed), Caller(self.port), 0
        while time.monotonic() < self.until:
            await asyncio.sleep(rng.uniform(0, 2 * PAUSE))
            number += 1
            await self.once(caller, rng, f"{seed}-{number}")
        caller.close()

    async def once(self, caller: Caller, rng: random.Random, mark: str) -> None:
        """Ask once and count how it went."""
        kind = rng.choices(("fine", "picture", "bad", "bad answer"), (60, 20, 10, 10))[0]
        text = {"bad": f"{BAD} {mark}", "bad answer": f"{ASK_FOR_BAD} {mark}"}.get(kind, f"hello {mark}")
        shown = picture(rng.choice(("blue", "green", "white"))) if kind == "picture" else None
        reply = await caller.ask(asks(text, stream=rng.random() < 0.4, picture=shown))  # noqa: PLR2004
        self.seen["requests"] += 1
        self.seen[self.judge(reply, kind, mark)] += 1

    def judge(self, reply: Reply, kind: str, mark: str) -> str:
        """Say what a reply is: an answer, an error, or what must not be."""
        if BAD.encode() in reply.body:
            return "unguarded"
        if not reply.is_answer:
            return "errors" if reply.is_error else "lost"
        if kind in ("bad", "bad answer"):
            return "refused" if b"content_filter" in reply.body else "unguarded"
        if mark not in reply.said:  # somebody else's answer, or half of one
            return "lost"
        self.good_at.append(time.monotonic())
        return "answered"

    @property
    def found(self) -> dict[str, int]:
        """What was counted."""
        return {key: self.seen[key] for key in ("requests", "errors", "unguarded", "lost")}


def load(folder: Path, callers: int, minutes: float) -> dict[str, Any]:
    """Let many callers ask for some minutes.

    Args:
        folder: For configs and logs.
        callers: At a time.
        minutes: How long.
    """
    with serving(folder, RULES, SECONDS, limits={"at_once": callers}) as (server, backend):
        traffic = Traffic(server.port, callers, time.monotonic() + 60 * minutes)
        asyncio.run(_reported(traffic, "load"))
        traffic.seen["unguarded"] += seen_by(backend)["marked"]
    return {"callers": callers, "seconds": round(60 * minutes), **traffic.found}


FAULTS = ("the backend is killed and comes back", "the backend stalls", "the server is killed and comes back")
_BEFORE, _AWAY, _AFTER = 5.0, 4.0, 10.0
"""Seconds before a fault, while it lasts, and after it."""


def faults(folder: Path, callers: int) -> list[dict[str, Any]]:
    """Let things fail under load.

    Args:
        folder: For configs and logs.
        callers: At a time.
    """
    found = []
    for at, what in enumerate(FAULTS):
        limits = {"at_once": callers, "seconds": 3.0}
        with serving(folder / str(at), RULES, SECONDS, limits=limits) as (server, backend):
            traffic = Traffic(server.port, callers, inf)
            back = asyncio.run(_with_fault(traffic, _faults(server, backend)[what]))
            traffic.seen["unguarded"] += seen_by(backend)["marked"]
        again = [at - back for at in traffic.good_at if at > back]
        numbers = {key: traffic.seen[key] for key in ("requests", "errors", "lost", "unguarded")}
        found.append({"what": what, **numbers, "recovered_s": round(min(again), 2) if again else None})
        typer.echo(found[-1])
    return found


def _faults(server: Process, backend: Process) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """Return how each fault begins and ends."""
    stops = (backend.pause, backend.resume)
    return dict(zip(FAULTS, ((backend.kill, backend.start), stops, (server.kill, server.start)), strict=True))


async def _with_fault(traffic: Traffic, fault: tuple[Callable[[], None], Callable[[], None]]) -> float:
    """Run callers with a fault under them, and return when it was over."""
    running = asyncio.create_task(traffic.run())
    begin, end = fault
    await asyncio.sleep(_BEFORE)
    await asyncio.to_thread(begin)
    await asyncio.sleep(_AWAY)
    await asyncio.to_thread(end)
    back = time.monotonic()
    traffic.until = back + _AFTER
    await running
    return back


async def _reported(traffic: Traffic, name: str) -> None:
    """Run callers and say every half a minute what they saw."""
    running = asyncio.create_task(traffic.run())
    while not running.done():
        await asyncio.wait({running}, timeout=30)
        left = max(0, round(traffic.until - time.monotonic()))
        typer.echo(f"{name}: {dict(traffic.seen)}, {left} s to go")
    await running
