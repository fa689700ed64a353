"""`GET /metrics`: what Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from asynccache.cache import Cache
from asynccache.proxy.access import Denied
from asynccache.proxy.endpoint import refuse
from asynccache.proxy.management import Managers, challenged
from asynccache.proxy.observers import one_of
from asynccache.proxy.problems import Problem
from asynccache.telemetry.prometheus import PrometheusObserver

PATH = "/metrics"


def routes(cache: Cache, managers: Managers | None) -> Iterator[BaseRoute]:
    """The path is ours also when nobody counts: no provider is asked for it.

    managers: tells who may read; None: anybody.
    """
    yield Route(PATH, _Metrics(one_of(cache.observers, PrometheusObserver), managers))


class _Metrics:
    def __init__(self, observer: PrometheusObserver | None, managers: Managers | None) -> None:
        self._observer = observer
        self._managers = managers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._managers is not None:
                self._managers.check_key(dict(scope["headers"]))
        except Denied as denied:
            await refuse(send, challenged(denied))
            return
        if self._observer is None:
            await refuse(send, Problem(404, "there are no metrics: set telemetry.prometheus", code="no_metrics"))
            return
        await self._observer.app(scope, receive, send)
