"""What a flow of the guard wants done, and the two drivers that do it.

A flow is a generator: it yields effects, is sent their results, and has their errors raised inside it. `run` does each effect in
the calling thread, `arun` on the event loop; the logic in between is written once.

??? example "One flow, two drivers"

    ```python
    def doubled(model, text) -> Flow[str]:
        answer = yield from ask(model, [HumanMessage(text)], config)
        return answer.text * 2


    run(doubled(model, "hi"))
    await arun(doubled(model, "hi"))
    ```
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableConfig

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MOST_AT_ONCE = 8
"""Flows of one group that run at the same time."""


class Effect(Protocol[T_co]):
    """Something to be done, with and without an event loop."""

    def do(self) -> T_co:
        """Do it in this thread."""

    async def ado(self) -> T_co:
        """Do it without blocking the event loop."""


Flow = Generator[Effect[Any], Any, T]
"""Yields effects and returns a `T`."""


def run(flow: Flow[T]) -> T:
    """Drive a flow in this thread."""
    try:
        effect = next(flow)
        while True:
            try:
                result = effect.do()
            except BaseException as error:  # noqa: BLE001 - the flow decides
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def arun(flow: Flow[T]) -> T:
    """Drive a flow on the event loop."""
    try:
        effect = next(flow)
        while True:
            try:
                result = await effect.ado()
            except BaseException as error:  # noqa: BLE001 - the flow decides
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Ask:
    """Ask a model, or anything else that answers messages."""

    runnable: Runnable[Any, Any]
    messages: Sequence[BaseMessage]
    config: RunnableConfig
    options: Mapping[str, Any] = field(default_factory=dict)

    def do(self) -> Any:
        """Invoke it."""
        return self.runnable.invoke(list(self.messages), self.config, **self.options)

    async def ado(self) -> Any:
        """Await it."""
        return await self.runnable.ainvoke(list(self.messages), self.config, **self.options)


@dataclass(frozen=True)
class Work(Generic[T]):
    """Compute something: decode pictures, judge texts by a local model."""

    compute: Callable[[], T]

    def do(self) -> T:
        """Compute it here."""
        return self.compute()

    async def ado(self) -> T:
        """Compute it in a thread."""
        return await asyncio.to_thread(self.compute)


@dataclass(frozen=True)
class Handle:
    """Call a middleware's handler, which is a coroutine function on the event loop."""

    handler: Callable[[Any], Any]
    request: Any

    def do(self) -> Any:
        """Call it."""
        return self.handler(self.request)

    async def ado(self) -> Any:
        """Await it."""
        return await self.handler(self.request)


@dataclass(frozen=True)
class Together(Generic[T]):
    """Run several flows at the same time, a bounded number of them."""

    flows: Sequence[Flow[T]]
    at_once: int = MOST_AT_ONCE

    def do(self) -> list[T]:
        """Run them in threads; one alone needs none."""
        if len(self.flows) < 2:  # noqa: PLR2004
            return [run(flow) for flow in self.flows]
        with ThreadPoolExecutor(min(len(self.flows), self.at_once)) as pool:
            waiting = [pool.submit(copy_context().run, run, flow) for flow in self.flows]
            return [one.result() for one in waiting]

    async def ado(self) -> list[T]:
        """Run them as tasks."""
        slots = asyncio.Semaphore(self.at_once)

        async def one(flow: Flow[T]) -> T:
            async with slots:
                return await arun(flow)

        return list(await asyncio.gather(*map(one, self.flows)))


@dataclass(frozen=True)
class Start(Generic[T]):
    """Start a flow and go on; what it returns can be waited for."""

    flow: Flow[T]

    def do(self) -> Started[T]:
        """Start it in a thread."""
        pool = ThreadPoolExecutor(1)
        future = pool.submit(copy_context().run, run, self.flow)
        pool.shutdown(wait=False)
        return Started(future)

    async def ado(self) -> Started[T]:
        """Start it as a task."""
        task = asyncio.create_task(arun(self.flow))
        task.add_done_callback(_retrieve)
        return Started(task)


@dataclass(frozen=True)
class Started(Generic[T]):
    """A flow that runs."""

    future: Future[T] | asyncio.Task[T]

    def cancel(self) -> None:
        """Stop waiting for it. A task ends; a thread cannot be stopped, and its result is thrown away."""
        self.future.cancel()


@dataclass(frozen=True)
class Wait(Generic[T]):
    """Wait for a flow that was started."""

    started: Started[T]

    def do(self) -> T:
        """Wait in this thread."""
        future: Any = self.started.future
        result: T = future.result()
        return result

    async def ado(self) -> T:
        """Wait on the event loop."""
        future: Any = self.started.future
        result: T = await future
        return result


def ask(
    runnable: Runnable[Any, Any],
    messages: Sequence[BaseMessage],
    config: RunnableConfig,
    options: Mapping[str, Any] | None = None,
) -> Flow[Any]:
    """Ask a runnable and return what it says."""
    return (yield Ask(runnable, messages, config, options or {}))


def work(compute: Callable[[], T]) -> Flow[T]:
    """Compute something and return it."""
    result: T = yield Work(compute)
    return result


def handle(handler: Callable[[Any], Any], request: Any) -> Flow[Any]:
    """Call a handler and return what it returns."""
    return (yield Handle(handler, request))


def together(flows: Sequence[Flow[T]]) -> Flow[list[T]]:
    """Run flows at the same time and return what each returned, in their order."""
    results: list[T] = yield Together(flows)
    return results


def start(flow: Flow[T]) -> Flow[Started[T]]:
    """Start a flow and return a handle on it."""
    started: Started[T] = yield Start(flow)
    return started


def wait(started: Started[T]) -> Flow[T]:
    """Return what a started flow returned."""
    result: T = yield Wait(started)
    return result


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at a task's error, so that asyncio does not log one that nobody waits for."""
    if not task.cancelled():
        task.exception()
