"""Streams of sync SDKs in an async pipeline: driven by it at one end, and pulled from it at the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from asynccache.streams import close

if TYPE_CHECKING:
    from asynccache.cache import Cache

_END: Any = object()


class Driven:
    """A sync stream as an async one: each chunk is waited for in a thread.

    Closed while a chunk is waited for, it closes when that has come, and nobody waits for this.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lock = Lock()  # of whoever uses the stream: it knows of one thread only

    @property
    def response(self) -> Any:
        """The HTTP response behind it."""
        return self._stream.response

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        chunk = await asyncio.to_thread(self._next)
        if chunk is _END:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        waiting = self._lock.locked()
        closing = asyncio.get_running_loop().run_in_executor(None, self._close)
        if not waiting:
            await closing

    def _next(self) -> Any:
        with self._lock:
            return next(self._stream, _END)

    def _close(self) -> None:
        with self._lock:
            self._stream.close()


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


def _off_the_loop() -> Any:
    raise RuntimeError("a sync stream cannot be read on the loop that feeds it, such as in a hook")
