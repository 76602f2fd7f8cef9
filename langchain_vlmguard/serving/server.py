"""`serve`: the app in uvicorn, and the way it ends."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import extra
from langchain_vlmguard.serving.app import create_app
from langchain_vlmguard.serving.logs import log_facts, set_up_logs

with extra("serve"):
    import uvicorn

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from langchain_vlmguard.serving.config import ServeConfig
    from langchain_vlmguard.serving.service import Service

_LEFT = 0.9
"""Seconds that connections have after the grace time."""


class DrainingServer(uvicorn.Server):
    """Ends in our own order: not ready, no new work, running answers finished, what is held told so, exit 0."""

    def __init__(self, config: ServeConfig) -> None:
        """Serve the app of a config."""
        app = create_app(config)
        self._service: Service = app.state.service
        self._drain = config.drain
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                host=config.listen.host,
                port=config.listen.port,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )

    async def _serve(self, *args: object, **kwargs: object) -> None:
        self._loop = asyncio.get_running_loop()
        await super()._serve(*args, **kwargs)  # type: ignore[arg-type]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, when everything behind it is ready, and say which one it is."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log_facts("listening", host=host, port=port, models=len(self._service.models))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's own signature
        """Begin to end; a second Ctrl-C ends at once."""
        if self._loop is None or (self._ending is not None and sig == signal.SIGINT):
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """Begin to end, on the server's loop."""
        self._service.jobs.is_draining = True
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        log_facts("draining", running=self._service.jobs.running, waiting=self._service.jobs.waiting)
        await asyncio.sleep(self._drain.pause)
        await self._service.jobs.drain(self._drain.grace)
        self.should_exit = True


def serve(config: ServeConfig) -> None:
    """Serve until the process is told to end.

    Raises:
        SystemExit: The server could not start.
    """
    set_up_logs()
    server = DrainingServer(config)
    server.run()
    if not server.started:
        raise SystemExit(1)
