"""The shared store keeps the law of what processes agree on; and the law finds out who breaks it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from asynccache.errors import BackendError
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Leases
from asynccache.testing import BackendContract, ChangesContract, FakeClock, LeaseContract, SharedStore
from asynccache.testing.shared import SharedBackend

KEY = CacheKey("a" * 64)


class TestSharedStore(BackendContract, LeaseContract, ChangesContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self) -> Callable[[], SharedBackend]:
        return SharedStore(lease_seconds=0.3).backend


async def test_a_lease_ends_by_the_clock() -> None:
    """Who waits is told to look when the news is cut off; the lease of one who does not renew is over by then."""
    clock = FakeClock()
    store = SharedStore(lease_seconds=10.0, clock=clock)
    async with aclosing(store.backend()) as dead, aclosing(store.backend()) as alive:
        assert await dead.leases.acquire(KEY, "dead")
        async with alive.leases.watch(KEY) as wait:
            waiting = asyncio.ensure_future(wait(1000.0))
            clock.advance(9.9)
            assert not await alive.leases.acquire(KEY, "alive")
            clock.advance(0.1)
            store.cut()
            assert await waiting == "lapsed"
            assert await alive.leases.acquire(KEY, "alive")
            assert store.holder(KEY) == "alive"


async def test_leaving_lets_those_who_wait_go_on() -> None:
    store = SharedStore()
    async with aclosing(store.backend()) as backend, backend.leases.watch(KEY) as wait:
        waiting = asyncio.ensure_future(wait(1000.0))
        await asyncio.sleep(0)
        await backend.leave()
        assert await waiting == "lapsed"


async def test_a_cut_is_told_to_all_who_listen() -> None:
    store = SharedStore()
    told: asyncio.Queue[str | None] = asyncio.Queue()
    async with aclosing(store.backend()) as one, one.changes.listen(told.put_nowait):
        assert await told.get() is None
        store.cut()
        assert await told.get() is None


def test_loops_in_threads_hear_of_each_other() -> None:
    """A release and a change reach who waits on another event loop, in another thread."""
    store = SharedStore()
    ready = threading.Event()
    heard: list[Any] = []

    async def wait() -> None:
        backend = store.backend()
        told: asyncio.Queue[str | None] = asyncio.Queue()
        async with backend.changes.listen(told.put_nowait), backend.leases.watch(KEY) as release:
            assert await told.get() is None
            ready.set()
            heard.extend([await release(30.0), await told.get()])

    async def act() -> None:
        backend = store.backend()
        assert await backend.leases.acquire(KEY, "a")
        await backend.set(KEY, Entry(b"1", "completion", 1.0))
        await backend.leases.release(KEY, "a", True)

    waiting = threading.Thread(target=lambda: asyncio.run(wait()))
    waiting.start()
    assert ready.wait(30)
    asyncio.run(act())
    waiting.join(30)
    assert heard == ["stored", KEY.digest]


# The law finds out who breaks it.


class Altered:
    """Leases that pass all on to others'."""

    def __init__(self, inner: Leases) -> None:
        self.inner = inner
        self.acquire = inner.acquire
        self.renew = inner.renew
        self.release = inner.release
        self.watch = inner.watch

    @property
    def seconds(self) -> float:
        return self.inner.seconds


class GivesToAll(Altered):
    def __init__(self, inner: Leases) -> None:
        super().__init__(inner)
        self.acquire = self._acquire

    async def _acquire(self, key: CacheKey, token: str, /) -> bool:
        await self.inner.acquire(key, token)
        return True


class KeepsForEver(Altered):
    def __init__(self, inner: Leases) -> None:
        super().__init__(inner)
        self.release = self._release

    async def _release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        pass


class RenewsForAll(Altered):
    def __init__(self, inner: Leases) -> None:
        super().__init__(inner)
        self.renew = self._renew

    async def _renew(self, key: CacheKey, token: str, /) -> bool:
        await self.inner.renew(key, token)
        return True


class SaysShorter(Altered):
    @property
    def seconds(self) -> float:
        return self.inner.seconds * 10


class Deaf(Altered):
    """Whoever waits is left to its patience."""

    def __init__(self, inner: Leases) -> None:
        super().__init__(inner)
        self.release = self._release

    async def _release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        backend: Any = self.inner
        waits, backend._store.waits = backend._store.waits, []
        await self.inner.release(key, token, stored)
        backend._store.waits = waits


class SaysStored(Altered):
    def __init__(self, inner: Leases) -> None:
        super().__init__(inner)
        self.release = self._release

    async def _release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        await self.inner.release(key, token, True)


class Mute(SharedBackend):
    """Its changes are told nobody."""

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        listeners, self.store.listeners = self.store.listeners, []
        await super().set(key, entry)
        self.store.listeners = listeners


class Hasty(SharedBackend):
    """Its changes are told before they can be read."""

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        self.store.put(key, Entry(b"", "completion", 1.0), self)
        for _ in range(5):
            await asyncio.sleep(0)
        await super().set(key, entry)


async def broken_laws(contract: Any, make_backend: Callable[[], SharedBackend]) -> set[str]:
    """The tests that this backend fails; one that waits for ever is one of them."""
    broken = set()
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                async with asyncio.timeout(1):
                    await getattr(contract, name)(make_backend)
            except (AssertionError, BackendError, TimeoutError):
                broken.add(name)
    return broken


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (GivesToAll, "test_of_all_who_ask_one_gets_it"),
        (GivesToAll, "test_one_has_it_until_it_is_released"),
        (KeepsForEver, "test_a_cancelled_acquire_can_be_taken_back"),
        (RenewsForAll, "test_only_its_holder_renews_and_ends_it"),
        (SaysShorter, "test_it_ends_by_itself_unless_it_is_renewed"),
        (Deaf, "test_all_who_wait_hear_of_the_release"),
        (Deaf, "test_no_release_in_the_block_is_missed"),
        (SaysStored, "test_all_who_wait_hear_of_the_release"),
    ],
)
async def test_broken_leases_are_found_out(kind: type[Altered], law: str) -> None:
    store = SharedStore(lease_seconds=0.05)

    def make_backend() -> SharedBackend:
        backend = store.backend()
        backend.leases = kind(backend.leases)  # type: ignore[assignment]
        return backend

    class OneLaw:
        pass

    setattr(OneLaw, law, getattr(LeaseContract(), law))
    assert await broken_laws(OneLaw, make_backend) == {law}


@pytest.mark.parametrize("kind", [Mute, Hasty])
async def test_broken_news_is_found_out(kind: type[SharedBackend]) -> None:
    store = SharedStore()

    class OneLaw:
        test_told = ChangesContract().test_what_others_overwrite_and_delete_is_told

    assert await broken_laws(OneLaw, lambda: kind(store)) == {"test_told"}


class AddsBlindly(SharedBackend):
    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        await self.set(key, entry)
        return True


class AddsInTwoSteps(SharedBackend):
    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        if await self.get(key) is not None:
            return False
        await self.set(key, entry)
        return True


class LeavesATask(SharedBackend):
    async def leave(self) -> None:
        self._task = asyncio.ensure_future(asyncio.Event().wait())


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (AddsBlindly, "test_add_keeps_what_is_there"),
        (AddsBlindly, "test_of_all_who_add_one_does"),
        (AddsInTwoSteps, "test_of_all_who_add_one_does"),
        (LeavesATask, "test_leave_ends_nothing_but_connections"),
    ],
)
async def test_broken_powers_are_found_out(kind: type[SharedBackend], law: str) -> None:
    store = SharedStore()

    class OneLaw:
        pass

    setattr(OneLaw, law, getattr(BackendContract(), law))
    assert await broken_laws(OneLaw, lambda: kind(store)) == {law}
