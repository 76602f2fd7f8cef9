"""Half an hour of clients that ask, leave, stall, send slowly and send rubbish: nothing of them may stay behind."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from vlmguard_lab.bench.endpoint.client import PATIENCE, Caller, asks, request
from vlmguard_lab.bench.endpoint.load import SECONDS, Traffic
from vlmguard_lab.bench.endpoint.processes import RULES, seen_by, serving

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from vlmguard_lab.bench.endpoint.processes import Process

FIRST = 60.0
"""Seconds after which the server is looked at for the first time: until then it warms up."""

REST = 6.0
"""Seconds without callers before each look; connections to the backend are kept for five."""

WAYS = {"ask": 60, "leave": 12, "stall": 8, "send slowly": 10, "send rubbish": 10}
"""What callers do, with weights."""

RUBBISH = (b"{", b"\xff" * 1000, b"[]" * 500, b'{"messages": 1}', b'{"messages": [{"role": "user", "content": {}}]}')


@dataclass(frozen=True)
class Rest:
    """The server at rest."""

    slots: int
    sockets: int
    threads: int
    megabytes: float

    @classmethod
    def of(cls, server: Process) -> Rest:
        """Look at a server that nobody calls."""
        slots = server.number("vlmguard_running") + server.number("vlmguard_waiting")
        return cls(int(slots), server.sockets, server.threads, server.megabytes)


class Rude(Traffic):
    """Callers of whom many do not behave."""

    async def once(self, caller: Caller, rng: random.Random, mark: str) -> None:
        """Ask, or do worse."""
        way = rng.choices(list(WAYS), list(WAYS.values()))[0]
        if way == "ask":
            await super().once(caller, rng, mark)
            return
        self.seen[way] += 1
        other = Caller(self.port)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._rude(other, way, rng, mark)
        except (OSError, asyncio.IncompleteReadError):
            self.seen["hung up on"] += 1
        except TimeoutError:
            self.seen["lost"] += 1
        finally:
            other.close()

    async def _rude(self, caller: Caller, way: str, rng: random.Random, mark: str) -> None:
        reader, writer = await caller.connection()
        data = request(asks(f"hello {mark} " + "and so on " * 200, stream=rng.random() < 0.5))  # noqa: PLR2004
        if way == "leave":
            writer.write(data[: rng.choice((len(data), len(data) // 2))])
            await writer.drain()
            await asyncio.sleep(rng.uniform(0, 2 * SECONDS))
            return
        if way == "send rubbish":
            raw = rng.choice(RUBBISH)
            writer.write(request(raw) if rng.random() < 0.7 else b"GARBAGE \xff\r\n\r\n" + raw)  # noqa: PLR2004
            await writer.drain()
            await reader.read(1000)
            return
        if way == "stall":
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(3.0)
        else:
            for at in range(0, len(data), 500):
                writer.write(data[at : at + 500])
                await writer.drain()
                await asyncio.sleep(0.3)
        reply = await caller.read(reader)
        self.seen[self.judge(reply, "fine", mark)] += 1


def soak(folder: Path, callers: int, minutes: float) -> dict[str, Any]:
    """Let such callers at a server, look at it after a minute and at the end, and compare.

    What a process holds cannot be kept: a soak that was stopped begins again.

    Args:
        folder: For configs and logs.
        callers: At a time.
        minutes: How long.
    """
    first_minutes = min(FIRST / 60, minutes / 3)
    with serving(folder, RULES, SECONDS, limits={"at_once": callers, "body_seconds": 10}) as (server, backend):
        first, one = _soaked(server, callers, first_minutes)
        last, two = _soaked(server, callers, minutes - first_minutes)
        two.seen["unguarded"] += seen_by(backend)["marked"]
    seen = one.seen + two.seen
    growth = 100 * (last.megabytes - first.megabytes) / first.megabytes
    return {
        "minutes": minutes,
        "callers": callers,
        "requests": sum(seen[key] for key in ("requests", *WAYS)),
        "ways": {key: seen[key] for key in WAYS if key != "ask"},
        "unguarded": seen["unguarded"],
        "lost": seen["lost"],
        "leaked_slots": last.slots,
        "leaked_sockets": last.sockets - first.sockets,
        "leaked_threads": last.threads - first.threads,
        "memory_growth_pct": round(growth, 2),
        "megabytes": last.megabytes,
    }


def _soaked(server: Process, callers: int, minutes: float) -> tuple[Rest, Rude]:
    traffic = Rude(server.port, callers, time.monotonic() + 60 * minutes)
    asyncio.run(_reported(traffic, server))
    time.sleep(REST)
    asyncio.run(_one_more(server.port))
    return Rest.of(server), traffic


async def _one_more(port: int) -> None:
    """Ask once: connections to the backend that are too old are closed when the next one is wanted."""
    caller = Caller(port)
    await caller.ask(asks("hello"))
    caller.close()
    await asyncio.sleep(0.5)


async def _reported(traffic: Rude, server: Process) -> None:
    running = asyncio.create_task(traffic.run())
    while not running.done():
        await asyncio.wait({running}, timeout=30)
        left = max(0, round(traffic.until - time.monotonic()))
        held = f"{server.megabytes} MB, {server.sockets} sockets, {server.threads} threads"
        typer.echo(f"soak: {sum(traffic.seen.values())} seen, {held}, {left} s to go")
    await running
