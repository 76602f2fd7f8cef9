"""Requests at work: a bounded queue, slots, deadlines, clients that leave, and the end of the server.

Every request has one owner, `Jobs.run`. A slot is free again when its work has truly ended, whatever ended it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from langchain_vlmguard.serving.http_errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import Receive

    from langchain_vlmguard.serving.config import Limits
    from langchain_vlmguard.serving.guard_loop import GuardLoop

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client left; nobody waits for an answer."""


@dataclass(frozen=True)
class _Ends:
    """What ends a wait, whatever is waited for."""

    gone: asyncio.Future[None]
    """The client has left."""

    over: asyncio.Future[None]
    """The server ends."""

    at: float
    """On the loop's clock."""


class Jobs:
    """Runs the work of requests on the guard's loop, so many at a time. It belongs to the server's loop."""

    def __init__(self, limits: Limits, guard_loop: GuardLoop) -> None:
        """Take the limits."""
        self._limits, self._guard_loop = limits, guard_loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.running = 0
        self._reading = 0
        self.is_draining = False
        """Whether new work is refused."""

        self._over = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    async def run(self, make: Callable[[], Awaitable[T]], receive: Receive | None, seconds: float) -> T:
        """Run the work of one request.

        Args:
            make: Begins the work, on the guard's loop.
            receive: Tells when the client leaves, once the body was read.
            seconds: From now to the end.

        Raises:
            HttpError: There is no room, the time is up, or the server ends.
            ClientGoneError: The client left.
        """
        self.check_open()
        if self.running >= self._limits.at_once and self.waiting >= self._limits.queue:
            raise self._full()
        at = asyncio.get_running_loop().time() + seconds
        ends = _Ends(asyncio.ensure_future(_left(receive)), asyncio.ensure_future(_happens(self._over)), at)
        try:
            await self._take_slot(ends)
            return await self._work(make, ends)
        finally:
            ends.gone.cancel()
            ends.over.cancel()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a body that is read as long as the block runs: bodies take memory before they take a slot.

        Raises:
            HttpError: As many are read already as could run and wait.
        """
        if self._reading >= self._limits.at_once + self._limits.queue:
            raise self._full()
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def check_open(self) -> None:
        """Refuse new work once the server ends.

        Raises:
            HttpError: It ends.
        """
        if self.is_draining:
            raise self._ends()

    async def drain(self, seconds: float) -> None:
        """Let what runs finish; after some seconds, end what is left with an error."""
        self.is_draining = True
        end = asyncio.get_running_loop().time() + seconds
        while (self.running or self.waiting) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - once in a life
            await asyncio.sleep(0.02)
        self._over.set()

    async def _take_slot(self, ends: _Ends) -> None:
        if self.running < self._limits.at_once:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await self._first(turn, ends)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._free_slot()  # it was given to us, and nobody uses it
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(turn)

    def _free_slot(self) -> None:
        """Give a slot to whoever waits longest, or put it back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    async def _work(self, make: Callable[[], Awaitable[T]], ends: _Ends) -> T:
        loop = asyncio.get_running_loop()

        def ended() -> None:
            with suppress(RuntimeError):  # the server's loop may be closed
                loop.call_soon_threadsafe(self._free_slot)

        work = asyncio.wrap_future(self._guard_loop.start(make, ended))
        try:
            await self._first(work, ends)
            return work.result()
        finally:
            work.cancel()

    async def _first(self, wanted: asyncio.Future[T], ends: _Ends) -> None:
        """Wait for one thing, unless the client leaves, the server ends or the time is up before."""
        left = max(0.0, ends.at - asyncio.get_running_loop().time())
        watched: set[asyncio.Future[T] | asyncio.Future[None]] = {wanted, ends.gone, ends.over}
        await asyncio.wait(watched, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return
        if ends.gone.done():
            raise ClientGoneError
        if ends.over.done():
            raise self._ends()
        msg = "the answer was not ready in time: try again later"
        raise HttpError(503, "deadline", msg, retry_after=self._limits.retry_after)

    def _full(self) -> HttpError:
        msg = "too many requests wait here already: try again later"
        return HttpError(429, "queue_full", msg, retry_after=self._limits.retry_after)

    def _ends(self) -> HttpError:
        msg = "this server is about to end: try again, at another one if there is one"
        return HttpError(503, "draining", msg, retry_after=self._limits.retry_after)


async def _happens(event: asyncio.Event) -> None:
    await event.wait()


async def _left(receive: Receive | None) -> None:
    """Return when the client has left."""
    if receive is None:
        await asyncio.Event().wait()
        return
    while (await receive())["type"] != "http.disconnect":
        pass
