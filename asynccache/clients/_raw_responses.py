"""`with_raw_response` and `with_streaming_response`: answers as HTTP responses.

What is kept of an answer is what it says, and not the HTTP response that brought it. So on a hit the SDK itself makes
the raw response anew: its own method runs once more, on a client whose HTTP transport answers with what is stored. All
that the SDK's classes offer is there: typed `parse()`, `read()`, `iter_lines()`, the events of a stream.

On a miss the caller gets the SDK's own raw response. Differences: `with_streaming_response` has then read a whole
answer already; a stream is framed anew, so that bytes which say nothing (comments, pings) are gone.

Headers on a hit: `content-type`, the request id of the call that produced the answer, as far as it is known, `age`
(RFC 9111) and `cache-status` (RFC 9211). Rate limits and processing times are of the past, and left out.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import orjson

from asynccache.model import CacheStatus, Completion, CompletionStream
from asynccache.streams import close
from asynccache.sync_streams import Pulled

_RAW = "x-stainless-raw-response"
_OWN = "_asynccache_own"
_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding", "content-type")


def is_raw(headers: Any) -> bool:
    """Whether these request headers ask the SDK for a raw response."""
    return isinstance(headers, Mapping) and any(str(name).lower() == _RAW for name in headers)


class Own:
    """The SDK's own raw response, on its way through the pipeline beside the answer that it brought."""

    def __init__(self, raw: Any, answer: Any) -> None:
        self.raw = raw
        self._answer = answer

    @classmethod
    def attach(cls, raw: Any, answer: Any) -> Any:
        """The answer with the raw response on it."""
        answer = _Text(answer) if isinstance(answer, str) else answer
        answer.__dict__[_OWN] = cls(raw, answer)
        return answer

    @classmethod
    def of(cls, response: Completion) -> Own | None:
        """That of this answer, taken off it."""
        found = getattr(response.value, "__dict__", {}).pop(_OWN, None)
        return found if isinstance(found, Own) else None

    def brought(self, answer: Any) -> bool:
        """Whether this very answer came with it, and not one that was put together from parts."""
        return self._answer is answer


class _Text(str):
    """A text that something can be attached to."""


class OwnChunks:
    """The chunks of a stream, and the raw response that they come from."""

    def __init__(self, raw: Any, chunks: Any) -> None:
        self.raw = raw
        self._chunks = chunks

    def __aiter__(self) -> OwnChunks:
        return self

    def __anext__(self) -> Any:
        return self._chunks.__anext__()

    @property
    def response(self) -> Any:
        """The HTTP response behind it."""
        return self.raw.http_response

    async def aclose(self) -> None:
        await close(self._chunks)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the transport answers with: a body, or the chunks of a stream and how they are written."""

    headers: dict[str, str]
    body: bytes = b""
    chunks: AsyncIterator[Any] | Pulled | None = None
    encode: Callable[[Any], bytes] = orjson.dumps

    def frame(self, chunk: Any) -> tuple[bytes, bool]:
        """A chunk as a server-sent event, and whether it says of what type it is: an API whose chunks do not
        ends its streams with a word of their own."""
        data = chunk if isinstance(chunk, bytes) else self.encode(chunk)
        kind = orjson.loads(data).get("type")
        if isinstance(kind, str):
            return b"event: %s\ndata: %s\n\n" % (kind.encode(), data), True
        return b"data: %s\n\n" % data, False


_END = b"data: [DONE]\n\n"
_stored: ContextVar[Stored] = ContextVar("asynccache_stored_answer")


class Twin:
    """A client like the user's, that is answered by us. Nothing leaves the process."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @functools.cached_property
    def client(self) -> Any:
        http = library_of(self._client)
        asynchronous = isinstance(self._client._client, http.AsyncClient)
        http_client = http.AsyncClient if asynchronous else http.Client
        transport = (_async_transport if asynchronous else _sync_transport)(http)
        return self._client.copy(http_client=http_client(transport=transport, trust_env=False), max_retries=0)

    @contextmanager
    def answering(self, stored: Stored) -> Iterator[None]:
        """Inside the block, the client's requests are answered with this."""
        token = _stored.set(stored)
        try:
            yield
        finally:
            _stored.reset(token)


def library_of(client: Any) -> Any:
    """The HTTP library under this client: httpx for older SDKs, httpx2 for newer ones."""
    for base in type(client._client).__mro__:
        package = base.__module__.partition(".")[0]
        if package in ("httpx", "httpx2"):
            return importlib.import_module(package)
    raise AttributeError("a replayed stream has no HTTP response")


def stored_answer(response: Completion, own: Own | None, request_id: str) -> Stored:
    """A whole answer for the transport: as it came, or as it is kept. request_id: the header of it."""
    value = response.value
    kind = "text/plain; charset=utf-8" if isinstance(value, str) else "application/json"
    if own is not None:
        raw = own.raw.http_response
        return Stored(_headers(response.status, kind, raw.headers), raw.content if own.brought(value) else _body(value))
    headers = _headers(response.status, kind)
    if known := getattr(value, "_request_id", None):
        headers[request_id] = known
    return Stored(headers, _body(value))


def _body(value: Any) -> bytes:
    text: str = value if isinstance(value, str) else value.model_dump_json(by_alias=True, exclude_unset=True)
    return text.encode()


def stored_stream(response: CompletionStream, chunks: Any, encode: Callable[[Any], bytes]) -> Stored:
    """The same for a stream."""
    own = response.source.raw.http_response.headers if isinstance(response.source, OwnChunks) else None
    return Stored(_headers(response.status, "text/event-stream; charset=utf-8", own), b"", chunks, encode)


def _headers(status: CacheStatus, kind: str, own: Mapping[str, str] | None = None) -> dict[str, str]:
    headers = {name: value for name, value in (own or {}).items() if name.lower() not in _OF_THE_BODY}
    headers["content-type"] = kind
    if status.outcome in ("hit", "stale", "semantic"):
        ttl = "" if status.ttl is None else f"; ttl={int(status.ttl)}"
        headers |= {"age": str(int(status.age)), "cache-status": f"asynccache; hit{ttl}"}
    elif own is None:
        headers["cache-status"] = "asynccache; fwd=miss; collapsed"
    return headers


def _async_transport(http: Any) -> Any:
    class Body(http.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stored: Stored) -> None:
            self._stored = stored

        async def __aiter__(self) -> AsyncIterator[bytes]:
            typed = True
            if self._stored.chunks is None:
                yield self._stored.body
                return
            async for chunk in self._stored.chunks:  # type: ignore[union-attr]
                frame, typed = self._stored.frame(chunk)
                yield frame
            if not typed:
                yield _END

        async def aclose(self) -> None:
            if self._stored.chunks is not None:
                await close(self._stored.chunks)

    class Transport(http.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            return _response(http, request, Body)

    return Transport()


def _sync_transport(http: Any) -> Any:
    class Body(http.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stored: Stored) -> None:
            self._stored = stored

        def __iter__(self) -> Iterator[bytes]:
            typed = True
            if self._stored.chunks is None:
                yield self._stored.body
                return
            for chunk in self._stored.chunks:  # type: ignore[union-attr]
                frame, typed = self._stored.frame(chunk)
                yield frame
            if not typed:
                yield _END

        def close(self) -> None:
            if self._stored.chunks is not None:
                self._stored.chunks.close()  # type: ignore[union-attr]

    class Transport(http.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            return _response(http, request, Body)

    return Transport()


def _response(http: Any, request: Any, body: Callable[[Stored], Any]) -> Any:
    stored = _stored.get()
    # Not as `content`: a response that is made whole has never been read, and does not know how long that took.
    length = {} if stored.chunks is not None else {"content-length": str(len(stored.body))}
    return http.Response(200, headers={**stored.headers, **length}, stream=body(stored), request=request)
