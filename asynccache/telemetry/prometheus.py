"""Metrics for Prometheus. Needs the extra asynccache[metrics].

    observer = PrometheusObserver(prices=Prices())
    cache = Cache(observers=[observer])
    observer.watch(cache)
    app.mount("/metrics", observer.app)

Labels are few, and what stands in them is bounded: never a tenant, never a key. With PROMETHEUS_MULTIPROC_DIR in the
environment the processes of a server count together, and each of them can be scraped for all.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Counts
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from asynccache.errors import BackendError, ConfigError
from asynccache.guard import Guard, State
from asynccache.protocols import SupportsSize
from asynccache.stats import Stats
from asynccache.telemetry.observation import NOTHING, Observation, UpstreamCall, Usage
from asynccache.telemetry.prices import PICODOLLARS, QUARTER, Prices
from asynccache.telemetry.sums import SMALL, Sum, saved_by

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

OTHER = "other"
"""The label of what came when there were as many labels as there may be."""

LATENCIES = (10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
UPSTREAM_LATENCIES = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
"""Upper bounds in seconds: a hit in memory takes microseconds, a stream may take minutes."""

_UNFOLDED = 512
_EVERY = 0.5  # seconds after which other processes can see what was counted here
_PATIENCE = 1.0  # seconds for which a scrape waits for a backend to say how full it is
_REASONS = 50

_COUNTERS = {
    "hit": "cache_hits",
    "semantic": "cache_hits",
    "stale": "cache_stale",
    "coalesced": "cache_coalesced",
    "miss": "cache_misses",
    "bypass": "cache_bypassed",
}
_ERRORS = {
    "read_errors": "read",
    "write_errors": "write",
    "corrupt": "corrupt",
    "lease_errors": "lease",
    "hook_errors": "hook",
    "refresh_errors": "refresh",
}
_EVENTS = {"stored": "cache_stored", "refreshes": "cache_refreshes", "dropped": "cache_dropped"}
_LITELLM = ("cache_hits", "cache_misses", "cache_latency_seconds", "cache_hit_ratio")


class Watched(Protocol):
    """What is asked when metrics are collected: a `Cache`."""

    stats: Stats
    backend: Any


class MetricsResponse(NamedTuple):
    """What `/metrics` answers."""

    body: bytes
    content_type: str


class PrometheusObserver:
    """An observer that counts for Prometheus.

    prices:     what tokens cost; None: there are no metrics of money.
    registry:   where the metrics can be collected besides; None: nowhere. `app` and `metrics_response` need none.
    max_models: so many models have a label of their own, in the order in which they have first answered.
    litellm_names: whether hits, misses, latency and hit ratio also go by the names `litellm_cache_…`.

    Raises ConfigError without the extra, and for a wrong value. May be used on several event loops and threads.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        *,
        registry: CollectorRegistry | None = None,
        max_models: int = 50,
        litellm_names: bool = False,
    ) -> None:
        if isinstance(max_models, bool) or not isinstance(max_models, int) or max_models < 0:
            raise ConfigError(f"max_models={max_models!r}: an int that is not negative is wanted")
        try:
            import prometheus_client
        except ImportError as error:
            raise ConfigError("metrics need the extra asynccache[metrics]") from error
        self._prices = prices
        self._litellm_names = litellm_names
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._own = prometheus_client.CollectorRegistry()
        self._metrics = _metrics(self._own, money=prices is not None)
        self._models = _Labels(max_models)
        self._reasons = _Labels(_REASONS)
        self._errors = _Labels(_REASONS)
        self._lock = Lock()
        self._sums: dict[_Kind, _Timed] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # where it is about to ring
        self._settling: asyncio.Future[None] | None = None
        self._watched: list[_Watch] = []
        if registry is not None:
            registry.register(self)

    def watch(self, cache: Watched) -> Self:
        """Collect as well what this cache and its backends count: size, evictions, errors, breakers."""
        self._watched.append(_Watch(cache))
        return self

    # -- counting -------------------------------------------------------------------------------------

    def observe(self, seen: Observation, /) -> None:
        self.hits_like(seen)(seen.began, seen.seconds)

    def hits_like(self, first: Observation, /) -> Callable[[float, float], None]:
        """Counts calls like this one."""
        found = saved_by(first)
        usage, unknown = found or NOTHING, found is None
        size = 0 if usage[0] <= SMALL else usage[0]
        reason = first.reason if first.outcome == "bypass" else ""
        model = (first.model, first.answered, first.provider)
        what = (first.outcome, first.call_type, *model, first.tier, reason, first.error)

        def count(began: float, seconds: float) -> None:
            self._count((*what, began // QUARTER, size), began, seconds, usage, unknown)

        return count

    def observe_upstream(self, made: UpstreamCall, /) -> None:
        usage = made.usage or NOTHING
        size = 0 if usage[0] <= SMALL else usage[0]
        kind = ("", made.call_type, made.model, made.answered, made.provider, "", "", made.error)
        self._count((*kind, made.began // QUARTER, size), made.began, made.seconds, usage, made.usage is None)

    async def drain(self) -> None:
        """Make all that was observed so far visible to the other processes."""
        await self._settle()

    def _count(self, kind: _Kind, began: float, seconds: float, usage: Usage, unknown: bool) -> None:
        with self._lock:
            found = self._sums.get(kind)
            if found is None:
                found = self._sums[kind] = _Timed(began)
            found.sum.add(began, usage, unknown)
            found.seconds.append(seconds)
            full = len(found.seconds) >= _UNFOLDED or len(self._sums) >= _UNFOLDED
        if full:
            self._flush()
        elif self._shared and (self._loop is None or self._loop.is_closed()):
            self._wind()

    def _wind(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # told on a thread without one
            self._flush()
        else:
            self._loop.call_later(_EVERY, self._ring)

    def _ring(self) -> None:
        self._settling = asyncio.ensure_future(self._settle())

    async def _settle(self) -> None:
        """What the others can only be told by this process."""
        self._loop = None
        for watch in self._watched:
            await watch.measure(_MEMORY)
        self._flush()

    def _flush(self) -> None:
        """From what was counted here to the metrics themselves, which take their time."""
        with self._lock:
            sums, self._sums = self._sums, {}
            for kind, timed in sums.items():
                self._record(kind, timed)
            for watch in self._watched:
                watch.record(self._metrics)

    def _record(self, kind: _Kind, timed: _Timed) -> None:
        outcome, call_type, asked, answered, provider, tier, reason, error, _, size = kind
        metrics, sum_ = self._metrics, timed.sum
        # Only what has answered gets a label of its own: names that were made up would use them all.
        model = self._models.label(asked, known=not error)
        if outcome:
            labels = [call_type, self._reasons.label(reason)] if outcome == "bypass" else [call_type, model]
            if outcome in ("hit", "semantic", "stale"):
                labels.append(tier)
            metrics[_COUNTERS[outcome]].labels(*labels).inc(sum_.calls)
            if error:
                metrics["cache_failed_calls"].labels(call_type, outcome).inc(sum_.calls)
            latency = metrics["cache_latency_seconds"].labels(tier, outcome)
            paid = "saved"
        else:
            if error:
                metrics["upstream_errors"].labels(call_type, model, self._errors.label(error)).inc(sum_.calls)
            latency = metrics["upstream_latency_seconds"].labels(call_type, model)
            paid = "spent"
        for seconds in timed.seconds:
            latency.observe(seconds)
        for name in ("input", "output", "cached_read", "cached_write"):
            if tokens := getattr(sum_, name):
                metrics["tokens"].labels(paid, name, model).inc(tokens)
        unknown = sum_.unknown
        if self._prices is not None:
            cost = sum_.cost(self._prices, asked, provider=provider, answered=answered, size=size)
            if cost is None:
                unknown += sum_.priced
            else:
                metrics["dollars"].labels(paid, model).inc(cost.total / PICODOLLARS)
                if not outcome and cost.cache_saved:
                    metrics["dollars"].labels("provider_cache_saved", model).inc(cost.cache_saved / PICODOLLARS)
                if not outcome and cost.cache_spent:
                    metrics["dollars"].labels("provider_cache_spent", model).inc(cost.cache_spent / PICODOLLARS)
        if unknown:
            metrics["unpriced_calls"].labels(paid, model).inc(unknown)

    # -- collecting -----------------------------------------------------------------------------------

    async def metrics_response(self, accept: str = "") -> MetricsResponse:
        """All metrics in the format that the scraper accepts, by its `Accept` header."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        for watch in self._watched:
            await watch.measure()
        registry = CollectorRegistry()
        registry.register(self)
        encode, content_type = choose_encoder(accept)
        return MetricsResponse(encode(registry), content_type)

    async def app(
        self, scope: Mapping[str, Any], receive: Callable[..., Any], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """The same as an ASGI application, to be mounted where the metrics are to be."""
        del receive
        if scope["type"] != "http":
            raise RuntimeError(f"metrics speak http, not {scope['type']}")
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        status, reply = 200, MetricsResponse(b"", "text/plain; charset=utf-8")
        if scope["method"] in ("GET", "HEAD"):
            reply = await self.metrics_response(accept)
        else:
            status = 405
        headers = [(b"content-type", reply.content_type.encode()), (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})

    def describe(self) -> list[Metric]:
        """Nothing: so the registry does not collect in order to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of all processes that count together. How full a backend is, is as the last
        `metrics_response` has found it."""
        from prometheus_client.metrics_core import GaugeMetricFamily
        from prometheus_client.multiprocess import MultiProcessCollector

        self._flush()
        source: Any = MultiProcessCollector(None) if self._shared else self._own  # type: ignore[no-untyped-call]
        families = {family.name: family for family in source.collect() if family.name.startswith("asynccache_")}
        for watch in self._watched:
            watch.add_shared(families)
        ratio = GaugeMetricFamily(
            "asynccache_cache_hit_ratio",
            "The share of calls since the start, bypassed ones aside, that needed no upstream call.",
            value=_ratio(families),
        )
        families[ratio.name] = ratio
        for family in families.values():
            yield family
            if self._litellm_names and family.name.removeprefix("asynccache_") in _LITELLM:
                yield _renamed(family)


_Kind = tuple[str, str, str, str, str, str, str, str, float, int]


class _Timed:
    """Calls of one kind, and how long each has taken."""

    __slots__ = ("seconds", "sum")

    def __init__(self, began: float) -> None:
        self.sum = Sum(began)
        self.seconds: list[float] = []


class _Labels:
    """The first so many labels as they are, the rest as one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def label(self, name: str, *, known: bool = True) -> str:
        if not name or name in self._known:
            return name
        if not known or len(self._known) >= self._limit:
            return OTHER
        self._known.add(name)
        return name


class _Watch:
    """A cache's own counters, which only go up, and what its backends say of themselves."""

    def __init__(self, cache: Watched) -> None:
        self._cache = cache
        self._told: Counts[Any] = Counts()
        self._sizes: dict[str, tuple[int, int]] = {}

    def record(self, metrics: Mapping[str, Any]) -> None:
        """What has happened since the last time."""
        stats = self._cache.stats
        for name, kind in _ERRORS.items():
            self._step(name, getattr(stats, name), metrics["cache_errors"].labels(kind))
        for name, event in _EVENTS.items():
            self._step(name, getattr(stats, name), metrics[event])
        for reason, count in list(stats.reject_reasons.items()):
            self._step(("rejected", reason), count, metrics["cache_rejected"].labels(reason))
        for tier, backend in _tiers(self._cache.backend):
            inner = backend.inner if isinstance(backend, Guard) else backend
            if isinstance(evictions := getattr(inner, "evictions", None), int):
                self._step(("evictions", tier), evictions, metrics["cache_evictions"].labels(tier))
            if isinstance(backend, Guard):
                for state in State:
                    metrics["cache_breaker_state"].labels(tier, state.value).set(backend.state is state)
        for tier, (entries, size) in self._sizes.items():
            if tier == _MEMORY:
                metrics["cache_entries"].labels(tier).set(entries)
                metrics["cache_bytes"].labels(tier).set(size)

    async def measure(self, only: str = "") -> None:
        """Ask the backends how full they are, or one alone. One that does not say it in time keeps what it said."""
        for tier, backend in _tiers(self._cache.backend):
            if isinstance(backend, SupportsSize) and only in ("", tier):
                try:
                    async with asyncio.timeout(_PATIENCE):
                        size = await backend.size()
                except (BackendError, TimeoutError):
                    continue
                self._sizes[tier] = size.entries, size.bytes

    def add_shared(self, families: dict[str, Metric]) -> None:
        """The size of what all processes share, which must not be added up over them."""
        from prometheus_client.metrics_core import Metric

        for name, at in (("asynccache_cache_entries", 0), ("asynccache_cache_bytes", 1)):
            for tier, sizes in self._sizes.items():
                if tier != _MEMORY:
                    family = families.setdefault(name, Metric(name, "How full the backend is.", "gauge"))
                    family.add_sample(name, {"tier": tier}, sizes[at])

    def _step(self, name: Any, count: int, counter: Any) -> None:
        if more := count - self._told[name]:
            self._told[name] = count
            counter.inc(more)


_MEMORY = "memory"


def _tiers(backend: Any) -> Iterable[tuple[str, Any]]:
    """Each backend with its name: the tiers of a cache that has two."""
    inner = backend.inner if isinstance(backend, Guard) else backend
    near, far = getattr(inner, "l1", None), getattr(inner, "l2", None)
    if near is not None and far is not None:
        return [*_tiers(near), *_tiers(far)]
    package, _, name = type(inner).__module__.rpartition(".")
    return [(name if package == "asynccache.backends" else type(inner).__name__, backend)]


def _metrics(registry: CollectorRegistry, *, money: bool) -> dict[str, Any]:
    from prometheus_client import Counter, Gauge, Histogram

    made: dict[str, Any] = {}

    def counter(name: str, help: str, *labels: str) -> None:
        made[name] = Counter(f"asynccache_{name}", help, labels, registry=registry)

    def gauge(name: str, help: str, mode: Any, *labels: str) -> None:
        made[name] = Gauge(f"asynccache_{name}", help, labels, registry=registry, multiprocess_mode=mode)

    def histogram(name: str, help: str, buckets: Iterable[float], *labels: str) -> None:
        made[name] = Histogram(f"asynccache_{name}", help, labels, registry=registry, buckets=tuple(buckets))

    counter("cache_hits", "Calls answered from an entry.", "call_type", "model", "tier")
    counter("cache_stale", "Calls answered from an entry that was no longer fresh.", "call_type", "model", "tier")
    counter("cache_coalesced", "Calls answered by an upstream call under way.", "call_type", "model")
    counter("cache_misses", "Calls that the cache could not answer.", "call_type", "model")
    counter("cache_bypassed", "Calls that the cache kept out of.", "call_type", "reason")
    counter("cache_failed_calls", "Calls that ended with an error, or were left.", "call_type", "outcome")
    histogram("cache_latency_seconds", "Seconds a whole call took.", LATENCIES, "tier", "outcome")
    counter("cache_stored", "Entries written.")
    counter("cache_rejected", "Answers that were not written because of what they are.", "reason")
    counter("cache_refreshes", "Refreshes begun behind an answer.")
    counter("cache_dropped", "Entries dropped from a full write-behind queue.")
    counter("cache_errors", "What failed, and was kept from the caller.", "kind")
    counter("cache_evictions", "Entries dropped to make room.", "tier")
    gauge("cache_entries", "Entries in the backend.", "livesum", "tier")
    gauge("cache_bytes", "Bytes that they take.", "livesum", "tier")
    gauge("cache_breaker_state", "1 for the state that the circuit breaker is in.", "livemax", "tier", "state")
    histogram("upstream_latency_seconds", "Seconds an upstream call took.", UPSTREAM_LATENCIES, "call_type", "model")
    counter("upstream_errors", "Upstream calls that failed or were given up.", "call_type", "model", "error")
    counter("tokens", "Tokens that were paid for, or that answers from the cache saved.", "paid", "kind", "model")
    counter("unpriced_calls", "Calls whose tokens or price nobody knows.", "paid", "model")
    if money:
        counter("dollars", "Money spent and saved, as far as prices are known.", "paid", "model")
    return made


def _ratio(families: Mapping[str, Metric]) -> float:
    """0.0 before the first call."""
    count = {
        name: sum(s.value for s in families[f"asynccache_{name}"].samples if s.name.endswith("_total"))
        for name in ("cache_hits", "cache_stale", "cache_coalesced", "cache_misses")
        if f"asynccache_{name}" in families
    }
    asked = sum(count.values())
    return (asked - count.get("cache_misses", 0.0)) / asked if asked else 0.0


def _renamed(family: Metric) -> Metric:
    from prometheus_client.metrics_core import Metric as NewMetric

    def name(old: str) -> str:
        return old.replace("asynccache_", "litellm_", 1)

    twin = NewMetric(name(family.name), family.documentation, family.type, family.unit)
    twin.samples = [sample._replace(name=name(sample.name)) for sample in family.samples]
    return twin
