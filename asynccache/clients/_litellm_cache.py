"""The object that LiteLLM expects as `litellm.cache`, on top of a `Cache`."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from re import compile as pattern
from typing import Any, Self, cast

import orjson
from litellm.types.caching import EMBEDDING_CACHE_FORMAT_VERSION

from asynccache import config, directives, key_builders
from asynccache.answers import JSONAnswers
from asynccache.cache import Cache
from asynccache.call_types import ALIASES, CALL_TYPES
from asynccache.clients import _litellm_calls as calls
from asynccache.epochs import invalidated_since, scopes, tags
from asynccache.errors import BackendError, ConfigError, NotCached
from asynccache.keys import digest_of_text
from asynccache.material import Unkeyable
from asynccache.model import CacheKey, CacheStatus, Completion, Directives, Request, Response
from asynccache.pipeline import compose
from asynccache.protocols import Handler, Parts, Stage
from asynccache.stages.build_key import BuildKey
from asynccache.stages.elements import Elements
from asynccache.stages.hooks import Hooks
from asynccache.stages.store import Store
from asynccache.stats import Stats

logger = logging.getLogger("asynccache")

_DIGEST = pattern("[0-9a-f]{64}").fullmatch
_UNDER_WAY = 10_000
_TEXTS = cast(Parts, CALL_TYPES["embedding"].parts)


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
        self.type = "local" if self.handle._tier == "memory" else self.handle._tier
        """The type of the backend, by LiteLLM's name."""
        self.supported_call_types: list[str] | None = supported_call_types
        """May be set."""
        self.max_messages = max_messages
        """May be set."""
        self._calls = calls.Targets(_Stored())
        self._chain(self.handle._stages)
        self._began: OrderedDict[str, float] = OrderedDict()
        self._sync_look_up = self.handle.as_sync(_nothing, self._look_up)
        self._sync_look_up_texts = self.handle.as_sync(_nothing, self._look_up_texts)
        self._sync_store = self.handle.as_sync(_nothing, self._store)
        self._sync_delete = self.handle.as_sync(_nothing, self._delete)
        self._sync_clear = self.handle.as_sync(_nothing, self.handle.clear)

    def _chain(self, stages: Iterable[Stage]) -> None:
        """Reading and writing apart: what lies between them, LiteLLM does itself."""
        found: dict[type, Any] = {}
        for stage in stages:
            for kind in (Hooks, BuildKey, Elements, Store):
                if isinstance(stage, kind):
                    found[kind] = stage
        lookup, store = cast(Elements, found[Elements]), cast(Store, found[Store])
        before = [*([found[Hooks]] if Hooks in found else []), _Keyed(found[BuildKey])]
        self._reading = compose([*before, lookup], _absent)
        self._writing = compose([*before, store], self._given)
        self._epochs, self._clock = store._epochs, store._clock

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
        return "default_on" if self.handle._defaults.enabled else "default_off"

    def supports_async(self) -> bool:
        return True

    # -- keys -----------------------------------------------------------------------------------------

    def get_cache_key(self, **kwargs: Any) -> str:
        """The key of a call with these arguments. What kind of call it is, its arguments tell, or `call_type=`, the
        name of LiteLLM's function. Empty for a call that is not cached, because no key can be built."""
        preset = self.get_preset_cache_key_from_kwargs(**kwargs)
        if preset is not None:
            return preset
        call = self._call(kwargs)
        self._begins(kwargs, call)
        return _Key.of(call)

    def get_preset_cache_key_from_kwargs(self, **kwargs: Any) -> str | None:
        params = kwargs.get("litellm_params")
        return params.get("preset_cache_key") if isinstance(params, Mapping) else None

    def should_use_cache(self, **kwargs: Any) -> bool:
        """Whether such a call is cached: by mode and `max_messages`."""
        call = self._call(kwargs)
        return not (call.bypass or call.directives.bypass)

    def _call(self, kwargs: Mapping[str, Any]) -> _Call:
        """What is known of a call. Raises nothing."""
        named = kwargs.get("cache_key")
        if isinstance(named, _Key):
            return named.call
        kind = calls.kind_of_call(kwargs)
        params = calls.arguments(kwargs)
        asked, bypass = self._asked(kwargs)
        turns = kwargs.get("messages") or kwargs.get("input")
        if self.max_messages is not None and isinstance(turns, list) and kind != "embedding":
            bypass = bypass or ("max-messages" if len(turns) > self.max_messages else "")
        if calls.is_inner(kwargs):
            bypass = bypass or "call-type"
        call = _Call(kind, params, asked, bypass)
        if named:
            call.key = self._named(str(named), asked)
        elif not bypass:
            call.key = self._key(call)
        return call

    def _asked(self, kwargs: Mapping[str, Any]) -> tuple[Directives, str]:
        control = kwargs.get("cache")
        more: dict[str, Any] = {}
        if isinstance(control, Mapping) and "ttl" not in control and kwargs.get("ttl") is not None:
            more["ttl"] = kwargs["ttl"]
        if (space := calls.namespace(kwargs)) is not None:
            more["namespace"] = space
        try:
            said = {**more, **control} if isinstance(control, Mapping) else more or control
            return directives.parse(said, self.handle._defaults, self.handle._fixed), ""
        except ConfigError as error:
            logger.warning("not cached: %s", error)
            return self.handle._defaults, "cache-control"

    def _key(self, call: _Call) -> CacheKey | None:
        """None when it cannot be built, or not yet."""
        target = self._calls.of(call.kind)
        try:
            return key_builders.finished(self.handle._build(call.params, target, call.directives, files=True))
        except (Unkeyable, ConfigError, OSError):
            return None  # the pipeline tries again, and says why

    def _named(self, name: str, asked: Directives) -> CacheKey:
        """The key of a call whose caller names it: within its namespace and tenant."""
        return CacheKey(digest_of_text(name, self._calls.of(calls.NAMED), asked))

    def _begins(self, kwargs: Mapping[str, Any], call: _Call) -> None:
        call.began = self._clock()
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
            if call.kind == "embedding" and (alone := self._apart(call)) is not None:
                return self._sync_look_up_texts(call, alone)
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
        try:
            response = await self._reading(self._request(_of_cache_only(call)))
        except NotCached:
            return None
        return response.value if isinstance(response, Completion) else None

    async def _look_up_texts(self, call: _Call, alone: list[_Call]) -> Any:
        """The answer about all of them; None unless each is there."""
        answers = [await self._look_up(one) for one in alone]
        if any(answer is None for answer in answers):
            return None
        split = _TEXTS.split(call.params)
        places = range(len(alone)) if split is None else split.places
        return _TEXTS.unite(answers, list(places), 0)

    def _apart(self, call: _Call, *, each: bool = False) -> list[_Call] | None:
        """Calls about one text of this one each; None when it is about one. `each`: equal texts are not one."""
        split = _TEXTS.split(call.params)
        if split is None or call.bypass:
            return None
        things = [split.things[place] for place in split.places] if each else split.things
        found = []
        for thing in things:
            one = _Call(call.kind, _TEXTS.alone(call.params, thing), call.directives, call.bypass, began=call.began)
            one.key = self._key(one)
            found.append(one)
        return found

    def _request(self, call: _Call) -> Request:
        request = Request(call.params, call.directives, self._calls.of(call.kind))
        request.bypass = request.bypass or call.bypass
        request.attach(call)
        return request

    # -- writing --------------------------------------------------------------------------------------

    def add_cache(self, result: Any, **kwargs: Any) -> None:
        """Keep what this call was answered."""
        try:
            call = self._answered(kwargs)
            self._sync_store(call, _json(result))
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

    async def _store(self, call: _Call, body: bytes) -> None:
        alone = self._apart(call, each=True) if call.kind == "embedding" else None
        if alone is None:
            await self._store_one(call, body)
            return
        answers = _TEXTS.divide(orjson.loads(body), [one.params for one in alone])
        # A text that is there twice is kept once, where its key is known by now.
        each = {one.key or id(one): (one, answer) for one, answer in zip(alone, answers, strict=True)}
        await asyncio.gather(*(self._store_one(one, orjson.dumps(answer)) for one, answer in each.values()))

    async def _store_one(self, call: _Call, body: bytes) -> None:
        request = self._request(call)
        request.attach(_Answer(body))
        await self._writing(request)

    async def _given(self, request: Request) -> Response:
        """In the upstream's place: the answer that LiteLLM has got."""
        answer, call = request.find(_Answer), request.find(_Call)
        assert answer is not None
        response = Completion(CacheStatus("miss", key=request.digest), answer.body)
        if call is not None and call.began is not None and not request.bypass:
            asked = request.directives
            with suppress(BackendError):  # then nothing will be written anyway
                numbers = await self._epochs.read([*scopes(asked), *tags(asked, asked.tags)])
                if invalidated_since(numbers, call.began):
                    response.veto("invalidated")
        return response

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
        digest = key if _DIGEST(key) else self._named(key, self.handle._defaults).digest
        return await self.handle.delete(str(digest))

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
    params: dict[str, Any]
    directives: Directives
    bypass: str = ""
    key: CacheKey | None = None
    began: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes


class _Key(str):
    """A key that remembers its call: LiteLLM asks for embeddings, and writes streams, by their keys alone."""

    call: _Call

    @classmethod
    def of(cls, call: _Call) -> Self:
        key = cls("" if call.key is None else call.key.digest)
        key.call = call
        return key

    def __reduce__(self) -> tuple[Callable[..., str], tuple[str]]:
        return str, (str(self),)

    def __deepcopy__(self, _: Any) -> Self:
        return self


class _Keyed:
    """Takes the key that a call has; else builds it."""

    def __init__(self, build: BuildKey) -> None:
        self._build = build

    def __call__(self, request: Request, call_next: Handler, /) -> Any:
        call = request.find(_Call)
        target = request.target
        if call is None or call.key is None or request.bypass:
            return self._build(request, call_next)
        if target.keep_out is not None:
            request.bypass = target.keep_out(request.params)
        request.key = call.key
        return call_next(request)


class _Stored(JSONAnswers):
    """Answers that LiteLLM has made JSON of."""

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        return value, {}


async def _absent(request: Request) -> Response:
    raise NotCached(request.bypass or "absent")


def _nothing(*_: Any, **__: Any) -> None:
    """On the cache's own thread, where a hook may call LiteLLM: there the cache keeps out."""


def _of_cache_only(call: _Call) -> _Call:
    """The same call, without an upstream."""
    return replace(call, directives=replace(call.directives, only_if_cached=True))


def _json(result: Any) -> bytes:
    """An answer, as LiteLLM hands it over. Raises TypeError for what is none."""
    if isinstance(result, str):
        return result.encode()
    if callable(dump := getattr(result, "model_dump_json", None)):
        return cast(str, dump()).encode()
    return orjson.dumps(result)


def _embedding(found: Any) -> dict[str, Any] | None:
    """One text's embedding, as LiteLLM wants it."""
    if not isinstance(found, Mapping):
        return None
    vectors, usage = found.get("data") or [{}], found.get("usage") or {}
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
