"""A backend whose writes are done behind the caller's back."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

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
        self._waiting: OrderedDict[str, _Write] = OrderedDict()
        self._writing: dict[str, _Write] = {}
        self._writers: set[asyncio.Task[None]] = set()

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry that waits to be written, or the backend's."""
        write = self._waiting.get(key.digest) or self._writing.get(key.digest)
        return await self._backend.get(key) if write is None else write.entry

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Queue the entry, in the place of one under the same key that still waits. Raises nothing."""
        self._take_out(key.digest)
        while len(self._waiting) >= self._limit:
            _, oldest = self._waiting.popitem(last=False)
            oldest.over.set_result(None)
            self._dropped()
        self._waiting[key.digest] = _Write(key, entry)
        self._start_writer()

    async def delete(self, key: CacheKey, /) -> bool:
        """Take it away wherever it is. A write of it that is under way is waited for, and undone."""
        waited = self._take_out(key.digest)
        while (write := self._writing.get(key.digest)) is not None:
            await write.wait()
        return await self._backend.delete(key) or waited

    async def written(self, key: CacheKey, /) -> None:
        """Wait until nothing under this key waits to be written any more."""
        while write := self._writing.get(key.digest) or self._waiting.get(key.digest):
            self._start_writer()  # of those that there were the event loop may have ended
            await write.wait()

    async def drain(self) -> None:
        """Wait until all that was queued is written, or has failed."""
        loop = asyncio.get_running_loop()
        while True:
            writers = [task for task in list(self._writers) if task.get_loop() is loop and not task.done()]
            if self._waiting:
                self._start_writer()
                await next(iter(self._waiting.values())).wait()
            elif writers:
                await asyncio.wait(writers)
            else:
                return

    async def aclose(self) -> None:
        """Drain; the backend is closed by whoever opened it."""
        await self.drain()

    def _start_writer(self) -> None:
        for task in list(self._writers):
            # One of another loop that was closed with work left undone is done, or never will be.
            if task.done() or task.get_loop().is_closed():
                self._writers.discard(task)
        if len(self._writers) < _WRITERS:
            self._writers.add(asyncio.create_task(self._write(), name="asynccache-write-behind"))

    def _take_out(self, digest: str) -> bool:
        """Whether one waited."""
        write = self._waiting.pop(digest, None)
        if write is not None:
            write.over.set_result(None)
        return write is not None

    async def _write(self) -> None:
        """Write what waits, the oldest first, until nothing does that this task may write.

        An entry whose key is being written by another task stays: that task comes back for it, since it
        looks again after each write.
        """
        while (digest := next((d for d in self._waiting if d not in self._writing), None)) is not None:
            write = self._writing[digest] = self._waiting.pop(digest)
            try:
                await self._backend.set(write.key, write.entry)
            except (asyncio.CancelledError, GeneratorExit):
                self._waiting.setdefault(digest, write)  # its loop ends: another may write it
                raise
            except Exception as error:  # whatever a backend raises: nobody is there to hear it but the counter
                self._failed(error)
            finally:
                del self._writing[digest]
                if self._waiting.get(digest) is not write:
                    write.over.set_result(None)


@dataclass(slots=True, eq=False)
class _Write:
    """An entry to be written. over: done when it is written, has failed, or is not to be written any more."""

    key: CacheKey
    entry: Entry
    over: Future[None] = field(default_factory=Future)

    async def wait(self) -> None:
        """On whatever event loop."""
        await asyncio.wait((asyncio.wrap_future(self.over),))
