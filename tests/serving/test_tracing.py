"""Spans: one a request and one a check, without content, and each ends, also when the client leaves. Cases 12 and 26."""

import time

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_vlmguard.serving.tracing import Tracing
from tests.serving.rules import BADIMG, BLOCKME, BREAKME
from tests.serving.running import asks, running, send
from tests.serving.upstream import completion, whole


def traced():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, Tracing(provider)


def ended(exporter, name):
    """The span of a name; the server may end it a moment after its client has the answer."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        if found := [span for span in exporter.get_finished_spans() if span.name == name]:
            return found[-1]
        time.sleep(0.01)
    raise AssertionError(name)


def test_case_12_spans_say_what_was_done_and_nothing_that_was_said(up, tmp_path):
    exporter, tracing = traced()
    picture = [{"type": "image_url", "image_url": {"url": BADIMG}}, {"type": "text", "text": "secret words"}]
    with running(up, tmp_path, tracing=tracing) as server:
        for body in (
            asks(BLOCKME),
            asks() | {"messages": [{"role": "user", "content": picture}]},
            asks(BREAKME),
            asks("secret words"),
        ):
            send(server.port, body)
            request = ended(exporter, "/v1/chat/completions")
        up.script = whole(completion({"content": BLOCKME}))
        send(server.port, asks())
    request = ended(exporter, "/v1/chat/completions")
    checks = [span for span in exporter.get_finished_spans() if span.name.startswith("vlmguard.check")]
    assert {span.attributes["vlmguard.action"] for span in checks} == {"refuse", "allow"}
    assert checks[-1].parent.span_id == request.context.span_id
    told = "".join(span.to_json() for span in exporter.get_finished_spans())
    for words in (BLOCKME, "secret words", BADIMG[30:60], BREAKME):
        assert words not in told


def test_case_26_the_span_of_a_client_that_left_ends_as_cancelled(up, tmp_path, stream):
    exporter, tracing = traced()
    up.script.steps.insert(0, 30.0)
    with running(up, tmp_path, tracing=tracing, keep_alive={"seconds": 0.2}) as server:
        send(server.port, asks(stream=stream), leave_after=0.6)
        span = ended(exporter, "/v1/chat/completions")
        assert span.attributes["vlmguard.cancelled"] is True
        assert span.end_time is not None
