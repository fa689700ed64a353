"""What the SDKs that Stainless generates (openai, anthropic, …) have in common.

A wrapped client is a copy of the user's own (same type, same connections) in which the methods
that fetch answers are replaced; all else, and what is not listed, passes through.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson

from asynccache.answers import ModelAnswers
from asynccache.call_types import CALL_TYPES
from asynccache.keys import vocal
from asynccache.model import CompletionStream
from asynccache.streams import close
from asynccache.sync import on_callers_thread
from asynccache.targets import function_target, is_async

if TYPE_CHECKING:
    from asynccache.cache import Cache

_RAW = "x-stainless-raw-response"


@dataclass(frozen=True, slots=True)
class Method:
    """A method whose answers are cached: `client.{resource}.create`."""

    resource: str
    call_type: str
    model: Any
    chunk: Any = None


@dataclass(frozen=True, slots=True)
class SDK:
    """One SDK: its clients, its methods, its stream type made to iterate over any chunks, the way it
    builds objects from the wire, and the base URL that need not stand in the key."""

    clients: tuple[type, ...]
    methods: tuple[Method, ...]
    stream: Callable[[CompletionStream, Any], AsyncIterator[Any]]
    construct: Callable[[Any, Any], Any]
    base_url: str


def wrap(sdk: SDK, cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped client, or the wrapped method of one; None for anything else."""
    if isinstance(target, sdk.clients):
        return _wrap_client(sdk, cache, target, name)
    owner = getattr(target, "__self__", None)
    client = getattr(owner, "_client", None)
    if isinstance(client, sdk.clients) and getattr(target, "__name__", "") == "create":
        for method in sdk.methods:
            if type(_find(client, method.resource)) is type(owner):
                return _wrap_method(sdk, cache, client, target, method, name)
    return None


def _wrap_client(sdk: SDK, cache: Cache, client: Any, name: str | None) -> Any:
    wrapped = client.copy()
    for method in sdk.methods:
        resource = _find(wrapped, method.resource)
        if resource is not None:  # an older SDK may not have it
            resource.create = _wrap_method(sdk, cache, client, resource.create, method, name)

    @functools.wraps(client.copy)
    def copy(**options: Any) -> Any:
        return _wrap_client(sdk, cache, client.copy(**options), name)

    wrapped.copy = wrapped.with_options = copy
    return wrapped


def _wrap_method(sdk: SDK, cache: Cache, client: Any, create: Any, method: Method, name: str | None) -> Any:
    asynchronous = is_async(create)
    target = function_target(
        create,
        create if asynchronous else on_callers_thread(create),
        call_type=CALL_TYPES[method.call_type],
        answers=_Answers(sdk, client, method),
        name=name or _endpoint(sdk, client),
        keep_out=_keep_out,
    )
    wrapped = cache.around(create, target)
    return wrapped if asynchronous else cache.as_sync(create, wrapped)


class _Answers(ModelAnswers):
    def __init__(self, sdk: SDK, client: Any, method: Method) -> None:
        super().__init__(method.model, method.chunk, construct=sdk.construct)
        self._stream = sdk.stream
        self._client = client

    def stream(self, response: CompletionStream) -> AsyncIterator[Any]:
        return self._stream(response, self._client)


def _find(client: Any, path: str) -> Any:
    return functools.reduce(lambda found, part: getattr(found, part, None), path.split("."), client)


def _endpoint(sdk: SDK, client: Any) -> str:
    """Where the client's calls go, when that is not the SDK's own default: part of the key."""
    facts = {
        "base_url": "" if str(client.base_url).rstrip("/") == sdk.base_url else str(client.base_url),
        "organization": getattr(client, "organization", None),
        "project": getattr(client, "project", None),
        "query": dict(client.default_query),
        "headers": vocal(client._custom_headers),
    }
    said = {key: value for key, value in facts.items() if value}
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS, default=str).decode() if said else ""


def _keep_out(params: Mapping[str, Any]) -> str:
    """`with_raw_response` and `with_streaming_response` want the HTTP response itself."""
    headers = params.get("extra_headers")
    if headers and any(str(name).lower() == _RAW for name in headers):
        return "raw-response"
    return ""


class StreamOverChunks:
    """Mixed into an SDK's stream type: iterates over chunks instead of an HTTP response.

    On a miss `response` is the HTTP response of the call; on a replay an empty one stands in for it.
    """

    response: Any
    _iterator: AsyncIterator[Any]

    def __init__(self, response: CompletionStream, client: Any) -> None:
        # The base class would want the HTTP response that a replay has not.
        self._iterator = response.chunks
        self._cache_source = response.source
        self._cache_client = client
        self._asynccache_status = response.status

    def __anext__(self) -> Any:
        return self._iterator.__anext__()

    def __aiter__(self) -> Self:
        # No generator around it: one that was cancelled would look as if the stream had ended there.
        return self

    async def close(self) -> None:
        await close(self._iterator)

    def __getattr__(self, name: str) -> Any:
        # Reached once for `response`, and for what neither class has.
        if name != "response":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        source = self._cache_source
        response = _http(self._cache_client).Response(200) if source is None else source.response
        self.response = _SharedResponse(response, self._iterator)
        return self.response


class _SharedResponse:
    """The HTTP response of a stream that others may be reading too: to close it is to leave the stream."""

    def __init__(self, response: Any, chunks: AsyncIterator[Any]) -> None:
        self._response = response
        self._chunks = chunks

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._response)

    async def aclose(self) -> None:
        await close(self._chunks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)


def _http(client: Any) -> Any:
    """The HTTP library under this client: httpx for older SDKs, httpx2 for newer ones."""
    for base in type(client._client).__mro__:
        package = base.__module__.partition(".")[0]
        if package in ("httpx", "httpx2"):
            return importlib.import_module(package)
    raise AttributeError("a replayed stream has no HTTP response")
