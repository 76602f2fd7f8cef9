"""Who calls: API keys, compared in constant time, and how often each may call."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_vlmguard.serving.http_errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langchain_vlmguard.serving.config import ApiKey
    from langchain_vlmguard.verdict.policy import GuardPolicy

ANYBODY = "anybody"
"""Name of a caller where no keys are set up."""

_MINUTE = 60.0


class Caller:
    """Somebody who may call."""

    def __init__(self, key: ApiKey | None = None) -> None:
        """Take a key of the config; anybody without one."""
        self.name = ANYBODY if key is None else key.name
        self.policy: GuardPolicy | None = None if key is None else key.policy
        self.reviewer = key is None or key.reviewer
        self.per_minute = None if key is None else key.requests_per_minute
        self.at_once = None if key is None else key.at_once


class Keys:
    """Tells callers by their keys and counts what each of them does."""

    def __init__(self, keys: Sequence[ApiKey], retry_after: int) -> None:
        """Take the keys of the config."""
        self._known = [(_digest(key.key.text.encode()), Caller(key)) for key in keys]
        self._retry_after = retry_after
        self._running: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {key.name: deque() for key in keys}

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Return who calls.

        Raises:
            HttpError: No key came, or an unknown one.
        """
        if not self._known:
            return Caller()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given.encode("latin-1", "replace"))
        found = [caller for known, caller in self._known if hmac.compare_digest(known, digest)]
        if not found:
            raise HttpError(401, "invalid_api_key", "no valid API key came: send authorization: Bearer KEY")
        return found[0]

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """Count a request of a caller as long as the block runs.

        Raises:
            HttpError: The caller has used up what its key may do.
        """
        if caller.per_minute is not None:
            self._count_minute(caller, caller.per_minute)
        if caller.at_once is not None and self._running[caller.name] >= caller.at_once:
            msg = f"this key may have {caller.at_once} requests at the same time"
            raise HttpError(429, "rate_limited", msg, retry_after=self._retry_after)
        self._running[caller.name] += 1
        try:
            yield
        finally:
            self._running[caller.name] -= 1

    def _count_minute(self, caller: Caller, most: int) -> None:
        now, times = time.monotonic(), self._times[caller.name]
        while times and times[0] <= now - _MINUTE:
            times.popleft()
        if len(times) >= most:
            wait = min(60, max(1, round(times[0] + _MINUTE - now)))
            raise HttpError(429, "rate_limited", f"this key may make {most} requests a minute", retry_after=wait)
        times.append(now)


def _digest(key: bytes) -> bytes:
    """Return what keys are compared by: of one length, whatever came."""
    return hashlib.sha256(key).digest()
