"""A tool whose raw result reaches no stream: its end is told when the result was judged."""

from __future__ import annotations

import asyncio
import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig  # noqa: TC002 - pydantic reads the annotations
from langchain_core.tools import BaseTool
from pydantic import SkipValidation  # noqa: TC002

from langchain_vlmguard.guard.effects import Effect
from langchain_vlmguard.guard.streams import streams_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from uuid import UUID

    from langchain_core.callbacks import BaseCallbackHandler

    from langchain_vlmguard.guard.effects import Flow

    Teller = Callable[..., object]
    Twins = dict[int, BaseCallbackHandler]

_DELTA = "tool-output-delta"


class HeldEnds:
    """How a tool's run ended, for every stream that wants to know."""

    def __init__(self) -> None:
        """Start before the run."""
        self.run: UUID | None = None
        self._ends: list[tuple[BaseCallbackHandler, dict[str, object]]] = []

    def started(self, run: UUID) -> None:
        """Take the first run that starts for the tool's own; runs inside it are told as they end."""
        self.run = self.run or run

    def ended(self, handler: BaseCallbackHandler, about: dict[str, object]) -> None:
        """Keep the end of the tool's own run for later."""
        self._ends.append((handler, about))

    def tell(self, output: object = None, error: BaseException | None = None) -> Flow[None]:
        """Tell the streams what was let out, or the error that was."""
        ends, self._ends = self._ends, []
        name, said = ("on_tool_end", output) if error is None else ("on_tool_error", error)
        for handler, about in ends:
            told = partial(getattr(handler, name), said, **about)
            if asyncio.iscoroutinefunction(getattr(handler, name)):
                yield Effect(partial(_in_a_loop, told), told)
            else:
                told()


class QuietTool(BaseTool):
    """The same tool, not a copy of it: what it counts and remembers stays its own."""

    inner: SkipValidation[BaseTool]
    held: SkipValidation[HeldEnds]

    @classmethod
    def of(cls, tool: BaseTool, held: HeldEnds) -> QuietTool:
        """Wrap a tool."""
        return cls(name=tool.name, description=tool.description, args_schema=tool.args_schema, inner=tool, held=held)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - the interface's name
        """Run the tool."""
        return self.inner.invoke(input, self._quiet(config), **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run the tool on the event loop."""
        return await self.inner.ainvoke(input, self._quiet(config), **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the tool."""
        return self.inner._run(*args, **kwargs)  # noqa: SLF001 - the inner tool of the same interface

    def _quiet(self, config: RunnableConfig | None) -> RunnableConfig | None:
        if config is None:
            return None
        callbacks: Any = config.get("callbacks")
        twins: Twins = {id(one): _twin(one, self.held) for one in streams_of(callbacks)}
        if not twins:
            return config
        quiet = copy.copy(config)
        if isinstance(callbacks, list):
            quiet["callbacks"] = _swapped(callbacks, twins)
            return quiet
        manager = callbacks.copy()
        manager.handlers = _swapped(manager.handlers, twins)
        manager.inheritable_handlers = _swapped(manager.inheritable_handlers, twins)
        quiet["callbacks"] = manager
        return quiet


def _in_a_loop(told: Callable[[], Coroutine[object, object, object]]) -> None:
    asyncio.run(told())


def _swapped(handlers: list[BaseCallbackHandler], twins: Twins) -> list[BaseCallbackHandler]:
    return [twins.get(id(one), one) for one in handlers]


def _twin(handler: BaseCallbackHandler, held: HeldEnds) -> BaseCallbackHandler:
    """Return a handler of the same streams that keeps the end of the tool's own run for later."""
    twin: Any = object.__new__(type(handler))  # an event stream's own `copy` returns itself
    vars(twin).update(vars(handler))

    def begin(*args: Any, run_id: UUID, **kwargs: Any) -> Any:
        held.started(run_id)
        return type(handler).on_tool_start(twin, *args, run_id=run_id, **kwargs)

    async def abegin(*args: object, run_id: UUID, **kwargs: object) -> object:
        return await begin(*args, run_id=run_id, **kwargs)

    twin.on_tool_start = abegin if asyncio.iscoroutinefunction(handler.on_tool_start) else begin
    for name in ("on_tool_end", "on_tool_error"):
        setattr(twin, name, _held_back(getattr(handler, name), handler, held))
    if hasattr(twin, "stream"):
        twin.stream = _without_deltas(twin.stream)
    shared: BaseCallbackHandler = twin
    return shared


def _held_back(tell: Teller, handler: BaseCallbackHandler, held: HeldEnds) -> Teller:
    def end(said: object, *, run_id: UUID, **about: object) -> Any:
        if run_id != held.run:
            return tell(said, run_id=run_id, **about)
        held.ended(handler, {"run_id": run_id, **about})
        return None

    async def aend(said: object, *, run_id: UUID, **about: object) -> object:
        told = end(said, run_id=run_id, **about)
        return None if told is None else await told

    return aend if asyncio.iscoroutinefunction(tell) else end


def _without_deltas(send: Callable[[object], None]) -> Callable[[object], None]:
    """Return what sends everything but parts of a result that is not judged yet."""

    def quiet(chunk: object) -> None:
        payload = chunk[-1] if isinstance(chunk, tuple) and chunk else None
        if not (isinstance(payload, dict) and payload.get("event") == _DELTA):
            send(chunk)

    return quiet
