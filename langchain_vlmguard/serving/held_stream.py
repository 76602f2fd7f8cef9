"""An event stream whose answer is held until it was judged: our own timer keeps it alive, and it ends once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response

from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.serving.jobs import ClientGoneError
from langchain_vlmguard.serving.logs import log_error
from langchain_vlmguard.serving.sse import HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Receive, Scope, Send

_SEND_SECONDS = 60.0
"""Most seconds in which a client takes one piece."""


class HeldStream(Response):
    """Sends what keeps the stream alive until the events are there, then the events."""

    def __init__(
        self,
        events: asyncio.Task[Iterable[bytes]],
        keep_alive: bytes,
        seconds: float,
        headers: dict[str, str],
        error: Callable[[HttpError], bytes],
    ) -> None:
        """Hold a stream.

        Args:
            events: Makes all events of the answer.
            keep_alive: What is sent meanwhile; nothing if it is empty.
            seconds: How often.
            headers: More headers.
            error: The event that ends a stream without an answer.
        """
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._events, self._keep_alive, self._seconds, self._error = events, keep_alive, seconds, error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the interface's
        """Send the stream."""
        try:
            await _send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._keep(send)
            for piece in await self._ended():
                await _send(send, {"type": "http.response.body", "body": piece, "more_body": True})
            await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientGoneError, OSError, TimeoutError):
            return
        finally:
            self._events.cancel()

    async def _keep(self, send: Send) -> None:
        await asyncio.sleep(0)  # an answer that is there already needs no keep-alive
        while not self._events.done():
            if self._keep_alive:
                await _send(send, {"type": "http.response.body", "body": self._keep_alive, "more_body": True})
            await asyncio.wait({self._events}, timeout=self._seconds)

    async def _ended(self) -> Iterable[bytes]:
        """Return the events of the answer, or the one that says why there is none."""
        try:
            return await self._events
        except HttpError as error:
            return [self._error(error)]
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - the stream has begun: it ends with an error of ours
            log_error("a stream failed", error)
            return [self._error(HttpError(503, "internal_error", "something failed here"))]


async def _send(send: Send, message: dict[str, object]) -> None:
    async with asyncio.timeout(_SEND_SECONDS):
        await send(message)
