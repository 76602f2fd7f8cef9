"""Numbers for Prometheus, in a registry of their own. Labels are names of ours: never a model, a path or a word of a caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.errors import extra

with extra("serve"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from langchain_vlmguard.serving.jobs import Jobs
    from langchain_vlmguard.verdict.records import SafetyVerdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """What a server counts."""

    def __init__(self, jobs: Jobs) -> None:
        """Count from nothing."""
        self.registry = CollectorRegistry()
        kept = self.registry
        self._requests = Counter("vlmguard_requests", "Requests that ended", ["route", "status"], registry=kept)
        self._seconds = Histogram(
            "vlmguard_request_seconds",
            "From the request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=kept,
        )
        self._actions = Counter("vlmguard_actions", "Verdicts by action", ["route", "action"], registry=kept)
        self._failures = Counter(
            "vlmguard_guard_failures", "Failures of the guard, its judges and the model", ["stage"], registry=kept
        )
        self._stages = Histogram(
            "vlmguard_stage_seconds", "Seconds of each stage of the guard", ["stage"], buckets=_SECONDS, registry=kept
        )
        self._tokens = Counter("vlmguard_tokens", "Tokens of all model calls", ["kind"], registry=kept)
        self._left = Counter("vlmguard_clients_left", "Clients that left before their answer", ["route"], registry=kept)
        for name, about, read in (
            ("vlmguard_running", "Requests at work", lambda: jobs.running),
            ("vlmguard_waiting", "Requests in the queue", lambda: jobs.waiting),
            ("vlmguard_draining", "Whether the server is about to end", lambda: jobs.is_draining),
        ):
            Gauge(name, about, registry=kept).set_function(read)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' form."""
        return generate_latest(self.registry)

    def request(self, route: str, status: int | None, seconds: float) -> None:
        """Count a request that ended, without a status if its client left."""
        if status is None:
            self._left.labels(route).inc()
            return
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def verdict(self, route: str, verdict: SafetyVerdict) -> None:
        """Count a verdict, what it cost, and a failure of the guard in it."""
        self.action(route, verdict.action)
        for stage, seconds in verdict.timings.items():
            self._stages.labels(stage).observe(seconds)
        for kind in ("input_tokens", "output_tokens"):
            self._tokens.labels(kind).inc(verdict.usage.get(kind, 0))
        if verdict.failure is not None:
            self.failure(verdict.failure.stage)

    def action(self, route: str, action: str) -> None:
        """Count what was done."""
        self._actions.labels(route, action).inc()

    def failure(self, stage: str) -> None:
        """Count a failure of the guard or of the model."""
        self._failures.labels(stage).inc()
