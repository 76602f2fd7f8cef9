"""Many callers at once with cancels, timeouts and bad inputs: nothing may leak, stick, stay behind or be mixed up."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from langchain_core.messages import HumanMessage

from langchain_vlmguard import ChatSteeredVLM, Steering
from langchain_vlmguard.errors import GenerationTimeoutError, UnreadableContentError
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import ProjectOut
from vlmguard_lab.testbed.checkpoint import load_testbed
from vlmguard_lab.testbed.requests import cells

CALLERS = 16
WAYS = {"leave": 15, "hurry": 10, "bad": 10, "stream": 25, "ask": 40}
"""Ways to ask, with their weights."""

MOST_GROWTH = 0.05


class Soak:
    """The callers and what they saw."""

    def __init__(self) -> None:
        """Learn every model's answer to every request one at a time."""
        testbed = load_testbed()
        self.loaded = replace(testbed)
        recommended = testbed.recommended
        if recommended is None:
            msg = "the testbed carries no directions"
            raise ValueError(msg)
        control = replace(recommended, intervention=ProjectOut(), gate=AlwaysOpen())
        steerings: dict[str, Steering | None] = {"plain": None, "steered": recommended, "control": control}
        self.models = {
            name: ChatSteeredVLM.from_loaded(self.loaded, steering=steering, max_tokens=30)
            for name, steering in steerings.items()
        }
        self.asked = [cell.sample(1, seed=3)[0].message() for cell in cells() if cell.family != "tool"]
        self.expected = {
            (name, at): model.invoke([message]).text
            for name, model in self.models.items()
            for at, message in enumerate(self.asked)
        }
        self.seen: Counter[str] = Counter()
        self.stop = threading.Event()

    def call(self, seed: int) -> None:
        """Ask until the end, in every way there is."""
        rng = random.Random(seed)
        while not self.stop.is_set():
            name, at = rng.choice(list(self.expected))
            try:
                self.seen[self.once(rng, name, at)] += 1
            except Exception as error:  # noqa: BLE001 - whatever should not happen is counted
                self.seen[f"WRONG {type(error).__name__}: {error}"[:120]] += 1

    def once(self, rng: random.Random, name: str, at: int) -> str:
        """Ask once and say how it went."""
        model: Any = self.models[name]
        message = [self.asked[at]]
        way = rng.choices(list(WAYS), list(WAYS.values()))[0]
        if way == "leave":
            for _ in (stream := model.stream(message)):
                if rng.randrange(3) == 0:
                    break
            stream.close()
            return "left a stream"
        if way == "hurry":
            try:
                model.invoke(message, timeout=rng.random() * 0.05 + 0.001)
            except GenerationTimeoutError:
                return "timed out"
            return "in time"
        if way == "bad":
            try:
                model.invoke([HumanMessage([{"type": "image", "base64": "bm8=", "mime_type": "image/png"}])])
            except UnreadableContentError:
                return "bad input refused"
            return "WRONG bad input accepted"
        text = "".join(c.text for c in model.stream(message)).strip() if way == "stream" else model.invoke(message).text
        return "right answer" if text == self.expected[name, at] else f"WRONG answer of {name}"


def memory() -> float:
    """Resident memory in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


@dataclass(frozen=True)
class Found:
    """What was found at the end."""

    stuck: int
    """Callers that still wait a minute after the end."""

    hooks: int
    """Hooks left on the model's layers."""

    is_idle: bool
    """Whether the scheduler has nothing left to do."""

    growth: float
    """Memory of the last third of the time against the middle one."""

    wrong: dict[str, int]
    """Wrong answers and unexpected errors, counted."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.is_idle and not (self.wrong or self.stuck or self.hooks) and self.growth <= MOST_GROWTH


def run(minutes: float) -> Found:
    """Soak, say every minute how it goes, and return what was found."""
    soak = Soak()
    threads = [threading.Thread(target=soak.call, args=(seed,), daemon=True) for seed in range(CALLERS)]
    for thread in threads:
        thread.start()
    began, sizes = time.monotonic(), []
    try:
        while time.monotonic() - began < 60 * minutes:
            time.sleep(min(60.0, 6 * minutes))
            sizes.append(memory())
            typer.echo(f"{(time.monotonic() - began) / 60:.1f} min, {sizes[-1]:.0f} MiB, {dict(soak.seen)}")
    finally:
        soak.stop.set()
    for thread in threads:
        thread.join(60)
    time.sleep(1)
    third = max(1, len(sizes) // 3)
    found = Found(
        stuck=sum(thread.is_alive() for thread in threads),
        hooks=sum(len(layer._forward_hooks) for layer in locate_decoder(soak.loaded.model).layers),  # noqa: SLF001
        is_idle=soak.loaded.engine.scheduler.idle,
        growth=sum(sizes[-third:]) / sum(sizes[third : 2 * third] or sizes[:third]) - 1,
        wrong={what: count for what, count in soak.seen.items() if what.startswith("WRONG")},
    )
    typer.echo(
        f"stuck {found.stuck}, hooks left {found.hooks}, idle {found.is_idle}, memory {found.growth:+.1%}, wrong {found.wrong}"
    )
    return found
