"""Whatever holds a guard, as something that can be asked and gives verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_vlmguard.agents.middleware import VLMGuardMiddleware
from langchain_vlmguard.faces.chat_model import GuardedChatModel
from langchain_vlmguard.faces.node import VLMGuardNode
from langchain_vlmguard.guard.parts import GuardParts
from langchain_vlmguard.verdict.records import Json  # noqa: TC001 - the graph reads the annotations

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.messages import BaseMessage


_TOOL, _CITY = "weather", {"city": "Lisbon"}
_ASKED = "What is the weather in Lisbon?"
TOOL_PROBE: list[BaseMessage] = [
    HumanMessage(_ASKED),
    AIMessage("", tool_calls=[{"name": _TOOL, "args": _CITY, "id": "probe-1", "type": "tool_call"}]),
    ToolMessage("It is sunny.", tool_call_id="probe-1", name=_TOOL),
]
"""A request, a call of a tool and its result."""


@dataclass(frozen=True)
class Asker:
    """Something that can be asked."""

    said: str
    """What it is, in words."""

    ask: Callable[[list[BaseMessage]], list[Json]]
    """Sends a conversation through and returns the verdicts that came out."""


class GuardState(MessagesState):
    """State of the graph around a node."""

    verdict: Json


def asker_of(guard: Any) -> Asker:
    """Return whatever holds a guard as something that can be asked.

    Raises:
        TypeError: It is nothing that holds a guard.
    """
    if isinstance(guard, VLMGuardMiddleware):
        return Asker("a middleware, in an agent with a model of the doctor's own", lambda m: _agent_asked(guard, m))
    if isinstance(guard, GuardParts):
        return asker_of(VLMGuardMiddleware(guard))
    if isinstance(guard, GuardedChatModel):
        return Asker("a guarded chat model", lambda m: [guard.invoke(m).response_metadata["verdict"]])
    if isinstance(guard, VLMGuardNode):
        graph = StateGraph(GuardState)
        graph.add_node("guard", guard)
        graph.add_edge(START, "guard")
        graph.add_edge("guard", END)
        return Asker(
            "a node, in a graph of the doctor's own", lambda m: _graph_asked(graph.compile(InMemorySaver()), m)
        )
    if hasattr(guard, "compile") and hasattr(guard, "add_node"):
        guard = guard.compile(InMemorySaver())
    if hasattr(guard, "get_graph") and hasattr(guard, "stream_mode"):
        return Asker("a compiled graph; its own models are asked", lambda m: _graph_asked(guard, m))
    if callable(guard) and not isinstance(guard, type):
        return asker_of(guard())
    found = guard.__name__ if isinstance(guard, type) else type(guard).__name__
    msg = (
        f"the doctor examines a Guard, VLMGuardMiddleware, VLMGuardNode, GuardedChatModel or graph, "
        f"or a function that returns one, not {found}"
    )
    raise TypeError(msg)


def _graph_asked(graph: Any, messages: list[BaseMessage]) -> list[Json]:
    state = graph.invoke({"messages": messages}, {"configurable": {"thread_id": str(uuid4())}})
    waiting = [one.value["verdict"] for one in state.get("__interrupt__", ()) if "verdict" in one.value]
    checks = [record["verdict"] for record in state.get("verdicts") or ()]
    return [one for one in (*checks, state.get("verdict"), *waiting) if one]


def _agent_asked(guard: VLMGuardMiddleware, messages: list[BaseMessage]) -> list[Json]:
    """Ask an agent whose model calls a tool if the conversation begins with the tool's probe, and the tool really runs."""
    names = sorted(guard.checked_tools or {_TOOL})
    tools = [StructuredTool.from_function(_weather, name=name, description="Says the weather.") for name in names]
    agent: Any = create_agent(Told(tool=names[0]), tools, middleware=[guard], checkpointer=InMemorySaver())
    return _graph_asked(agent, messages[:1])


def _weather(city: str) -> str:
    """Say the weather of a city."""
    return f"It is sunny in {city}."


class Told(BaseChatModel):
    """The doctor's own model: it calls the tool when asked for the weather, and says something harmless."""

    tool: str = _TOOL

    @property
    def _llm_type(self) -> str:
        return "vlmguard-doctor"

    def bind_tools(self, tools: object, **_: object) -> Self:  # noqa: ARG002 - it knows its tool
        """Return the model as it is."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: object, **__: object) -> ChatResult:
        last = messages[-1]
        message = AIMessage("That is an easy one. Here is what you asked for.")
        if isinstance(last, HumanMessage) and last.text == _ASKED:
            message = AIMessage(
                "", tool_calls=[{"name": self.tool, "args": _CITY, "id": "probe-1", "type": "tool_call"}]
            )
        return ChatResult(generations=[ChatGeneration(message=message)])
