"""What is behind a transport: sending a request, reading what comes, and the bodies that a client reads."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol, Self

from asynccache.http.answers import Head, Headers, Piece, decoded_headers
from asynccache.http.call_types import EVENT_STREAM
from asynccache.http.sse import Splitter, is_last
from asynccache.streams import close
from asynccache.sync import on_callers_thread

LIBRARIES = ("httpx", "httpx2")

_PATIENCE = 1.0
"""Seconds a provider may take to end the body once it has said that nothing more will come. A body read to its end
leaves a connection that can be used again; one that is not ended must not keep its reader waiting."""


def library_of(kind: type) -> str:
    """Which of the two a class comes from; "" for neither."""
    packages = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((package for package in packages if package in LIBRARIES), "")


class AsyncWire:
    """A transport of the user's, or the library's own one, made when first needed."""

    default = "AsyncHTTPTransport"

    def __init__(self, transport: Any) -> None:
        self.given = transport
        self._made: dict[str, Any] = {}

    def transport(self, library: str) -> Any:
        if self.given is not None:
            return self.given
        if library not in self._made:
            self._made[library] = getattr(importlib.import_module(library), self.default)()
        return self._made[library]

    @property
    def transports(self) -> list[Any]:
        """Those that there are by now."""
        return list(self._made.values()) if self.given is None else [self.given]

    async def send(self, request: Any, library: str) -> Any:
        return await self.transport(library).handle_async_request(request)

    def raw(self, response: Any) -> AsyncIterator[bytes]:
        """The body as it travels."""
        return aiter(response.stream)

    def decoded(self, response: Any) -> AsyncIterator[bytes]:
        """The body without its content-encoding."""
        chunks: AsyncIterator[bytes] = response.aiter_bytes()
        return chunks

    async def close(self, response: Any) -> None:
        await response.aclose()


class SyncWire(AsyncWire):
    """The same for a sync transport: all of it is done on its caller's thread, or when that has left, on one of
    its own."""

    default = "HTTPTransport"

    async def send(self, request: Any, library: str) -> Any:
        transport = self.transport(library)
        return await on_callers_thread(lambda: transport.handle_request(request))()

    def raw(self, response: Any) -> AsyncIterator[bytes]:
        return _Drawn(iter(response.stream))

    def decoded(self, response: Any) -> AsyncIterator[bytes]:
        return _Drawn(response.iter_bytes())

    async def close(self, response: Any) -> None:
        await on_callers_thread(response.close)()


class _Drawn:
    """A sync iterator, each step of which is taken on the caller's thread."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._draw = on_callers_thread(lambda: next(chunks, None))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._draw()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


async def read(wire: AsyncWire, response: Any) -> bytes:
    """The whole body as it travels. The response is closed."""
    try:
        return b"".join([chunk async for chunk in wire.raw(response)])
    finally:
        await wire.close(response)


class Bodies(Protocol):
    """What the streams of responses are read from."""

    def decoded(self, response: Any) -> AsyncIterator[bytes]:
        """The body without its content-encoding."""
        ...

    async def close(self, response: Any) -> None: ...


class Live:
    """The stream of a response: its head, then its events, or for want of events its pieces as they come."""

    def __init__(self, wire: Bodies, response: Any) -> None:
        self.headers: Headers = decoded_headers(response.headers.raw)
        self.extensions: dict[str, Any] = response.extensions
        self._head: Head | None = Head(response.status_code, self.headers)
        self._wire = wire
        self._response = response
        self._chunks = wire.decoded(response)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self._splitter = Splitter() if kind == EVENT_STREAM else None
        self._ready: list[bytes] = []
        self._deadline: float | None = None
        """When to stop waiting for the end, once the last event has come."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._head is not None:
            head, self._head = self._head, None
            return head
        while not self._ready:
            try:
                chunk = await self._read()
            except StopAsyncIteration:
                # No event, but it may say something: who judges the stream will read it.
                rest = b"" if self._splitter is None else self._splitter.rest()
                if not rest:
                    raise
                return rest
            if self._splitter is None:
                return Piece(chunk)
            self._ready = self._splitter.feed(chunk)
            self._ready.reverse()
        event = self._ready.pop()
        if is_last(event) and self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + _PATIENCE
        return event

    async def _read(self) -> bytes:
        if self._deadline is None:
            return await anext(self._chunks)
        try:
            async with asyncio.timeout_at(self._deadline):
                return await anext(self._chunks)
        except TimeoutError:
            await self.aclose()
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await close(self._chunks)
        await self._wire.close(self._response)


class Bytes:
    """The chunks of a stream for a client that may stop reading at its last event, whatever follows: that one is given
    when the end has been read too, so that what was read to its last event is stored."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._error is not None:
            raise self._error
        chunk = await anext(self._chunks)
        if not is_last(chunk):
            return chunk
        last = [chunk]
        try:
            async for more in self._chunks:
                last.append(more)
        except Exception as error:  # it belongs after what has come
            self._error = error
        return b"".join(last)

    async def aclose(self) -> None:
        await close(self._chunks)


class _AsyncBody:
    """Mixed into a library's async stream: the chunks of an answer as its body."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        await close(self._chunks)


class _SyncBody:
    """The same for a library's sync stream.

    draw: gives the next chunk, None after the last. leave: closes the chunks.
    """

    def __init__(self, draw: Callable[[], bytes | None], leave: Callable[[], None]) -> None:
        self._draw = draw
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._draw, None)

    def close(self) -> None:
        self._leave()


class BodyClasses:
    """Those two for one library, whose clients insist on streams of its own classes."""

    def __init__(self, http: Any) -> None:
        self.asynchronous: Any = type("AsyncBody", (_AsyncBody, http.AsyncByteStream), {})
        self.sync: Any = type("SyncBody", (_SyncBody, http.SyncByteStream), {})
