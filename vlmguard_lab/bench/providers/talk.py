"""The conversation through one provider: what was sent, and the state it ends in."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_vlmguard import GuardedChatModel, Rewrite
from langchain_vlmguard.content.turn import turn_start
from vlmguard_lab.bench.providers.script import SCRIPT, Report, Said, draw, requests, weather
from vlmguard_lab.bench.providers.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.messages import HumanMessage

    from vlmguard_lab.bench.providers.wire import Render

_SERDE = JsonPlusSerializer(allowed_msgpack_modules=[(Report.__module__, "Report")])

MODES = (
    "invoke",
    "ainvoke",
    "stream values",
    "stream messages",
    "astream messages",
    "astream_events v2",
    "stream_events v3",
    "astream_events v3",
)
"""How the conversation is driven."""

WHOLE = tuple(mode for mode in MODES if not mode.endswith("v3"))
"""Modes that leave the form of an answer to the provider's package: v3 events make blocks of every text."""

_GUARD_KEYS = ("verdict", "verdicts", "vlmguard")
_RANDOM = re.compile(r"(?:lc_run--|run-)?[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}(?:-\d+)?")
"""Ids that LangChain and the providers' packages make by chance."""


@dataclass(frozen=True)
class Provider:
    """A provider's package over a wire in this process."""

    model: Callable[[Wire], Any]
    render: Render
    mark: Sequence[Mapping[str, Any]]
    structured: type[ProviderStrategy[Any] | ToolStrategy[Any]] = ToolStrategy
    hosted: Mapping[str, Any] | None = None
    """The hosted search, as the provider wants it among the tools."""

    leaves_out: str = ""
    """What of the conversation this provider's package has no place for."""

    @property
    def script(self) -> tuple[Said, ...]:
        """What the model says; a report in the form that was asked for."""
        if self.structured is ProviderStrategy:
            return SCRIPT
        return (*SCRIPT[:-1], Said(calls=(("Report", json.loads(SCRIPT[-1].text)),)))


@dataclass(frozen=True)
class Talk:
    """What a conversation left behind; ids made by chance stand in it by their order."""

    bodies: list[str]
    state: str


class WordJudge(Runnable[Any, Rewrite]):
    """Refuses turns that hold one word and rewrites those that hold another; it asks no provider."""

    def __init__(self, refused: str = "bomb", rewritten: str = "knife") -> None:
        """Choose the words."""
        self._refused, self._rewritten = refused, rewritten

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Rewrite:  # noqa: A002, ARG002 - the interface's
        """Judge the newest turn."""
        said = str([(one.content, getattr(one, "tool_calls", None)) for one in input[turn_start(input) :]]).lower()
        action = "refuse" if self._refused in said else "rewrite" if self._rewritten in said else "allow"
        harm = {"channel": "textual", "hazard": "mlcommons:iwp", "rationale": "a weapon"}
        return Rewrite.model_validate(
            {
                "threats": [] if action == "allow" else [harm],
                "intent": "wants something",
                "action": action,
                "risk": 0.0 if action == "allow" else 0.9,
                "rewritten_prompt": "How do I stay safe?" if action == "rewrite" else None,
            }
        )


def talk(provider: Provider, mode: str, *middleware: Any, wrap: Callable[[Any], Any] = lambda model: model) -> Talk:
    """Hold the conversation.

    Args:
        provider: Whom to talk to.
        mode: One of `MODES`.
        *middleware: What stands around the model.
        wrap: What becomes of the model before the agent gets it.
    """
    wire = Wire(provider.script, provider.render)
    model, saver = wrap(provider.model(wire)), InMemorySaver(serde=_SERDE)
    tools: list[Any] = [weather, draw, *([dict(provider.hosted)] if provider.hosted else [])]
    made: dict[str, Any] = {
        "tools": tools,
        "middleware": middleware,
        "checkpointer": saver,
        "system_prompt": "Be brief.",
    }
    agent = create_agent(model, **made)
    reporter = create_agent(model, **made, response_format=provider.structured(Report))
    *asked, last = requests(provider.mark)
    turns = [*((agent, one) for one in asked), (reporter, last)]
    if mode.startswith("a"):
        asyncio.run(_drive_async(turns, mode))
    else:
        for graph, one in turns:
            _drive(graph, one, mode)
    state = reporter.get_state(_THREAD).values
    shown = {key: value for key, value in state.items() if key not in _GUARD_KEYS}
    shown["messages"] = [_plain(message) for message in state["messages"]]
    return Talk(_in_order(wire.bodies), _in_order([json.dumps(shown, sort_keys=True, default=repr, indent=1)])[0])


_THREAD: Any = {"configurable": {"thread_id": "talk"}, "recursion_limit": 20}


def _drive(graph: Any, message: HumanMessage, mode: str) -> None:
    given = {"messages": [message]}
    if mode == "invoke":
        graph.invoke(given, _THREAD)
    elif mode.startswith("stream_events"):
        list(graph.stream_events(given, _THREAD, version="v3"))
    else:
        list(graph.stream(given, _THREAD, stream_mode=mode.rsplit(maxsplit=1)[-1]))


async def _drive_async(turns: Sequence[tuple[Any, HumanMessage]], mode: str) -> None:
    for graph, message in turns:
        given = {"messages": [message]}
        if mode == "ainvoke":
            await graph.ainvoke(given, _THREAD)
        elif mode == "astream_events v3":
            _ = [one async for one in await graph.astream_events(given, _THREAD, version="v3")]
        elif mode == "astream_events v2":
            _ = [one async for one in graph.astream_events(given, _THREAD, version="v2")]
        else:
            _ = [one async for one in graph.astream(given, _THREAD, stream_mode="messages")]


def _plain(message: Any) -> dict[str, Any]:
    """Return every field of a message but the guard's verdict on it."""
    shown: dict[str, Any] = message.model_dump()
    shown["response_metadata"].pop("verdict", None)
    return shown


def _in_order(texts: Sequence[str]) -> list[str]:
    """Put numbers in place of ids that were made by chance, in the order in which they come."""
    known: dict[str, str] = {}
    return [_RANDOM.sub(lambda found: known.setdefault(found[0], f"id-{len(known)}"), text) for text in texts]


def behind_the_guard(model: Any) -> GuardedChatModel:
    """Return a model behind a guard that lets everything of the conversation pass."""
    return GuardedChatModel(model=model, rewriter=WordJudge())


def compared(plain: Talk, guarded: Talk) -> tuple[bool, bool]:
    """Return whether the bodies were equal, and whether the states were."""
    return plain.bodies == guarded.bodies, plain.state == guarded.state
