"""`create_app`: the routes of the server. Only these exist."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import extra
from langchain_vlmguard.guard.reviews import read_decision
from langchain_vlmguard.serving.answering import chat_completions, responses
from langchain_vlmguard.serving.chat_request import ChatRequest
from langchain_vlmguard.serving.decisions import DecisionRequest
from langchain_vlmguard.serving.frame import Frame, add_error_handlers, facts_of, json_response
from langchain_vlmguard.serving.guard_routes import LITELLM, Texts, guard, guard_text, litellm, systemone
from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.serving.metrics import CONTENT_TYPE
from langchain_vlmguard.serving.requests import begin, service_of
from langchain_vlmguard.serving.reviews import not_there
from langchain_vlmguard.serving.schema import DECISION, GUARDRAIL, RESPONSE, answers, numbered, takes
from langchain_vlmguard.serving.service import Service

with extra("serve"):
    from fastapi import FastAPI
    from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotations
    from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from langchain_vlmguard.serving.config import ServeConfig
    from langchain_vlmguard.serving.keys import Caller
    from langchain_vlmguard.serving.reviews import Review
    from langchain_vlmguard.serving.tracing import Tracing

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
_STARTED = int(time.time())


def create_app(config: ServeConfig, *, tracing: Tracing | None = None) -> FastAPI:
    """Return the server's app; models are loaded when it starts.

    Args:
        config: What the server is told.
        tracing: Where requests and checks are traced; OpenTelemetry's global provider if the config asks for telemetry.

    ??? example "In a server of your own"

        ```python
        app = create_app(read_config("guard.yaml"))
        uvicorn.run(app)
        ```
    """
    service = Service(config, tracing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="langchain-vlmguard",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    add_error_handlers(app)
    app.add_middleware(Frame, metrics=service.metrics, tracing=service.tracing, retry_after=config.limits.retry_after)
    streams = answers("application/json", "text/event-stream")
    for path, route, method, about, given in (
        (CHAT, chat_completions, "POST", takes(ChatRequest), streams),
        (RESPONSES, responses, "POST", takes(RESPONSE), streams),
        ("/v1/guard", guard, "POST", takes(ChatRequest), answers()),
        ("/v1/guard/text", guard_text, "POST", takes(Texts), answers()),
        ("/v1/systemone", systemone, "POST", takes(DecisionRequest), answers()),
        (LITELLM, litellm, "POST", takes(GUARDRAIL), answers()),
        ("/v1/models", models, "GET", {}, answers()),
        ("/v1/reviews/{number}", review, "GET", numbered("number"), answers()),
        ("/v1/reviews/{number}", decide, "POST", {**takes(DECISION), **numbered("number")}, answers()),
        ("/healthz", healthy, "GET", {}, answers()),
        ("/readyz", ready, "GET", {}, answers()),
        ("/metrics", metrics, "GET", {}, answers("text/plain")),
    ):
        app.add_api_route(path, route, methods=[method], openapi_extra=about, responses=given)
    return app


async def models(request: Request) -> Response:
    """List the models that may be asked for."""
    service = service_of(request)
    service.keys.caller(request.headers)
    listed = [{"id": name, "object": "model", "created": _STARTED, "owned_by": "vlmguard"} for name in service.models]
    return json_response({"object": "list", "data": listed})


async def review(request: Request) -> Response:
    """Show a review: its state to whoever asked, all of it to reviewers."""
    service = service_of(request)
    caller = service.keys.caller(request.headers)
    found = await _review(service, caller, request)
    return json_response(found.for_reviewer() if caller.reviewer else found.for_caller())


async def decide(request: Request) -> Response:
    """Approve, edit or reject what waits; the request passes when it comes again."""
    service, caller, body = await begin(request)
    found = await _review(service, caller, request)
    if not caller.reviewer:
        raise HttpError(403, "not_allowed", "this key may not decide about reviews: use one with `reviewer: true`")
    try:
        decision = read_decision(body, edits=found.edits)
    except ValueError as error:
        msg = 'this is no decision: send {"decision": "approve"}, {"decision": "reject"}, or '
        raise HttpError(
            400, "invalid_request", msg + '{"decision": "edit", "prompt": "..."}, "text" for an answer'
        ) from error
    kept = {"type": decision.kind, **({} if decision.text is None else {"prompt": decision.text})}
    done = await asyncio.to_thread(service.reviews.decide, found.id, kept, caller.name)
    facts_of(request).update(review=found.id, decision=decision.kind)
    return json_response(done.for_reviewer())


async def _review(service: Service, caller: Caller, request: Request) -> Review:
    found = await asyncio.to_thread(service.reviews.get, str(request.path_params["number"]))
    if found is None or not (caller.reviewer or caller.name == found.caller):
        raise not_there()
    return found


async def healthy(request: Request) -> Response:
    """Say that the process lives."""
    return json_response({"status": "ok", "draining": service_of(request).jobs.is_draining})


async def ready(request: Request) -> Response:
    """Say whether new work is taken."""
    service_of(request).jobs.check_open()
    return json_response({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Return the numbers for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE)
