"""`create_app`: the routes of the server. Only these exist."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_vlmguard.errors import extra
from langchain_vlmguard.guard.reviews import read_decision
from langchain_vlmguard.serving.chat_request import ChatRequest, chat_request
from langchain_vlmguard.serving.completions import chunks, completion, empty_chunk
from langchain_vlmguard.serving.frame import Frame, add_error_handlers, facts_of, json_response
from langchain_vlmguard.serving.guard_routes import LITELLM, Texts, guard, guard_text, litellm
from langchain_vlmguard.serving.guarding import Asked
from langchain_vlmguard.serving.held_stream import HeldStream
from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.serving.metrics import CONTENT_TYPE
from langchain_vlmguard.serving.requests import begin, service_of
from langchain_vlmguard.serving.reviews import not_there
from langchain_vlmguard.serving.service import Service
from langchain_vlmguard.serving.sse import COMMENT

with extra("serve"):
    from fastapi import FastAPI
    from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotations
    from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from langchain_vlmguard.serving.config import ServeConfig
    from langchain_vlmguard.serving.guarding import Guarding, Outcome
    from langchain_vlmguard.serving.keys import Caller
    from langchain_vlmguard.serving.reviews import Review
    from langchain_vlmguard.verdict.records import Json

CHAT = "/v1/chat/completions"
_STARTED = int(time.time())
_SOONER = 0.5
"""Share of the keep-alive interval after which a held stream begins."""


def create_app(config: ServeConfig) -> FastAPI:
    """Return the server's app; models are loaded when it starts.

    ??? example "In a server of your own"

        ```python
        app = create_app(read_config("guard.yaml"))
        uvicorn.run(app)
        ```
    """
    service = Service(config)

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
    app.add_middleware(Frame, metrics=service.metrics, retry_after=config.limits.retry_after)
    app.add_api_route(CHAT, chat_completions, methods=["POST"], openapi_extra=_body_of(ChatRequest.model_json_schema()))
    app.add_api_route("/v1/guard", guard, methods=["POST"], openapi_extra=_body_of(ChatRequest.model_json_schema()))
    app.add_api_route("/v1/guard/text", guard_text, methods=["POST"], openapi_extra=_body_of(Texts.model_json_schema()))
    app.add_api_route(LITELLM, litellm, methods=["POST"], openapi_extra=_body_of({"type": "object"}))
    app.add_api_route("/v1/models", models, methods=["GET"])
    app.add_api_route("/v1/reviews/{number}", review, methods=["GET"])
    app.add_api_route("/v1/reviews/{number}", decide, methods=["POST"])
    app.add_api_route("/healthz", healthy, methods=["GET"])
    app.add_api_route("/readyz", ready, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"])
    return app


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, guarded."""
    service, caller, body = await begin(request)
    wanted = await asyncio.to_thread(chat_request, body)
    model, guarding = service.guarding(caller, wanted.model)
    about = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}
    facts_of(request)["id"] = about["id"]
    events = asyncio.create_task(_answered(request, service, caller, guarding, wanted, about))
    if not wanted.stream:
        try:
            whole = await events
        finally:
            events.cancel()
        return json_response(whole, headers=_headers(request))
    return await _stream(request, service, wanted, about, events)


async def _answered(
    request: Request, service: Service, caller: Caller, guarding: Guarding, wanted: ChatRequest, about: Json
) -> Json:
    """Run a request through queue and guard and return the completion."""
    asked = await asyncio.to_thread(_asked, wanted, caller)
    with service.keys.counted(caller):
        outcome = await service.jobs.run(lambda: guarding.answer(asked), request.receive, service.config.limits.seconds)
    _note(request, service, outcome)
    return completion(outcome, about, plain=wanted.is_plain, told=service.config.verdict)


def _asked(wanted: ChatRequest, caller: Caller) -> Asked:
    identity = wanted.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"stream", "stream_options"})
    streamed = bool(wanted.stream)
    return Asked(wanted.conversation, wanted.settings, streamed, wanted.choices, caller.name, identity)


def _note(request: Request, service: Service, outcome: Outcome) -> None:
    """Log and count a verdict."""
    verdict = outcome.verdict
    facts_of(request).update(
        action=verdict.action,
        severity=verdict.severity,
        answer=verdict.answer,
        hazards=[one.id for one in verdict.hazards],
        pictures=outcome.pictures_seen,
        policy=verdict.provenance.policy,
        tokens=sum(verdict.usage.get(kind, 0) for kind in ("input_tokens", "output_tokens")),
    )
    service.metrics.verdict(request.scope["route"].path, verdict)


async def _stream(
    request: Request, service: Service, wanted: ChatRequest, about: Json, whole: asyncio.Task[Json]
) -> Response:
    """Return an event stream; an error that comes before its first byte is an HTTP error."""
    kept = service.config.keep_alive
    form = request.headers.get("x-vlmguard-keep-alive", kept.form)
    try:
        await asyncio.wait({whole}, timeout=kept.seconds * _SOONER)
        if whole.done():
            whole.result()
    except BaseException:
        whole.cancel()
        raise

    async def events() -> Iterable[bytes]:
        try:
            return chunks(await whole, with_usage=wanted.wants_usage)
        finally:
            whole.cancel()

    alive = {"chunk": empty_chunk(about), "off": b""}.get(form, COMMENT)
    headers = _headers(request) if whole.done() else {"x-vlmguard-id": about["id"]}
    return HeldStream(asyncio.create_task(events()), alive, kept.seconds, headers)


def _headers(request: Request) -> dict[str, str]:
    facts = facts_of(request)
    return {"x-vlmguard-id": str(facts["id"]), "x-vlmguard-action": str(facts["action"])}


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
        decision = read_decision(body, edits=None if found.answer is not None else "prompt")
    except ValueError as error:
        msg = 'this is no decision: send {"decision": "approve"}, {"decision": "reject"}, or, for a prompt, '
        raise HttpError(400, "invalid_request", msg + '{"decision": "edit", "prompt": "..."}') from error
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


def _body_of(schema: Json) -> Json:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
