"""Spans and metrics as the SDK gets them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import SpanKind, StatusCode

from asynccache import Cache, ConfigError
from asynccache.telemetry.observation import NOTHING, Usage
from asynccache.telemetry.opentelemetry import OpenTelemetryObserver
from asynccache.telemetry.prices import Prices
from asynccache.testing import FakeUpstream
from tests.telemetry.samples import made, miss, seen

PRICES = Prices({"gpt-4o": {"input": 2.5, "output": 10}}, library=False)


class Collected:
    """An observer, and what has come of it."""

    def __init__(self, **options: Any) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.observer = OpenTelemetryObserver(
            tracer_provider=self.tracer_provider, meter_provider=MeterProvider([self._reader]), **options
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    @property
    def metrics(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: list(metric.data.data_points) for metric in scope.metrics}


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_span_a_call_under_what_is_current() -> None:
    collected = Collected()
    ask = Cache(observers=[collected.observer]).wrap(FakeUpstream())
    with collected.tracer_provider.get_tracer("app").start_as_current_span("app"):
        for _ in range(2):
            await ask(model="gpt-4o", messages=[{"role": "user", "content": "my secret"}])
    missed, hit, app = collected.spans
    assert missed.name == hit.name == "chat gpt-4o"
    assert missed.parent is not None
    assert hit.parent is not None
    assert missed.parent.span_id == hit.parent.span_id == app.context.span_id
    assert (missed.kind, hit.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL)
    began, ended = missed.start_time, missed.end_time
    assert app.start_time is not None
    assert began is not None
    assert ended is not None
    assert app.start_time <= began <= ended
    assert "secret" not in "".join(span.to_json() for span in collected.spans)


async def test_a_streams_span_is_its_callers() -> None:
    collected = Collected()
    ask = Cache(observers=[collected.observer]).wrap(FakeUpstream())

    async def read() -> None:
        with collected.tracer_provider.get_tracer("app").start_as_current_span("app"):
            _ = [chunk async for chunk in await ask(model="m", messages=[], stream=True)]

    await asyncio.create_task(read())
    span, app = collected.spans
    assert span.parent is not None
    assert span.parent.span_id == app.context.span_id
    assert about(span)["gen_ai.response.time_to_first_chunk"] > 0


def test_what_a_miss_says() -> None:
    collected = Collected()
    collected.observer.observe(miss(usage=Usage(1000, 100, 600, 50), answered="gpt-4o-2024-08-06"))
    (span,) = collected.spans
    assert about(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 600,
        "gen_ai.usage.cache_creation.input_tokens": 50,
        "asynccache.outcome": "miss",
        "asynccache.reason": "absent",
        "asynccache.call_type": "chat",
        "asynccache.stored": True,
        "asynccache.key": "0123456789ab",
    }
    assert (span.start_time, span.end_time) == (1_750_000_000_000_000_000, 1_750_000_001_500_000_000)


def test_a_hit_has_used_no_tokens() -> None:
    collected = Collected()
    collected.observer.observe(seen(tenant="acme"))
    said = about(collected.spans[0])
    assert not [name for name in said if name.startswith("gen_ai.usage")]
    assert (said["asynccache.saved.input_tokens"], said["asynccache.saved.output_tokens"]) == (1000, 100)
    assert "acme" not in str(said)


def test_a_failed_call() -> None:
    collected = Collected()
    collected.observer.observe(miss(error="RateLimitError", usage=NOTHING))
    (span,) = collected.spans
    assert span.status.status_code is StatusCode.ERROR
    assert about(span)["error.type"] == "RateLimitError"


def test_metrics_of_calls_that_were_made() -> None:
    collected = Collected(prices=PRICES)
    collected.observer.observe_upstream(made())
    collected.observer.observe_upstream(made(error="RateLimitError", usage=NOTHING, seconds=0.5))
    collected.observer.observe(seen())
    found = collected.metrics
    durations = {p.attributes.get("error.type"): p.sum for p in found["gen_ai.client.operation.duration"]}
    assert durations == {None: 1.5, "RateLimitError": 0.5}
    tokens = {p.attributes["gen_ai.token.type"]: p.sum for p in found["gen_ai.client.token.usage"]}
    assert tokens == {"input": 1000, "output": 100}
    assert {p.attributes["asynccache.paid"]: p.value for p in found["asynccache.cost"]} == {
        "spent": pytest.approx(0.0035),
        "saved": pytest.approx(0.0035),
    }
    assert {p.attributes["gen_ai.token.type"]: p.value for p in found["asynccache.tokens.saved"]} == tokens
    (duration,) = found["asynccache.call.duration"]
    assert dict(duration.attributes) == {
        "asynccache.outcome": "hit",
        "asynccache.call_type": "chat",
        "asynccache.tier": "memory",
    }


def test_names_are_those_of_the_conventions() -> None:
    collected = Collected()
    collected.observer.observe(miss(first=0.1))
    collected.observer.observe_upstream(made(answered="gpt-4o-x"))
    known = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    measured = {value for value in vars(gen_ai_metrics).values() if isinstance(value, str)}
    used = {name for span in collected.spans for name in about(span)}
    used |= {name for points in collected.metrics.values() for point in points for name in point.attributes}
    assert {name for name in used if name.startswith("gen_ai.")} <= known
    assert {name for name in collected.metrics if name.startswith("gen_ai.")} <= measured
    operations = {member.value for member in gen_ai_attributes.GenAiOperationNameValues}
    providers = {member.value for member in gen_ai_attributes.GenAiProviderNameValues}
    for call_type, operation in (("chat", "chat"), ("messages", "chat"), ("embedding", "embeddings")):
        collected.observer.observe(miss(call_type=call_type))
        assert about(collected.spans[-1])["gen_ai.operation.name"] == operation
        assert operation in operations
    for provider in ("openai", "anthropic", "google", "azure", "aws", "deepseek", "mistral", "x-ai", "groq", "cohere"):
        collected.observer.observe(miss(provider=provider))
        assert about(collected.spans[-1])["gen_ai.provider.name"] in providers


def test_models_in_metrics_are_bounded() -> None:
    collected = Collected(max_models=2)
    collected.observer.observe_upstream(made(model="made-up", error="NotFoundError", usage=NOTHING))
    for number in range(5):
        collected.observer.observe_upstream(made(model=f"m{number}"))
    models = {p.attributes["gen_ai.request.model"] for p in collected.metrics["gen_ai.client.token.usage"]}
    assert models == {"m0", "m1", "_OTHER"}


def test_without_an_sdk_nothing_happens() -> None:
    observer = OpenTelemetryObserver()
    observer.observe(seen())
    observer.observe_upstream(made())
    assert not trace.get_current_span().is_recording()


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"asynccache\[otel\]"):
        OpenTelemetryObserver()
