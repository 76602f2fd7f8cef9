"""OpenTelemetry for checks (extra `otel`): a span and three metrics each, without content unless asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from langchain_vlmguard.guard.state import CheckRecord
    from langchain_vlmguard.verdict.records import Json

_NEEDED = "telemetry needs OpenTelemetry: pip install 'langchain-vlmguard[otel]'"


class GuardTelemetry:
    """Reports every check: `VLMGuardMiddleware(..., telemetry=GuardTelemetry())`, and `GuardedChatModel` likewise.

    Spans are called `vlmguard.check <stage>` and hang below the span that is open. Metrics: `vlmguard.checks` (count),
    `vlmguard.check.duration` (seconds) and `vlmguard.check.risk`. A person's decision about a held part is one more check, with
    `vlmguard.reviewed`, that took no time and found no risk of its own. Attributes are actions, stages, hazard ids and hashes:
    nothing that a person, a model or a tool wrote. `capture_content` adds the rewritten prompt, the intent and the reason.
    """

    def __init__(
        self,
        *,
        capture_content: bool = False,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Take the providers, the global ones by default.

        Raises:
            ImportError: OpenTelemetry's API is not installed.
        """
        try:
            from opentelemetry import metrics, trace
        except ImportError as error:
            raise ImportError(_NEEDED) from error
        self.capture_content = capture_content
        self._tracer = trace.get_tracer("langchain_vlmguard", tracer_provider=tracer_provider)
        meter = metrics.get_meter("langchain_vlmguard", meter_provider=meter_provider)
        self._checks = meter.create_counter("vlmguard.checks", description="Checks by stage and action")
        self._seconds = meter.create_histogram("vlmguard.check.duration", unit="s", description="Seconds of a check")
        self._risk = meter.create_histogram("vlmguard.check.risk", description="Risk that a check found, 0 to 1")

    def record(self, records: Sequence[CheckRecord]) -> None:
        """Report checks that are done; their spans end now and last as long as the check did."""
        for record in records:
            self._record(record)

    def _record(self, record: CheckRecord) -> None:
        verdict = record["verdict"]
        decided = verdict["reviewed"] is not None
        seconds = 0.0 if decided else sum(verdict["timings"].values())
        labels: Json = {
            "vlmguard.guard": record["guard"],
            "vlmguard.stage": record["stage"],
            "vlmguard.action": verdict["action"],
            "vlmguard.enforced": verdict["enforced"],
            **({"vlmguard.reviewed": verdict["reviewed"]} if decided else {}),
        }
        self._checks.add(1, labels)
        if not decided:
            self._seconds.record(seconds, labels)
            if verdict["risk"] is not None:  # nobody judged the turn, e.g. one that could not be read
                self._risk.record(verdict["risk"], labels)
        end = time.time_ns()
        span = self._tracer.start_span(f"vlmguard.check {record['stage']}", start_time=end - int(seconds * 1e9))
        span.set_attributes({**labels, **_attributes(record), **(_content(verdict) if self.capture_content else {})})
        span.end(end)


def _attributes(record: CheckRecord) -> Json:
    verdict = record["verdict"]
    known = {
        "gen_ai.operation.name": "guardrail",
        "gen_ai.tool.name": record["tool"],
        "gen_ai.tool.call.id": record["call_id"],
        "gen_ai.usage.input_tokens": verdict["usage"].get("input_tokens"),
        "gen_ai.usage.output_tokens": verdict["usage"].get("output_tokens"),
        "vlmguard.risk": verdict["risk"],
        "vlmguard.severity": verdict["severity"],
        "vlmguard.hazards": [hazard["id"] for hazard in verdict["hazards"]],
        "vlmguard.policy": verdict["provenance"]["policy"],
        "vlmguard.failed": (verdict["failure"] or {}).get("stage"),
    }
    return {key: value for key, value in known.items() if value is not None}


def _content(verdict: Json) -> Json:
    kept = {f"vlmguard.{key}": verdict[key] for key in ("rewritten_prompt", "intent", "reason")}
    return {key: value for key, value in kept.items() if value}
