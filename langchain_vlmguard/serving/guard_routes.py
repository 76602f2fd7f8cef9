"""Routes that judge and ask no model: LiteLLM's generic guardrail API, and the guard's own."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_core.messages import HumanMessage
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langchain_vlmguard.errors import extra
from langchain_vlmguard.serving.bodies import read_apart
from langchain_vlmguard.serving.chat_request import OFFERED, chat_request, invalid
from langchain_vlmguard.serving.completions import short
from langchain_vlmguard.serving.decisions import answers_of, decision_request, risk_of
from langchain_vlmguard.serving.frame import facts_of, json_response
from langchain_vlmguard.serving.guardrail import CANNOT, Given, blocked, guardrail
from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.serving.jobs import ClientGoneError
from langchain_vlmguard.serving.logs import log_error
from langchain_vlmguard.serving.requests import begin, service_of
from langchain_vlmguard.serving.wire import to_wire

with extra("serve"):
    from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotations
    from starlette.responses import Response  # noqa: TC002

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.serving.guarding import Guarding
    from langchain_vlmguard.serving.keys import Caller
    from langchain_vlmguard.serving.service import Service
    from langchain_vlmguard.verdict.records import Json, SafetyVerdict

LITELLM = "/beta/litellm_basic_guardrail_api"


class Texts(BaseModel):
    """Texts to be judged, each as if a person had typed it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | list[str] = Field(min_length=1)


async def litellm(request: Request) -> Response:
    """Judge what a LiteLLM proxy sends; anything that stands in the way is a block, with status 200."""
    service = service_of(request)
    caller = service.keys.caller(request.headers)
    facts = facts_of(request)
    facts["caller"] = caller.name
    try:
        async with asyncio.timeout(service.config.limits.guardrail_seconds):
            answer = await _litellm(request, service)
    except HttpError as error:
        answer, facts["blocked"] = blocked(CANNOT), error.code
    except TimeoutError:
        answer, facts["blocked"] = blocked(CANNOT), "deadline"
    except ClientGoneError:
        raise
    except Exception as error:  # noqa: BLE001 - LiteLLM may read an error as "go on"
        log_error("the guardrail failed", error)
        answer, facts["blocked"] = blocked(CANNOT), "internal_error"
    facts["action"] = answer["action"]
    service.metrics.action(LITELLM, str(answer["action"]).lower())
    if str(answer.get("blocked_reason", "")).startswith(CANNOT):
        service.metrics.failure("guard")
    return json_response(answer)


async def _litellm(request: Request, service: Service) -> Json:
    _, caller, body = await begin(request)
    _, guarding = service.guarding(caller, None)
    given = await read_apart(request, lambda: Given.of(body))
    seconds = service.config.limits.guardrail_seconds
    with service.keys.counted(caller):
        return await service.jobs.run(lambda: guardrail(guarding, given), request.receive, seconds)


async def guard(request: Request) -> Response:
    """Judge a conversation: the verdict, and the messages that a model may get."""
    service, caller, body = await begin(request)
    wanted = await read_apart(request, lambda: chat_request(body))
    _, guarding = service.guarding(caller, None)
    verdict, messages = await _judged(request, service, caller, guarding, wanted.conversation)
    shown = [one for one in messages if one.id != OFFERED]
    answer = {"object": "vlmguard.guard", "verdict": _told(service, verdict), "messages": to_wire(shown)}
    return json_response(answer)


async def guard_text(request: Request) -> Response:
    """Judge texts, each by itself."""
    service, caller, body = await begin(request)
    try:
        texts = Texts.model_validate(body).text
    except ValidationError as error:
        raise invalid(error) from error
    _, guarding = service.guarding(caller, None)
    results = []
    for text in [texts] if isinstance(texts, str) else texts:
        verdict, _ = await _judged(request, service, caller, guarding, [HumanMessage(text)])
        results.append({"verdict": _told(service, verdict), "text": _text_of(verdict, text)})
    return json_response({"object": "vlmguard.guard.text", "results": results})


async def systemone(request: Request) -> Response:
    """Answer typed questions about a state, in vLLM's form: how harmful it is, and nothing else."""
    service, caller, body = await begin(request)
    wanted = await read_apart(request, lambda: decision_request(body))
    name, guarding = service.guarding(caller, wanted.model)
    verdict, _ = await _judged(request, service, caller, guarding, wanted.conversation)
    answers = answers_of(wanted.questions, risk_of(verdict))
    counted = {kind: verdict.usage.get(kind, 0) for kind in ("input_tokens", "output_tokens")}
    answer = {
        "id": f"decision-{uuid4().hex}",
        "object": "structured_decision",
        "created": int(time.time()),
        "model": name,
        "answers": answers,
        "usage": counted,
        "diagnostics": {one: {"label_mass": 1.0, "argmax_is_label": True} for one in answers},
    }
    told = {} if service.config.verdict == "none" else {"vlmguard": _told(service, verdict)}
    return json_response(answer | told)


def _text_of(verdict: SafetyVerdict, text: str) -> str | None:
    """Return what may go on in a text's place."""
    return {"allow": text, "rewrite": verdict.rewritten_prompt}.get(verdict.action)


async def _judged(
    request: Request, service: Service, caller: Caller, guarding: Guarding, conversation: list[BaseMessage]
) -> tuple[SafetyVerdict, list[BaseMessage]]:
    with service.keys.counted(caller):
        found = await service.jobs.run(
            lambda: guarding.judge(conversation), request.receive, service.config.limits.seconds
        )
    facts_of(request)["action"] = found[0].action
    service.report(request.scope["route"].path, found[0])
    if found[0].failure is not None:
        msg = "the guard could not judge this, so nothing of it goes on: try again later"
        raise HttpError(503, "guard_failed", msg, retry_after=service.config.limits.retry_after)
    return found


def _told(service: Service, verdict: SafetyVerdict) -> Json:
    return verdict.to_state() if service.config.verdict == "full" else short(verdict)
