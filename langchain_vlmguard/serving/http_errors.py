"""One error shape for every status and route, in which nothing of a request or an answer stands.

A decision is final (400, 403), a shortage is transient (429, 503) and says when to come back. A review is 409, and tells clients
not to try again by themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Code = Literal[
    "invalid_request", "unreadable_content", "content_filter", "invalid_api_key", "not_allowed", "not_found",
    "method_not_allowed", "review_required", "review_decided", "body_too_large", "unsupported_media_type",
    "rate_limited", "queue_full", "draining", "deadline", "guard_failed", "upstream_refused", "upstream_failed",
    "internal_error", "body_timeout", "model_not_found",
]  # fmt: skip
"""What a client's program can go by."""

CODES: tuple[str, ...] = get_args(Code)

FAILURES: Mapping[Code, str] = {"guard_failed": "guard", "upstream_failed": "model", "upstream_refused": "model"}
"""Errors that are failures of something behind the server, and of what."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "server_error"}


@dataclass
class HttpError(Exception):
    """Something that is answered with an error."""

    status: int
    code: Code
    message: str
    """Fixed words of ours."""

    param: str | None = None
    """Name of a parameter that we know; never what a caller made up."""

    retry_after: int | None = None
    """Seconds, for a shortage."""

    more: Mapping[str, object] = field(default_factory=dict)
    """Fields beside `error`."""

    @property
    def body(self) -> dict[str, object]:
        """The error as JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}, **self.more}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer: whether and when a client may try again."""
        if self.retry_after is not None:
            return {"retry-after": str(self.retry_after)}
        return {"x-should-retry": "false"}


def as_json(value: object) -> bytes:
    """Return a value as JSON in plain ASCII.

    Raises:
        ValueError: A number in it is not finite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
