"""Hide a secret in something that the guard blocks, run a real agent, and look for it everywhere afterwards.

A case is drawn by a chooser: what is blocked, in which carrier the secret stands, by which door the run is watched. The judge
of these agents objects to "bomb", so a case that stands for words to be judged says "bomb" beside the secret in that carrier, and
nowhere else.
"""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import InjectedToolCallId, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel, Field

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.guard.chunks import whole_chunk
from tests import secret_places as places
from tests.agent_models import WordJudge, call, calling
from tests.secret_search import is_in

DOORS = ("stream", "astream", "v2", "v3")
MODES = ["values", "updates", "messages", "custom"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Dice:
    """Chooses at random, the same for the same seed."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def below(self, bound):
        return self._random.randrange(bound)

    def one_of(self, choices):
        return choices[self.below(len(choices))]


@dataclass(frozen=True)
class Case:
    """What is tried."""

    kind: str
    place: str
    door: str
    modes: tuple
    exit_behavior: str
    streams: bool
    goes_on: bool
    """Whether another request follows; one always does where a person's words were blocked."""

    secret: str

    @classmethod
    def drawn(cls, chooser):
        """Draw a case."""
        kind, place = chooser.one_of(PLACES)
        secret = "qz" + "".join(chooser.one_of(LETTERS) for _ in range(16))
        door, exits = chooser.one_of(DOORS), chooser.one_of(("end", "replace"))
        modes = MODES if chooser.below(4) else [*MODES, "debug"]
        return cls(kind, place, door, tuple(modes), exits, bool(chooser.below(2)), chooser.below(3) == 0, secret)

    @property
    def name(self):
        return f"{self.kind}: {self.place}"


class Order(BaseModel):
    """A structured answer."""

    item: str


class ScriptedModel(BaseChatModel):
    """Says what the case says first, and after a tool's result or a later request only "fine"."""

    first: Any = None
    later: str = "fine"
    streams: bool = False
    seen: list = Field(default_factory=list)

    @property
    def _llm_type(self):
        return "scripted"

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(tools=[convert_to_openai_tool(one) for one in tools])

    def _said(self, messages):
        self.seen.append(list(messages))
        return self.first.model_copy() if len(self.seen) == 1 and self.first is not None else AIMessage(self.later)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self._said(messages))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        said = self._said(messages)
        chunk = ChatGenerationChunk(message=said if hasattr(said, "tool_call_chunks") else whole_chunk(said))
        if run_manager:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _should_stream(self, **kwargs):
        return self.streams and super()._should_stream(**kwargs)


@dataclass
class Scene:
    """An agent whose model and tools do what a case says."""

    graph: Any
    model: ScriptedModel
    saver: InMemorySaver
    judge: WordJudge
    tools: dict

    def clear(self):
        for kept in (self.saver.storage, self.saver.writes, self.saver.blobs, self.model.seen, self.judge.seen):
            kept.clear()
        self.model.first, self.model.streams = None, False


@cache
def scene(exit_behavior, structured):
    """Return an agent, made once."""
    does = {}

    @tool
    def order(item: str, how: Any = None) -> str:
        """Order an item."""
        return f"ordered a {item}"

    @tool
    def fetch(call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Fetch something."""
        return does["fetch"](call_id)

    model, judge, saver = ScriptedModel(later='{"item": "kite"}'), WordJudge(), InMemorySaver()
    how = {"tool": ToolStrategy(Order), "provider": ProviderStrategy(Order), None: None}[structured]
    guard = VLMGuardMiddleware(judge, exit_behavior=exit_behavior)
    graph = create_agent(model, [order, fetch], middleware=[guard], checkpointer=saver, response_format=how)
    return Scene(graph, model, saver, judge, does)


def hunt(case):
    """Run a case; return where its secret was found, and whether anything was blocked."""
    kind = KINDS[case.kind]
    on = scene(case.exit_behavior, kind.structured.get(case.place))
    on.clear()
    request = HumanMessage("hello")
    prepared = kind.prepare(case, on)
    request = prepared if isinstance(prepared, HumanMessage) else request
    on.model.streams = case.streams
    thread = {"configurable": {"thread_id": case.secret[:1]}}
    shown = watch(on.graph, {"messages": [request]}, thread, case)
    state = on.graph.get_state(thread).values
    if case.goes_on or kind.by_person:
        on.graph.invoke({"messages": [HumanMessage("and now?")]}, thread)
    blocked = [one for one in state["verdicts"] if one["verdict"]["action"] == "refuse"]
    looked = {"the model's requests": on.model.seen}
    if not kind.by_person:
        looked |= {"the state": state, "checkpoints": _kept(on.saver), **shown}
    else:  # docs/agents.md says where a person's own words stay
        looked |= {name: said for name, said in shown.items() if name in ("updates", "messages", "custom")}
        looked |= {} if case.exit_behavior == "end" else {"the state": state}
    return [name for name, value in looked.items() if is_in(case.secret, value)], bool(blocked)


def watch(graph, given, thread, case):
    """Run a graph by a door; return what it showed, by the name of the stream."""
    if case.door == "stream":
        return _by_mode(graph.stream(given, thread, stream_mode=list(case.modes)))
    if case.door == "v3":
        return {"v3 events": list(graph.stream_events(given, thread, version="v3"))}
    return _loop().run(_awatch(graph, given, thread, case))


@cache
def _loop():
    return asyncio.Runner()


async def _awatch(graph, given, thread, case):
    if case.door == "astream":
        return _by_mode([part async for part in graph.astream(given, thread, stream_mode=list(case.modes))])
    return {"v2 events": [event async for event in graph.astream_events(given, thread, version="v2")]}


def _by_mode(parts):
    found = defaultdict(list)
    for mode, part in parts:
        found[mode].append(part)
    return dict(found)


def _kept(saver):
    return [
        dict(saver.blobs),
        {k: dict(v) for k, v in saver.writes.items()},
        [list(one.values()) for spaces in saver.storage.values() for one in spaces.values()],
    ]


@dataclass(frozen=True)
class Kind:
    """A kind of cases: their places, and how an agent is made ready for one."""

    places: tuple
    prepare: Any
    by_person: bool = False
    structured: dict = field(default_factory=dict)


def _bomb(case):
    return f"bomb {case.secret}"


def _says(message):
    def prepare(case, on):
        on.model.first = message(case)

    return prepare


def _beside_harm(case):
    """Return an answer that says something harmful in one carrier, and the secret in another one."""
    fields = {**places.BESIDE, **places.SILENT}[case.place](case.secret)
    beside = {**fields.get("additional_kwargs", {}), "note": "a bomb"}
    return places.answer({**fields, "additional_kwargs": beside})


def _returns(result):
    def prepare(case, on):
        on.model.first = calling(call("fetch", "call_1"))
        on.tools["fetch"] = result(case)

    return prepare


def _fails(case):
    def fail(call_id):
        raise {"ValueError": ValueError, "KeyError": KeyError, "OSError": OSError}[case.place](_bomb(case))

    return fail


COMMANDS = {
    "its message": lambda w, s: lambda i: Command(update={"messages": [ToolMessage(w, tool_call_id=i)]}),
    "a key beside its message": lambda w, s: (
        lambda i: Command(
            update={"messages": [ToolMessage("a bomb", tool_call_id=i)], "structured_response": {"says": s}}
        )
    ),
    "a key alone": lambda w, s: (
        lambda i: Command(
            update={"messages": [ToolMessage("done", tool_call_id=i)], "structured_response": {"says": w}}
        )
    ),
    "a second message": lambda w, s: (
        lambda i: Command(update={"messages": [ToolMessage("done", tool_call_id=i), HumanMessage(w)]})
    ),
    "an artifact in it": lambda w, s: (
        lambda i: Command(update={"messages": [ToolMessage("a bomb", tool_call_id=i, artifact={"says": s})]})
    ),
    "a list": lambda w, s: lambda i: [Command(update={"messages": [ToolMessage(w, tool_call_id=i)]})],
    "messages as tuples": lambda w, s: lambda i: Command(update=[("messages", [ToolMessage(w, tool_call_id=i)])]),
}


def _structured(case, on):
    words = {"item": _bomb(case)}
    on.model.first = {
        "tool": lambda: calling(call("Order", "call_1", **words)),
        "tool, wrong": lambda: calling(call("Order", "call_1", thing=_bomb(case))),
        "tool, twice": lambda: calling(call("Order", "1", **words), call("Order", "2", item="kite")),
        "provider": lambda: AIMessage('{"item": "' + _bomb(case) + '"}'),
        "provider, wrong": lambda: AIMessage('{"thing": "' + _bomb(case) + '"}'),
    }[case.place]()


STRUCTURED = {
    "tool": "tool",
    "tool, wrong": "tool",
    "tool, twice": "tool",
    "provider": "provider",
    "provider, wrong": "provider",
}
"""How structured answers are given, and by which strategy."""

_BESIDE_REQUESTS = (
    "a block beside",
    "additional_kwargs",
    "response_metadata",
    "a name",
    "fields of a text",
    "a picture's metadata",
)
KINDS = {
    "a block of an answer": Kind(
        tuple(places.BLOCKS), _says(lambda c: places.block_answer(places.BLOCKS[c.place](_bomb(c))))
    ),
    "beside an answer": Kind(tuple(places.BESIDE), _says(lambda c: places.answer(places.BESIDE[c.place](_bomb(c))))),
    "with a blocked answer": Kind(
        tuple(one for one in places.BESIDE if one not in places.MARKS) + tuple(places.SILENT),
        _says(_beside_harm),
    ),
    "a call": Kind(tuple(places.COPIES), _says(lambda c: places.COPIES[c.place](_bomb(c)))),
    "a result": Kind(tuple(places.RESULTS), _returns(lambda c: places.result(places.RESULTS[c.place](_bomb(c))))),
    "with a blocked result": Kind(
        tuple(places.BESIDE_RESULTS), _returns(lambda c: places.result(places.BESIDE_RESULTS[c.place](c.secret)))
    ),
    "an error": Kind(("ValueError", "KeyError", "OSError"), _returns(_fails)),
    "a Command": Kind(tuple(COMMANDS), _returns(lambda c: COMMANDS[c.place](_bomb(c), c.secret))),
    "a structured answer": Kind(tuple(STRUCTURED), _structured, structured=STRUCTURED),
    "a request": Kind(
        tuple(places.REQUESTS),
        lambda c, on: places.REQUESTS[c.place](c.secret if c.place in _BESIDE_REQUESTS else _bomb(c)),
        by_person=True,
    ),
}
PLACES = [(kind, place) for kind, one in KINDS.items() for place in one.places]
