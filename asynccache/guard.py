"""Keeps a store that is dead, frozen or lying from costing its callers more than a stated time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import takewhile
from math import inf
from operator import attrgetter
from threading import Lock
from typing import Any, NoReturn, TypeVar

from asynccache.background import cancel
from asynccache.errors import (
    BackendClosed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    CorruptEntry,
    EmbeddingError,
    EntryTooLarge,
)
from asynccache.loops import PerLoop
from asynccache.model import CacheKey, Entry
from asynccache.protocols import (
    AsyncCacheBackend,
    Changes,
    Clock,
    Leases,
    Remote,
    Size,
    SupportsAdd,
    SupportsChanges,
    SupportsLease,
    SupportsLeave,
    SupportsPing,
    SupportsSize,
    Wait,
)

T = TypeVar("T")
logger = logging.getLogger("asynccache")

_PROBE = CacheKey(sha256(b"asynccache/probe").hexdigest())
_SAYS_NOTHING = (BackendClosed, EntryTooLarge, EmbeddingError)
"""Errors that can be raised without the store having been asked."""


class State(StrEnum):
    """Of the circuit breaker: "closed": all is well. "open": operations are refused at once, and now and then
    one is tried behind the callers' backs. "half-open": that is under way."""

    closed = "closed"
    open = "open"
    half_open = "half-open"


_CLOSED = State.closed
_VERBS = ("get", "set", "delete", "aclose")


@dataclass(slots=True)
class GuardStats:
    """Counters since the guard was made. They only go up."""

    failures: int = 0
    """Operations that failed: refused, reset, forbidden, garbled."""
    timeouts: int = 0
    """Operations that took longer than they may."""
    stalls: int = 0
    """Those among them where the event loop itself had stood still, which says little about the store."""
    refused: int = 0
    """Operations that were not begun because the breaker was open."""
    crowded: int = 0
    """Operations that were not begun because too many were under way."""
    opened: int = 0
    """How often the breaker opened."""


class Guard:
    """Passes operations on to a backend, and bounds what they may cost.

    read_timeout, write_timeout: seconds an operation may take; then it is cancelled, and BackendTimeout raised.
    max_concurrent: operations under way at the same time on one event loop; the rest are refused with
                    BackendUnavailable.
    max_failures:   so many look-ups that fail in a row open the breaker.
    retry_after:    seconds between two attempts to find out whether the store is back.

    The first three default to what the backend's class says (see `Remote`), or else to 0.1 s, 1 s and 10,000.
    Raises ConfigError for a wrong value.

    The breaker opens after `max_failures` failed look-ups in a row; and when an operation has timed out and no other
    has succeeded in all that time: then the store does not answer at all. While it is open operations are refused
    at once, with BackendUnavailable. Every `retry_after` seconds, when somebody asks, one read is tried in the
    background; when it succeeds the breaker closes. Writes may take longer than reads, but those under way on the
    event loop where it opens have `read_timeout` left at most. So what a store that has stopped answering can add to
    its callers is `read_timeout` for a look-up that is under way when it stops, `write_timeout` for a write and twice
    `read_timeout` if anything is looked up meanwhile, and next to nothing for all that come later.

    A timeout of an operation during which the event loop itself has stood still is hardly news of the store: the
    answer may have come meanwhile, and not been read. The operation gets half its time again, and if that is not
    enough, its timeout does not open the breaker by itself: it is one failure in the row.

    An operation that swallows its cancellation is cancelled again after each further half of its time. One that
    does not end even so cannot be bounded.

    Each change between open and closed is logged once: a warning when the breaker opens, with the error that opened
    it, and one when the store is back.
    """

    def __init__(
        self,
        backend: AsyncCacheBackend,
        *,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        max_concurrent: int | None = None,
        max_failures: int = 5,
        retry_after: float = 0.5,
        clock: Clock = time.monotonic,
    ) -> None:
        own = backend if isinstance(backend, Remote) else None
        self.inner = backend
        """What it guards."""
        self.read_timeout = _positive("read_timeout", read_timeout, own.read_timeout if own else 0.1)
        self.write_timeout = _positive("write_timeout", write_timeout, own.write_timeout if own else 1.0)
        self.stats = GuardStats()
        self.state = State.closed
        self._name = type(backend).__module__.rpartition(".")[2]
        self._limit = int(_positive("max_concurrent", max_concurrent, own.max_concurrent if own else 10_000))
        self._max_failures = int(_positive("max_failures", max_failures, max_failures))
        self._retry_after = _positive("retry_after", retry_after, retry_after)
        self._clock = clock
        self._lock = Lock()  # of changes of the state
        self._failed = 0  # in a row
        self._succeeded = 0  # ever
        self._since = 0.0  # when the breaker opened
        self._tried = 0.0  # when the store was last tried
        self._closed = False
        self._loops: PerLoop[_Here] = PerLoop(self._on_this_loop, _Here.aclose)
        # Powers that are told by the presence of a method.
        if isinstance(backend, SupportsAdd):
            self.add = self._add
        if isinstance(backend, SupportsSize):
            self.size = self._size

    def __repr__(self) -> str:
        return f"Guard({self.inner!r}, {self.state})"

    # -- the backend ----------------------------------------------------------------------------------

    # A plain function that returns an awaitable: a frame less.
    def get(self, key: CacheKey, /) -> Coroutine[Any, Any, Entry | None]:
        return self._run(_reads, self.inner.get, (key,), True)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await self._write(self.inner.set, key, entry)

    async def delete(self, key: CacheKey, /) -> bool:
        return await self._write(self.inner.delete, key)

    async def ping(self) -> None:
        """Ask the store itself, whatever the breaker says. Raises BackendError."""
        writes = self._here().writes
        if isinstance(self.inner, SupportsPing):
            await writes.run(self.inner.ping)
        else:
            await writes.run(self.inner.get, (_PROBE,))

    async def leave(self) -> None:
        await self._loops.leave()
        if isinstance(self.inner, SupportsLeave):
            await self.inner.leave()

    async def detach(self) -> None:
        """Be closed, and leave the backend open."""
        self._closed = True
        await self._loops.aclose()

    async def aclose(self) -> None:
        """Close the backend as well."""
        await self.detach()
        await self.inner.aclose()

    # -- powers, if the backend has them --------------------------------------------------------------

    async def _add(self, key: CacheKey, entry: Entry, /) -> bool:
        return await self._write(self.inner.add, key, entry)  # type: ignore[attr-defined]

    async def _size(self) -> Size:
        return await self._write(self.inner.size)  # type: ignore[attr-defined]

    @property
    def leases(self) -> Leases | None:
        inner = self.inner.leases if isinstance(self.inner, SupportsLease) else None
        return None if inner is None else _GuardedLeases(self, inner)

    @property
    def changes(self) -> Changes | None:
        return self.inner.changes if isinstance(self.inner, SupportsChanges) else None

    # -- an operation ---------------------------------------------------------------------------------

    def _read(self, operation: Callable[..., Awaitable[T]], *args: Any) -> Coroutine[Any, Any, T]:
        return self._run(_reads, operation, args)

    def _write(self, operation: Callable[..., Awaitable[T]], *args: Any) -> Coroutine[Any, Any, T]:
        return self._run(_writes, operation, args)

    async def _run(
        self,
        timer_of: Callable[[_Here], _Timer],
        operation: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        tells: bool = False,
    ) -> T:
        here = self._here()
        if self.state is not _CLOSED:
            self._refuse(here)
        if here.busy >= self._limit:
            self.stats.crowded += 1
            raise BackendUnavailable(f"{self._limit} operations are under way already", backend=self._name)
        here.busy += 1
        before = self._succeeded
        # The body of `_Timer.run`, spelled out for a hit: each frame between it and the store costs when it is resumed.
        timer = timer_of(here)
        task, cancels = timer.begin()
        try:
            result = await operation(*args)
        except (asyncio.CancelledError, BackendError) as error:
            raised = timer.meaning(error, task, cancels)
            if isinstance(raised, BackendError):
                self._judge(here, raised, before, tells)
            if raised is error:
                raise
            raise raised from error
        finally:
            timer.end(task)
            here.busy -= 1
        self._succeeded += 1
        self._failed = 0
        return result

    def _here(self) -> _Here:
        if self._closed:
            raise BackendClosed("used after aclose()", backend=self._name)
        return self._loops.here()

    def _on_this_loop(self) -> _Here:
        return _Here(_Timer(self.read_timeout, self._name), _Timer(self.write_timeout, self._name))

    # -- the breaker ----------------------------------------------------------------------------------

    def _judge(self, here: _Here, error: BackendError, before: int, tells: bool) -> None:
        """What this failure says about the store. `before`: how many had succeeded when the operation began. `tells`:
        whether it was a look-up: a store that is full, or read-only, refuses all else and is still of use."""
        if isinstance(error, _SAYS_NOTHING):
            return
        if isinstance(error, CorruptEntry):  # an answer is an answer
            self._succeeded += 1
            self._failed = 0
        elif isinstance(error, BackendTimeout) and not isinstance(error, _Stalled):
            self.stats.timeouts += 1
            if self._succeeded == before:
                self._open(here, error)
        else:
            if isinstance(error, _Stalled):
                self.stats.timeouts += 1
                self.stats.stalls += 1
            else:
                self.stats.failures += 1
            self._failed += tells
            if self._failed >= self._max_failures:
                self._open(here, error)

    def _open(self, here: _Here, error: BackendError) -> None:
        with self._lock:
            if self.state is not State.closed:
                return  # another that had begun before
            self.state = State.open
            self.stats.opened += 1
            self._since = self._clock()
            # The first attempt comes at once: it may have been one slow answer, and then little is lost.
            self._tried = self._since - self._retry_after
        here.writes.hasten(self.read_timeout)
        logger.warning("the %s backend is left alone until it answers again: %s", self._name, error)

    def _refuse(self, here: _Here) -> NoReturn:
        """Raise; and when it is time, try the store behind this caller's back."""
        with self._lock:
            now = self._clock()
            # An attempt under way may be lost with its event loop: then another is due all the same.
            wait = self._retry_after + (2 * self.read_timeout if self.state is State.half_open else 0)
            due = self.state is not State.closed and now - self._tried >= wait
            if due:
                self._tried = now
                self.state = State.half_open
        if due:
            here.begin(self._probe(here.reads))
        self.stats.refused += 1
        raise BackendUnavailable("it has stopped answering, and is left alone for now", backend=self._name)

    async def _probe(self, timer: _Timer) -> None:
        back = False
        try:
            await timer.run(self.inner.get, (_PROBE,))
            back = True
        except CorruptEntry:
            back = True
        except Exception as error:  # also of a backend that breaks its law
            logger.debug("the %s backend is not back: %s", self._name, error)
        finally:
            self._tell(back)

    def _tell(self, back: bool) -> None:
        with self._lock:
            if self.state is State.closed:
                return  # another attempt has found it out
            self.state = State.closed if back else State.open
            self._failed = 0
            away = self._clock() - self._since
        if back:
            logger.warning("the %s backend is back after %.1f s", self._name, away)


class _GuardedLeases:
    """Leases under the same guard. Waiting for a release is no operation: it has a time of its own."""

    def __init__(self, guard: Guard, inner: Leases) -> None:
        self._guard = guard
        self._inner = inner

    @property
    def seconds(self) -> float:
        return self._inner.seconds

    async def acquire(self, key: CacheKey, token: str, /) -> bool:
        return await self._guard._read(self._inner.acquire, key, token)

    async def renew(self, key: CacheKey, token: str, /) -> bool:
        return await self._guard._read(self._inner.renew, key, token)

    async def release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        await self._guard._read(self._inner.release, key, token, stored)

    @asynccontextmanager
    async def watch(self, key: CacheKey, /) -> AsyncIterator[Wait]:
        watch: AbstractAsyncContextManager[Wait] = self._inner.watch(key)
        wait = await self._guard._read(watch.__aenter__)
        try:
            yield wait
        finally:
            # Whatever the breaker says, also when the guard was closed meanwhile, and in the place of no other error.
            try:
                await self._guard._loops.here().reads.run(watch.__aexit__, (None, None, None))
            except BackendError as error:
                logger.debug("the wait for a lease was not ended: %s", error)


class _Stalled(BackendTimeout):
    """A timeout of an operation during which the event loop stood still."""


@dataclass(slots=True)
class _Overdue:
    """An operation whose time is over.

    end:     when it is to be cancelled (again).
    reason:  what is said then.
    stalled: whether it has got more time because the event loop had stood still.
    cancels: how often it was cancelled.
    """

    end: float
    reason: str
    stalled: bool = False
    cancels: int = 0


class _Timer:
    """Cancels what takes longer than `seconds`.

    As `asyncio.timeout`, but with one timer for all that are under way on an event loop, which is possible because
    they all may take the same time: whoever began first is over first. It costs a fifth.

    While something is under way it fires at least four times in that time, to see whether the loop turns: when it
    fires too late, all that were under way have lost time through no fault of the store.

    A task may be cancelled by its owner as well, and this is what comes of it:
      by its owner, whenever that is   its CancelledError is passed on; the timer's own is taken back (`uncancel`)
      by the timer alone               BackendTimeout; also when the driver made a BackendError of it
      by neither                       a driver has cancelled itself: BackendUnavailable
    """

    def __init__(self, seconds: float, name: str) -> None:
        self._seconds = seconds
        self._name = name
        self._loop = asyncio.get_running_loop()
        # Who is under way → when its time is over; the first to be over in front. A task does one thing at a time.
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._overdue: dict[asyncio.Task[Any], _Overdue] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._stood_still = -inf  # when that was last seen

    async def run(self, operation: Callable[..., Awaitable[T]], args: tuple[Any, ...] = ()) -> T:
        """Raises BackendTimeout when it takes too long; and what it raises."""
        task, cancels = self.begin()
        try:
            return await operation(*args)
        except (asyncio.CancelledError, BackendError) as error:
            raised = self.meaning(error, task, cancels)
            if raised is error:
                raise
            raise raised from error
        finally:
            self.end(task)

    def begin(self) -> tuple[asyncio.Task[Any], int]:
        """From now on the running task's time counts. The task, and how often it was cancelled before."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._ends[task] = self._loop.time() + self._seconds
        if self._handle is None:
            self._arm()
        return task, task.cancelling()

    def meaning(self, error: BaseException, task: asyncio.Task[Any], before: int) -> BaseException:
        """What the operation is to raise in the place of this error, or the same."""
        overdue = self._overdue.get(task)
        cancels = 0 if overdue is None else overdue.cancels
        if task.cancelling() == before + cancels:  # not by its owner
            if overdue is not None and cancels:
                kind = _Stalled if overdue.stalled else BackendTimeout
                return kind(overdue.reason, backend=self._name)
            if isinstance(error, asyncio.CancelledError):
                return BackendUnavailable("the driver cancelled itself", backend=self._name)
        return error

    def end(self, task: asyncio.Task[Any]) -> None:
        """The operation is over. What the timer has cancelled is taken back."""
        if self._ends.pop(task, None) is None and (overdue := self._overdue.pop(task, None)) is not None:
            for _ in range(overdue.cancels):
                task.uncancel()

    def hasten(self, seconds: float) -> None:
        """Whoever is under way now has no more than so many seconds left."""
        latest = self._loop.time() + seconds
        for task in [task for task, end in self._ends.items() if end > latest]:
            del self._ends[task]
            self._overdue[task] = _Overdue(latest, f"no answer, {seconds:g} s after the store was given up")
        if self._handle is not None:
            self._handle.cancel()
            self._arm()

    def _arm(self) -> None:
        """Fire when the first is over, and often enough to notice when the loop stands still."""
        first = next(iter(self._ends.values()), inf)
        ends = [overdue.end for overdue in self._overdue.values()]
        self._handle = self._loop.call_at(min(first, *ends, self._loop.time() + self._seconds / 4), self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        assert self._handle is not None
        if now - self._handle.when() > self._seconds / 4:
            self._stood_still = now
        for task, end in list(takewhile(lambda item: item[1] <= now, self._ends.items())):
            stalled = self._stood_still > end - self._seconds
            del self._ends[task]
            end = now + self._seconds / 2 if stalled else now
            self._overdue[task] = _Overdue(end, f"no answer within {self._seconds:g} s", stalled)
        for task, overdue in self._overdue.items():
            if overdue.end <= now:
                task.cancel()
                overdue.cancels += 1
                overdue.end = now + self._seconds / 2
        self._handle = None
        if self._ends or self._overdue:
            self._arm()


class _Here:
    """What a guard has on one event loop."""

    def __init__(self, reads: _Timer, writes: _Timer) -> None:
        self.reads = reads
        self.writes = writes
        self.busy = 0  # operations under way
        self._probes: set[asyncio.Task[None]] = set()

    def begin(self, probe: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(probe, name="asynccache-probe")
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def aclose(self) -> None:
        for task in list(self._probes):
            await cancel(task)


_reads = attrgetter("reads")
_writes = attrgetter("writes")


def _positive(name: str, value: float | None, default: float) -> float:
    number = default if value is None else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
        raise ConfigError(f"{name}={number!r}: a number greater than 0 is wanted")
    return number


def guarded(backend: AsyncCacheBackend, option: str = "backend") -> AsyncCacheBackend | Guard:
    """A remote backend in a guard with its own defaults; any other as it is, also one that has a guard. Raises
    ConfigError, which names the option, for what is no backend."""
    if isinstance(backend, type) or not all(callable(getattr(backend, verb, None)) for verb in _VERBS):
        raise ConfigError(f"{option}={backend!r}: a backend is wanted, an object with {', '.join(_VERBS)}")
    return Guard(backend) if isinstance(backend, Remote) else backend
