"""Flows and the two drivers that run them.

A flow is a generator: it yields what it wants done, is sent the result, and has errors raised inside it. `run` does each thing in
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
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langchain_vlmguard.guard.slots import MOST_AT_ONCE, task_slots, thread_slots

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.rewriting.report import Model

T = TypeVar("T")


@dataclass(frozen=True)
class Effect(Generic[T]):
    """Something to be done: how it is done in a thread, and how on the event loop."""

    do: Callable[[], T]
    ado: Callable[[], Awaitable[T]]


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


def ask(
    runnable: Model,
    messages: Sequence[BaseMessage],
    config: RunnableConfig,
    options: Mapping[str, Any] | None = None,
) -> Flow[Any]:
    """Ask a model, or anything else that answers messages."""
    given, more = list(messages), options or {}
    return (
        yield Effect(lambda: runnable.invoke(given, config, **more), lambda: runnable.ainvoke(given, config, **more))
    )


def work(compute: Callable[[], T]) -> Flow[T]:
    """Compute something: decode pictures, judge texts by a local model."""
    result: T = yield Effect(compute, lambda: asyncio.to_thread(compute))
    return result


def handle(handler: Callable[[Any], Any], request: Any) -> Flow[Any]:
    """Call a middleware's handler, which is a coroutine function on the event loop."""
    return (yield Effect(lambda: handler(request), lambda: handler(request)))


def together(flows: Sequence[Flow[T]], most: int = MOST_AT_ONCE) -> Flow[list[T]]:
    """Run flows at the same time; return what each returned, in their order.

    Args:
        flows: The flows.
        most: How many of them run at once, together with those of other groups in the same step of a graph run.
    """
    results: list[T] = yield Effect(lambda: _in_threads(flows, most), lambda: _as_tasks(flows, most))
    return results


def start(flow: Flow[T]) -> Flow[Started[T]]:
    """Start a flow and go on with a handle on it."""
    started: Started[T] = yield Effect(lambda: Started(_in_thread(flow)), lambda: _as_task(flow))
    return started


def wait(started: Started[T]) -> Flow[T]:
    """Return what a started flow returned."""
    future: Any = started.future
    result: T = yield Effect(future.result, lambda: future)
    return result


@dataclass(frozen=True)
class Started(Generic[T]):
    """A flow that runs."""

    future: Future[T] | asyncio.Task[T]

    def cancel(self) -> None:
        """Stop waiting for it. A task ends; a thread cannot be stopped, and its result is thrown away."""
        self.future.cancel()


def _in_threads(flows: Sequence[Flow[T]], most: int) -> list[T]:
    slots = thread_slots(most)

    def one(flow: Flow[T]) -> T:
        with slots:
            return run(flow)

    if len(flows) < 2:  # noqa: PLR2004 - one alone needs no thread
        return [one(flow) for flow in flows]
    with ThreadPoolExecutor(min(len(flows), most)) as pool:
        waiting = [pool.submit(copy_context().run, one, flow) for flow in flows]
        return [task.result() for task in waiting]


async def _as_tasks(flows: Sequence[Flow[T]], most: int) -> list[T]:
    slots = task_slots(most)

    async def one(flow: Flow[T]) -> T:
        async with slots:
            return await arun(flow)

    return list(await asyncio.gather(*map(one, flows)))


def _in_thread(flow: Flow[T]) -> Future[T]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(copy_context().run, run, flow)
    pool.shutdown(wait=False)
    return future


async def _as_task(flow: Flow[T]) -> Started[T]:
    task = asyncio.create_task(arun(flow))
    # An error that nobody waits for is looked at, so that asyncio does not log it.
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return Started(task)
