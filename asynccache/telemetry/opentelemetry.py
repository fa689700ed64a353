"""Traces and metrics for OpenTelemetry. Needs the extra asynccache[otel], and an SDK that the application sets up.

Names that begin with `gen_ai.` are those of the GenAI conventions, as opentelemetry-semantic-conventions 0.66b has them
(their status is "development"). They are used for calls that were really made, so that nobody adds up tokens of hits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asynccache.errors import ConfigError
from asynccache.telemetry.observation import Observation, UpstreamCall, Usage
from asynccache.telemetry.prices import Prices, dollars
from asynccache.telemetry.sums import saved_by

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

_NAME = "asynccache"
_OPERATIONS = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "text_completion": "text_completion",
    "embedding": "embeddings",
}
"""By call type. What the conventions have no word for goes by our own."""
_PROVIDERS = {
    "google": "gcp.gemini",
    "azure": "azure.ai.openai",
    "aws": "aws.bedrock",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
}
"""Where the conventions have another word than the price library."""
_UNKNOWN = "_OTHER"
_DURATIONS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS = [4**power for power in range(14)]
_HITS = [10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0]


class OpenTelemetryObserver:
    """An observer that makes a span of each call, and metrics.

    A span is a child of what is current where the call ends, has the times of the call, and the kind "client" when the
    upstream was called for it. What it says of the cache is under `asynccache.`. No prompt, no answer, no tenant and no
    whole key is in it.

    Metrics: `gen_ai.client.operation.duration` and `gen_ai.client.token.usage` of upstream calls, those behind answers
    included; `asynccache.call.duration`, and the tokens that answers from the cache saved, `asynccache.tokens.saved`;
    with prices, `asynccache.cost`, in dollars, spent and saved.

    prices: what tokens cost; None: there is no metric of money.
    tracer_provider, meter_provider: None: those that the application has set.
    max_models: so many models have a value of their own in metrics; in spans all have.

    Raises ConfigError without the extra.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        max_models: int = 50,
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError as error:
            raise ConfigError("OpenTelemetry needs the extra asynccache[otel]") from error
        self._trace = trace
        self._prices = prices
        self._max_models = max_models
        self._models: set[str] = set()
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._upstream_duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._token_usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._duration = meter.create_histogram(
            "asynccache.call.duration",
            unit="s",
            description="Duration of a call through the cache.",
            explicit_bucket_boundaries_advisory=_HITS,
        )
        self._saved = meter.create_counter(
            "asynccache.tokens.saved", unit="{token}", description="Tokens that answers from the cache saved."
        )
        self._cost = meter.create_counter(
            "asynccache.cost", unit="{USD}", description="Dollars spent, and saved by answers from the cache."
        )

    def observe(self, seen: Observation, /) -> None:
        saved = saved_by(seen)
        made = seen.outcome in ("miss", "bypass") and seen.paid is not None and any(seen.paid)
        self._span(seen, saved, made)
        model = self._label(seen.model, seen.error)
        labels = {"asynccache.outcome": seen.outcome, "asynccache.call_type": seen.call_type}
        self._duration.record(seen.seconds, {**labels, "asynccache.tier": seen.tier})
        if saved is not None and any(saved):
            about = {"asynccache.call_type": seen.call_type, "gen_ai.request.model": model}
            self._saved.add(saved.input, {**about, "gen_ai.token.type": "input"})
            self._saved.add(saved.output, {**about, "gen_ai.token.type": "output"})
            self._pay("saved", seen, saved, model)

    def observe_upstream(self, made: UpstreamCall, /) -> None:
        model = self._label(made.model, made.error)
        labels = _who(made) | {"gen_ai.request.model": model}
        if made.answered:
            labels["gen_ai.response.model"] = self._label(made.answered, made.error)
        failed = {"error.type": made.error} if made.error else {}
        self._upstream_duration.record(made.seconds, {**labels, **failed})
        if made.usage is not None and any(made.usage):
            self._token_usage.record(made.usage.input, {**labels, "gen_ai.token.type": "input"})
            if made.usage.output:
                self._token_usage.record(made.usage.output, {**labels, "gen_ai.token.type": "output"})
            self._pay("spent", made, made.usage, model)

    def _span(self, seen: Observation, saved: Usage | None, made: bool) -> None:
        trace = self._trace
        began = int(seen.began * 1e9)
        operation = _OPERATIONS.get(seen.call_type, seen.call_type)
        span = self._tracer.start_span(
            f"{operation} {seen.model}".rstrip(),
            kind=trace.SpanKind.CLIENT if made else trace.SpanKind.INTERNAL,
            start_time=began,
        )
        if span.is_recording():
            span.set_attributes(_attributes(seen, saved, made))
            if seen.error:
                span.set_status(trace.StatusCode.ERROR, seen.error)
        span.end(end_time=began + int(seen.seconds * 1e9))

    def _pay(self, what: str, call: Observation | UpstreamCall, usage: Usage, model: str) -> None:
        if self._prices is None:
            return
        cost = self._prices.cost(usage, call.model, provider=call.provider, answered=call.answered, at=call.began)
        if cost is not None:
            self._cost.add(float(dollars(cost.total)), {"asynccache.paid": what, "gen_ai.request.model": model})

    def _label(self, model: str, error: str) -> str:
        if not model or model in self._models:
            return model
        if error or len(self._models) >= self._max_models:
            return _UNKNOWN
        self._models.add(model)
        return model


def _who(call: Observation | UpstreamCall) -> dict[str, Any]:
    provider = _PROVIDERS.get(call.provider, call.provider)
    return {
        "gen_ai.operation.name": _OPERATIONS.get(call.call_type, call.call_type),
        "gen_ai.provider.name": provider or _UNKNOWN,
    }


def _attributes(seen: Observation, saved: Usage | None, made: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        **_who(seen),
        "gen_ai.request.model": seen.model,
        "gen_ai.request.stream": seen.stream,
        "asynccache.outcome": seen.outcome,
        "asynccache.call_type": seen.call_type,
        "asynccache.stored": seen.stored,
    }
    told = {
        "gen_ai.response.model": seen.answered,
        "asynccache.reason": seen.reason,
        "asynccache.tier": seen.tier,
        "asynccache.key": seen.key[:12],
        "error.type": seen.error,
        "gen_ai.response.time_to_first_chunk": seen.first,
    }
    said |= {name: value for name, value in told.items() if value not in ("", None)}
    if made and seen.paid is not None:
        said["gen_ai.usage.input_tokens"] = seen.paid.input
        said["gen_ai.usage.output_tokens"] = seen.paid.output
        said["gen_ai.usage.cache_read.input_tokens"] = seen.paid.cached_read
        said["gen_ai.usage.cache_creation.input_tokens"] = seen.paid.cached_write
    if saved is not None and any(saved):
        said |= {"asynccache.saved.input_tokens": saved.input, "asynccache.saved.output_tokens": saved.output}
    return said
