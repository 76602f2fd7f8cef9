"""A provider in this process: it says the script's words in order, and keeps the bodies of the requests it got."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vlmguard_lab.bench.providers.script import Said

    Render = Callable[[Said, str, bool], tuple[str, bytes]]
    """From what is said, a number for ids and whether it is streamed, to a content type and a body."""


class Wire:
    """Answers requests, and keeps them."""

    def __init__(self, script: Iterable[Said], render: Render) -> None:
        """Start before the first request."""
        self._script, self._render = list(script), render
        self.bodies: list[str] = []

    def answer(self, url: str, body: bytes) -> tuple[str, bytes]:
        """Return the content type and the body of the next answer."""
        asked = json.loads(body)
        path = url.partition("?")[0].partition("://")[2].partition("/")[2]
        self.bodies.append(f"{path} {json.dumps(asked, sort_keys=True)}")
        if len(self.bodies) > len(self._script):
            msg = f"request {len(self.bodies)} is one more than the script has"
            raise RuntimeError(msg)
        streams = bool(asked.get("stream")) or "stream" in path.rpartition("/")[2].lower()
        return self._render(self._script[len(self.bodies) - 1], str(len(self.bodies)), streams)

    def transport(self, http: Any) -> Any:
        """Return a transport for `httpx`, or a package with the same interface."""

        def handle(request: Any) -> Any:
            kind, body = self.answer(str(request.url), request.content)
            return http.Response(200, headers={"content-type": kind}, content=body)

        return http.MockTransport(handle)


def as_json(value: Any) -> tuple[str, bytes]:
    """Return a JSON answer."""
    return "application/json", json.dumps(value).encode()


def as_events(events: Iterable[Any], *, named: bool = False, done: bool = False) -> tuple[str, bytes]:
    """Return server-sent events; `named` writes each one's `type` as its name, `done` ends with OpenAI's mark."""
    lines = [(f"event: {one['type']}\n" if named else "") + f"data: {json.dumps(one)}\n\n" for one in events]
    return "text/event-stream", "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()
