"""Connections to an upstream that nobody would ever use or close again.

httpcore loses a connection whose request is cancelled after it was made and before it was used: its pool counts it as busy for
ever, and the socket stays open.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpcore
    import httpx

_A_WHILE = 2.0
"""Seconds after which a connection that was not used yet never will be: others are used at once."""

_UNUSED = ", NEW, Request Count: 0"


class LostConnections:
    """Finds and closes them, after a request was cancelled."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        """Look after a transport's connections."""
        self._pool = transport._pool  # noqa: SLF001 - httpx shows no pool
        self._looking: asyncio.Task[None] | None = None
        self._again = False

    def look(self) -> None:
        """Look in a while, on the running loop."""
        self._again = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        while self._again:
            self._again = False
            before = self._unused
            await asyncio.sleep(_A_WHILE)
            for one in self._unused:
                if any(one is known for known in before):
                    await one.aclose()

    @property
    def _unused(self) -> list[httpcore.AsyncConnectionInterface]:
        return [one for one in self._pool.connections if one.info().endswith(_UNUSED)]
