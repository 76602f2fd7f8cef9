import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_vlmguard import GuardedChatModel, VLMGuardMiddleware
from langchain_vlmguard.agents.telemetry import GuardTelemetry
from tests.agent_models import AgentModel, WordJudge, both, call, calling


@tool
def order(item: str) -> str:
    """Order."""
    return "ordered"


async def observed(asked, *, use_async=False, **options):
    spans, reader, tracing = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = GuardTelemetry(tracer_provider=tracing, meter_provider=MeterProvider([reader]), **options)
    model = AgentModel(answers=[calling(call("order", item="bomb")), "done"])
    agent = create_agent(model, [order], middleware=[VLMGuardMiddleware(WordJudge(), telemetry=telemetry)])
    await both(agent, {"messages": [HumanMessage(asked)]}, use_async=use_async)
    return spans.get_finished_spans(), points(reader)


def points(reader):
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    return {metric.name: metric.data.data_points for metric in metrics}


@pytest.mark.parametrize("use_async", [False, True])
async def test_every_check_is_a_span_and_is_counted_without_content(use_async):
    spans, metrics = await observed("SECRET knife", use_async=use_async)
    found = [(span.name, span.attributes["vlmguard.action"]) for span in spans]
    assert found == [
        ("vlmguard.check input", "rewrite"),
        ("vlmguard.check tool_args", "refuse"),
        ("vlmguard.check output", "allow"),
    ]
    assert spans[1].attributes["gen_ai.tool.name"] == "order"
    assert spans[1].attributes["vlmguard.hazards"] == ("mlcommons:iwp",)
    assert sum(point.value for point in metrics["vlmguard.checks"]) == 3
    assert {"vlmguard.check.duration", "vlmguard.check.risk"} <= set(metrics)
    shown = str([span.to_json() for span in spans])
    for content in ("SECRET", "bomb", "how do i stay safe", "wants something"):
        assert content not in shown


@pytest.mark.parametrize("use_async", [False, True])
async def test_a_review_is_a_span_when_it_waits_and_another_when_it_is_decided(use_async):
    spans, reader, tracing = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = GuardTelemetry(tracer_provider=tracing, meter_provider=MeterProvider([reader]))
    guard = VLMGuardMiddleware(WordJudge(), telemetry=telemetry)
    graph = create_agent(AgentModel(), middleware=[guard], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}

    def shown():
        found = [(span.name, span.attributes["vlmguard.action"]) for span in spans.get_finished_spans()]
        return [*found, *(span.attributes.get("vlmguard.reviewed") for span in spans.get_finished_spans())]

    await both(graph, {"messages": [HumanMessage("maybe a kite")]}, thread, use_async=use_async)
    assert shown() == [("vlmguard.check input", "review"), None]
    await both(graph, Command(resume="approve"), thread, use_async=use_async)
    checks = [("vlmguard.check input", "review"), ("vlmguard.check input", "allow"), ("vlmguard.check output", "allow")]
    assert shown() == [*checks, None, "approve", None]
    metrics = points(reader)
    assert sum(point.value for point in metrics["vlmguard.checks"]) == 3
    assert sum(point.count for point in metrics["vlmguard.check.duration"]) == 2


@pytest.mark.parametrize("use_async", [False, True])
async def test_a_guarded_chat_model_reports_its_checks_too(use_async):
    spans, tracing = InMemorySpanExporter(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = GuardTelemetry(tracer_provider=tracing, meter_provider=MeterProvider())
    inner = AgentModel(answers=[calling(call("order", item="bomb"), text="SECRET words"), "unsaid"])
    model = GuardedChatModel(model=inner, rewriter=WordJudge(), telemetry=telemetry)
    for text in ("a kite", "a bomb"):
        _ = await model.ainvoke(text) if use_async else model.invoke(text)
    assert [(span.name, span.attributes["vlmguard.action"]) for span in spans.get_finished_spans()] == [
        ("vlmguard.check input", "allow"),
        ("vlmguard.check output", "allow"),
        ("vlmguard.check tool_args", "refuse"),
        ("vlmguard.check input", "refuse"),
    ]
    assert "SECRET" not in str([span.to_json() for span in spans.get_finished_spans()])
    assert "telemetry" not in model.model_dump()


async def test_content_is_captured_only_when_asked_for():
    spans, _ = await observed("SECRET knife", capture_content=True)
    assert spans[0].attributes["vlmguard.rewritten_prompt"] == "how do i stay safe?"
    assert "SECRET" not in str([span.to_json() for span in spans])


def test_a_turn_that_nobody_could_read_is_reported_without_a_risk():
    spans, reader, tracing = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = GuardTelemetry(tracer_provider=tracing, meter_provider=MeterProvider([reader]))
    model = GuardedChatModel(model=AgentModel(answers=["done"]), rewriter=WordJudge(), telemetry=telemetry)
    answer = model.invoke([HumanMessage([{"type": "image", "base64": "AAAA", "mime_type": "image/png"}])])
    assert answer.response_metadata["verdict"]["risk"] is None
    assert [span.attributes["vlmguard.action"] for span in spans.get_finished_spans()] == ["refuse"]
    assert "vlmguard.check.risk" not in points(reader)
