"""What the guard costs an agent: seconds and checkpoint bytes a turn of a long thread, and how long it holds the event loop.

The same thread goes through an agent with the guard and through one without it, turn by turn, so that a neighbour's load falls on
both. Model and judge answer at once: everything that is measured is the guard's own work, and LangGraph's.
"""

from __future__ import annotations

import asyncio
import base64
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image
from rich.progress import track

from langchain_vlmguard import Rewrite, VLMGuardMiddleware
from langchain_vlmguard.files import read_json, write_json
from langchain_vlmguard.verdict.records import Json  # noqa: TC001 - tools' annotations are read
from vlmguard_lab.bench import page
from vlmguard_lab.bench.loop_watch import watched
from vlmguard_lab.facts import run_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig


RESULTS, PAGE = page.AGENTS, page.DOCS / "agents.md"
FEW = 10
"""Turns at either end of the thread that are compared."""

AGAIN = 3
"""Runs of everything that is timed; the best counts."""

_THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}
_LONG = "a harmless sentence about kites and the wind . " * 1_500


def run(turns: int) -> None:
    """Measure, write the results beside what others keep in the same file, and the table."""
    facts = run_facts("langchain", "langgraph")
    found = {**thread_cost(turns), **asyncio.run(loop_cost()), "photographs": photograph_cost(), **facts}
    known = read_json(RESULTS) if RESULTS.is_file() else {}
    write_json(RESULTS, {**known, **found})
    page.place(PAGE, {"agents": table(found)})


class AtOnce(Runnable[Any, Rewrite]):
    """A judge that lets everything pass."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Rewrite:  # noqa: A002, ARG002 - the interface's
        """Judge."""
        return Rewrite(threats=[], intent="to fly a kite", action="allow", risk=0.0)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Rewrite:  # noqa: A002
        """Judge on the event loop."""
        return self.invoke(input, config)


_DONE = "Your kite is ordered: it will come tomorrow morning."


class Scripted(BaseChatModel):
    """Calls tools, one after the other, and then answers."""

    calls: list[Json]
    answer: str = _DONE

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, AIMessage]:
        """Take tools."""
        return self.bind(tools=[convert_to_openai_tool(one) for one in tools])

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        since = next(at for at, one in enumerate(reversed(messages)) if isinstance(one, HumanMessage))
        called = sum(isinstance(one, ToolMessage) for one in messages[len(messages) - since :])
        said = AIMessage(self.answer)
        if called < len(self.calls):
            said = AIMessage("", tool_calls=[{**self.calls[called], "id": f"{len(messages)}", "type": "tool_call"}])
        return ChatResult(generations=[ChatGeneration(message=said)])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


@tool
def order(item: str) -> str:
    """Order an item."""
    return f"ordered {item}: the wind will be good and the string is long"


@tool
def photograph(number: int) -> list[Json]:
    """Take a photograph."""
    return [a_photograph(number)]


_ORDER: Json = {"name": "order", "args": {"item": "a kite"}}


def agent(calls: list[Json], *, guarded: bool, saver: InMemorySaver | None = None, answer: str = _DONE) -> Any:
    """Return an agent, with the guard or without it."""
    model = Scripted(calls=calls, answer=answer)
    middleware = [VLMGuardMiddleware(AtOnce())] if guarded else []
    return create_agent(model, [order, photograph], middleware=middleware, checkpointer=saver)


def thread_cost(turns: int) -> Json:
    """Return what the first and the last turns of a thread cost, and what of it is the guard's."""
    runs = [one_thread(turns, number) for number in range(AGAIN)]
    both = {}
    for name in ("unguarded", "guarded"):
        seconds = [min(one[name][0][turn] for one in runs) for turn in range(turns)]
        both[name] = _ends(seconds, runs[0][name][1])
    own = {key: round(both["guarded"][key] - both["unguarded"][key], 3) for key in both["guarded"]}
    return {"turns": turns, **own, **both}


def one_thread(turns: int, number: int) -> dict[str, tuple[list[float], list[int]]]:
    """Return the seconds of each turn and the bytes written after it, without the guard and with it."""
    savers = {name: InMemorySaver() for name in ("unguarded", "guarded")}
    agents = {name: agent([_ORDER], guarded=name == "guarded", saver=saver) for name, saver in savers.items()}
    found: dict[str, tuple[list[float], list[int]]] = {name: ([], [0]) for name in agents}
    for turn in track(range(turns), f"thread {number + 1} of {AGAIN}"):
        for name, graph in agents.items():
            started = time.process_time()
            graph.invoke({"messages": [HumanMessage(f"please order a kite for me, number {turn}")]}, _THREAD)
            found[name][0].append(time.process_time() - started)
            found[name][1].append(_written(savers[name]))
    return found


def _ends(seconds: list[float], written: list[int]) -> Json:
    return {
        "seconds_first_10": round(sum(seconds[:FEW]), 3),
        "seconds_last_10": round(sum(seconds[-FEW:]), 3),
        "checkpoint_bytes_per_turn_first_10": (written[FEW] - written[0]) // FEW,
        "checkpoint_bytes_per_turn_last_10": (written[-1] - written[-1 - FEW]) // FEW,
    }


def _written(saver: InMemorySaver) -> int:
    """Return the bytes of everything that a checkpointer keeps: versions of channels, writes, checkpoints."""
    blobs = sum(len(data) for _, data in saver.blobs.values())
    writes = sum(len(one[2][1]) for task in saver.writes.values() for one in task.values())
    kept = [one for spaces in saver.storage.values() for space in spaces.values() for one in space.values()]
    return blobs + writes + sum(len(point[1]) + len(about[1]) for point, about, _ in kept)


async def loop_cost() -> Json:
    """Return the longest that the loop was held: by photographs, by long texts and by a long thread, guarded and not."""
    longest: Json = {}
    for name in ("unguarded", "guarded"):
        scenes = [await held(*scene, guarded=name == "guarded") for scene in loop_scenes()]
        longest[name] = round(max(scenes), 1)
    return {"longest_loop_block_ms": longest["guarded"], "longest_loop_block_ms_unguarded": longest["unguarded"]}


async def held(calls: list[Json], given: list[BaseMessage], answer: str, *, guarded: bool) -> float:
    """Return the longest stretch of the best of some runs: what a collection of garbage takes is nobody's."""
    graph = agent(calls, guarded=guarded, answer=answer)
    stretches = []
    for _ in range(AGAIN):
        async with watched() as watch:
            await graph.ainvoke({"messages": given})
        stretches.append(watch.computed_ms)
    return min(stretches)


def loop_scenes() -> list[tuple[list[Json], list[BaseMessage], str]]:
    """Return what is called, asked and answered: about photographs, in long texts, at the end of a long thread."""
    old: list[BaseMessage] = []
    for number in range(500):
        call = {**_ORDER, "id": f"{number}", "type": "tool_call"}
        said = AIMessage("", tool_calls=[call])
        old += [HumanMessage("hello"), said, ToolMessage("ordered", tool_call_id=f"{number}"), AIMessage("done")]
    pictures: list[Any] = [*map(a_photograph, range(6)), {"type": "text", "text": "what is this?"}]
    looks: Json = {"name": "photograph", "args": {"number": 7}}
    return [
        ([_ORDER, looks], [HumanMessage(pictures)], _DONE),
        ([{"name": "order", "args": {"item": _LONG}}], [HumanMessage(_LONG)], _LONG),
        ([_ORDER], [*old, HumanMessage("order a kite")], _DONE),
    ]


def photograph_cost() -> Json:
    """Return the seconds that a further model call costs beside six photographs that were judged before."""
    given = [HumanMessage([*map(a_photograph, range(6)), {"type": "text", "text": "what is this?"}])]
    return {
        "pictures": 6,
        "megapixels_each": 6,
        "seconds_a_further_call": _further_call(given, guarded=True),
        "seconds_a_further_call_unguarded": _further_call(given, guarded=False),
    }


def _further_call(given: list[HumanMessage], *, guarded: bool, calls: int = 16) -> float:
    took = {}
    for number in (0, 0, calls):  # the first run judges the photographs
        graph = agent([_ORDER] * number, guarded=guarded)
        started = time.process_time()
        graph.invoke({"messages": given})
        took[number] = time.process_time() - started
    return round((took[calls] - took[0]) / calls, 4)


def a_photograph(number: int) -> Json:
    """Return a photograph of phone size: noise, which JPEG cannot make small."""
    buffer = BytesIO()
    Image.effect_noise((3000, 2000), 60 + number).convert("RGB").save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image", "base64": encoded, "mime_type": "image/jpeg"}


def table(found: Json) -> str:
    """Return a line for the agent without the guard, one with it, and one for the difference."""
    head = ("", "first 10 turns", "last 10 turns", "checkpoint bytes a turn, first 10", "last 10")
    rows = []
    for name, one in (("unguarded", found["unguarded"]), ("guarded", found["guarded"]), ("the guard's own", found)):
        seconds = [f"{one[f'seconds_{end}_10']:.2f} s" for end in ("first", "last")]
        sizes = [f"{one[f'checkpoint_bytes_per_turn_{end}_10']:,.0f}" for end in ("first", "last")]
        rows.append((name, *seconds, *sizes))
    photos = found["photographs"]
    words = (
        f"A thread of {found['turns']} turns, each with a tool call. In the event loop nothing computed longer than "
        f"{found['longest_loop_block_ms']:g} ms at a stretch with the guard ({found['longest_loop_block_ms_unguarded']:g} ms "
        f"without it); {photos['pictures']} old photographs of {photos['megapixels_each']} megapixels cost a further model call "
        f"{photos['seconds_a_further_call'] * 1000:.0f} ms ({photos['seconds_a_further_call_unguarded'] * 1000:.0f} ms without "
        f"the guard; {found['date']}, {found['machine']})."
    )
    return f"{words}\n\n{page.table(head, rows)}"
