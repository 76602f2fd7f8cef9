"""An event loop of its own, in a thread of its own, for all that guards: sockets, timers and health never wait for it."""

from __future__ import annotations

import asyncio
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import Future

T = TypeVar("T")


class GuardLoop:
    """Runs coroutines in its thread."""

    def __init__(self) -> None:
        """Start the thread."""
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, name="vlmguard", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self, make: Callable[[], Awaitable[T]], ended: Callable[[], None]) -> Future[T]:
        """Start work and return its result to come; cancelling that cancels the work.

        Args:
            make: Begins the work, on this loop.
            ended: Called from this loop when the work has truly ended, whatever ended it.
        """

        async def owned() -> T:
            try:
                return await make()
            finally:
                ended()

        work = owned()
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:  # the loop is closed
            work.close()
            ended()
            raise

    async def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine to its end."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def close(self) -> None:
        """Cancel what is left and end the thread."""
        if self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
