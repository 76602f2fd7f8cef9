"""Around every route: one error shape, one log line and one count a request, and no error's words anywhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from starlette.exceptions import HTTPException
from starlette.responses import Response

from langchain_vlmguard.serving.http_errors import HttpError, as_json
from langchain_vlmguard.serving.jobs import ClientGoneError
from langchain_vlmguard.serving.logs import log_error, log_facts
from langchain_vlmguard.serving.tracing import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from opentelemetry.trace import Span
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from langchain_vlmguard.serving.http_errors import Code
    from langchain_vlmguard.serving.metrics import Metrics
    from langchain_vlmguard.serving.tracing import Tracing

    Facts = dict[str, object]

_SAID: Mapping[int, tuple[Code, str]] = {
    404: ("not_found", "there is no such route here"),
    405: ("method_not_allowed", "this route takes another method"),
}
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that are asked all the time: counted, and not logged."""


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer of our own writing."""
    return Response(as_json(value), status, headers, "application/json")


def error_response(error: HttpError) -> Response:
    """Return an error as an answer."""
    return json_response(error.body, error.status, error.headers)


def facts_of(request: Request) -> Facts:
    """Return what the log will say of a request; routes add to it."""
    return cast("Facts", request.scope["vlmguard.facts"])


def add_error_handlers(app: FastAPI) -> None:
    """Give every error the one shape."""

    async def known(_: Request, error: Exception) -> Response:
        return error_response(cast("HttpError", error))

    async def of_framework(_: Request, error: Exception) -> Response:
        status = cast("HTTPException", error).status_code
        code, said = _SAID.get(status, ("invalid_request", "this cannot be answered"))
        answer = error_response(HttpError(status, code, said))
        answer.headers.update(cast("HTTPException", error).headers or {})
        return answer

    async def left(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(HttpError, known)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(ClientGoneError, left)


class Frame:
    """Counts and logs requests; it touches no body."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None, retry_after: int) -> None:
        """Stand around an app."""
        self._app, self._metrics, self._tracing, self._retry_after = app, metrics, tracing, retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracing is None:
            await self._request(scope, receive, send, None)
        else:
            with self._tracing.request() as span:
                await self._request(scope, receive, send, span)

    async def _request(self, scope: Scope, receive: Receive, send: Send, span: Span | None) -> None:
        started, status = time.perf_counter(), 0
        facts: Facts = {"id": f"req_{uuid4().hex[:16]}"}
        scope["vlmguard.facts"] = facts

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:  # noqa: BLE001 - its words may quote what was judged: nobody above may log them
            log_error("a request failed", error)
            if not status:
                msg = "something failed here, and nothing was answered: try again later"
                failed = HttpError(503, "internal_error", msg, retry_after=self._retry_after)
                await error_response(failed)(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "none")
            gone = status == 499 or facts.get("left") is True  # noqa: PLR2004 - nobody hears it
            self._metrics.request(route, None if gone else status, seconds)
            if span is not None:
                describe(span, route, status, facts, left=gone)
            if route not in _QUIET:
                log_facts("request", route=route, status=status, seconds=round(seconds, 4), **facts)
