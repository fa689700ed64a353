"""What the SDKs that Stainless generates (openai, anthropic, …) have in common.

A wrapped client is a copy of the user's own (same type, same connections) in which the methods
that fetch answers are replaced; all else, and what is not listed, passes through.

`create` is what is cached. The SDK's helpers around it (`parse`, `stream`) run as they are, on a resource whose
requests are calls of the cached `create`: so they share its entries, and make of a stored answer what they make of
any. For `with_raw_response` and `with_streaming_response` see `_raw_responses`.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import orjson

from asynccache.answers import ModelAnswers
from asynccache.call_types import CALL_TYPES
from asynccache.clients._raw_responses import (
    Own,
    OwnChunks,
    Stored,
    Twin,
    is_raw,
    library_of,
    stored_answer,
    stored_stream,
)
from asynccache.keys import vocal
from asynccache.material import is_sentinel
from asynccache.model import Completion, CompletionStream, Entry, Response
from asynccache.protocols import Answers
from asynccache.streams import close
from asynccache.sync import on_callers_thread
from asynccache.sync_streams import Driven, Pulled
from asynccache.targets import function_target, is_async

if TYPE_CHECKING:
    from asynccache.cache import Cache

Change = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument for which another value stands while the cache has the call, and how that becomes what was given."""

    name: str
    put: Change
    take: Change

    def stand_in(self, params: dict[str, Any]) -> dict[str, Any]:
        return {**params, self.name: self.put(params[self.name])} if self.name in params else params

    def as_given(self, params: dict[str, Any]) -> dict[str, Any]:
        return {**params, self.name: self.take(params[self.name])} if self.name in params else params


@dataclass(frozen=True, slots=True)
class Method:
    """A method whose answers are cached: `client.{resource}.create`.

    path:  where its requests go; so go those of its helpers.
    model: the type of a whole answer. Or several by a name that an entry remembers; then it may be a text, too.
    chunk: the type of a chunk of a stream.
    argument: one that is not to count as it is given.
    """

    resource: str
    call_type: str
    path: str
    model: Any
    chunk: Any = None
    argument: Argument | None = None


@dataclass(frozen=True, slots=True)
class SDK:
    """One SDK.

    clients:     the classes of its clients.
    methods:     what is cached of them.
    stream, sync_stream: its stream types, made to iterate over any chunks.
    sync_stream_type: its own type of a sync stream.
    construct:   how it builds objects from the wire.
    base_url:    the one that need not stand in the key.
    told:        what it attaches to an answer that came in the headers, the request's id first.
    request_id:  the header of that.
    """

    clients: tuple[type, ...]
    methods: tuple[Method, ...]
    stream: Callable[[CompletionStream, Any], AsyncIterator[Any]]
    sync_stream: Callable[[CompletionStream, Any, Pulled], Iterator[Any]]
    sync_stream_type: type
    construct: Callable[[Any, Any], Any]
    base_url: str
    told: tuple[str, ...]
    request_id: str


_HELPERS = ("parse", "stream")


def wrap(sdk: SDK, cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped client, or the wrapped method of one; None for anything else."""
    if isinstance(target, sdk.clients):
        return _wrap_client(sdk, cache, target, name)
    owner = getattr(target, "__self__", None)
    client = getattr(owner, "_client", None)
    if isinstance(client, sdk.clients) and getattr(target, "__name__", "") == "create":
        for method in sdk.methods:
            if type(_find(client, method.resource)) is type(owner):
                return _Cached(sdk, cache, client, owner, method, name, Twin(client)).create
    return None


def _wrap_client(sdk: SDK, cache: Cache, client: Any, name: str | None) -> Any:
    wrapped = client.copy()
    twin = Twin(client)
    for method in sdk.methods:
        resource = _find(wrapped, method.resource)
        if resource is not None:  # an older SDK may not have it
            cached = _Cached(sdk, cache, client, copy.copy(resource), method, name, twin)
            resource.create = cached.create
            for helper in _HELPERS:
                if hasattr(resource, helper):
                    setattr(resource, helper, cached.helper(helper))

    @functools.wraps(client.copy)
    def copied(**options: Any) -> Any:
        return _wrap_client(sdk, cache, client.copy(**options), name)

    wrapped.copy = wrapped.with_options = copied
    return wrapped


class _Cached:
    """One method of one client, cached: `create`, and the helpers around it.

    resource: the SDK's object whose methods they are, as it was.
    """

    def __init__(
        self, sdk: SDK, cache: Cache, client: Any, resource: Any, method: Method, name: str | None, twin: Twin
    ) -> None:
        self._sdk = sdk
        self._cache = cache
        self._resource = resource
        self._method = method
        self._name = name or _endpoint(sdk, client)
        self._twin = twin
        self._asynchronous = is_async(resource.create)
        self._names = frozenset(inspect.signature(resource.create).parameters)
        pulled = None if self._asynchronous else functools.partial(Pulled, cache)
        answers = (_KindsOfAnswers if isinstance(method.model, dict) else _Answers)(sdk, client, method, pulled)
        self._cached = self._around(self._call(), answers)
        self._cached_raw = self._around(self._raw_call(), _RawAnswers(answers))
        self._encode_chunk = answers.encode_chunk
        self.create = self._create()

    def helper(self, name: str) -> Any:
        """The SDK's method of this name, with requests that are calls of `create`. Takes `cache={…}` too."""
        original = getattr(type(self._resource), name)

        @functools.wraps(getattr(self._resource, name))
        def call(*args: Any, **kwargs: Any) -> Any:
            control = {"cache": kwargs.pop("cache")} if "cache" in kwargs else {}
            resource = copy.copy(self._resource)
            resource.create = functools.partial(self.create, **control)
            resource._post = functools.partial(self._post, control)
            return original(resource, *args, **kwargs)

        return call

    def _create(self) -> Any:
        cached, argument = self._cached, self._method.argument

        @functools.wraps(cached)
        def call(*args: Any, **kwargs: Any) -> Any:
            if "extra_headers" in kwargs and is_raw(kwargs["extra_headers"]):
                given = {name: value for name, value in kwargs.items() if name != "cache"}
                twin = _find(self._twin.client, self._method.resource)
                return self._raw(args, kwargs, functools.partial(twin.create, *args, **given), as_it_came=True)
            if argument is not None:
                kwargs = argument.stand_in(kwargs)
            return cached(*args, **kwargs)

        return call

    def _around(self, call: Callable[..., Awaitable[Any]], answers: Answers) -> Any:
        create, call_type = self._resource.create, CALL_TYPES[self._method.call_type]
        target = function_target(
            create, call, call_type=call_type, answers=answers, name=self._name, keep_out=call_type.keep_out
        )
        wrapped = self._cache.around(create, target)
        return wrapped if self._asynchronous else self._cache.as_sync(create, wrapped)

    def _call(self) -> Callable[..., Awaitable[Any]]:
        """`create` for the pipeline."""
        create, argument = self._resource.create, self._method.argument
        if self._asynchronous and argument is None:
            return create  # type: ignore[no-any-return]
        run = create if self._asynchronous else on_callers_thread(create)

        async def call(**params: Any) -> Any:
            answer = await run(**(params if argument is None else argument.as_given(params)))
            return Driven(answer) if isinstance(answer, self._sdk.sync_stream_type) else answer

        return call

    def _raw_call(self) -> Callable[..., Awaitable[Any]]:
        """The same for a raw response: the answer that it brings, with the response on it."""
        create, argument = self._resource.create, self._method.argument

        def fetch(**params: Any) -> tuple[Any, Any]:
            raw = create(**params)
            return raw, raw.parse()

        async def fetch_async(**params: Any) -> tuple[Any, Any]:
            raw = await create(**params)
            return raw, await _resolved(raw.parse())

        run = fetch_async if self._asynchronous else on_callers_thread(fetch)

        async def call(**params: Any) -> Any:
            raw, answer = await run(**(params if argument is None else argument.as_given(params)))
            if isinstance(answer, self._sdk.sync_stream_type):
                return OwnChunks(raw, Driven(answer))
            return OwnChunks(raw, answer) if hasattr(answer, "__aiter__") else Own.attach(raw, answer)

        return call

    def _post(self, control: dict[str, Any], path: str, **request: Any) -> Any:
        """What a helper sends, as a call of `create`."""
        body, options = request.get("body"), request.get("options") or {}
        if path != self._method.path or not isinstance(body, Mapping):
            return self._resource._post(path, **request)
        known = {name: value for name, value in body.items() if name in self._names}
        more = {name: value for name, value in body.items() if name not in self._names}
        params = {**known, **{ours: options[theirs] for theirs, ours in _OPTIONS.items() if theirs in options}}
        if "extra_headers" in params:
            params["extra_headers"] = self._said(params["extra_headers"])
        if more:
            params["extra_body"] = {**more, **(params.get("extra_body") or {})}
        if request.get("stream"):
            params["stream"] = True
        if is_raw(params.get("extra_headers")):
            again = functools.partial(self._twin.client.post, path, **request)
            return self._raw((), {**params, **control}, again, as_it_came=False)
        answer = self.create(**params, **control)
        parse = options.get("post_parser")
        if parse is None:
            return answer
        return _parsed_async(answer, parse) if self._asynchronous else _parsed(answer, parse)

    def _said(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Without those that a helper takes out, and that are not there."""
        own = {name.lower() for name in self._resource._client._custom_headers}
        return {name: value for name, value in headers.items() if not is_sentinel(value) or name.lower() in own}

    def _raw(self, args: tuple[Any, ...], kwargs: dict[str, Any], again: Callable[[], Any], *, as_it_came: bool) -> Any:
        """A raw response: the SDK's own, if the call was made for this caller and `as_it_came` is wanted; else
        what the SDK makes of the answer, when it sends the request `again`, to the twin."""
        if (argument := self._method.argument) is not None:
            kwargs = argument.stand_in(kwargs)
        fetched = self._cached_raw(*args, **kwargs)
        return (self._raw_async if self._asynchronous else self._raw_sync)(fetched, again, as_it_came)

    async def _raw_async(self, fetching: Awaitable[Response], again: Callable[[], Any], as_it_came: bool) -> Any:
        response = await fetching
        raw = self._own_or_stored(response, as_it_came)
        if isinstance(raw, Stored):
            with self._twin.answering(raw):
                raw = await again()
        raw.__dict__["_asynccache_status"] = response.status
        try:
            _take_over(response, await _resolved(raw.parse()))  # each later `parse` gives this very object
        except Exception:  # a helper's parser may refuse what it is given: its caller learns that when he parses
            pass
        return raw

    def _raw_sync(self, response: Response, again: Callable[[], Any], as_it_came: bool) -> Any:
        raw = self._own_or_stored(response, as_it_came)
        if isinstance(raw, Stored):
            with self._twin.answering(raw):
                raw = again()
        raw.__dict__["_asynccache_status"] = response.status
        try:
            _take_over(response, raw.parse())
        except Exception:  # as above
            pass
        return raw

    def _own_or_stored(self, response: Response, as_it_came: bool) -> Any:
        mine = as_it_came and response.status.outcome in ("miss", "bypass")
        if isinstance(response, Completion):
            own = Own.of(response)
            if own is not None and mine and own.brought(response.value):
                return own.raw
            return stored_answer(response, own, self._sdk.request_id)
        if mine and response.status.outcome == "bypass":
            return response.source.raw
        chunks: Any = response.chunks if self._asynchronous else Pulled(self._cache, response.chunks)
        return stored_stream(response, chunks, self._encode_chunk)


_OPTIONS = {"headers": "extra_headers", "params": "extra_query", "extra_json": "extra_body", "timeout": "timeout"}
"""What the SDKs call in a request's options → in a method's arguments."""


async def _resolved(value: Any) -> Any:
    """`parse` is a coroutine or not, by the kind of raw response."""
    return await value if hasattr(value, "__await__") else value


async def _parsed_async(answer: Awaitable[Any], parse: Change) -> Any:
    return _parsed(await answer, parse)


def _parsed(answer: Any, parse: Change) -> Any:
    """What a helper makes of an answer, with all that stands beside that."""
    parsed = parse(answer)
    parsed.__dict__.update({name: value for name, value in answer.__dict__.items() if name.startswith("_")})
    return parsed


def _take_over(response: Response, parsed: Any) -> None:
    if hasattr(parsed, "__dict__"):
        parsed.__dict__["_asynccache_status"] = response.status


class _Answers(ModelAnswers):
    """A client's answers: models, with what the SDK attaches to them from the headers."""

    def __init__(self, sdk: SDK, client: Any, method: Method, pulled: Callable[..., Pulled] | None) -> None:
        super().__init__(method.model, method.chunk, construct=sdk.construct)
        self._sdk = sdk
        self._told = sdk.told
        self._client = client
        self._pulled = pulled

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        body, facts = super().encode(value)
        told = {name: said for name in self._told if isinstance(said := vars(value).get(name), str)}
        return body, {**facts, **told}

    def decode(self, entry: Entry) -> Any:
        value = super().decode(entry)
        beside, meta = value.__dict__, entry.meta
        for name in self._told:
            beside[name] = meta.get(name)
        return value

    def stream(self, response: CompletionStream) -> Any:
        if self._pulled is None:
            return self._sdk.stream(response, self._client)
        return self._sdk.sync_stream(response, self._client, self._pulled(response.chunks))


class _KindsOfAnswers(_Answers):
    """Answers of several types, or texts: an entry remembers which of them it is, and knows no other."""

    def __init__(self, sdk: SDK, client: Any, method: Method, pulled: Callable[..., Pulled] | None) -> None:
        self._models: dict[str, Any] = method.model
        self._usual = next(iter(self._models))
        self._kinds = {
            name: _Answers(sdk, client, replace(method, model=model), pulled) for name, model in self._models.items()
        }
        super().__init__(sdk, client, replace(method, model=self._models[self._usual]), pulled)

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        if isinstance(value, str):
            return orjson.dumps(value), {"kind": _TEXT}
        for name, model in self._models.items():
            if isinstance(value, model):
                body, facts = self._kinds[name].encode(value)
                return body, {**facts, "kind": name}
        raise ValueError(f"a {type(value).__name__} is no text, and none of {', '.join(self._models)}")

    def decode(self, entry: Entry) -> Any:
        kind = entry.meta.get("kind", self._usual)
        if kind == _TEXT:
            text = orjson.loads(entry.body)
            if isinstance(text, str):
                return text
        elif kind in self._kinds:
            return self._kinds[kind].decode(entry)
        raise ValueError(f"an entry of kind {kind!r} that is not")


_TEXT = "text"


class _RawAnswers:
    """The same for raw responses, which are made where the pipeline ends. Chunks stay JSON until then."""

    def __init__(self, answers: Answers) -> None:
        self.encode, self.decode, self.encode_chunk = answers.encode, answers.decode, answers.encode_chunk

    def decode_chunk(self, body: bytes) -> Any:
        return body

    def carry(self, response: Completion) -> Any:
        return response

    def stream(self, response: CompletionStream) -> Any:
        return response


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


class _OverChunks:
    """Mixed into an SDK's stream types: iterates over chunks instead of an HTTP response.

    On a miss `response` is the HTTP response of the call; on a replay an empty one stands in for it.
    """

    response: Any
    _iterator: Any

    def __init__(self, response: CompletionStream, client: Any, chunks: Any) -> None:
        # The base class would want the HTTP response that a replay has not.
        self._iterator = chunks
        self._cache_source = response.source
        self._cache_client = client
        self._asynccache_status = response.status

    def __getattr__(self, name: str) -> Any:
        # Reached once for `response`, and for what neither class has.
        if name != "response":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        source = self._cache_source
        response = library_of(self._cache_client).Response(200) if source is None else source.response
        self.response = _SharedResponse(response, self._iterator)
        return self.response


class StreamOverChunks(_OverChunks):
    """The same for an async stream."""

    def __init__(self, response: CompletionStream, client: Any) -> None:
        super().__init__(response, client, response.chunks)

    def __anext__(self) -> Any:
        return self._iterator.__anext__()

    def __aiter__(self) -> Self:
        # No generator around it: one that was cancelled would look as if the stream had ended there.
        return self

    async def close(self) -> None:
        await close(self._iterator)


class SyncStreamOverChunks(_OverChunks):
    """The same for a sync one."""

    def __next__(self) -> Any:
        return self._iterator.__next__()

    def __iter__(self) -> Self:
        return self

    def close(self) -> None:
        self._iterator.close()


class _SharedResponse:
    """The HTTP response of a stream that others may be reading too: to close it is to leave the stream."""

    def __init__(self, response: Any, chunks: Any) -> None:
        self._response = response
        self._chunks = chunks

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._response)

    async def aclose(self) -> None:
        await close(self._chunks)

    def close(self) -> None:
        self._chunks.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)
