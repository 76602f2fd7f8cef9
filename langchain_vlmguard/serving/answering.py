"""The routes that ask a model: one way through queue and guard, and two spellings of what comes out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_vlmguard.errors import extra
from langchain_vlmguard.serving.bodies import read_apart
from langchain_vlmguard.serving.chat_request import chat_request
from langchain_vlmguard.serving.completions import chunks, completion, empty_chunk
from langchain_vlmguard.serving.frame import facts_of, json_response
from langchain_vlmguard.serving.guarding import Asked
from langchain_vlmguard.serving.held_stream import HeldStream
from langchain_vlmguard.serving.http_errors import FAILURES, HttpError
from langchain_vlmguard.serving.jobs import ClientGoneError
from langchain_vlmguard.serving.requests import begin
from langchain_vlmguard.serving.responses_api import error_event, response_events, response_of, responses_request
from langchain_vlmguard.serving.sse import COMMENT, data_event

with extra("serve"):
    from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotations
    from starlette.responses import Response  # noqa: TC002

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from langchain_vlmguard.serving.chat_request import ChatRequest
    from langchain_vlmguard.serving.guarding import Outcome
    from langchain_vlmguard.serving.keys import Caller
    from langchain_vlmguard.serving.service import Service
    from langchain_vlmguard.verdict.records import Json

_SOONER = 0.5
"""Share of the keep-alive interval after which a held stream begins."""


@dataclass(frozen=True)
class Spelling:
    """How an API writes what comes out."""

    body: Callable[[Json], Json]
    """Of a completion."""

    events: Callable[[Json], Iterable[bytes]]
    """Of a completion, as a stream."""

    error: Callable[[HttpError], bytes]
    """Ends a stream that has no answer."""

    alive: bytes
    """The event that says nothing, for clients that cannot read comments."""


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, guarded."""
    service, caller, body = await begin(request)
    wanted = await read_apart(request, lambda: chat_request(body))
    about = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": ""}
    spelling = Spelling(
        body=lambda whole: whole,
        events=partial(chunks, with_usage=wanted.wants_usage),
        error=lambda error: data_event(error.body),
        alive=empty_chunk(about | {"model": wanted.model or next(iter(service.models))}),
    )
    return await _answer(request, service, caller, wanted, about, spelling)


async def responses(request: Request) -> Response:
    """Answer a conversation in the Responses API's spelling, guarded."""
    service, caller, body = await begin(request)
    wanted = await read_apart(request, lambda: responses_request(body))
    about = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": ""}
    spelling = Spelling(
        body=partial(response_of, wanted=wanted),
        events=lambda whole: response_events(response_of(whole, wanted)),
        error=error_event,
        alive=COMMENT,
    )
    return await _answer(request, service, caller, wanted, about, spelling)


async def _answer(
    request: Request, service: Service, caller: Caller, wanted: ChatRequest, about: Json, spelling: Spelling
) -> Response:
    about["model"], _ = service.guarding(caller, wanted.model)
    facts_of(request)["id"] = about["id"]
    whole = asyncio.create_task(_completion(request, service, caller, wanted, about))
    try:
        if not wanted.stream:
            return json_response(spelling.body(await whole), headers=_headers(request))
        await asyncio.wait({whole}, timeout=service.config.keep_alive.seconds * _SOONER)
        if whole.done():
            whole.result()  # an error that comes before the first byte is an HTTP error
    except BaseException:
        whole.cancel()
        raise

    async def events() -> Iterable[bytes]:
        try:
            return spelling.events(await whole)
        finally:
            whole.cancel()

    kept = service.config.keep_alive
    form = request.headers.get("x-vlmguard-keep-alive", kept.form)
    alive = {"chunk": spelling.alive, "off": b""}.get(form, COMMENT)
    headers = _headers(request) if whole.done() else {"x-vlmguard-id": str(about["id"])}
    return HeldStream(asyncio.create_task(events()), alive, kept.seconds, headers, spelling.error)


async def _completion(request: Request, service: Service, caller: Caller, wanted: ChatRequest, about: Json) -> Json:
    """Run a request through queue and guard and return the completion."""
    _, guarding = service.guarding(caller, wanted.model)
    asked = await read_apart(request, lambda: _asked(wanted, caller))
    try:
        with service.keys.counted(caller):
            seconds = service.config.limits.seconds
            outcome = await service.jobs.run(lambda: guarding.answer(asked), request.receive, seconds)
    except ClientGoneError:
        facts_of(request)["left"] = True
        raise
    except HttpError as error:
        _note_error(request, service, error)
        raise
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
    service.report(request.scope["route"].path, verdict)


def _note_error(request: Request, service: Service, error: HttpError) -> None:
    """Log and count why there is no answer."""
    facts_of(request)["code"] = error.code
    if error.code in FAILURES:
        service.metrics.failure(FAILURES[error.code])
    if error.code == "review_required":
        facts_of(request)["action"] = "review"
        service.metrics.action(request.scope["route"].path, "review")


def _headers(request: Request) -> dict[str, str]:
    facts = facts_of(request)
    return {"x-vlmguard-id": str(facts["id"]), "x-vlmguard-action": str(facts["action"])}
