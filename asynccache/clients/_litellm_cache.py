"""The object that LiteLLM expects as `litellm.cache`, on top of a `Cache`."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from re import compile as pattern
from typing import Any, Self

import orjson
from litellm.types.caching import EMBEDDING_CACHE_FORMAT_VERSION

from asynccache import config
from asynccache.answers import JSONAnswers
from asynccache.cache import Cache
from asynccache.call_types import ALIASES, CALL_TYPES
from asynccache.clients import _litellm_calls as calls
from asynccache.clients._litellm_answers import MARK
from asynccache.errors import BackendError, ConfigError
from asynccache.keys import digest_of_text
from asynccache.model import CacheKey, Completion, Entry, Request
from asynccache.stats import Stats

logger = logging.getLogger("asynccache")

_DIGEST = pattern("[0-9a-f]{64}").fullmatch
_UNDER_WAY = 10_000


class LiteLLMCache:
    """`litellm.cache = LiteLLMCache(type="redis", host=…)`: LiteLLM's calls are answered from a `Cache`.

    cache:     the cache to use; None: one is made from `type`, `host`, `port`, `password` and `options`, which are
               those of `Cache` (`ttl`, `namespace`, `mode`, `key_builder`, …) and of its backend, under our names
               or LiteLLM's.
    supported_call_types: names of LiteLLM's functions whose calls are cached; None or []: none.
    max_messages: calls with more messages are neither read nor stored; None: no limit.
    default_in_memory_ttl, default_in_redis_ttl: seconds, where no `ttl` is given, of a local cache or one in redis.

    Keys, entries and admission are those of `Cache`; `wrap(litellm.acompletion)` finds what was stored this way.
    It never fails a call: what goes wrong counts in `stats`. Identical calls at the same time are each made:
    LiteLLM's cache does not see the call itself (`install` does). What is served stale is not refreshed behind it.

    Raises ConfigError for a wrong argument.
    """

    def __init__(
        self,
        type: str | None = "local",
        *,
        cache: Cache | None = None,
        host: str | None = None,
        port: str | int | None = None,
        password: str | None = None,
        supported_call_types: Iterable[str] | None = tuple(calls.SUPPORTED),
        max_messages: int | None = None,
        default_in_memory_ttl: float | timedelta | None = None,
        default_in_redis_ttl: float | timedelta | None = None,
        **options: Any,
    ) -> None:
        if cache is not None and (options or host or port or password or type not in ("local", None)):
            raise ConfigError("give a cache, or a type and its options, not both")
        if supported_call_types is not None:
            supported_call_types = list(supported_call_types)
            config.check_names(supported_call_types, [*calls.SUPPORTED, *ALIASES, *CALL_TYPES], "call type")
        given = {"host": host, "port": int(port) if isinstance(port, str) and port.isdigit() else port}
        options |= {name: value for name, value in {**given, "password": password}.items() if value is not None}
        kind = config.backend_type(type or "local", options)
        default_ttl = default_in_memory_ttl if kind == "memory" else default_in_redis_ttl if "redis" in kind else None
        if options.get("ttl") is None and default_ttl is not None:
            options["ttl"] = default_ttl
        if kind == "redis_cluster":
            _seed(options)
        self.handle: Cache = Cache(type=type or "local", **options) if cache is None else cache
        """The cache itself: `bind`, `invalidate`, `explain`, `wrap`, …"""
        self.type = "local" if self.handle.tier == "memory" else self.handle.tier
        """The type of the backend, by LiteLLM's name."""
        self.supported_call_types: list[str] | None = supported_call_types
        """May be set."""
        self.max_messages = max_messages
        """May be set."""
        self._aside = self.handle.aside()
        self._calls = calls.Targets(_Stored())
        self._began: OrderedDict[str, float] = OrderedDict()
        self._sync_look_up = self._aside.as_sync(self._look_up)
        self._sync_store = self._aside.as_sync(self._store)
        self._sync_delete = self._aside.as_sync(self._delete)
        self._sync_clear = self._aside.as_sync(self.handle.clear)

    # -- as attributes --------------------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        """Counters, as plain integers. A look-up that finds nothing is a miss."""
        return self.handle.stats

    @property
    def cache(self) -> Any:
        """The backend."""
        return self.handle.backend

    @property
    def ttl(self) -> float | None:
        """As with `Cache.ttl`. May be set."""
        return self.handle.ttl

    @ttl.setter
    def ttl(self, ttl: float | timedelta | None) -> None:
        self.handle.ttl = ttl

    @property
    def namespace(self) -> str | None:
        return self.handle.namespace or None

    @property
    def mode(self) -> str:
        return self.handle.mode.value

    def supports_async(self) -> bool:
        return True

    # -- keys -----------------------------------------------------------------------------------------

    def get_cache_key(self, **kwargs: Any) -> str:
        """The key of a call with these arguments. What kind of call it is, its arguments tell, or `call_type=`, the
        name of LiteLLM's function. Empty when no key can be built; such a call is not cached. Hooks do not run.

        Embeddings of several texts are kept under the key of each text: ask for those (`input="…"`), or for a list of
        one, which has the same."""
        preset = self.get_preset_cache_key_from_kwargs(**kwargs)
        if preset is not None:
            return preset
        call = self._call(kwargs)
        self._begins(kwargs, call)
        return _Key.of(call, self._digest(call))

    def get_preset_cache_key_from_kwargs(self, **kwargs: Any) -> str | None:
        params = kwargs.get("litellm_params")
        return params.get("preset_cache_key") if isinstance(params, Mapping) else None

    def should_use_cache(self, **kwargs: Any) -> bool:
        """Whether such a call is cached: by mode and `max_messages`."""
        return not self._call(kwargs).request.bypass

    def _call(self, kwargs: Mapping[str, Any]) -> _Call:
        """What is known of a call. Raises nothing."""
        named = kwargs.get("cache_key")
        if isinstance(named, _Key):
            return named.call
        kind = calls.kind_of_call(kwargs)
        request = self._request(kind, kwargs)
        turns = kwargs.get("messages") or kwargs.get("input")
        if self.max_messages is not None and isinstance(turns, list) and kind != "embedding":
            request.bypass = request.bypass or ("max-messages" if len(turns) > self.max_messages else "")
        if calls.is_inner(kwargs):
            request.bypass = request.bypass or "call-type"
        if kwargs.get("caching") is False:  # of a Router without `cache_responses`, too
            request.bypass = request.bypass or "caching"
        if named:
            request.key = self._named(str(named), request)
        return _Call(kind, request)

    def _request(self, kind: str, kwargs: Mapping[str, Any]) -> Request:
        control = kwargs.get("cache")
        more: dict[str, Any] = {}
        if isinstance(control, Mapping) and "ttl" not in control and kwargs.get("ttl") is not None:
            more["ttl"] = kwargs["ttl"]
        if (space := calls.namespace(kwargs)) is not None:
            more["namespace"] = space
        said = {**more, **control} if isinstance(control, Mapping) else more or control
        target, params = self._calls.of(kind), calls.arguments(kwargs)
        try:
            return self._aside.request(target, params, said)
        except ConfigError as error:
            logger.warning("not cached: %s", error)
            request = self._aside.request(target, params)
            request.bypass = "cache-control"
            return request

    def _digest(self, call: _Call) -> str:
        """ "" when no key can be built, or none without waiting for it."""
        if call.request.digest:
            return call.request.digest
        try:
            return self._aside.key(call.request).digest
        except (ConfigError, OSError):
            return ""  # the pipeline tries again, and says why

    def _named(self, name: str, request: Request) -> CacheKey:
        """The key of a call whose caller names it: within its namespace and tenant."""
        return CacheKey(digest_of_text(name, self._calls.of(calls.NAMED), request.directives))

    def _begins(self, kwargs: Mapping[str, Any], call: _Call) -> None:
        call.began = self._aside.now()
        if isinstance(identity := kwargs.get("litellm_call_id"), str):
            self._began[identity] = call.began
            self._began.move_to_end(identity)
            if len(self._began) > _UNDER_WAY:
                with suppress(KeyError):  # another thread was faster
                    self._began.popitem(last=False)

    # -- reading --------------------------------------------------------------------------------------

    def get_cache(self, **kwargs: Any) -> Any:
        """What is kept for this call, as LiteLLM rebuilds answers from it; None when there is nothing."""
        try:
            call = self._call(kwargs)
            self._begins(kwargs, call)
            return self._sync_look_up(call)
        except Exception as error:  # a cache that fails must not fail the call
            return self._failed(error)

    async def async_get_cache(self, **kwargs: Any) -> Any:
        """The same. Of embeddings, LiteLLM asks for each text alone."""
        try:
            call = self._call(kwargs)
            if call.began is None:
                self._begins(kwargs, call)
            found = await self._look_up(call)
        except Exception as error:  # as above
            return self._failed(error)
        return _embedding(found) if call.kind == "embedding" else found

    async def _look_up(self, call: _Call) -> Any:
        response = await self._aside.read(call.request)
        return response.value if isinstance(response, Completion) else None

    # -- writing --------------------------------------------------------------------------------------

    def add_cache(self, result: Any, **kwargs: Any) -> None:
        """Keep what this call was answered."""
        try:
            self._sync_store(self._answered(kwargs), _json(result))
        except Exception as error:  # as above
            self._failed(error, writing=True)

    async def async_add_cache(self, result: Any, **kwargs: Any) -> None:
        """The same."""
        try:
            await self._store(self._answered(kwargs), _json(result))
        except Exception as error:  # as above
            self._failed(error, writing=True)

    async def async_add_cache_pipeline(self, result: Any, **kwargs: Any) -> None:
        """The same of embeddings, each text by itself."""
        await self.async_add_cache(result, **kwargs)

    def _answered(self, kwargs: Mapping[str, Any]) -> _Call:
        call = self._call(kwargs)
        if call.began is None:
            call.began = self._began.get(str(kwargs.get("litellm_call_id")))
        return call

    async def _store(self, call: _Call, answer: Any) -> None:
        await self._aside.write(call.request, answer, call.began)

    def _failed(self, error: Exception, *, writing: bool = False) -> None:
        if isinstance(error, BackendError):
            logger.debug("LiteLLM's call goes on without its cache: %s", error)
        else:
            logger.error("LiteLLM's call goes on without its cache", exc_info=error)
        if writing:
            self.stats.write_errors += 1
        else:
            self.stats.read_errors += 1

    # -- taking away ----------------------------------------------------------------------------------

    def delete(self, key: str) -> bool:
        """Take away the entry under this key (see `get_cache_key`). True when there was one. It blocks; in async
        code, use `delete_cache_keys`. Raises BackendError."""
        return bool(self._sync_delete(key))

    def delete_cache(self) -> None:
        """End all answers of this namespace, as `clear` does. It blocks. Raises BackendError."""
        self._sync_clear()

    async def delete_cache_keys(self, keys: Iterable[str]) -> int:
        """Take these away; how many there were. Raises BackendError."""
        return sum(await asyncio.gather(*map(self._delete, keys)))

    async def _delete(self, key: str) -> bool:
        if not _DIGEST(key):
            key = self._named(key, self._aside.request(self._calls.of(calls.NAMED), {})).digest
        return await self.handle.delete(str(key))

    async def invalidate(self, *names: str, soft: bool = False) -> None:
        """As with `Cache.invalidate`."""
        await self.handle.invalidate(*names, soft=soft)

    async def clear(self, *, soft: bool = False) -> None:
        """As with `Cache.clear`."""
        await self.handle.clear(soft=soft)

    # -- life -----------------------------------------------------------------------------------------

    async def ping(self) -> bool:
        """True when the backend works; raises BackendError when it does not."""
        return await self.handle.ping()

    async def disconnect(self) -> None:
        """Finish writes and close the cache."""
        await self.handle.aclose()

    aclose = disconnect

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    def __repr__(self) -> str:
        return f"LiteLLMCache({self.handle!r})"


@dataclass(slots=True)
class _Call:
    """One call of LiteLLM's.

    began: when its look-up began, before the provider was asked; None when nothing was looked up.
    """

    kind: str
    request: Request
    began: float | None = None


class _Key(str):
    """A key that remembers its call: LiteLLM asks for embeddings, and writes streams, by their keys alone."""

    call: _Call

    @classmethod
    def of(cls, call: _Call, digest: str) -> Self:
        key = cls(digest)
        key.call = call
        return key

    def __reduce__(self) -> tuple[Callable[..., str], tuple[str]]:
        return str, (str(self),)

    def __deepcopy__(self, _: Any) -> Self:
        return self


class _Stored(JSONAnswers):
    """Answers that LiteLLM has made JSON of."""

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        return orjson.dumps(value), {}

    def decode(self, entry: Entry) -> Any:
        answer = super().decode(entry)
        if isinstance(answer, dict):
            answer.pop(MARK, None)  # `wrap` has kept it
        return answer


def _json(result: Any) -> Any:
    """An answer, as LiteLLM hands it over. Raises TypeError or ValueError for what is none."""
    if callable(dump := getattr(result, "model_dump_json", None)):
        result = dump()
    return orjson.loads(result if isinstance(result, str) else orjson.dumps(result))


def _embedding(found: Any) -> dict[str, Any] | None:
    """One text's embedding, as LiteLLM wants it."""
    if not isinstance(found, Mapping):
        return None
    vectors, usage = found.get("data") or [{}], found.get("usage") or {}
    if len(vectors) != 1:  # LiteLLM asks for each text alone
        return None
    return {
        "embedding": vectors[0].get("embedding"),
        "index": 0,
        "object": vectors[0].get("object"),
        "model": found.get("model"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "prompt_tokens_details": usage.get("prompt_tokens_details"),
        "format_version": EMBEDDING_CACHE_FORMAT_VERSION,
    }


def _seed(options: dict[str, Any]) -> None:
    """LiteLLM's users name a host beside the nodes of a cluster: it is one more to begin with."""
    host, port = options.pop("host", None), options.pop("port", 6379)
    name = "startup_nodes" if "startup_nodes" in options else "redis_startup_nodes"
    if host is not None:
        options[name] = [*(options.get(name) or ()), {"host": host, "port": port}]
