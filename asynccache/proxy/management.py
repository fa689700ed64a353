"""The cache seen and changed over HTTP: `/cache/*`, and `/health/*` for those who watch over processes.

Whoever manages shows the master key. Without one, and without keys for calls, this machine's own programs may: see
`Managers`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from asynccache.errors import AsyncCacheError, BackendClosed, BackendError, ConfigError
from asynccache.explanation import Explanation
from asynccache.guard import Guard
from asynccache.http.answers import Headers
from asynccache.http.calls import loads
from asynccache.protocols import SupportsSize
from asynccache.proxy.access import Access, Caller, Denied
from asynccache.proxy.bodies import Gone, Patience
from asynccache.proxy.endpoint import denial, refuse
from asynccache.proxy.observers import one_of
from asynccache.proxy.passage import route_path
from asynccache.proxy.problems import Problem
from asynccache.telemetry.ledger import Ledger
from asynccache.telemetry.recent import Recent

if TYPE_CHECKING:
    from asynccache.cache import Cache
    from asynccache.proxy.settings import Settings

logger = logging.getLogger("asynccache")

Fields = Mapping[str, Any]
KeyOf = Callable[[str, Fields, Caller], Callable[..., Any] | None]
"""What answers a call at a path, with these fields, of this caller: for its key. None: nothing is cached there."""

_JSON_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_KEY = re.compile("[0-9a-f]{64}")
_MOST_KEYS = 10_000
_AT_ONCE = 64
_MOST_MODELS = 20
_FRESH = 1.0  # seconds for which what the stores said is said again
_PATIENCE = 5.0  # seconds for a store to say how it is
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")
_FORM = (b"application/x-www-form-urlencoded",)


class Managers:
    """Tells who may manage.

    Who has the master key may. Where there is no key at all, neither for calls nor for management, any program of this
    machine may; but no web page that somebody on this machine looks at: such a request is told by its Host, its Origin,
    or by what a browser says of it. Nor what another server has forwarded here.
    """

    def __init__(self, access: Access, *, has_master_key: bool) -> None:
        self._access = access
        self._has_master_key = has_master_key

    def check(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether it was shown by a key. Raises Denied."""
        if self.check_key(headers):
            return True
        if not _from_here(scope, headers):
            raise Denied(403, "without a master key only programs on the proxy's own machine may do this")
        return False

    def check_key(self, headers: Mapping[bytes, bytes]) -> bool:
        """The same as far as keys tell: where there are none, anybody passes, and it is False. Raises Denied."""
        caller = self._access.admit(headers)
        if caller.manager:
            return True
        if self._has_master_key:
            shown = any(name in headers for name in (b"authorization", b"x-api-key", b"api-key"))
            raise Denied(403 if shown else 401, "this needs the proxy's master key: say `Authorization: Bearer …`")
        if not self._access.open:
            raise Denied(403, "this needs a master key, and the proxy has none: set proxy.master_key")
        return False


class Management:
    """The verbs.

    forwarded: tells the key of a call, see `KeyOf`.
    """

    def __init__(
        self,
        cache: Cache,
        settings: Settings,
        access: Access,
        key_of: KeyOf,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        proxy = settings.proxy
        self._cache = cache
        self._settings = settings
        self._key_of = key_of
        self._clock = clock
        self._began = clock()
        self.managers = Managers(access, has_master_key=proxy.master_key is not None)
        self._patience = Patience(proxy.max_body_bytes, proxy.body_timeout)
        self._recent = one_of(cache.observers, Recent)
        self._ledger = one_of(cache.observers, Ledger)
        self._asked: asyncio.Task[str] | None = None
        self._asked_at = -_FRESH
        if self._recent is not None:
            self._recent.show_prompts(proxy.ui_prompts)

    def routes(self) -> list[BaseRoute]:
        """To be put before those that pass calls on: nothing below /cache and /health reaches a provider."""
        get, post = ("GET", "HEAD"), ("POST",)
        verbs: dict[str, tuple[tuple[str, ...], Callable[[Fields], Awaitable[Any]]]] = {
            "/cache/ping": (get, self.ping),
            "/cache/stats": (get, self.stats),
            "/cache/report": (get, self.report),
            "/cache/delete": (post, self.delete),
            "/cache/invalidate": (post, self.invalidate),
            "/cache/flushall": (post, self.flushall),
            "/cache/evict": (post, self.evict),
            "/cache/explain": (post, self.explain),
        }
        health = {
            "/health/live": self.live,
            "/health/liveliness": self.live,  # as LiteLLM spells them
            "/health/liveness": self.live,
            "/health/ready": self.ready,
            "/health/readiness": self.ready,
        }
        managed = [
            Route(path, Endpoint(methods, verb, self.managers, self._patience))
            for path, (methods, verb) in verbs.items()
        ]
        open_to_all = [Route(path, Endpoint(get, verb, None, self._patience)) for path, verb in health.items()]
        rest = [Route(path, Endpoint((), self._nothing, None, self._patience)) for path in _RESERVED]
        return [*managed, *open_to_all, *rest]

    # -- the verbs ------------------------------------------------------------------------------------

    async def ping(self, _: Fields) -> dict[str, Any]:
        """Ask the stores whether they work. Raises Problem (503) when one does not."""
        start = time.perf_counter()
        try:
            await self._cache.ping()
        except BackendError as error:
            logger.warning("a ping failed: %s", error)
            raise Problem(
                503, f"the cache does not work ({type(error).__name__}): the log says more", code="cache_unavailable"
            ) from error
        seconds = round(time.perf_counter() - start, 6)
        return {"status": "healthy", "cache_type": self._cache.tier, "ping_response": True, "seconds": seconds}

    async def stats(self, _: Fields) -> dict[str, Any]:
        """All that this process knows of its cache."""
        proxy = self._settings.proxy
        report = None if self._ledger is None else self._ledger.report()
        return {
            "proxy": {
                "version": version("asynccache"),
                "process": os.getpid(),
                "workers": proxy.workers,
                "seconds": max(0.0, self._clock() - self._began),
                "caches": self._settings.cache_responses,
            },
            "cache": {
                "type": self._cache.tier,
                "namespace": self._cache.namespace,
                "ttl": self._cache.ttl,
                "mode": str(self._cache.mode),
            },
            "counters": self._cache.stats.as_dict(),
            "tiers": [await _told(name, store) for name, store in _stores(self._cache.backend, "")],
            "money": None if report is None else _money(report.total.as_dict()),
            "models": {} if report is None else {name: _money(a.as_dict()) for name, a in _largest(report.models)},
            "recent": None if self._recent is None else self._recent.report(),
            "tenants": sorted({key.tenant for key in proxy.api_keys if key.tenant}),
        }

    async def report(self, _: Fields) -> dict[str, Any]:
        """What the ledger of this process has counted, as `Report.from_dict` reads it."""
        if self._ledger is None:
            raise Problem(404, "nobody keeps accounts of this cache", code="no_ledger")
        return self._ledger.report().as_dict()

    async def delete(self, said: Fields) -> dict[str, Any]:
        """Take entries away, by their keys."""
        _known(said, "keys")
        keys = _words(said, "keys", most=_MOST_KEYS)
        if wrong := next((key for key in keys if not _KEY.fullmatch(key)), None):
            raise _wrong(f"{wrong[:80]!r}: a key is 64 hex digits, as the header x-asynccache-key says it", "keys")
        found: dict[str, bool] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            found |= zip(some, await asyncio.gather(*(self._cache.delete(key) for key in some)), strict=True)
        return {"status": "success", "deleted": sum(found.values()), "keys": found}

    async def invalidate(self, said: Fields) -> dict[str, Any]:
        """End all answers that carry one of the tags."""
        _known(said, "tags", "soft", "tenant", "namespace")
        tags, soft = _words(said, "tags", most=_MOST_KEYS), _flag(said, "soft")
        await self._handle(said).invalidate(*tags, soft=soft)
        return {"status": "success", "tags": tags, "soft": soft}

    async def flushall(self, said: Fields) -> dict[str, Any]:
        """End all answers of our namespace; whatever else is in the store stays."""
        _known(said, "soft", "tenant", "namespace")
        soft = _flag(said, "soft")
        handle = self._handle(said)
        await handle.clear(soft=soft)
        return {"status": "success", "namespace": handle.namespace, "soft": soft}

    async def evict(self, said: Fields) -> dict[str, Any]:
        """Take away what is found by meaning and is older than so many seconds, whosever it is."""
        _known(said, "older_than")
        age = said.get("older_than")
        if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age < inf:
            raise _wrong("'older_than': a number of seconds is wanted, 0 or more", "older_than")
        try:
            return {"status": "success", "evicted": await self._cache.evict_older_than(age)}
        except ConfigError as error:
            raise _wrong(str(error), "older_than") from error

    async def explain(self, said: Fields) -> dict[str, Any]:
        """Why two requests have different keys."""
        _known(said, "a", "b", "path", "tenant")
        path, tenant = said.get("path", "/v1/chat/completions"), _border(said, "tenant")
        if not isinstance(path, str):
            raise _wrong("'path': a text is wanted", "path")
        a, b = (_table(said, name) for name in ("a", "b"))
        targets = [self._key_of(path, each, Caller(tenant)) for each in (a, b)]
        if None in targets:
            raise _wrong(f"{path[:80]!r}: no call whose answer is cached has this path", "path")
        handle = self._cache.bind(tenant=tenant)
        found = await asyncio.to_thread(_explained, handle, a, b, targets)
        return {
            "same": found.same,
            "key_a": found.key_a,
            "key_b": found.key_b,
            "differences": [{"path": d.path, "a": d.a, "b": d.b} for d in found.differences],
            "left_out": list(found.ignored),
        }

    async def live(self, _: Fields) -> dict[str, Any]:
        """It answers."""
        return {"status": "alive"}

    async def ready(self, _: Fields) -> dict[str, Any]:
        """It takes calls. That its stores are away is told, and is no reason to send calls elsewhere: they go to the
        provider then. Raises Problem (503) when its cache is closed."""
        state = await self._state()
        if state == "closed":
            raise Problem(503, "the proxy is closing", code="closing")
        return {"status": "ready", "cache": state}

    async def _nothing(self, _: Fields) -> Any:
        raise Problem(404, "there is nothing here", code="unknown_path")

    # -- how --------------------------------------------------------------------------------------------

    def _handle(self, said: Fields) -> Cache:
        tenant, namespace = (_border(said, name) for name in ("tenant", "namespace"))
        return self._cache.bind(tenant=tenant, namespace=namespace)

    async def _state(self) -> str:
        """ "healthy", "degraded" or "closed". Asked once a second, however many want to know."""
        now = time.monotonic()
        if self._asked is None or (self._asked.done() and now - self._asked_at >= _FRESH):
            self._asked = asyncio.create_task(self._ask(), name="asynccache-health")
            self._asked_at = now
        return await asyncio.shield(self._asked)

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._cache.ping()
        except BackendClosed:
            return "closed"
        except (BackendError, TimeoutError):
            return "degraded"
        return "healthy"


class Endpoint:
    """An ASGI application for one path: a verb, and who may use it. Its errors are shaped like OpenAI's."""

    def __init__(
        self,
        methods: tuple[str, ...],
        verb: Callable[[Fields], Awaitable[Any]],
        managers: Managers | None,
        patience: Patience,
    ) -> None:
        self._methods = methods
        self._verb = verb
        self._managers = managers
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = orjson.dumps(await self._answer(scope, receive))
        except Gone:
            return
        except Denied as denied:
            await refuse(send, challenged(denied))
        except Problem as problem:
            await refuse(send, problem, rest=self._patience.rest(receive, problem))
        except ConfigError as error:
            await refuse(send, Problem(400, str(error), code="invalid_request"))
        except AsyncCacheError as error:
            logger.warning("%s failed: %s", route_path(scope), error)
            text = f"the cache does not work ({type(error).__name__}): the log says more"
            await refuse(send, Problem(503, text, code="cache_unavailable"))
        except Exception:  # whatever it is, whoever asked must get an answer, and the operator must hear of it
            logger.exception("%s failed", route_path(scope))
            await refuse(send, Problem(500, "the proxy failed; its log says why", code="internal_error"))
        else:
            await sent(send, body, _JSON_HEADERS, head=scope["method"] == "HEAD")

    async def _answer(self, scope: Scope, receive: Receive) -> Any:
        headers = dict(scope["headers"])
        by_key = True if self._managers is None else self._managers.check(scope, headers)
        if self._methods and scope["method"] not in self._methods:
            allowed = [(b"allow", ", ".join(self._methods).encode())]
            raise Problem(405, "this method is not allowed here", code="method_not_allowed", headers=allowed)
        said: Fields = {}
        if scope["method"] == "POST":
            try:
                async with asyncio.timeout(self._patience.seconds):
                    body = await self._patience.whole(receive, headers)
            except TimeoutError:
                raise self._patience.too_slow() from None
            said = _read(body, headers, by_key)
        return await self._verb(said)


async def sent(send: Send, body: bytes, headers: Headers, *, status: int = 200, head: bool = False) -> None:
    """Send a whole answer; of a HEAD request its headers alone."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


_RESERVED = ("/cache", "/cache/{path:path}", "/health/{path:path}")


def challenged(denied: Denied) -> Problem:
    """What is told to whom it was denied."""
    problem = denial(denied)
    if denied.status == 401:
        problem.headers.append((b"www-authenticate", b"Bearer"))
    return problem


# -- who --------------------------------------------------------------------------------------------


def _from_here(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    client = scope.get("client")
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin")
    return (
        client is not None
        and _is_loopback(client[0])
        and _is_loopback(_hostname(host))
        and (origin is None or urlsplit(origin.decode("latin-1")).netloc == host)
        and headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
        and not any(name in headers for name in _FORWARDED)
    )


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


# -- what was said ------------------------------------------------------------------------------------


def _read(body: bytes, headers: Mapping[bytes, bytes], by_key: bool) -> Fields:
    """The fields of a body; none at all is an empty table. What shows a key need not say that it is JSON: `curl -d`
    does not."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    allowed = (b"application/json", *(_FORM if by_key else ()), *((b"",) if by_key or not body.strip() else ()))
    if kind not in allowed:
        raise Problem(415, "say content-type: application/json", code="unsupported_media_type")
    if not body.strip():
        return {}
    try:
        said = loads(body)
    except ValueError:
        raise Problem(400, "the body is no JSON", code="invalid_json") from None
    if not isinstance(said, dict):
        raise Problem(400, "the body has to be a JSON object", code="invalid_json")
    return said


def _known(said: Fields, *names: str) -> None:
    if unknown := next((name for name in said if name not in names), None):
        raise _wrong(f"there is no field {unknown[:80]!r}: known are {', '.join(names)}", unknown[:80])


def _words(said: Fields, name: str, *, most: int) -> list[str]:
    """A list of texts, each once; one text is a list of it."""
    value = said.get(name)
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise _wrong(f"{name!r}: a list of texts is wanted", name)
    if len(words) > most:
        raise _wrong(f"{name!r}: at most {most} at once", name)
    return list(dict.fromkeys(words))


def _flag(said: Fields, name: str) -> bool:
    value = said.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(f"{name!r}: true or false is wanted", name)
    return value


def _border(said: Fields, name: str) -> str | None:
    value = said.get(name)
    if value is None or (isinstance(value, str) and value):
        return value
    raise _wrong(f"{name!r}: a text is wanted", name)


def _table(said: Fields, name: str) -> dict[str, Any]:
    value = said.get(name)
    if not isinstance(value, dict):
        raise _wrong(f"{name!r}: the body of a request is wanted, a JSON object", name)
    return value


def _wrong(message: str, param: str) -> Problem:
    return Problem(400, message, code="invalid_request", param=param)


def _explained(cache: Cache, a: Fields, b: Fields, targets: list[Any]) -> Explanation:
    """In a thread, since a key may need what blocks. Each by its own target: another model may be at another provider,
    which is in the key."""
    found = cache.explain(a, b, target=targets[0])
    key_b = cache.explain(b, b, target=targets[1]).key_a
    return Explanation(found.key_a, key_b, found.differences, found.ignored)


# -- what is told -------------------------------------------------------------------------------------


def _stores(backend: Any, tier: str) -> Iterator[tuple[str, Any]]:
    """The stores behind a backend, nearest first, each in its guard if it has one."""
    inner = backend.inner if isinstance(backend, Guard) else backend
    tiers = {name: getattr(inner, name) for name in ("l1", "l2") if hasattr(inner, name)}
    for name, store in tiers.items():
        yield from _stores(store, f"{tier}.{name}" if tier else name)
    if not tiers:
        yield tier, backend


async def _told(tier: str, store: Any) -> dict[str, Any]:
    guard = store if isinstance(store, Guard) else None
    inner = store if guard is None else guard.inner
    counters = getattr(inner, "stats", None)
    size = None
    if isinstance(inner, SupportsSize):
        try:
            async with asyncio.timeout(_PATIENCE):
                size = await inner.size()
        except (BackendError, TimeoutError) as error:
            logger.debug("how full %s is was not told: %s", tier, error)
    return {
        "tier": tier,
        "backend": type(inner).__module__.rpartition(".")[2],
        "breaker": None if guard is None else str(guard.state),
        "guard": None if guard is None else asdict(guard.stats),
        "counters": asdict(counters) if is_dataclass(counters) and not isinstance(counters, type) else {},
        "entries": None if size is None else size.entries,
        "bytes": None if size is None else size.bytes,
        "max_bytes": _number(getattr(inner, "max_bytes", None)),
        "evictions": _number(getattr(inner, "evictions", None)),
    }


def _number(value: Any) -> int | None:
    return value if type(value) is int else None


def _money(account: dict[str, Any]) -> dict[str, Any]:
    """Money is in texts, since it is exact."""
    names = ("spent", "saved", "cache_saved", "cache_spent", "unknown_spent", "unknown_saved")
    more = ("calls", "hits", "stale", "coalesced", "misses", "input", "output", "saved_input", "saved_output")
    return {name: account[name] for name in (*names, *more)}


def _largest(models: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return sorted(models.items(), key=lambda each: each[1].calls, reverse=True)[:_MOST_MODELS]
