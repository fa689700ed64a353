"""`litellm.acompletion` and its kin, told apart by their names; and the object that LiteLLM expects as
`litellm.cache`.

    litellm.cache = LiteLLMCache(type="redis", host="localhost", ttl=3600)

The functions of `litellm.caching` are here under their names, and whatever else LiteLLM has is found here too:
`from asynccache.clients import litellm` will do in place of `import litellm` where nothing of it is set.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import litellm
import orjson

from asynccache.call_types import CALL_TYPES
from asynccache.call_types.transcription import by_content
from asynccache.clients._litellm_answers import ANSWERS, STREAMED, in_events
from asynccache.clients._litellm_cache import LiteLLMCache
from asynccache.clients._litellm_calls import FUNCTIONS
from asynccache.errors import ConfigError
from asynccache.key_builders import cache_key_generator
from asynccache.keys import INERT
from asynccache.model import CacheMode
from asynccache.providers import ContextCache
from asynccache.providers import create_context_cache as acreate_context_cache
from asynccache.sync_streams import driven
from asynccache.targets import function_target, is_async

if TYPE_CHECKING:
    from asynccache.cache import Cache

__all__ = [
    "CacheMode",
    "Installation",
    "LiteLLMCache",
    "acreate_context_cache",
    "cache_key_generator",
    "caching",
    "create_context_cache",
    "disable_cache",
    "enable_cache",
    "get_cache_key",
    "install",
    "uninstall",
    "update_cache",
    "wrap",
]

caching = sys.modules[__name__]
"""This module, so that `litellm.caching.…` reads as it does in LiteLLM's guides."""


def __getattr__(name: str) -> Any:
    return getattr(litellm, name)


# -- the cache under LiteLLM --------------------------------------------------------------------------


def enable_cache(type: str | None = "local", **options: Any) -> None:
    """Set `litellm.cache` to a `LiteLLMCache` of these options, unless LiteLLM has a cache. Raises ConfigError."""
    if litellm.cache is None:
        litellm.cache = LiteLLMCache(type, **options)


def update_cache(type: str | None = "local", **options: Any) -> None:
    """The same, in place of the cache that LiteLLM has. That one is not closed: calls may be under way."""
    litellm.cache = LiteLLMCache(type, **options)


def disable_cache() -> None:
    """Take LiteLLM's cache away. It is not closed."""
    litellm.cache = None


def get_cache_key(**request: Any) -> str:
    """The key under which LiteLLM's cache keeps a call with these arguments. Raises ConfigError when there is no
    cache."""
    if litellm.cache is None:
        raise ConfigError("LiteLLM has no cache: enable_cache() first")
    return str(litellm.cache.get_cache_key(**request))


def create_context_cache(model: str, **options: Any) -> ContextCache:
    """`acreate_context_cache`, where no event loop runs: Gemini keeps a prefix, whose `id` a call that is wrapped by a
    cache with `cache_control_injection_points`, or a `PromptCaching` hook, takes as `context_cache_id`."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(acreate_context_cache(model, **options))
    raise ConfigError("create_context_cache blocks: on an event loop, await acreate_context_cache")


# -- around LiteLLM's functions -----------------------------------------------------------------------


def _known(name: str) -> str | None:
    """The name of one of these functions without the "a" of its async twin; None for any other."""
    return next((plain for plain in (name, name.removeprefix("a")) if plain in ANSWERS), None)


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped function or Router; None for a function whose answers are of no known type."""
    if isinstance(target, litellm.Router):
        return _wrap_router(cache, target, name)
    return _wrap_function(cache, target, name)


def _wrap_function(
    cache: Cache, target: Any, name: str | None, plain: str | None = None, groups: _Groups | None = None
) -> Any:
    """plain: which of LiteLLM's functions it is, when its own name does not tell."""
    asynchronous = is_async(target)
    known = plain or _known(getattr(target, "__name__", ""))
    if known is None or not inspect.isroutine(target):
        return None
    call_type = CALL_TYPES[FUNCTIONS[known]]

    def keep_out(params: Any) -> str:
        if params.get("caching") is False:
            return "caching"
        if params.get("stream") and known not in STREAMED:
            return f"stream: of {known}"
        return call_type.keep_out(params) if call_type.keep_out is not None else ""

    # `aembedding(*args, **kwargs)` hides the names of its arguments, which its sync twin tells.
    hides = not inspect.ismethod(target) and known in ("embedding", "text_completion", "transcription")
    named = getattr(litellm, known) if hides else target
    call = target if asynchronous else driven(target)
    call = _once(cache, call, streamed=known in STREAMED)
    if known == "anthropic_messages":
        call = in_events(call)
    wanted = function_target(
        named,
        call,
        call_type=call_type,
        answers=ANSWERS[known],
        name=name or "",
        keep_out=keep_out,
    )
    if groups or known == "transcription":
        wanted = replace(wanted, reads=functools.partial(_read, groups))
    wrapped = cache.around(target, wanted, named=named)
    return wrapped if asynchronous else cache.as_sync(target, wrapped)


def _read(groups: _Groups | None, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments as keys read them: a file by its content, a model by its group."""
    read = groups(params) if groups else params
    return {**read, "file": by_content(read["file"])} if "file" in read else read


def _once(cache: Cache, call: Callable[..., Awaitable[Any]], *, streamed: bool) -> Callable[..., Awaitable[Any]]:
    """The call, of which LiteLLM does not ask the same cache again, nor write there what is written already: its
    rebuilt answer would take the place of a recorded stream."""

    @functools.wraps(call)
    async def made(*args: Any, **kwargs: Any) -> Any:
        below = litellm.cache
        same = isinstance(below, LiteLLMCache) and below.handle.backend is cache.backend
        if same and (streamed or not kwargs.get("stream")):
            kwargs["cache"] = {"no-cache": True, "no-store": True}
        return await call(*args, **kwargs)

    return made


def _wrap_router(cache: Cache, router: litellm.Router, name: str | None) -> litellm.Router:
    """A Router on the same deployments whose calls are cached, before one of them is chosen.

    Which models share entries, the Router's own `caching_groups` say; for a model that is in one of
    `Cache(caching_groups=…)`, that one. Routers with other deployments share none.
    """
    wrapped = copy.copy(router)
    groups = _Groups(router)
    endpoint = f"router:{name or _deployments(router)}"
    for plain in FUNCTIONS:
        for method in (f"a{plain}", plain):
            function = getattr(router, method, None)
            # Some are no methods of its own, but closures that pass anything on. Others pass their arguments on to
            # something of another name: they stay as they are.
            closed = plain in _CLOSURES and inspect.isfunction(function)
            if closed or (inspect.ismethod(function) and function.__name__ == method):
                setattr(wrapped, method, _wrap_function(cache, function, endpoint, plain, groups))
    return wrapped


_CLOSURES = ("responses", "anthropic_messages")


class _Groups:
    """The `caching_groups` of a Router: in keys, the name of its group stands in the place of a model, as with
    `CachingGroups`. Of a model that is in several, the first counts, as in LiteLLM."""

    def __init__(self, router: litellm.Router) -> None:
        self._names: dict[str, str] = {}
        for group in (router.default_litellm_params.get("metadata") or {}).get("caching_groups") or ():
            name = orjson.dumps(sorted(set(group))).decode()
            for model in group:
                self._names.setdefault(model, name)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __call__(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        name = self._names.get(str(params.get("model")))
        return params if name is None else {**params, "model": name}


def _deployments(router: litellm.Router) -> str:
    """What a Router's names of models stand for: an alias may be any model."""
    found = []
    for deployment in router.model_list:
        given = deployment["litellm_params"]
        counts = sorted((key, repr(value)) for key, value in given.items() if key not in INERT)
        found.append((deployment["model_name"], counts))
    return sha256(repr(sorted(found)).encode()).hexdigest()


# -- in LiteLLM's place -------------------------------------------------------------------------------

_INSTALLED = "__asynccache_installed__"


class Installation:
    """LiteLLM's own functions, wrapped. As a context manager it ends with the block."""

    def __init__(self, cache: Cache) -> None:
        for plain in FUNCTIONS:
            for name in (f"a{plain}", plain):
                function = getattr(litellm, name, None)
                if function is not None and not hasattr(function, _INSTALLED):
                    setattr(litellm, name, _around(cache, function))

    def uninstall(self) -> None:
        """As `uninstall`."""
        uninstall()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()


def install(cache: Cache | LiteLLMCache | None = None) -> Installation:
    """Wrap `litellm.acompletion` and its kin where they are, so that whoever calls them through the module shares
    answers and calls under way. `from litellm import acompletion` before this has the plain function.

    cache: None: the one of `litellm.cache`. Raises ConfigError when that is none of ours, and when it is installed
    already.
    """
    found = litellm.cache if cache is None else cache
    handle = found.handle if isinstance(found, LiteLLMCache) else found
    if handle is None or not callable(getattr(handle, "around", None)):
        raise ConfigError("install(cache): a Cache, or a LiteLLMCache in litellm.cache, is wanted")
    if any(hasattr(getattr(litellm, name, None), _INSTALLED) for name in FUNCTIONS):
        raise ConfigError("a cache is installed already: uninstall() first")
    return Installation(handle)


def uninstall() -> None:
    """Put LiteLLM's own functions back. Twice is fine."""
    for plain in FUNCTIONS:
        for name in (f"a{plain}", plain):
            function = getattr(litellm, name, None)
            if hasattr(function, _INSTALLED):
                setattr(litellm, name, getattr(function, _INSTALLED))


_within: ContextVar[bool] = ContextVar("asynccache_within_litellm", default=False)
"""Whether LiteLLM is at work on a call that was looked up."""


def _around(cache: Cache, function: Callable[..., Any]) -> Callable[..., Any]:
    wrapped = cache.wrap(_at_work(function))

    # What a Router calls was looked up by its group, or will be: here it would be kept by its deployment. So was what
    # LiteLLM makes of another call: it wants its own types of streams back, and whoever asked for no cache means all.
    def inner(kwargs: dict[str, Any]) -> bool:
        metadata = kwargs.get("metadata") or kwargs.get("litellm_metadata") or {}
        routed = isinstance(metadata, dict) and bool(metadata.get("model_group"))
        return routed or kwargs.get("acompletion") is True or _within.get()

    if is_async(function):

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            chosen: Callable[..., Awaitable[Any]] = function if inner(kwargs) else wrapped
            return await chosen(*args, **kwargs)

    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (function if inner(kwargs) else wrapped)(*args, **kwargs)

    setattr(call, _INSTALLED, function)
    return call


def _at_work(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which tells those that it calls that it is at work."""

    @contextmanager
    def at_work() -> Iterator[None]:
        token = _within.set(True)
        try:
            yield
        finally:
            _within.reset(token)

    if is_async(function):

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            with at_work():
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with at_work():
                return function(*args, **kwargs)

    return call
