"""Who watches the cache of a proxy: what the settings ask for, and what the page shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from asynccache.cache import Cache
from asynccache.errors import ConfigError
from asynccache.proxy.settings import build_cache
from asynccache.telemetry.ledger import Ledger
from asynccache.telemetry.log import AccessLog
from asynccache.telemetry.opentelemetry import OpenTelemetryObserver
from asynccache.telemetry.prices import Prices
from asynccache.telemetry.prometheus import PrometheusObserver
from asynccache.telemetry.recent import Recent

if TYPE_CHECKING:
    from asynccache.proxy.settings import Settings, Telemetry
    from asynccache.telemetry.observation import Observer

T = TypeVar("T")


def watched_cache(settings: Settings) -> Cache:
    """The cache that these settings ask for, with its observers. Raises ConfigError, also for an extra that is
    missing."""
    prices = prices_of(settings.telemetry)
    recent = Recent(prices=prices, prompts=settings.proxy.ui_prompts)
    observers: list[Observer] = [recent, Ledger(prices, path=_ledger_file(settings)), *_asked_for(settings, prices)]
    cache = build_cache(settings, observers=observers, stages=recent.stages)
    if (metrics := one_of(observers, PrometheusObserver)) is not None:
        metrics.watch(cache)
    return cache


def prices_of(telemetry: Telemetry) -> Prices:
    """What calls cost: by the settings' own table, and by the price library if it is installed. Without both, nobody
    knows."""
    if telemetry.prices:
        return Prices(telemetry.prices)
    try:
        return Prices()
    except ConfigError:  # the library is not installed: it is told as "unknown", and never as nothing
        return Prices(library=False)


def _asked_for(settings: Settings, prices: Prices) -> Iterator[Observer]:
    """Those that the `telemetry` table names. Raises ConfigError, with the place, for an extra that is missing."""
    telemetry = settings.telemetry
    name = ""
    try:
        if telemetry.log != "off":
            yield AccessLog(telemetry.log)
        if telemetry.prometheus:
            name = "prometheus"
            yield PrometheusObserver(prices, litellm_names=telemetry.litellm_names)
        if telemetry.opentelemetry:
            name = "opentelemetry"
            yield OpenTelemetryObserver(prices)
    except ConfigError as error:
        raise ConfigError(f"{settings.where(('telemetry', name))}: {error}") from error.__cause__


def nobody_listens(settings: Settings) -> bool:
    """Whether OpenTelemetry is asked for, and nobody has set up where it goes: then all of it is lost."""
    if not settings.telemetry.opentelemetry:
        return False
    from opentelemetry import trace

    return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def one_of(observers: Iterable[Observer], kind: type[T]) -> T | None:
    """The observer of this kind; None when there is none."""
    return next((observer for observer in observers if isinstance(observer, kind)), None)


def _ledger_file(settings: Settings) -> str | None:
    path = settings.telemetry.ledger
    return None if path is None else str(settings.folder / path)
