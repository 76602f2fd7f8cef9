"""Suites as inspect_ai tasks: samples from items, and the solver that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ContentImage, ContentText
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolDef, ToolParams

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inspect_ai.model import ChatMessage, Content
    from inspect_ai.tool import Tool

    from vlmguard_lab.evaluation.suites.base import Item


def dataset(items: Iterable[Item], name: str) -> MemoryDataset:
    """Return items as samples; pictures stay files, so that logs hold no copies."""
    return MemoryDataset([sample(item) for item in items], name=name)


def sample(item: Item) -> Sample:
    """Return one item as a sample: the picture first, then the words."""
    pictures = [item.picture, *item.more_pictures] if item.picture else []
    shown: list[Content] = [ContentImage(image=str(path)) for path in pictures]
    facts = {"cell": item.cell, "harmful": item.harmful, "tools": list(item.tools), "reference": item.reference}
    message = ChatMessageUser(content=[*shown, ContentText(text=item.text)])
    told: list[ChatMessage] = [ChatMessageSystem(content=item.system)] if item.system else []
    return Sample(id=item.id, input=[*told, *_earlier(item), message], metadata=facts)


def _earlier(item: Item) -> list[ChatMessage]:
    turns = [(ChatMessageUser(content=asked), ChatMessageAssistant(content=said)) for asked, said in item.before]
    return [message for turn in turns for message in turn]


@solver
def ask() -> Solver:
    """Ask once, offering the item's tools; a tool call is the answer and is not carried out."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        offer_tools(state)
        return await generate(state, tool_calls="none")

    return solve


def offer_tools(state: TaskState) -> None:
    """Give the state the tools of its item."""
    state.tools = [_tool(one["function"]) for one in state.metadata.get("tools", [])]


def _tool(function: dict[str, Any]) -> Tool:
    async def never_run(**_arguments: Any) -> str:
        return ""

    parameters = ToolParams.model_validate(function["parameters"])
    return ToolDef(never_run, function["name"], function["description"], _described(parameters)).as_tool()


def _described(parameters: ToolParams) -> ToolParams:
    """Give every parameter a description, which inspect_ai insists on."""
    for name, one in parameters.properties.items():
        one.description = one.description or name
    return parameters
