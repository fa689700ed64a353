"""`litellm.acompletion` and its kin, told apart by their names; and the object that LiteLLM expects as
`litellm.cache`.

    litellm.cache = LiteLLMCache(type="redis", host="localhost", ttl=3600)

The functions of `litellm.caching` are here under their names, and whatever else LiteLLM has is found here too:
`from asynccache.clients import litellm` will do in place of `import litellm` where nothing of it is set.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import litellm
import orjson
from litellm import EmbeddingResponse, ModelResponse, RerankResponse, TextCompletionResponse
from litellm.types.llms.openai import ResponsesAPIResponse
from litellm.types.utils import ModelResponseStream, TranscriptionResponse
from pydantic import TypeAdapter

from asynccache.answers import JSONAnswers, ModelAnswers, status
from asynccache.call_types import CALL_TYPES
from asynccache.clients._litellm_cache import LiteLLMCache
from asynccache.clients._litellm_calls import FUNCTIONS
from asynccache.clients._sync_streams import Driven, Pulled
from asynccache.errors import ConfigError
from asynccache.key_builders import cache_key_generator
from asynccache.keys import INERT
from asynccache.model import CacheMode, Completion
from asynccache.streams import AnswerStream
from asynccache.sync import on_callers_thread
from asynccache.targets import function_target, is_async

if TYPE_CHECKING:
    from asynccache.cache import Cache

__all__ = [
    "CacheMode",
    "Installation",
    "LiteLLMCache",
    "cache_key_generator",
    "caching",
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


# -- around LiteLLM's functions -----------------------------------------------------------------------


class _Answers(ModelAnswers):
    def same(self, again: Any, value: Any) -> bool:
        """By what they say: LiteLLM keeps timings and headers of the call beside it."""
        return bool(again.model_dump() == value.model_dump())

    def carry(self, response: Completion) -> Any:
        """Also says `cache_hit` where LiteLLM's users look for it, and that a hit costs nothing."""
        hidden = getattr(response.value, "_hidden_params", None)
        if isinstance(hidden, dict):
            hit = response.status.outcome not in ("miss", "bypass")
            hidden["cache_hit"] = hit
            if hit:
                hidden.update(cache_key=response.status.key, response_cost=0.0)
        return super().carry(response)


class _Transcriptions(_Answers):
    """Their type's constructor takes nothing but the text."""

    def __init__(self) -> None:
        super().__init__(TranscriptionResponse)
        self._validate = _transcription


def _transcription(body: bytes) -> TranscriptionResponse:
    fields = orjson.loads(body)
    answer = TranscriptionResponse(text=fields.pop("text", None))
    if fields.get("usage") is not None:
        usage: Any = TranscriptionResponse.model_fields["usage"].annotation
        fields["usage"] = TypeAdapter(usage).validate_python(fields["usage"])
    for name, value in fields.items():
        setattr(answer, name, value)
    return answer


_ANSWERS: dict[str, JSONAnswers] = {
    "completion": _Answers(ModelResponse, ModelResponseStream),
    "text_completion": _Answers(TextCompletionResponse, TextCompletionResponse),
    "embedding": _Answers(EmbeddingResponse),
    "transcription": _Transcriptions(),
    "rerank": _Answers(RerankResponse),
    "responses": _Answers(ResponsesAPIResponse),
    "anthropic_messages": JSONAnswers(),
}
"""By LiteLLM's functions."""


def _known(name: str) -> str | None:
    """The name of one of these functions without the "a" of its async twin; None for any other."""
    return next((plain for plain in (name, name.removeprefix("a")) if plain in _ANSWERS), None)


def _streams_kept(plain: str) -> bool:
    return plain in ("completion", "text_completion")


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped function or Router; None for a function whose answers are of no known type."""
    if isinstance(target, litellm.Router):
        return _wrap_router(cache, target, name)
    asynchronous = is_async(target)
    known = _known(getattr(target, "__name__", ""))
    if known is None or not inspect.isroutine(target):
        return None
    call_type = CALL_TYPES[FUNCTIONS[known]]

    def keep_out(params: Any) -> str:
        if params.get("stream") and not _streams_kept(known):
            return f"stream: of {known}"
        return call_type.keep_out(params) if call_type.keep_out is not None else ""

    # `aembedding(*args, **kwargs)` hides the names of its arguments, which its sync twin tells.
    hides = not inspect.ismethod(target) and known in ("embedding", "text_completion", "transcription")
    named = getattr(litellm, known) if hides else target
    wanted = function_target(
        named,
        target if asynchronous else _driven(target),
        call_type=call_type,
        answers=_ANSWERS[known],
        name=name or "",
        keep_out=keep_out,
    )
    wrapped = cache.around(target, wanted, named=named)
    return wrapped if asynchronous else _pulled(cache, cache.as_sync(target, wrapped))


def _driven(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """An async form of a sync function, whose streams are async too."""
    run = on_callers_thread(function)

    async def call(**params: Any) -> Any:
        answer = await run(**params)
        return _Driven(answer) if hasattr(answer, "__next__") else answer

    return call


class _Driven(Driven):
    def _close(self) -> None:
        if callable(getattr(self._stream, "close", None)):  # not all of LiteLLM's streams can be closed
            super()._close()


def _pulled(cache: Cache, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same sync function, whose streams are sync again."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        return _SyncStream(cache, answer) if isinstance(answer, AnswerStream) else answer

    return call


class _SyncStream(Pulled):
    def __init__(self, cache: Cache, chunks: AnswerStream[Any]) -> None:
        super().__init__(cache, chunks)
        self._asynccache_status = status(chunks)


def _wrap_router(cache: Cache, router: litellm.Router, name: str | None) -> litellm.Router:
    """A Router on the same deployments whose calls are cached, before one of them is chosen.

    Which models share entries, `Cache(caching_groups=…)` says. Routers with other deployments share none.
    """
    wrapped = copy.copy(router)
    endpoint = f"router:{name or _deployments(router)}"
    for plain in FUNCTIONS:
        for method in (f"a{plain}", plain):
            function = getattr(router, method, None)
            # Others pass their arguments on to something of another name: they stay as they are.
            if inspect.ismethod(function) and function.__name__ == method:
                setattr(wrapped, method, wrap(cache, function, endpoint))
    return wrapped


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


def _around(cache: Cache, function: Callable[..., Any]) -> Callable[..., Any]:
    wrapped = cache.wrap(function)

    # What a Router calls was looked up by its group, or will be: here it would be kept by its deployment.
    def inner(kwargs: dict[str, Any]) -> bool:
        metadata = kwargs.get("metadata") or kwargs.get("litellm_metadata") or {}
        return bool(isinstance(metadata, dict) and metadata.get("model_group")) or kwargs.get("acompletion") is True

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
