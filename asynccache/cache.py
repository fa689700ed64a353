"""The user's handle."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from asynccache import config, directives, epochs, key_builders, keys
from asynccache.cache_aside import CacheAside
from asynccache.call_types import CALL_TYPES
from asynccache.epochs import Epochs
from asynccache.errors import ConfigError
from asynccache.explanation import Explanation, differences
from asynccache.guard import Guard, guarded
from asynccache.leases import Leadership
from asynccache.material import Unkeyable
from asynccache.model import CacheKey, CacheMode, Completion, Directives, Request, Target
from asynccache.pipeline import Writes, compose
from asynccache.protocols import AsyncCacheBackend, Clock, Leases, Stage, SupportsAging, SupportsLeave, SupportsPing
from asynccache.stages.build_key import BuildKey
from asynccache.stages.upstream import Upstream
from asynccache.stats import Stats
from asynccache.streams import AnswerStream
from asynccache.sync import LoopThread
from asynccache.sync_streams import SyncAnswerStream, driven
from asynccache.targets import binder, by_name, function_target, is_async, same_function, takes_anything
from asynccache.write_behind import WriteBehind

if TYPE_CHECKING:
    from decimal import Decimal

    from asynccache.telemetry.prices import Prices
    from asynccache.warming import Warming, WrappedCall

T = TypeVar("T")
logger = logging.getLogger("asynccache")

_UNSET: Any = object()


class Cache:
    """A cache for LLM calls: wrap what you call, and pay for each answer once.

    backend:   any `AsyncCacheBackend`; or `type` names one and `options` are its constructor's
               arguments. Neither: memory, bounded in bytes.
    ttl:       seconds (or a timedelta) an answer is kept; None: as long as there is room.
    namespace: keeps entries apart from those of other namespaces in the same store.
    mode:      "default_on", or "default_off": only calls with `cache={"use-cache": True}` are cached.
    supported_call_types: only these are cached ("chat", "embedding", …, LiteLLM's names too); None: all.
    stages:    takes the default list of stages, returns the list to use: to put one of your own in.
    clock:     returns seconds since the epoch.
    options:   those of `config.Policy` (hooks, freshness, streams, limits), and the backend's.

    Raises ConfigError for a wrong argument. Does no I/O before the first call.
    """

    def __init__(
        self,
        backend: AsyncCacheBackend | None = None,
        *,
        type: str | None = None,
        ttl: float | timedelta | None = None,
        namespace: str | None = None,
        mode: str = CacheMode.default_on,
        supported_call_types: Iterable[str] | None = None,
        stages: Callable[[list[Stage]], Sequence[Stage]] | None = None,
        clock: Clock = time.time,
        **options: Any,
    ) -> None:
        policy = config.Policy(**{name: options.pop(name) for name in config.POLICY if name in options})
        if backend is not None and type is not None:
            raise ConfigError("give a backend, or a type and its options, not both")
        if backend is not None:
            config.check_names(options, config.POLICY, "option beside a backend that is handed in")
        if not isinstance(type, str | None):
            raise ConfigError(f"type={type!r}: the name of a backend is wanted, such as 'redis'")
        if stages is not None and not callable(stages):
            raise ConfigError(f"stages={stages!r}: a function is wanted, from a list of stages to a list of stages")
        if not callable(clock):
            raise ConfigError(f"clock={clock!r}: a function is wanted that returns seconds")
        if mode not in tuple(CacheMode):
            raise ConfigError(f"mode={mode!r}: it is 'default_on' or 'default_off'")
        self.stats = Stats()
        """Counters, as plain integers."""
        self.observers = tuple(policy.observers)
        """Who is told of every finished call."""
        self._own = backend is None
        self._tier = config.backend_type(type or "memory", options) if backend is None else _tier(backend)
        self.backend = config.build_backend(self._tier, options) if backend is None else guarded(backend)
        """Where the entries are; a remote one in its `Guard`."""
        # One of our own around a backend that is not.
        self._guard = self.backend if isinstance(self.backend, Guard) and backend not in (None, self.backend) else None
        self._supported = None if supported_call_types is None else config.call_type_names(supported_call_types)
        self._defaults = Directives(
            ttl=directives.lifetime(ttl),
            namespace="" if namespace is None else directives.word(namespace, "namespace"),
            enabled=mode == CacheMode.default_on,
        )
        self._fixed: frozenset[str] = frozenset()
        self._writes = Writes()
        self._clock = clock
        max_age = directives.seconds(policy.epoch_max_age, "epoch_max_age")
        self._epochs = Epochs(getattr(self.backend, "far", self.backend), clock=clock, max_age=max_age)
        self._loop_thread = LoopThread()
        self._functions: dict[str, Callable[..., Any]] = {}
        self._behind = None
        if policy.write_behind:
            limit = policy.write_behind
            self._behind = WriteBehind(self.backend, limit=limit, failed=self._lost, dropped=self._dropped)
        default = config.default_stages(
            self._behind or self.backend,
            policy,
            tier=self._tier,
            epochs=self._epochs,
            leadership=self._leadership(policy),
            writes=self._writes,
            stats=self.stats,
            clock=clock,
        )
        self._stages = list(stages(default) if stages else default)
        self._handler = compose(self._stages, Upstream(self.stats))
        self._build = next((stage.build for stage in self._stages if isinstance(stage, BuildKey)), keys.build_key)

    def _leadership(self, policy: config.Policy) -> Leadership | None:
        patience = directives.seconds(policy.lease_wait, "lease_wait")
        leases: Leases | None = getattr(self.backend, "leases", None)
        if leases is None or not patience:
            return None
        written = None if self._behind is None else self._behind.written
        return Leadership(leases, patience=patience, stats=self.stats, written=written)

    @classmethod
    def from_config(cls, source: str | PathLike[str] | Mapping[str, Any]) -> Self:
        """A cache from a mapping or a file (.yaml, .toml, .json): the arguments of `Cache`, at its top
        level or under `caching`. Raises ConfigError."""
        arguments = config.read(source)
        kind = config.backend_type(str(arguments.get("type", "memory")), arguments)
        own = [*(name for name in config.parameters(cls) if name != "backend"), *config.POLICY]
        backend = config.backend_options(kind)
        config.check_names(arguments, [*own, *backend], f"setting of a {kind} cache")
        return cls(**config.typed(arguments, {**config.types_of(config.Policy), **config.types_of(cls)}))

    @property
    def builder(self) -> keys.AsyncKeyBuilder:
        """What makes the keys of its calls."""
        return self._build

    @property
    def ttl(self) -> float | None:
        """Seconds an answer is kept unless its call says otherwise; None: no end. May be set."""
        return self._defaults.ttl

    @ttl.setter
    def ttl(self, ttl: float | timedelta | None) -> None:
        self._defaults = replace(self._defaults, ttl=directives.lifetime(ttl))

    @property
    def namespace(self) -> str:
        return self._defaults.namespace

    @property
    def mode(self) -> CacheMode:
        return CacheMode.default_on if self._defaults.enabled else CacheMode.default_off

    @property
    def tier(self) -> str:
        """The backend's name, as in `status(answer).tier`."""
        return self._tier

    # -- wrapping -------------------------------------------------------------------------------------

    def wrap(self, target: T, *, call_type: str | None = None, returns: Any = _UNSET, name: str | None = None) -> T:
        """The same function, or a client of the same type, whose answers are cached.

        An async function stays async, a sync one sync; signature, types and exceptions stay. Every
        call may also be given `cache={…}` (`ttl`, `s-maxage`, `no-cache`, `no-store`, `namespace`,
        `use-cache`, `tags`, `tenant`, `only-if-cached`), which never reaches the function.

        call_type: what the arguments mean; known from a client, and from a parameter `messages`.
        returns:   the type of an answer, when there is no return annotation to tell it.
        name:      keeps this function's entries apart from those of others with the same arguments, or
                   lets two functions share them.

        Raises ConfigError for something that cannot be wrapped, and for a function without `messages`
        that has the same module and name as another wrapped before, but is not the same.
        """
        if call_type is not None:
            config.check_names([call_type], list(CALL_TYPES), "call type")
        client = _client_module(target)
        if client is not None and call_type is None and (wrapped := client.wrap(self, target, name)) is not None:
            return cast(T, wrapped)
        if not callable(target) or isinstance(target, _CLASS):
            raise ConfigError(f"cannot wrap {target!r}: a function or a known client is wanted")
        return cast(T, self._wrap_function(target, call_type, returns, name))

    def _wrap_function(
        self, function: Callable[..., Any], call_type: str | None, returns: Any, name: str | None
    ) -> Callable[..., Any]:
        run = by_name(function)
        is_sync = not is_async(function)
        call = driven(run) if is_sync else run
        options: dict[str, Any] = {"name": name} if returns is _UNSET else {"name": name, "returns": returns}
        chosen = None if call_type is None else CALL_TYPES[call_type]
        target = function_target(function, call, call_type=chosen, **options)
        chat = None
        if call_type is None and takes_anything(function):
            chat = function_target(function, call, call_type=CALL_TYPES["chat"], **options)
        if name is None and target.call_type.name == "function" and not self._claim(target.endpoint, function):
            # They would be given each other's answers, but for calls that have `messages`.
            refusal = f"another function named {target.endpoint} is wrapped too: wrap(…, name=…) each"
            if chat is None:
                raise ConfigError(refusal)
            target = replace(target, keep_out=lambda _: f"name: {refusal}")
        wrapped = self.around(function, target, chat=chat)
        return self.as_sync(function, wrapped) if is_sync else wrapped

    def _claim(self, endpoint: str, function: Callable[..., Any]) -> bool:
        """Whether the name is this function's: no other was wrapped under it before, such as a method of
        another object, or a closure over other values."""
        return same_function(self._functions.setdefault(endpoint, function), function)

    def around(
        self,
        function: Callable[..., Any],
        target: Target,
        *,
        chat: Target | None = None,
        named: Callable[..., Any] | None = None,
    ) -> Callable[..., Awaitable[Any]]:
        """An async function with the signature of `function` that answers for `target` from the cache:
        what `wrap` is made of, for those who write clients.

        chat:  the target for calls that have `messages`, when only the call shows it.
        named: a function that tells the names of the arguments, when `function` hides them.
        """
        bind = binder(named or function)
        handler = self._handler
        supported = self._supports(target)
        carry, stream = target.answers.carry, target.answers.stream  # those of `chat` are the same

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            if args:
                kwargs = bind(args, kwargs)
            wanted = self._defaults
            if "cache" in kwargs:
                wanted = directives.parse(kwargs.pop("cache"), wanted, self._fixed)
            known = target if chat is None or "messages" not in kwargs else chat
            request = Request(kwargs, wanted, known)
            if not supported:
                request.bypass = "call-type"
            response = await handler(request)
            return carry(response) if isinstance(response, Completion) else stream(response)

        call.__asynccache_targets__ = target, chat  # type: ignore[attr-defined]
        call.__asynccache_cache__ = self  # type: ignore[attr-defined]
        return call

    def as_sync(self, function: Callable[..., Any], wrapped: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """What `around` made of a sync function's target (see `driven`), as a sync function, whose streams are sync
        iterators."""
        answer = self._loop_thread.sync(function, wrapped)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            found = answer(*args, **kwargs)
            return SyncAnswerStream(self, found) if isinstance(found, AnswerStream) else found

        call.__asynccache_targets__ = getattr(wrapped, "__asynccache_targets__", None)  # type: ignore[attr-defined]
        call.__asynccache_cache__ = getattr(wrapped, "__asynccache_cache__", None)  # type: ignore[attr-defined]
        return call

    def aside(self) -> CacheAside:
        """Reading and writing apart, for adapters of frameworks that make their calls themselves."""
        return CacheAside(
            self._stages,
            directives=self._asked,
            key=self._key_of,
            supports=self._supports,
            as_sync=self.as_sync,
            stats=self.stats,
            clock=self._clock,
        )

    def _supports(self, target: Target) -> bool:
        return self._supported is None or target.call_type.name in self._supported

    def bind(
        self,
        *,
        tenant: str | None = None,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        ttl: float | timedelta | None = _UNSET,
    ) -> Self:
        """A handle on the same cache with these set for all of its calls.

        tenant, namespace: borders: no call through the handle can name another (ConfigError).
        tags: added to those of each call. ttl: unless a call gives its own.
        """
        borders = {"tenant": tenant, "namespace": namespace}
        changes: dict[str, Any] = {
            border: directives.word(value, border) for border, value in borders.items() if value is not None
        }
        for border, value in changes.items():
            if border in self._fixed and value != getattr(self._defaults, border):
                raise ConfigError(f"{border}={value!r}: this handle is bound to another {border}")
        if tags:
            changes["tags"] = (*self._defaults.tags, *directives.words(tags, "tags"))
        if ttl is not _UNSET:
            changes["ttl"] = directives.lifetime(ttl)
        handle = copy.copy(self)
        handle._fixed = self._fixed | (borders.keys() & changes.keys())
        handle._defaults = replace(self._defaults, **changes)
        return handle

    # -- keys -----------------------------------------------------------------------------------------

    def get_cache_key(self, target: Callable[..., Any] | None = None, /, **request: Any) -> str:
        """The key under which a call with these arguments is kept.

        target: the wrapped function or method the call would go through; None: a chat completion.
        Hooks do not run: give the arguments as they are after them. What is asked about several things in one call,
        such as embeddings of several texts, is kept under the key of a call about each.
        Raises ConfigError when an argument has no stable value to build a key from, when the `key_builder` fails,
        and when it is async while an event loop is running: then `status(answer).key` has the key of a call.
        """
        return self._key(target, request).digest

    def _key(self, target: Callable[..., Any] | None, request: Mapping[str, Any]) -> CacheKey:
        params = dict(request)
        control = params.pop("cache", None)
        return self._key_of(params, self._target(target, params), self._asked(control))

    def _asked(self, control: Any) -> Directives:
        return directives.parse(control, self._defaults, self._fixed)

    def _key_of(self, params: Mapping[str, Any], target: Target, wanted: Directives) -> CacheKey:
        parts = target.call_type.parts
        split = None if parts is None else parts.split(params)
        if parts is not None and split is not None and len(split.things) == 1:
            params = parts.alone(params, split.things[0])  # as which it is kept
        try:
            return key_builders.finished(self._build(params, target, wanted, files=True))
        except Unkeyable as error:
            raise ConfigError(f"no key can be built: {error}") from error

    def explain(
        self, a: Mapping[str, Any], b: Mapping[str, Any], *, target: Callable[..., Any] | None = None
    ) -> Explanation:
        """Why two requests (their arguments by name) have different keys, field by field."""
        key_a, key_b = (self._key(target, request) for request in (a, b))
        trees = []
        ignored: set[str] = set()
        for request, key in ((a, key_a), (b, key_b)):
            known = self._target(target, request)
            namespace, tenant = key.border
            said = {name: value for name, value in (("namespace", namespace), ("tenant", tenant)) if value}
            tree = key_builders.material_of(self._build, key, request, known)
            trees.append({**tree, **({"cache": said} if said else {})})
            ignored |= key_builders.left_out(self._build, request, known)
        found = () if key_a == key_b else differences(*trees)
        return Explanation(key_a.digest, key_b.digest, found, tuple(sorted(ignored - {"cache"})))

    def _target(self, wrapped: Callable[..., Any] | None, request: Mapping[str, Any]) -> Target:
        """The target that a call of what was wrapped would have, as `around` chooses it."""
        if wrapped is None:
            return _ANY_CHAT
        targets: tuple[Target, Target | None] | None = getattr(wrapped, "__asynccache_targets__", None)
        if targets is None:
            raise ConfigError(f"{wrapped!r} was not wrapped by a cache")
        target, chat = targets
        return target if chat is None or "messages" not in request else chat

    # -- filling --------------------------------------------------------------------------------------

    async def warm(
        self,
        requests: Iterable[Mapping[str, Any]],
        call: Callable[..., Any],
        *,
        concurrency: int = 8,
        refresh_within: float | timedelta = 0,
        max_usd: float | Decimal | None = None,
        assume_usd: float | Decimal | None = None,
        prices: Prices | None = None,
        progress: Callable[[Warming], None] | None = None,
    ) -> Warming:
        """Make the calls whose answers are not there, so that the next one is a hit. What is there is not called
        again, so an interrupted warming goes on where it was; a failure does not stop the others, and is reported.

        requests: the arguments of each call by name; `cache={…}` among them as in any call.
        call:     what to call: what this cache has wrapped, or what it is to wrap.
        concurrency: calls under way at the same time.
        refresh_within: seconds; an answer that ends within them is called anew.
        max_usd:  what the calls may cost; see `Budget`. A request whose price nobody knows is then a ConfigError,
                  before the first call, unless `assume_usd` says what such a call costs.
        prices:   what tokens cost; None: those of the price library, if there is a `max_usd`.
        progress: is told after each request.

        Looking counts in no statistics; the calls do. Raises ConfigError for a wrong argument.
        """
        from asynccache.telemetry.prices import Prices  # loaded for those who warm
        from asynccache.warming import Budget, Warmer

        budget = None
        if prices is not None or max_usd is not None:
            budget = Budget(Prices() if prices is None else prices, limit=max_usd, assume=assume_usd)
        within = directives.seconds(refresh_within, "refresh_within")
        shelf = self.shelf(call)
        warmer = Warmer(shelf, concurrency=concurrency, refresh_within=within, budget=budget, progress=progress)
        return await warmer.run(requests)

    def shelf(self, call: Callable[..., Any]) -> WrappedCall:
        """What is kept of the answers of `call`, for a `Warmer` of one's own. Raises ConfigError."""
        wrapped = call if hasattr(call, "__asynccache_targets__") else self.wrap(call)
        handle = getattr(wrapped, "__asynccache_cache__", None)
        if not isinstance(handle, Cache) or handle.backend is not self.backend:
            raise ConfigError(f"call={call!r} was wrapped by another cache: give what this one has wrapped")

        def read(request: Mapping[str, Any]) -> Request:
            params = dict(request)
            wanted = handle._asked(params.pop("cache", None))
            target = handle._target(wrapped, params)
            made = Request(params, wanted, target)
            if not handle._supports(target):
                made.bypass = "call-type"
            return made

        from asynccache.warming import WrappedCall

        return WrappedCall(
            wrapped,
            self._stages,
            read=read,
            backend=self._behind or self.backend,
            epochs=self._epochs,
            clock=self._clock,
            drain=self.drain,
        )

    # -- taking away ----------------------------------------------------------------------------------

    async def delete(self, key: str) -> bool:
        """Take away the entry under this key (see `get_cache_key`, `status(answer).key`). True when
        there was one. Raises BackendError."""
        return await (self._behind or self.backend).delete(CacheKey(key))

    async def invalidate(self, *tags: str, soft: bool = False) -> None:
        """End all answers that carry one of these tags, as far as this handle reaches: its namespace,
        and when it is bound to a tenant, that tenant's. O(1) each.

        When it returns, no call of this process that begins from then on gets an answer that was asked for before.
        Other processes may go on serving one for `epoch_max_age` (1 second), no longer. An answer that is asked for
        while this is under way may be lost.

        soft: make them stale in place of ending them. They are served while they are refreshed, as long as
        `stale_while_revalidate` says, and when the upstream fails, as long as `stale_if_error` says; both count
        from now, or from an answer's own end, if that was earlier. With neither configured they end. So do those
        that have seen eight more soft purges of the same tag; and all of them when the tag is invalidated
        without `soft`.

        Raises BackendError: then it may or may not have been done.
        """
        for tag in directives.words(tags, "tags"):
            await self._epochs.bump(epochs.widest(self._defaults, tag), soft=soft)

    async def clear(self, *, soft: bool = False) -> None:
        """End all answers of this handle's namespace (of its tenant, when it is bound to one). O(1).
        Other namespaces and other users of the same store are not touched.

        soft, and when other processes hear of it: as with `invalidate`. Raises BackendError.
        """
        await self._epochs.bump(epochs.widest(self._defaults, None), soft=soft)

    async def evict_older_than(self, age: float | timedelta) -> int:
        """Take away the answers that can be found by their meaning and are older (seconds, or a timedelta), with their
        vectors, and return how many there were: for questions whose answers drift. Of the whole store: all namespaces
        and tenants. A near tier keeps its copies until they end.

        Raises ConfigError when no tier finds answers by meaning, or for an age that is no number of seconds;
        BackendError.
        """
        seconds = directives.seconds(age, "age")
        found = [store for store in _stores(self.backend) if isinstance(store, SupportsAging)]
        if not found:
            raise ConfigError(f"no answer of this cache ({self._tier}) is found by meaning: see the semantic backends")
        return sum([await store.evict_older_than(seconds) for store in found])

    # -- life -----------------------------------------------------------------------------------------

    async def ping(self) -> bool:
        """True when the backend works, as far as it can tell; raises BackendError when it does not."""
        if isinstance(self.backend, SupportsPing):
            await self.backend.ping()
        return True

    async def drain(self) -> None:
        """Wait until all writes that were begun are done."""
        await self._drain_here()
        await self._loop_thread.run(self._drain_here)

    async def _drain_here(self) -> None:
        await self._each_stage("drain")
        await self._writes.drain()
        if self._behind is not None:
            await self._behind.drain()

    def _lost(self, error: Exception) -> None:
        logger.debug("not stored: %s", error)
        self.stats.write_errors += 1

    def _dropped(self) -> None:
        self.stats.dropped += 1

    async def _leave(self) -> None:
        if isinstance(self.backend, SupportsLeave):
            await self.backend.leave()

    async def _retire_here(self) -> None:
        await self._each_stage("retire")

    async def _each_stage(self, verb: str) -> None:
        for stage in self._stages:
            if (act := getattr(stage, verb, None)) is not None:
                await act()

    async def aclose(self) -> None:
        """Give up what goes on behind answers, end the calls under way on this event loop, finish writes, and
        close the backend, if the cache made it. Closing twice is fine."""
        await self._retire_here()
        await self._loop_thread.run(self._retire_here)
        await self._each_stage("aclose")
        await self.drain()
        await self._loop_thread.aclose(self._leave)
        if self._own:
            await self.backend.aclose()
        elif self._guard is not None:
            await self._guard.detach()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        border = f", tenant={self._defaults.tenant!r}" if self._defaults.tenant else ""
        return f"Cache({self._tier}, ttl={self.ttl}, namespace={self.namespace!r}{border}, hits={self.stats.hits})"


_CLASS = type


async def _any_chat(**_: Any) -> Any:
    raise AssertionError("only its key is ever asked for")


_ANY_CHAT = function_target(_any_chat, _any_chat, call_type=CALL_TYPES["chat"])


def _tier(backend: AsyncCacheBackend) -> str:
    """A backend's name in a status: that of its type, or of its class when it is none of ours."""
    if isinstance(backend, Guard):
        backend = backend.inner
    package, _, name = type(backend).__module__.rpartition(".")
    return name if package == "asynccache.backends" else type(backend).__name__


def _stores(backend: Any) -> Iterator[Any]:
    """The backends behind guards and tiers."""
    inner = backend.inner if isinstance(backend, Guard) else backend
    tiers = [getattr(inner, name) for name in ("l1", "l2") if hasattr(inner, name)]
    if not tiers:
        yield inner
    for tier in tiers:
        yield from _stores(tier)


def _client_module(target: Any) -> Any:
    """The module that knows how to wrap this client or SDK function, by the package it comes from."""
    owner = getattr(target, "__self__", target)
    package = (owner.__module__ if hasattr(owner, "__module__") else type(owner).__module__).partition(".")[0]
    module = f"asynccache.clients.{package}"
    if not package.isidentifier() or importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module)
