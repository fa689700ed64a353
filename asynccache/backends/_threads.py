"""Calls from event loops to threads and back, for drivers that block."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar, TypeVarTuple

from asynccache.errors import BackendClosed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREADS = 4  # more gain nothing on a warm page cache, and hold back the event loop


class _Outbox:
    """Results on their way to one event loop: it is woken once for all that have gathered meanwhile."""

    __slots__ = ("_results", "_woken", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._results: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False

    def put(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Called by the threads. When `_woken` is seen, `_deliver` has not begun to look, so it will find this."""
        self._results.append((future, result, error))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._results:
            future, result, error = self._results.popleft()
            if future.done():
                continue  # cancelled meanwhile
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


_Call = tuple[_Outbox, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Threads:
    """A few threads that work off one queue.

    Beside a bare executor, which wakes a thread and the loop once for every call, this wakes each
    once for all calls that are waiting: several times the throughput when many are, and far less
    time in which the loop is held up. Calls may come from several event loops.

    backend: the name that errors carry.
    pid:     the process that the threads belong to; a fork does not copy them.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.pid = os.getpid()
        self._lock = Lock()
        self._calls: deque[_Call] = deque()
        self._working = 0
        self._pool: ThreadPoolExecutor | None = None
        self._outbox: _Outbox | None = None
        self._closed = False

    def submit(self, function: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call the function in a thread, unless the future is cancelled first. Raises BackendClosed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        outbox = self._outbox
        if outbox is None or outbox.loop is not loop:
            self._outbox = outbox = _Outbox(loop)
        with self._lock:
            if self._closed:
                raise BackendClosed("used after aclose()", backend=self._backend)
            self._calls.append((outbox, future, function, args))
            if self._working < _THREADS:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="asynccache-disk")
                self._working += 1
                self._pool.submit(self._work)
        return future

    def _work(self) -> None:
        while (call := self._next()) is not None:
            outbox, future, function, args = call
            if future.cancelled():
                continue
            try:
                result = function(*args)
            except BaseException as error:  # whatever it is, it belongs to whoever waits for it
                outbox.put(future, None, error)
            else:
                outbox.put(future, result, None)

    def _next(self) -> _Call | None:
        with self._lock:
            if self._calls:
                return self._calls.popleft()
            # Under the lock, so that a call that comes now starts a thread of its own.
            self._working -= 1
            return None

    async def aclose(self) -> None:
        """Refuse new calls, and wait for those that were accepted."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is not None:
            await asyncio.to_thread(pool.shutdown)
