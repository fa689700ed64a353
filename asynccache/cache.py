"""The user's handle."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from os import PathLike
from random import random as _random
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from asynccache import config, directives, epochs, keys
from asynccache.call_types import CALL_TYPES
from asynccache.epochs import Epochs
from asynccache.errors import ConfigError
from asynccache.explanation import Explanation, differences
from asynccache.freshness import Freshness, Random
from asynccache.material import Unkeyable
from asynccache.model import CacheKey, CacheMode, Completion, Directives, Request, Target
from asynccache.pace import Pace
from asynccache.pipeline import Writes, compose
from asynccache.protocols import AsyncCacheBackend, Clock, PostHook, PreHook, Stage, SupportsPing
from asynccache.stages.coalesce import OnAbandon
from asynccache.stages.hooks import OnError
from asynccache.stages.upstream import Upstream
from asynccache.stats import Stats
from asynccache.sync import LoopThread, on_callers_thread
from asynccache.targets import binder, by_name, function_target, is_async, same_function, takes_anything
from asynccache.write_behind import WriteBehind

T = TypeVar("T")
logger = logging.getLogger("asynccache")

_UNSET: Any = object()
_VERBS = ("get", "set", "delete", "aclose")


class Cache:
    """A cache for LLM calls: wrap what you call, and pay for each answer once.

    backend:   any `AsyncCacheBackend`; or `type` names one and `options` are its constructor's
               arguments. Neither: memory, bounded in bytes.
    ttl:       seconds (or a timedelta) an answer is kept; None: as long as there is room.
    namespace: keeps entries apart from those of other namespaces in the same store.
    mode:      "default_on", or "default_off": only calls with `cache={"use-cache": True}` are cached.
    supported_call_types: only these are cached ("chat", "embedding", …, LiteLLM's names too); None: all.
    pre_hooks, post_hooks: async callables; see `PreHook` and `PostHook`.
    on_hook_error: "raise": a hook's exception reaches the caller; "skip": it is counted, the call goes on.
    stages:    takes the default list of stages, returns the list to use: to put one of your own in.
    stale_while_revalidate, stale_if_error, early_refresh, jitter: see `Freshness`; 0 is off. The first two need
               a ttl, which they prolong.
    max_refreshes: how many refreshes behind answers may be under way at the same time.
    negative_ttl, negative_errors: for so many seconds after a call raised one of these exception types (or
               "package.module:Class"), the same call raises it again without calling.
    on_abandon: what becomes of an upstream call when its last caller has left: "cancel", or "finish" to
               fill the cache.
    max_entry_bytes: a larger answer is passed on and not stored.
    pace:      how fast a recorded stream comes again: "instant", "original", or tokens per second.
    write_behind: how many entries may wait to be written behind the callers' backs; beyond that the oldest
               is dropped. 0: a miss waits for its write.
    hedge_after: seconds a look-up may take before the upstream is called as well; None: as long as it takes.
    clock:     returns seconds since the epoch.
    random:    returns a number from 0 up to 1.

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
        pre_hooks: Sequence[PreHook] = (),
        post_hooks: Sequence[PostHook] = (),
        on_hook_error: OnError = "raise",
        stages: Callable[[list[Stage]], Sequence[Stage]] | None = None,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        early_refresh: float = 0,
        jitter: float = 0,
        max_refreshes: int = 64,
        negative_ttl: float | timedelta = 0,
        negative_errors: config.ErrorTypes = (),
        hedge_after: float | timedelta | None = None,
        on_abandon: OnAbandon = "cancel",
        max_entry_bytes: int = 16 * 2**20,
        pace: Pace = "instant",
        write_behind: int = 0,
        clock: Clock = time.time,
        random: Random = _random,
        **options: Any,
    ) -> None:
        if backend is not None and (type is not None or options):
            raise ConfigError("give a backend, or a type and its options, not both")
        if backend is not None and not all(callable(getattr(backend, verb, None)) for verb in _VERBS):
            raise ConfigError(f"backend={backend!r}: an object with {', '.join(_VERBS)} is wanted, or type='…'")
        if mode not in tuple(CacheMode):
            raise ConfigError(f"mode={mode!r}: it is 'default_on' or 'default_off'")
        negative = directives.seconds(negative_ttl, "negative_ttl"), config.error_types(negative_errors)
        if bool(negative[0]) != bool(negative[1]):
            raise ConfigError("negative caching wants both: negative_ttl and negative_errors")
        _whole(max_refreshes, "max_refreshes")
        freshness = Freshness(
            directives.seconds(stale_while_revalidate, "stale_while_revalidate"),
            directives.seconds(stale_if_error, "stale_if_error"),
            early_refresh,
            jitter,
        )
        self.stats = Stats()
        """Counters, as plain integers."""
        self._own = backend is None
        self._tier = config.backend_type(type or "memory") if backend is None else _tier(backend)
        self.backend = backend or config.build_backend(self._tier, options)
        """Where the entries are."""
        self._supported = None if supported_call_types is None else config.call_type_names(supported_call_types)
        self._defaults = Directives(
            ttl=directives.lifetime(ttl),
            namespace="" if namespace is None else directives.word(namespace, "namespace"),
            enabled=mode == CacheMode.default_on,
        )
        self._fixed: frozenset[str] = frozenset()
        self._writes = Writes()
        self._epochs = Epochs(self.backend, clock=clock)
        self._loop_thread = LoopThread()
        self._functions: dict[str, Callable[..., Any]] = {}
        self._behind = None
        if _whole(write_behind, "write_behind"):
            self._behind = WriteBehind(self.backend, limit=write_behind, failed=self._lost, dropped=self._dropped)
        default = config.default_stages(
            self._behind or self.backend,
            tier=self._tier,
            epochs=self._epochs,
            writes=self._writes,
            stats=self.stats,
            clock=clock,
            pre_hooks=pre_hooks,
            post_hooks=post_hooks,
            on_hook_error=on_hook_error,
            freshness=freshness,
            max_refreshes=max_refreshes,
            random=random,
            negative_ttl=negative[0],
            negative_errors=negative[1],
            hedge_after=directives.lifetime(hedge_after, "hedge_after"),
            on_abandon=on_abandon,
            max_entry_bytes=_whole(max_entry_bytes, "max_entry_bytes"),
            pace=pace,
        )
        self._stages = list(stages(default) if stages else default)
        self._handler = compose(self._stages, Upstream(self.stats))

    @classmethod
    def from_config(cls, source: str | PathLike[str] | Mapping[str, Any]) -> Self:
        """A cache from a mapping or a file (.yaml, .toml, .json): the arguments of `Cache`, at its top
        level or under `caching`. Raises ConfigError."""
        arguments = config.read(source)
        kind = config.backend_type(str(arguments.get("type", "memory")))
        own = [name for name in config.parameters(cls) if name != "backend"]
        backend = config.backend_options(kind)
        config.check_names(arguments, [*own, *backend], f"setting of a {kind} cache")
        return cls(**arguments)

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
        call = on_callers_thread(run) if is_sync else run
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
        return call

    def as_sync(self, function: Callable[..., Any], wrapped: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """What `around` made of a sync function's target (see `on_callers_thread`), as a sync function."""
        call: Callable[..., Any] = self._loop_thread.sync(function, wrapped)
        call.__asynccache_targets__ = getattr(wrapped, "__asynccache_targets__", None)  # type: ignore[attr-defined]
        return call

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
        Hooks do not run: give the arguments as they are after them.
        Raises ConfigError when an argument has no stable value to build a key from.
        """
        control = request.pop("cache", None)
        wanted = self._defaults if control is None else directives.parse(control, self._defaults, self._fixed)
        try:
            return keys.build_key(request, self._target(target, request), wanted, files=True).digest
        except Unkeyable as error:
            raise ConfigError(f"no key can be built: {error}") from error

    def explain(
        self, a: Mapping[str, Any], b: Mapping[str, Any], *, target: Callable[..., Any] | None = None
    ) -> Explanation:
        """Why two requests (their arguments by name) have different keys, field by field."""
        key_a, key_b = (self.get_cache_key(target, **request) for request in (a, b))
        trees = []
        ignored: set[str] = set()
        for request in (a, b):
            known = self._target(target, request)
            wanted = directives.parse(request.get("cache"), self._defaults, self._fixed)
            borders = {"namespace": wanted.namespace or None, "tenant": wanted.tenant}
            said = {name: value for name, value in borders.items() if value is not None}
            trees.append({**keys.tree_of(request, known, files=True), **({"cache": said} if said else {})})
            ignored |= request.keys() & keys.inert(known)
        return Explanation(key_a, key_b, differences(*trees), tuple(sorted(ignored - {"cache"})))

    def _target(self, wrapped: Callable[..., Any] | None, request: Mapping[str, Any]) -> Target:
        """The target that a call of what was wrapped would have, as `around` chooses it."""
        if wrapped is None:
            return _ANY_CHAT
        targets: tuple[Target, Target | None] | None = getattr(wrapped, "__asynccache_targets__", None)
        if targets is None:
            raise ConfigError(f"{wrapped!r} was not wrapped by a cache")
        target, chat = targets
        return target if chat is None or "messages" not in request else chat

    # -- taking away ----------------------------------------------------------------------------------

    async def delete(self, key: str) -> bool:
        """Take away the entry under this key (see `get_cache_key`, `status(answer).key`). True when
        there was one. Raises BackendError."""
        return await (self._behind or self.backend).delete(CacheKey(key))

    async def invalidate(self, *tags: str) -> None:
        """End all answers that carry one of these tags, as far as this handle reaches: its namespace,
        and when it is bound to a tenant, that tenant's. O(1) each. Raises BackendError."""
        for tag in directives.words(tags, "tags"):
            await self._epochs.bump(epochs.widest(self._defaults, tag))

    async def clear(self) -> None:
        """End all answers of this handle's namespace (of its tenant, when it is bound to one). O(1).
        Other namespaces and other users of the same store are not touched. Raises BackendError."""
        await self._epochs.bump(epochs.widest(self._defaults, None))

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
        await self._loop_thread.aclose()
        if self._own:
            await self.backend.aclose()

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


def _whole(value: Any, name: str) -> int:
    """An int that is not negative. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name}={value!r}: an int that is not negative is wanted")
    return value


async def _any_chat(**_: Any) -> Any:
    raise AssertionError("only its key is ever asked for")


_ANY_CHAT = function_target(_any_chat, _any_chat, call_type=CALL_TYPES["chat"])


def _tier(backend: AsyncCacheBackend) -> str:
    """A backend's name in a status: that of its type, or of its class when it is none of ours."""
    package, _, name = type(backend).__module__.rpartition(".")
    return name if package == "asynccache.backends" else type(backend).__name__


def _client_module(target: Any) -> Any:
    """The module that knows how to wrap this client or SDK function, by the package it comes from."""
    owner = getattr(target, "__self__", target)
    package = (owner.__module__ if hasattr(owner, "__module__") else type(owner).__module__).partition(".")[0]
    module = f"asynccache.clients.{package}"
    if not package.isidentifier() or importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module)
