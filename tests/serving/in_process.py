"""The app without sockets: requests go straight into it, and its upstream plays bytes straight into the client behind it.

For tests that ask thousands of times. What sockets do is tested elsewhere, with real ones.
"""

import asyncio
import json
import time
from contextlib import contextmanager

import httpx

from langchain_vlmguard.serving.app import create_app
from langchain_vlmguard.serving.config import ServeConfig
from tests.serving.rules import guard_of_rules
from tests.serving.running import Wire


class _Played(httpx.AsyncByteStream):
    def __init__(self, pieces):
        self._pieces = pieces

    async def __aiter__(self):
        for piece in self._pieces:
            yield piece


class InProcess:
    """An app that was started, and what its upstream answers: status and headers, then bytes as they come."""

    def __init__(self, app, loop, rules):
        self.app, self.rules, self._loop = app, rules, loop
        self.status, self.headers, self.pieces = 200, {}, []
        self.bodies = []
        """What the upstream was sent."""

    def plays(self, pieces, kind):
        """Let the upstream answer with some pieces of some type."""
        self.pieces, self.headers = pieces, {"content-type": kind}

    def plays_json(self, answer):
        """Let the upstream answer with JSON in one piece."""
        self.plays([json.dumps(answer).encode()], "application/json")

    async def answer(self, request):
        """Answer as the upstream."""
        self.bodies.append(await request.aread())
        return httpx.Response(self.status, headers=self.headers, stream=_Played(self.pieces))

    def send(self, body, path):
        """Send a request and return all that came back, as bytes of HTTP."""
        self.bodies = []
        return self._loop.run_until_complete(self._send(body, path))

    async def _send(self, body, path):
        asked, wire, over = [{"type": "http.request", "body": json.dumps(body).encode()}], Wire(), asyncio.Event()

        async def receive():
            if asked:
                return asked.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                head = b"".join(name + b": " + value + b"\r\n" for name, value in message["headers"])
                data = b"HTTP/1.1 %d X\r\n" % message["status"] + head + b"\r\n"
            else:
                data = message["body"]
            wire.pieces.append((time.monotonic(), data))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self.app(scope, receive, send)
        over.set()
        return wire


@contextmanager
def in_process(folder, **config):
    """An app with the stub rules before an upstream, both in this process."""
    guard, rules = guard_of_rules()
    backend = {"kind": "upstream", "url": "http://upstream.test/v1", "models": ["up"]}
    app = create_app(ServeConfig(guard=guard, backend=backend, reviews={"path": folder / "reviews.sqlite"}, **config))
    loop = asyncio.new_event_loop()
    running = app.router.lifespan_context(app)
    loop.run_until_complete(running.__aenter__())
    found = InProcess(app, loop, rules)
    for model in app.state.service.models.values():
        model.client._transport = httpx.MockTransport(found.answer)
    try:
        yield found
    finally:
        loop.run_until_complete(running.__aexit__(None, None, None))
        loop.close()
