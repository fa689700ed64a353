"""`httpx.AsyncClient` and `httpx.Client`, and those of httpx2: any SDK that lets its HTTP client be set is cached.

    client = Mistral(async_client=httpx.AsyncClient(transport=AsyncCacheTransport(cache)))
    client = AsyncOpenAI(http_client=cache.wrap(httpx2.AsyncClient()))

**What is cached.** POST requests with a JSON object as their body, whose path ends like that of an LLM call: chat,
text and FIM completions, responses, embeddings, messages, reranking, Cohere's chat, Gemini's `:generateContent`; all
providers that speak like one of these. `cached=` adds further paths. Only status 200 is stored, and only what its kind
of call allows: nothing truncated, filtered, broken off or empty. Responses calls with `background`, `store` or
`conversation` are made each time, since they leave something behind. Everything else passes untouched.

**The key** has the URL (without API keys in its query, and without its user), the body's fields as `Cache.wrap` reads
arguments, the headers `anthropic-*` and `openai-*`, and those named by `vary=`. Credentials are not in it: two API
keys share answers, unless the cache is bound to tenants.

**What a call may say**, the first of these counts:
`extensions={"asynccache": {"ttl": 60, "tags": ["doc:1"]}}`, the controls of `cache={…}`;
the header `x-asynccache: {"ttl": 60}`, the same as JSON, for SDKs that let only headers be set; it is not sent on;
the header `cache-control` with `no-cache`, `no-store`, `max-age` or `only-if-cached` (RFC 9111; without an answer,
the last one gets a response 504, while our own `only-if-cached` raises NotCached). A `cache` in the body is the
provider's. A wrong control raises ConfigError.

**What a response says.** `response.extensions["asynccache"]` and `asynccache.status(response)` are its CacheStatus; in
its headers stand `cache-status` (RFC 9211) and, when it was stored, `age`. A miss has all headers of its provider; what
is answered from the cache, or shared, has its content type, its language, and `openai-model` and `openai-version`: no
request ids, rate limits or cookies, which are those of another call. Its body is the same, byte for byte, without
content-encoding. A stream comes again event by event; for chat, text completions, responses and messages a recorded
stream answers a call that wants the answer whole, if it has all that such an answer has (of chat also the usage), and
the other way round. Of a stream that is left before its last event nothing is stored.

**Lists of embeddings** (`/embeddings`) are looked up, shared and stored text by text, and only those that are missing
are sent on. A reply that is put together is the same JSON in other bytes; its usage is the sum of the texts' shares,
and its headers are those of the request that was made for it, if one was. Kept whole are lists in a request that has
fields of which it is not known that they mean the same for each text alone, or a digest or signature of its body; and
those of an endpoint whose replies have top-level fields beside `object`, `data`, `model`, `usage`, `id` and `created`,
from the second reply on: the first one is passed on, and not stored.

Errors of the transport behind it pass unchanged. So do responses without success, with all their headers; callers who
wait for the same answer share them.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from asynccache.errors import NotCached
from asynccache.http.answers import (
    Head,
    Headers,
    HTTPAnswers,
    Refused,
    Reply,
    status_headers,
)
from asynccache.http.call_types import EVENT_STREAM, HTTPCallType
from asynccache.http.calls import CONTROL, CONTROL_HEADER, Cached, Call, Calls, dumps, loads
from asynccache.http.wire import AsyncWire, BodyClasses, Bytes, Live, SyncWire, library_of, read
from asynccache.model import CacheStatus, CompletionStream, Response, Target
from asynccache.streams import close

if TYPE_CHECKING:
    from httpx import AsyncBaseTransport, BaseTransport
    from httpx2 import AsyncBaseTransport as AsyncBaseTransport2
    from httpx2 import BaseTransport as BaseTransport2

    from asynccache.cache import Cache

    class _AsyncTransport(AsyncBaseTransport, AsyncBaseTransport2):
        async def handle_async_request(self, request: Any) -> Any: ...

    class _SyncTransport(BaseTransport, BaseTransport2):
        def handle_request(self, request: Any) -> Any: ...

else:
    # Neither library looks at the base class of a transport, and neither may be loaded for the other's sake.
    _AsyncTransport = _SyncTransport = object

_call: ContextVar[Call] = ContextVar("asynccache_http_call")

_STREAMED = (EVENT_STREAM, "application/x-ndjson", "application/jsonl", "application/stream+json")
_PLACES = 1024


class AsyncCacheTransport(_AsyncTransport):
    """A transport for `httpx.AsyncClient` and `httpx2.AsyncClient` that answers LLM calls from the cache.

    transport: what sends the requests; None: the library's own `AsyncHTTPTransport()`. It is closed with this one;
               the cache is not.
    cached:    further paths whose POST requests are cached: patterns such as "*/generate", or a function of the
               request. Their answers are kept as they are, if nothing in them says that they went wrong.
    vary:      names of further request headers that count in the key.
    name:      stands in the key in the place of scheme, host and port: hosts of one name share answers.

    Raises ConfigError for a wrong argument. Does no I/O before the first request.
    """

    def __init__(
        self,
        cache: Cache,
        transport: Any = None,
        *,
        cached: Cached = (),
        vary: Iterable[str] = (),
        name: str | None = None,
    ) -> None:
        self._wire = AsyncWire(transport)
        self._calls = Calls(cached, vary, name)
        self._exchange = _Exchange(cache, self._wire, _async_body)

    async def handle_async_request(self, request: Any) -> Any:
        call = self._calls.read(request)
        if call is None:
            return await self._wire.send(_unmarked(request), library_of(type(request)))
        return await self._exchange.answer(call)

    async def aclose(self) -> None:
        for transport in self._wire.transports:
            await transport.aclose()

    async def __aenter__(self) -> Self:
        if self._wire.given is not None:
            await self._wire.given.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._wire.given is not None:
            await self._wire.given.__aexit__(exc_type, exc_value, traceback)
        else:
            await self.aclose()


class CacheTransport(_SyncTransport):
    """The same for `httpx.Client` and `httpx2.Client`: the cache works on a loop in a thread of its own, and the
    transport behind it on the thread of its caller. Without one, it is the library's own `HTTPTransport()`."""

    def __init__(
        self,
        cache: Cache,
        transport: Any = None,
        *,
        cached: Cached = (),
        vary: Iterable[str] = (),
        name: str | None = None,
    ) -> None:
        self._wire = SyncWire(transport)
        self._calls = Calls(cached, vary, name)
        exchange = _Exchange(cache, self._wire, lambda classes, chunks: _sync_body(cache, classes, chunks))
        self._answer = cache.as_sync(lambda call: self._pass(call.request), exchange.answer)

    def handle_request(self, request: Any) -> Any:
        call = self._calls.read(request)
        return self._pass(request) if call is None else self._answer(call)

    def close(self) -> None:
        for transport in self._wire.transports:
            transport.close()

    def __enter__(self) -> Self:
        if self._wire.given is not None:
            self._wire.given.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._wire.given is not None:
            self._wire.given.__exit__(exc_type, exc_value, traceback)
        else:
            self.close()

    def _pass(self, request: Any) -> Any:
        return self._wire.transport(library_of(type(request))).handle_request(_unmarked(request))


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The client with cached transports: a copy of the same type that shares its connections, so that closing one
    closes those of both. None for anything else."""
    if not (library := library_of(type(target))):
        return None
    http = importlib.import_module(library)
    if isinstance(target, http.AsyncClient):
        kind: Any = AsyncCacheTransport
    elif isinstance(target, http.Client):
        kind = CacheTransport
    else:
        return None
    wrapped = copy.copy(target)
    wrapped._transport = kind(cache, target._transport, name=name)
    wrapped._mounts = {
        pattern: None if transport is None else kind(cache, transport, name=name)
        for pattern, transport in target._mounts.items()
    }
    return wrapped


Body = Callable[[BodyClasses, AsyncIterator[bytes]], Any]


class _Exchange:
    """Calls → responses, through the cache's pipeline: one target for each place that calls go to."""

    def __init__(self, cache: Cache, wire: AsyncWire, body: Body) -> None:
        self._cache = cache
        self._wire = wire
        self._body = body
        self._wrapped: dict[tuple[str, HTTPCallType], Callable[..., Awaitable[Response]]] = {}
        self._classes: dict[str, BodyClasses] = {}

    async def answer(self, call: Call) -> Any:
        http = importlib.import_module(library_of(type(call.request)))
        wrapped = self._wrapped.get((call.place, call.api.call_type)) or self._wrap(call)
        params = call.params if call.control is None else {**call.params, "cache": call.control}
        token = _call.set(call)
        try:
            response = await wrapped(**params)
        except Refused as refusal:
            return _whole(http, refusal.reply, [])
        except NotCached as error:
            if not call.demand:
                raise
            return _unavailable(http, error)
        finally:
            _call.reset(token)
        if isinstance(response, CompletionStream):
            return await self._stream(http, response)
        return _with_status(_whole(http, response.value, status_headers(response.status)), response.status)

    def _wrap(self, call: Call) -> Callable[..., Awaitable[Response]]:
        if len(self._wrapped) >= _PLACES:
            self._wrapped.clear()
        api = call.api
        target = Target(
            self._upstream,
            api.call_type,
            HTTPAnswers(opaque=not api.listed),
            call.place,
            keep_out=api.call_type.keep_out,
        )
        wrapped = self._cache.around(self._upstream, target)
        self._wrapped[call.place, api.call_type] = wrapped
        return wrapped

    async def _upstream(self, /, **params: Any) -> Reply | Live:
        """The upstream: what the provider answers to the call of this task's context."""
        call = _call.get()
        library = library_of(type(call.request))
        response = await self._wire.send(_outgoing(call, params), library)
        success = 200 <= response.status_code < 300
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        # What is put together from parts is read whole, unless a stream was asked for.
        if success and (call.stream or (kind in _STREAMED and call.api.call_type.parts is None)):
            return Live(self._wire, response)
        reply = await _read(self._wire, response, importlib.import_module(library))
        if not success:
            raise Refused(reply)
        return reply

    def _bodies(self, http: Any) -> BodyClasses:
        if http.__name__ not in self._classes:
            self._classes[http.__name__] = BodyClasses(http)
        return self._classes[http.__name__]

    async def _stream(self, http: Any, response: CompletionStream) -> Any:
        """The response, as soon as its head is there."""
        chunks, status = response.chunks, response.status
        try:
            head: Head = await anext(chunks)
        except BaseException:
            await close(chunks)
            raise
        live = response.source if isinstance(response.source, Live) else None
        headers = head.headers if live is None else live.headers
        extensions = {} if live is None else _without_socket(live.extensions)
        made = http.Response(
            head.status,
            headers=[*headers, *status_headers(status)],
            stream=self._body(self._bodies(http), Bytes(chunks)),
            extensions=extensions,
        )
        return _with_status(made, status)


async def _read(wire: AsyncWire, response: Any, http: Any) -> Reply:
    """A whole answer. What its encoding hides is read here; if it cannot be, its caller will get that error."""
    content = await read(wire, response)
    headers: Headers = response.headers.raw
    keeps, text, encoded = response.status_code == 200, content, "content-encoding" in response.headers
    if encoded and keeps:
        try:
            text = http.Response(200, headers=headers, content=content).content
        except http.DecodingError:
            keeps = False
    head = Head(response.status_code, headers)
    return Reply(head, content, text, encoded=encoded, keeps=keeps, extensions=_without_socket(response.extensions))


def _whole(http: Any, reply: Reply, told: Headers) -> Any:
    # As it came, with its encoding; from the cache it has none. A library's own stream, since making a response
    # from content would decode that here, and raise here what belongs to its reader.
    headers = [*reply.head.headers, *told]
    if reply.encoded:
        stream = http.ByteStream(reply.content)
        return http.Response(reply.head.status, headers=headers, stream=stream, extensions=reply.extensions)
    return http.Response(reply.head.status, headers=headers, content=reply.content, extensions=reply.extensions)


def _with_status(response: Any, status: CacheStatus) -> Any:
    response.extensions[CONTROL] = status
    response._asynccache_status = status
    return response


def _without_socket(extensions: dict[str, Any]) -> dict[str, Any]:
    """A connection that is not this response's any more must not be had through it."""
    return {name: value for name, value in extensions.items() if name != "network_stream"}


def _unavailable(http: Any, error: NotCached) -> Any:
    """What RFC 9111 wants for `only-if-cached`. To ask again would bring the same."""
    told = status_headers(CacheStatus("miss", error.reason))
    headers = [*told, (b"content-type", b"application/json"), (b"x-should-retry", b"false")]
    body = orjson.dumps({"error": {"message": str(error), "type": "not_cached"}})
    return http.Response(504, headers=headers, content=body)


def _outgoing(call: Call, params: dict[str, Any]) -> Any:
    """The request as it goes on: the caller's own, unless a hook has changed the fields of its body."""
    request, body = call.request, call.body(params)
    if body == loads(request.content):
        return _unmarked(request)
    headers = _without(request, CONTROL_HEADER, b"content-length")
    content = dumps(body)
    return type(request)(request.method, request.url, headers=headers, content=content, extensions=request.extensions)


def _unmarked(request: Any) -> Any:
    """The same request, without our header."""
    headers = _without(request, CONTROL_HEADER)
    if len(headers) == len(request.headers.raw):
        return request
    stream, extensions = request.stream, request.extensions
    return type(request)(request.method, request.url, headers=headers, stream=stream, extensions=extensions)


def _without(request: Any, *names: bytes) -> Headers:
    return [pair for pair in request.headers.raw if pair[0].lower() not in names]


def _async_body(classes: BodyClasses, chunks: AsyncIterator[bytes]) -> Any:
    return classes.asynchronous(chunks)


def _sync_body(cache: Cache, classes: BodyClasses, chunks: AsyncIterator[bytes]) -> Any:
    async def draw() -> bytes | None:
        return await anext(chunks, None)

    async def leave() -> None:
        await close(chunks)

    return classes.sync(cache.as_sync(_on_the_loop, draw), cache.as_sync(_on_the_loop, leave))


def _on_the_loop() -> Any:
    raise RuntimeError("a stream of this cache cannot be read by its own hooks")
