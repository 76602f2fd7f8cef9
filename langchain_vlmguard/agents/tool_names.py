"""What tools are called, in every form in which an agent takes them: objects, functions, dicts, names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from langchain_core.tools import BaseTool

NamedTool = str | BaseTool | Callable[..., object] | Mapping[str, object]
"""A tool, or its name."""


def tool_name(tool: NamedTool) -> str:
    """Return a tool's name; a hosted tool without one is called by its type.

    Raises:
        TypeError: It is no tool.
    """
    if isinstance(tool, str):
        return tool
    if isinstance(tool, Mapping):
        function = tool.get("function")
        inner = function.get("name") if isinstance(function, Mapping) else None
        return str(tool.get("name") or inner or tool.get("type"))
    name = tool.name if isinstance(tool, BaseTool) else getattr(tool, "__name__", None)
    if not isinstance(name, str):
        msg = f"a tool, or the name of one, is expected, not {type(tool).__name__}"
        raise TypeError(msg)
    return name


def names_of(tools: Sequence[NamedTool] | None) -> frozenset[str] | None:
    """Return the names of the tools that a guard is to check, `None` for all.

    Raises:
        TypeError: It is a tool or a name, and no list of them; or something in the list is no tool.
    """
    if tools is None:
        return None
    if isinstance(tools, str | BaseTool | Mapping) or callable(tools):
        msg = f"tools must be a list of tools or names: write tools=[{tool_name(tools)!r}]"
        raise TypeError(msg)
    return frozenset(map(tool_name, tools))
