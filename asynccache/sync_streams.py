"""Streams of sync functions in an async pipeline: driven by it at one end, and pulled from it at the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from asynccache.answers import status
from asynccache.streams import AnswerStream, close
from asynccache.sync import on_callers_thread

if TYPE_CHECKING:
    from asynccache.cache import Cache

_END: Any = object()


class Driven:
    """A sync stream as an async one: its chunks are waited for in a thread and in a context of its own, which end with
    it. In a pool they would wait for each other, and for good when one stream is read within another.

    Closed while a chunk is waited for, it closes when that has come, and nobody waits for this.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = ThreadPoolExecutor(1, "sync-stream")
        self._context = copy_context()
        self._waiting = self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._closed:
            raise StopAsyncIteration
        self._waiting = True
        chunk = await asyncio.get_running_loop().run_in_executor(self._thread, self._context.run, self._next)
        if chunk is _END:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        waiting, closing = self._waiting, self._thread.submit(self._context.run, self._close)
        self._thread.shutdown(wait=False)
        if not waiting:
            await asyncio.wrap_future(closing)

    def _next(self) -> Any:
        try:
            return next(self._stream, _END)
        finally:
            self._waiting = False

    def _close(self) -> None:
        if callable(closing := getattr(self._stream, "close", None)):  # not every iterator can be closed
            closing()

    def __getattr__(self, name: str) -> Any:
        # Whatever else the stream offers, such as the HTTP response behind it.
        if name.startswith("__") or "_stream" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._stream, name)


class Pulled:
    """An async stream as a sync one: each chunk is waited for on the cache's own loop."""

    def __init__(self, cache: Cache, chunks: AsyncIterator[Any]) -> None:
        async def following() -> Any:
            return await anext(chunks, _END)

        async def leave() -> None:
            await close(chunks)

        self._next = cache.as_sync(_off_the_loop, following)
        self.close = cache.as_sync(_off_the_loop, leave)
        """Stop reading. Closing twice is fine."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        chunk = self._next()
        if chunk is _END:
            raise StopIteration
        return chunk


class SyncAnswerStream(Pulled):
    """What the caller of a sync function gets for a stream: an `AnswerStream`, pulled."""

    def __init__(self, cache: Cache, chunks: AnswerStream[Any]) -> None:
        super().__init__(cache, chunks)
        self._chunks = chunks
        self._asynccache_status = status(chunks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_chunks" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._chunks, name)


def driven(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """An async form of a sync function (see `on_callers_thread`), whose streams are async too.

    A stream is an iterator that a call with `stream=True` returns: of any other call it may be an open file, and is
    left alone. The function runs on the thread of its caller, but its stream in one of its own: it may be read for
    several callers, and go on when one of them has left.
    """
    run = on_callers_thread(function)

    async def call(**params: Any) -> Any:
        answer = await run(**params)
        return Driven(answer) if params.get("stream") and hasattr(answer, "__next__") else answer

    return call


def _off_the_loop() -> Any:
    raise RuntimeError("a sync stream cannot be read on the loop that feeds it, such as in a hook")
