"""A backend whose writes are done behind the caller's back."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from asynccache.model import CacheKey, Entry
from asynccache.protocols import AsyncCacheBackend

_WRITERS = 8  # writes under way at the same time

Failed = Callable[[Exception], None]


class WriteBehind:
    """Puts writes in a queue and returns; they are done by tasks of its own, in order for each key.

    What is in the queue can be read already. The queue holds `limit` entries: when it is full, the
    oldest is dropped, and `dropped` called. A write that fails is given to `failed`; its caller is gone.
    """

    def __init__(self, backend: AsyncCacheBackend, *, limit: int, failed: Failed, dropped: Callable[[], None]) -> None:
        self._backend = backend
        self._limit = limit
        self._failed = failed
        self._dropped = dropped
        self._waiting: OrderedDict[str, tuple[CacheKey, Entry]] = OrderedDict()
        self._writing: dict[str, tuple[Entry, asyncio.Task[None]]] = {}
        self._writers: set[asyncio.Task[None]] = set()

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry that waits to be written, or the backend's."""
        if (waiting := self._waiting.get(key.digest)) is not None:
            return waiting[1]
        if (writing := self._writing.get(key.digest)) is not None:
            return writing[0]
        return await self._backend.get(key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Queue the entry, in the place of one under the same key that still waits. Raises nothing."""
        self._waiting.pop(key.digest, None)
        while len(self._waiting) >= self._limit:
            self._waiting.popitem(last=False)
            self._dropped()
        self._waiting[key.digest] = key, entry
        self._start_writer()

    async def delete(self, key: CacheKey, /) -> bool:
        """Take it away wherever it is. A write of it that is under way is waited for, and undone."""
        waited = self._waiting.pop(key.digest, None) is not None
        while (writing := self._writing.get(key.digest)) is not None and not writing[1].done():
            await asyncio.wait((writing[1],))
        return await self._backend.delete(key) or waited

    async def drain(self) -> None:
        """Wait until all that was queued is written, or has failed."""
        loop = asyncio.get_running_loop()
        while self._waiting or any(not task.done() for task in self._writers if task.get_loop() is loop):
            self._start_writer()
            await asyncio.wait([task for task in self._writers if task.get_loop() is loop])

    async def aclose(self) -> None:
        """Drain; the backend is closed by whoever opened it."""
        await self.drain()

    def _start_writer(self) -> None:
        # One of another loop that was closed with work left undone is done, or never will be.
        self._writers = {task for task in self._writers if not task.done() and not task.get_loop().is_closed()}
        if len(self._writers) < _WRITERS:
            self._writers.add(asyncio.create_task(self._write(), name="asynccache-write-behind"))

    async def _write(self) -> None:
        """Write what waits, the oldest first, until nothing does that this task may write.

        An entry whose key is being written by another task stays: that task comes back for it, since it
        looks again after each write.
        """
        task = asyncio.current_task()
        assert task is not None
        while (digest := next((d for d in self._waiting if not self._is_written(d)), None)) is not None:
            key, entry = self._waiting.pop(digest)
            self._writing[digest] = entry, task
            try:
                await self._backend.set(key, entry)
            except asyncio.CancelledError:
                self._waiting.setdefault(digest, (key, entry))  # its loop ends: another may write it
                raise
            except Exception as error:  # whatever a backend raises: nobody is there to hear it but the counter
                self._failed(error)
            finally:
                del self._writing[digest]

    def _is_written(self, digest: str) -> bool:
        writing = self._writing.get(digest)
        return writing is not None and not writing[1].done()
