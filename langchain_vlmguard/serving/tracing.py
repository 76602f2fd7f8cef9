"""Spans of requests for OpenTelemetry (extra `otel`): names, numbers and actions of ours, and nothing that anybody wrote."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_vlmguard.agents.telemetry import GuardTelemetry
from langchain_vlmguard.guard.state import check_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from langchain_vlmguard.verdict.records import SafetyVerdict

NAME = "vlmguard serve"
_KEPT = ("action", "severity", "caller", "pictures", "tokens", "policy", "hazards")


class Tracing:
    """A span around each request, and below it one for each check."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Take a provider, the global one by default.

        Raises:
            ImportError: OpenTelemetry's API is not installed.
        """
        self._telemetry = GuardTelemetry(tracer_provider=provider)
        from opentelemetry import trace

        self._tracer = trace.get_tracer("langchain_vlmguard.serving", tracer_provider=provider)

    def check(self, verdict: SafetyVerdict) -> None:
        """Report the check of a request."""
        about_answer = verdict.answer != "none"
        self._telemetry.record([check_record("output" if about_answer else "input", NAME, verdict)])

    @contextmanager
    def request(self) -> Iterator[Span]:
        """Open a span; it ends with the block, whatever ends that, and no error's words are in it."""
        from opentelemetry import trace

        span = self._tracer.start_span("request", kind=trace.SpanKind.SERVER)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        finally:
            span.end()


def describe(span: Span, route: str, status: int, facts: dict[str, object], *, left: bool) -> None:
    """Say in a span what became of its request."""
    span.update_name(route)
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("vlmguard.cancelled", left)
    for key in _KEPT:
        value = facts.get(key)
        if isinstance(value, str | int | list):
            span.set_attribute(f"vlmguard.{key}", value)
