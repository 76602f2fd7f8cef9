"""What every route begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.serving.bodies import read_json
from langchain_vlmguard.serving.frame import facts_of
from langchain_vlmguard.serving.service import Service

if TYPE_CHECKING:
    from starlette.requests import Request

    from langchain_vlmguard.serving.keys import Caller
    from langchain_vlmguard.verdict.records import Json


def service_of(request: Request) -> Service:
    """Return the service behind a request."""
    service = request.app.state.service
    assert isinstance(service, Service)  # noqa: S101 - create_app put it there
    return service


async def begin(request: Request) -> tuple[Service, Caller, Json]:
    """Return the service, who calls, and the body.

    Raises:
        HttpError: The server ends, the key is not known, or the body cannot be read.
    """
    service = service_of(request)
    service.jobs.check_open()
    caller = service.keys.caller(request.headers)
    facts_of(request)["caller"] = caller.name
    limits = service.config.limits
    with service.jobs.reading():
        return service, caller, await read_json(request, most=limits.body_bytes, seconds=limits.body_seconds)
