"""The ASGI application.

    app = create_app(Settings.load("config.yaml"))

For a server of its own, or as a part of yours: `Mount("/llm", app)`. Mounted, it is not told when the server ends:
call `await app.aclose()` then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from asynccache.http.calls import API, TRANSCRIPTIONS, api_of
from asynccache.proxy import metrics
from asynccache.proxy.access import Access, Caller
from asynccache.proxy.bodies import Patience
from asynccache.proxy.endpoint import Calls, Crowd
from asynccache.proxy.forward import Call, Forward
from asynccache.proxy.keys import access_of
from asynccache.proxy.management import Management
from asynccache.proxy.models import Models
from asynccache.proxy.observers import watched_cache
from asynccache.proxy.passage import Passage, route_path
from asynccache.proxy.ui import pages
from asynccache.proxy.upstreams import Upstreams
from asynccache.proxy.wire import Wire

if TYPE_CHECKING:
    from asynccache.cache import Cache
    from asynccache.proxy.settings import Settings

_PATHS = (
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/rerank",
    "/messages",
)


def create_app(
    settings: Settings, *, cache: Cache | None = None, access: Access | None = None, routes: Iterable[BaseRoute] = ()
) -> Proxy:
    """The application for these settings.

    cache:  one of yours, which is not closed with the application; None: the one that the settings ask for.
    access: who may call; None: as the settings say.
    routes: more of them, before those that are passed through.

    Does no I/O. Raises ConfigError.
    """
    return Proxy(settings, cache=cache, access=access, routes=routes)


class Proxy(Starlette):
    """The application. `state.settings` and `state.cache` are what it was made of."""

    def __init__(
        self,
        settings: Settings,
        *,
        cache: Cache | None = None,
        access: Access | None = None,
        routes: Iterable[BaseRoute] = (),
    ) -> None:
        self._own = cache is None
        self.settings = settings
        self.cache = watched_cache(settings) if cache is None else cache
        self.access = access_of(settings) if access is None else access
        limits = settings.proxy
        self._wire = Wire(limits.request_timeout, limits.connect_timeout)
        upstreams = Upstreams(settings)
        self.crowd = Crowd(limits.max_concurrent)
        patience = Patience(limits.max_body_bytes, limits.body_timeout)
        forward = Forward(self.cache, settings, self._wire)
        self._calls = Calls(settings, self.access, upstreams, forward, self.crowd, patience)
        passage = Passage(self._calls, self.access, upstreams, self._wire, self.crowd, patience)
        models = Models(self.access, upstreams, passage)
        self._hot = _hot_paths()
        self._forward = forward
        self._upstreams = upstreams
        management = Management(self.cache, settings, self.access, self._answering)
        super().__init__(
            routes=[
                *routes,
                *management.routes(),
                *metrics.routes(self.cache, management.managers if settings.telemetry.metrics_need_key else None),
                *pages(),
                *(Route(path, models) for path in ("/v1/models", "/models")),
                *(Route(f"{path}/{{model:path}}", models) for path in ("/v1/models", "/models")),
            ],
            lifespan=_closing,
        )
        self.router.redirect_slashes = False
        self.router.default = _Others(passage, self.router.default)
        self.state.settings = settings
        self.state.cache = self.cache
        self.state.access = self.access
        self.state.upstreams = upstreams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The calls past the router, which would cost as much as all else that a hit does here.
        if scope["type"] == "http" and scope["method"] == "POST":
            hot = self._hot.get(route_path(scope))
            if hot is not None:
                await self._calls.take(*hot, scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def _answering(self, path: str, fields: Mapping[str, Any], caller: Caller) -> Callable[..., Any] | None:
        """See `management.KeyOf`."""
        hot = self._hot.get(path)
        if hot is None:
            return None
        call = Call(*hot, dict(fields), [], b"")
        call.group = self._upstreams.group(fields.get("model"))
        return self._forward.answering(call, caller)

    async def aclose(self) -> None:
        """End what goes on, and close the connections; the cache too, if it was made here. Closing twice is fine."""
        if self._own:
            await self.cache.aclose()
        await self._wire.aclose()


class _Others:
    """What no route is for. No pattern: that would not match every path there can be."""

    def __init__(self, passage: Passage, nothing: ASGIApp) -> None:
        self._passage = passage
        self._nothing = nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._passage if scope["type"] == "http" else self._nothing)(scope, receive, send)


@asynccontextmanager
async def _closing(app: Starlette) -> AsyncIterator[None]:
    assert isinstance(app, Proxy)
    try:
        yield
    finally:
        await app.aclose()


def _hot_paths() -> Mapping[str, tuple[API, str]]:
    found: dict[str, tuple[API, str]] = {}
    for path in _PATHS:
        api = api_of(f"/v1{path}")
        assert api is not None, path
        found |= {f"/v1{path}": (api, path), path: (api, path)}
    audio = TRANSCRIPTIONS.ending
    return found | {f"/v1{audio}": (TRANSCRIPTIONS, audio), audio: (TRANSCRIPTIONS, audio)}
