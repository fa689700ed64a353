"""A store that several `Cache` objects share, as processes share one over a network."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Lock
from typing import TypeVar

from asynccache.errors import BackendClosed
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Clock, Released, Told

T = TypeVar("T")


class SharedStore:
    """Entries, leases and the news of changes, in memory. Each backend of it stands for another process:

        store = SharedStore()
        caches = [Cache(store.backend()) for _ in range(3)]

    A call of a backend gives way to other tasks once before it acts, and news arrives a little later, as over a
    network; so what races there races here.

    lease_seconds: how long a lease holds unless it is renewed.
    clock:         tells when leases and entries end. Who waits for a lease that ends by this clock is told of that
                   by `cut()`.

    May be used from several event loops and threads at once.
    """

    def __init__(self, *, lease_seconds: float = 10.0, clock: Clock = time.time) -> None:
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._lock = Lock()
        self._entries: dict[str, Entry] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self.waits: list[_Wait] = []
        self.listeners: list[_Listener] = []

    def backend(self) -> SharedBackend:
        """Another process' handle."""
        return SharedBackend(self)

    def cut(self) -> None:
        """Cut off all news, for a moment: who waits must look again, who listens may have missed changes."""
        with self._lock:
            for wait in self.waits:
                wait.tell("lapsed")
            for listener in self.listeners:
                listener.tell(None)

    def holder(self, key: CacheKey) -> str | None:
        """The token that the lease for this key is held under; None when it is free."""
        token, until = self._leases.get(key.digest, (None, 0.0))
        return token if self._clock() < until else None

    def get(self, key: CacheKey) -> Entry | None:
        return self._entries.get(key.digest)

    def put(self, key: CacheKey, entry: Entry, by: SharedBackend, *, only_if_absent: bool = False) -> bool:
        with self._lock:
            old = self._entries.get(key.digest)
            if only_if_absent and old is not None and (old.expires is None or self._clock() < old.expires):
                return False
            self._entries[key.digest] = entry
            self._tell(key, by)
            return True

    def remove(self, key: CacheKey, by: SharedBackend) -> bool:
        with self._lock:
            if self._entries.pop(key.digest, None) is None:
                return False
            self._tell(key, by)
            return True

    def _tell(self, key: CacheKey, by: SharedBackend) -> None:
        for listener in self.listeners:
            if listener.owner is not by:
                listener.tell(key.digest)

    def lease(self, key: CacheKey, token: str, *, again: bool) -> bool:
        """Give it to this token for `lease_seconds`: when it is free, or `again`, when the token has it."""
        with self._lock:
            if self.holder(key) != (token if again else None):
                return False
            self._leases[key.digest] = token, self._clock() + self.lease_seconds
            return True

    def end_lease(self, key: CacheKey, token: str, stored: bool) -> None:
        with self._lock:
            if self.holder(key) != token:
                return
            del self._leases[key.digest]
            for wait in self.waits:
                if wait.digest == key.digest:
                    wait.tell("stored" if stored else "nothing")

    @contextmanager
    def among(self, members: list[T], one: T) -> Iterator[None]:
        """It is one of them inside the block."""
        with self._lock:
            members.append(one)
        try:
            yield
        finally:
            with self._lock:
                members.remove(one)

    def lapse(self, owner: SharedBackend, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Let those who wait on this handle go on."""
        with self._lock:
            for wait in self.waits:
                if wait.owner is owner and loop in (None, wait.loop):
                    wait.tell("lapsed")


class SharedBackend:
    """One process' handle on a `SharedStore`: a backend with all powers that concern other processes."""

    def __init__(self, store: SharedStore) -> None:
        self.store = store
        self.leases = _Leases(self)
        self.changes = _Changes(self)
        self._closed = False

    async def get(self, key: CacheKey, /) -> Entry | None:
        await self.step()
        return self.store.get(key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await self.step()
        self.store.put(key, entry, self)

    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        await self.step()
        return self.store.put(key, entry, self, only_if_absent=True)

    async def delete(self, key: CacheKey, /) -> bool:
        await self.step()
        return self.store.remove(key, self)

    async def ping(self) -> None:
        await self.step()

    async def leave(self) -> None:
        self.store.lapse(self, asyncio.get_running_loop())

    async def aclose(self) -> None:
        """The store and its other handles go on."""
        self._closed = True
        self.store.lapse(self)

    async def step(self) -> None:
        """Raises BackendClosed."""
        self.check_open()
        await asyncio.sleep(0)

    def check_open(self) -> None:
        if self._closed:
            raise BackendClosed("used after aclose()", backend="shared")


class _Leases:
    def __init__(self, owner: SharedBackend) -> None:
        self._owner = owner
        self._store = owner.store

    @property
    def seconds(self) -> float:
        return self._store.lease_seconds

    async def acquire(self, key: CacheKey, token: str, /) -> bool:
        await self._owner.step()
        return self._store.lease(key, token, again=False)

    async def renew(self, key: CacheKey, token: str, /) -> bool:
        await self._owner.step()
        return self._store.lease(key, token, again=True)

    async def release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        await self._owner.step()
        self._store.end_lease(key, token, stored)

    @asynccontextmanager
    async def watch(self, key: CacheKey, /) -> AsyncIterator[_Wait]:
        await self._owner.step()
        wait = _Wait(self._owner, key.digest)
        with self._store.among(self._store.waits, wait):
            yield wait


class _Wait:
    def __init__(self, owner: SharedBackend, digest: str) -> None:
        self.owner = owner
        self.digest = digest
        self.loop = asyncio.get_running_loop()
        self._released: deque[Released] = deque()
        self._told = asyncio.Event()

    def tell(self, released: Released) -> None:
        self._released.append(released)
        _call_there(self.loop, self._told.set)

    async def __call__(self, seconds: float, /) -> Released:
        try:
            async with asyncio.timeout(seconds):
                await self._told.wait()
        except TimeoutError:
            return "lapsed"
        released = self._released.popleft()
        if not self._released:
            self._told.clear()
        return released


class _Changes:
    def __init__(self, owner: SharedBackend) -> None:
        self._owner = owner

    @asynccontextmanager
    async def listen(self, told: Told, /) -> AsyncIterator[None]:
        listener = _Listener(self._owner, told)
        store = self._owner.store
        try:
            with store.among(store.listeners, listener):
                listener.tell(None)
                yield
        finally:
            listener.left = True


class _Listener:
    def __init__(self, owner: SharedBackend, told: Told) -> None:
        self.owner = owner
        self.left = False
        self._told = told
        self._loop = asyncio.get_running_loop()

    def tell(self, digest: str | None) -> None:
        _call_there(self._loop, lambda: None if self.left else self._told(digest))


def _call_there(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        pass  # the loop is closed: nobody is there to be told
