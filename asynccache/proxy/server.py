"""The server: uvicorn around the proxy's application, its end, and its reload."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import uvicorn

from asynccache import Cache
from asynccache.errors import AsyncCacheError, ConfigError
from asynccache.proxy.connections import Limits, connection_class
from asynccache.proxy.generations import App, Door, Generation, StartFailed
from asynccache.proxy.observers import nobody_listens, watched_cache
from asynccache.proxy.settings import Proxy, Settings

logger = logging.getLogger("asynccache")

BACKLOG = 2048
_AT_START = ("host", "port", "workers")
_COLLECT_AFTER = 20_000  # new objects, net of those that went


@dataclass(frozen=True, slots=True)
class Source:
    """Where settings come from, each time they are loaded.

    overrides: what was said on the command line; it counts more than the file.
    """

    path: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Settings:
        """Raises ConfigError, also for an address that anybody could call without a key, if it was asked for on the
        command line. If the file asks for that, it becomes a loopback address: see `exposed`."""
        settings = Settings.load({} if self.path is None else self.path, overrides=self.overrides)
        if exposed(settings.proxy) and "host" in self.overrides.get("proxy", {}):
            raise ConfigError(
                f"{settings.proxy.host} can be reached from other machines, and there are no proxy.api_keys: anybody "
                "could spend your provider's money there. Give keys, or leave out --host to listen on 127.0.0.1, or "
                "say --allow-anonymous if that is what you want"
            )
        return settings


def exposed(proxy: Proxy) -> bool:
    """Whether anybody from another machine could call without a key, if it listened where it is told to."""
    return not (proxy.is_loopback or proxy.has_keys or proxy.allow_anonymous)


def address(proxy: Proxy) -> str:
    """Where it listens: without keys on the loopback interface only, whatever the file says."""
    if not exposed(proxy):
        return proxy.host
    return "::1" if ":" in proxy.host else "127.0.0.1"


def listen(proxy: Proxy) -> socket.socket:
    """A socket that listens at the address. Raises ConfigError when it cannot."""
    host = address(proxy).strip("[]")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, proxy.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except OSError as error:
        raise ConfigError(f"proxy.host={host!r}: {error.strerror}") from error
    # With the protocol spelled out asyncio sets TCP_NODELAY; without, a response in two parts may take 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen at {host}, port {proxy.port}: {error.strerror}") from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Where a browser on this machine would find it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class CreateApp(Protocol):
    """Makes the application; the cache that it is given is not its own to close."""

    def __call__(self, settings: Settings, /, *, cache: Cache | None) -> App: ...


class ProxyServer:
    """One process's server, from its start to its end.

    source:  where its settings come from, again at each reload.
    created: makes the application.

    SIGTERM and SIGINT: no new connection is taken, answers under way have `drain_seconds` to end, the cache is closed.
    A second SIGINT ends at once. SIGHUP: the settings are loaded again; new calls get the new application, the old one
    answers what it has. When they are wrong the old ones stay, and the log says why.
    """

    def __init__(self, source: Source, listening: socket.socket, *, created: CreateApp | None = None) -> None:
        self.source = source
        self._listening = listening
        self._created = created or _created
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._users: dict[int, int] = {}  # of each cache: in how many generations it is

    async def run(self, settings: Settings, *, started: Callable[[], None], reloaded: Callable[[bool], None]) -> None:
        """Serve until a signal ends it. `started` is called when it answers, `reloaded` after each reload, with
        whether it took effect. Raises ConfigError or StartFailed before it has started."""
        self.settings = settings
        self._reloaded = reloaded
        self.cache = watched_cache(settings)
        if nobody_listens(settings):
            logger.warning("no OpenTelemetry SDK is set up, nothing is sent: start it as `opentelemetry-instrument …`")
        self._door = Door(await self._generation(settings, self.cache))
        self._limits = Limits(settings.proxy)
        self._server = _Server(self._uvicorn(settings.proxy), self.reload, started)
        gc.collect()
        gc.freeze()  # what is there now stays: no collection has to look through it
        # Nor is there much to find in what comes: what a hit is made of goes when it is answered.
        gc.set_threshold(_COLLECT_AFTER)
        try:
            await self._server.serve(sockets=[self._listening])
        finally:
            for task in tuple(self._reloads):
                await asyncio.gather(task, return_exceptions=True)
            await self._door.aclose()

    def stop(self) -> None:
        """Begin to end, as SIGTERM does."""
        self._server.should_exit = True

    def reload(self) -> None:
        """Load the settings again, as SIGHUP does."""
        task = asyncio.create_task(self._reload(), name="asynccache-reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        async with self._reloading:
            try:
                settings = self.source.load()
                self._check_place(settings)
                cache = self.cache if settings.same_cache(self.settings) else watched_cache(settings)
                generation = await self._generation(settings, cache)
            except (AsyncCacheError, StartFailed) as error:
                logger.error("the configuration was not reloaded, the old one stays in force: %s", error)
                self._reloaded(False)
                return
            for name in _AT_START:
                if getattr(settings.proxy, name) != getattr(self.settings.proxy, name):
                    logger.warning("proxy.%s has changed: that takes a restart", name)
            self.settings, self.cache = settings, cache
            self._limits.set(settings.proxy)
            self._server.config.timeout_graceful_shutdown = _whole(settings.proxy.drain_seconds)
            self._door.open(generation)
            logger.info("the configuration was reloaded")
            self._reloaded(True)

    def _check_place(self, settings: Settings) -> None:
        """A new configuration must not open to all what only those with keys could reach."""
        here = settings.proxy.model_copy(update={"host": self._listening.getsockname()[0]})
        if exposed(here):
            raise ConfigError(f"it has no proxy.api_keys, and {here.host} can be reached from other machines")

    async def _generation(self, settings: Settings, cache: Cache) -> Generation:
        self._users[id(cache)] = self._users.get(id(cache), 0) + 1

        async def close() -> None:
            self._users[id(cache)] -= 1
            if not self._users[id(cache)]:
                del self._users[id(cache)]
                await cache.aclose()

        try:
            app = self._created(settings, cache=cache)
        except BaseException:
            await close()
            raise
        generation = Generation(app, close)
        await generation.start()
        return generation

    def _uvicorn(self, proxy: Proxy) -> uvicorn.Config:
        return uvicorn.Config(
            self._door,
            http=connection_class(self._limits),
            ws="none",
            lifespan="off",  # each generation has its own
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            root_path=proxy.root_path,
            timeout_keep_alive=_whole(proxy.keep_alive),
            timeout_graceful_shutdown=_whole(proxy.drain_seconds),
        )


def run(main: Callable[[], Any]) -> None:
    """Run a coroutine function on uvloop, where there is one."""
    with asyncio.Runner(loop_factory=uvicorn.Config(_nothing, log_config=None).get_loop_factory()) as runner:
        runner.run(main())


def notify(state: str) -> None:
    """Tell systemd, if it asked to be told."""
    place = os.environ.get("NOTIFY_SOCKET")
    if not place:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), "\0" + place[1:] if place.startswith("@") else place)
    except OSError as error:
        logger.debug("systemd could not be told: %s", error)


class _Server(uvicorn.Server):
    """uvicorn's, whose signals go through the event loop, and which tells when it answers."""

    def __init__(self, config: uvicorn.Config, reload: Callable[[], None], started: Callable[[], None]) -> None:
        super().__init__(config)
        self._reload = reload
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self._end,
            signal.SIGINT: self._interrupt,
            signal.SIGHUP: self._reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self.should_exit = True

    def _interrupt(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def _created(settings: Settings, /, *, cache: Cache | None) -> App:
    from asynccache.proxy.app import create_app

    return create_app(settings, cache=cache)


async def _nothing(*_: Any) -> None:
    raise AssertionError("only the event loop's kind is asked for")


def _whole(seconds: float) -> int:
    return max(1, round(seconds))
