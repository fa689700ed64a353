"""What two tiers promise: one store to whoever looks, and a near tier that is never believed for too long."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asynccache import Cache, ConfigError, status
from asynccache.backends.disk import DiskBackend
from asynccache.backends.dual import BACKEND, DualBackend
from asynccache.backends.memory import MemoryBackend
from asynccache.errors import BackendClosed, BackendTimeout, BackendUnavailable
from asynccache.guard import Guard
from asynccache.model import CacheKey, Entry
from asynccache.protocols import AsyncCacheBackend, SupportsChanges, SupportsLease, SupportsLeave, SupportsPing, Told
from asynccache.testing import BackendContract, ChangesContract, FakeClock, FakeUpstream, FaultyBackend, SharedStore
from asynccache.testing.shared import SharedBackend

KEY = CacheKey("a" * 64)
OTHER = CacheKey("b" * 64)
NOW = 1_700_000_000.0


def entry(text: str, *, expires: float | None = None, fresh_until: float | None = None) -> Entry:
    return Entry(text.encode(), "completion", NOW, fresh_until, expires)


async def text(backend: AsyncCacheBackend, key: CacheKey = KEY) -> str | None:
    found = await backend.get(key)
    return None if found is None else found.body.decode()


async def turns(count: int = 20) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


# The law.


class TestMemoryOverMemory(BackendContract):
    @pytest.fixture
    def make_backend(self) -> Callable[[], DualBackend]:
        return lambda: DualBackend(MemoryBackend(), MemoryBackend())


class TestMemoryOverDisk(BackendContract):
    durable = True  # and not shared: the disk tells nobody of changes

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], DualBackend]:
        return lambda: DualBackend(MemoryBackend(), DiskBackend(tmp_path))


class TestDiskOverMemory(BackendContract):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], DualBackend]:
        return lambda: DualBackend(DiskBackend(tmp_path), MemoryBackend())


class TestSmallMemoryOverDisk(BackendContract):
    """A near tier that has no room for most of it."""

    durable = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], DualBackend]:
        return lambda: DualBackend(MemoryBackend(max_bytes=20_000), DiskBackend(tmp_path))


class TestOverSharedStore(BackendContract, ChangesContract):
    durable = True  # and shared a moment later: see below

    @pytest.fixture
    def make_backend(self) -> Callable[[], DualBackend]:
        store = SharedStore()
        return lambda: DualBackend(MemoryBackend(), store.backend())


class TestNested(BackendContract, ChangesContract):
    durable = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], DualBackend]:
        store = SharedStore()
        return lambda: DualBackend(
            MemoryBackend(max_bytes=5_000), DualBackend(MemoryBackend(), Guard(store.backend(), read_timeout=30))
        )


class TestThatBelievesNothing(BackendContract):
    """Two handles see each other at once where nothing near is believed."""

    durable = shared = True

    @pytest.fixture
    def make_backend(self) -> Callable[[], DualBackend]:
        store = SharedStore()
        return lambda: DualBackend(MemoryBackend(), store.backend(), max_stale=1e-9)


def test_it_is_a_backend_with_powers() -> None:
    backend: AsyncCacheBackend = BACKEND(MemoryBackend(), MemoryBackend())
    for power in (SupportsPing, SupportsLeave, SupportsLease, SupportsChanges):
        assert isinstance(backend, power)
    assert isinstance(backend, DualBackend)
    assert (backend.leases, backend.changes) == (None, None)
    shared = SharedStore().backend()
    dual = DualBackend(MemoryBackend(), DualBackend(MemoryBackend(), shared))
    assert dual.leases is shared.leases
    assert dual.changes is not None
    assert dual.far is shared


@pytest.mark.parametrize("max_stale", [0, -1, True, "60", None, float("nan")])
def test_a_wrong_option_is_refused(max_stale: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_stale=.*seconds"):
        DualBackend(MemoryBackend(), MemoryBackend(), max_stale=max_stale)


def test_one_backend_is_not_two() -> None:
    memory = MemoryBackend()
    with pytest.raises(ConfigError, match="same backend"):
        DualBackend(memory, memory)


def test_a_remote_tier_gets_a_guard() -> None:
    class Far(SharedBackend):
        remote = True
        read_timeout, write_timeout, max_concurrent = 0.2, 2.0, 10

    dual = DualBackend(MemoryBackend(), Far(SharedStore()))
    assert isinstance(dual.l2, Guard)
    assert dual.l2.read_timeout == 0.2
    assert isinstance(dual.l1, MemoryBackend)


# A kit.


class Kit:
    """A process with two tiers over a shared store, which can all be held; and another process beside it."""

    def __init__(self, *, max_stale: float = 60.0) -> None:
        self.clock = FakeClock(NOW)
        self.store = SharedStore(clock=self.clock)
        self.memory = MemoryBackend(clock=self.clock)
        self.l1 = FaultyBackend(self.memory)
        self.l2 = Far(self.store.backend())
        self.dual = DualBackend(self.l1, self.l2, max_stale=max_stale, clock=self.clock)
        self.elsewhere = self.store.backend()

    async def warm(self, words: str = "old") -> None:
        """The entry is in both tiers, and the near one is believed."""
        await turns()
        await self.elsewhere.set(KEY, entry(words))
        await turns()
        assert await text(self.dual) == words
        assert self.trusted()

    def trusted(self) -> bool:
        return KEY.digest in self.dual._trusted

    async def near(self) -> str | None:
        return await text(self.memory)


class Far(FaultyBackend):
    """One that can be held, and tells of changes."""

    def __init__(self, shared: SharedBackend) -> None:
        super().__init__(shared)
        self.changes = shared.changes
        self.leases = shared.leases
        self.leave = shared.leave


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    kit = Kit()
    await kit.dual.get(OTHER)  # it listens
    await turns()
    yield kit
    for backend in (kit.l1, kit.l2):
        backend.heal()
        backend.release()
    await kit.dual.aclose()
    assert not others()


# Reading, writing, deleting.


async def test_what_is_near_is_read_there(kit: Kit) -> None:
    """The far tier is read once, however often it is asked for; and not at all for what was written here."""
    await kit.warm()
    before = kit.l2.calls("get")
    for _ in range(100):
        assert await text(kit.dual) == "old"
    await kit.dual.set(OTHER, entry("written"))
    assert await text(kit.dual, OTHER) == "written"
    assert kit.l2.calls("get") == before
    assert (kit.dual.stats.l1_hits, kit.dual.stats.l2_hits, kit.dual.stats.misses) == (101, 1, 1)


async def test_writing_and_deleting_reach_both_tiers(kit: Kit) -> None:
    await kit.dual.set(KEY, entry("new"))
    assert [await kit.near(), await text(kit.elsewhere)] == ["new", "new"]
    assert await kit.dual.delete(KEY) is True
    assert [await kit.near(), await text(kit.elsewhere)] == [None, None]
    assert await kit.dual.delete(KEY) is False


async def test_an_entry_has_near_what_is_left_of_its_life(kit: Kit) -> None:
    """It is put there as it is; when it is over near, the far tier is asked, where it may have been renewed."""
    await kit.elsewhere.set(KEY, entry("old", expires=NOW + 10))
    await turns()
    assert await kit.dual.get(KEY) == entry("old", expires=NOW + 10)
    assert await kit.memory.get(KEY) == entry("old", expires=NOW + 10)
    kit.clock.advance(9.9)
    before = kit.l2.calls("get")
    assert await text(kit.dual) == "old"
    assert kit.l2.calls("get") == before
    kit.clock.advance(0.1)
    await kit.dual.get(KEY)
    assert kit.l2.calls("get") == before + 1


async def test_what_is_no_longer_fresh_is_asked_for_far_away_each_time(kit: Kit) -> None:
    """It may be renewed there at any time; and the near tier is not written each time for that."""
    await kit.elsewhere.set(KEY, entry("old", fresh_until=NOW - 1, expires=NOW + 100))
    await turns()
    before = kit.l1.calls("set")
    for _ in range(3):
        assert await text(kit.dual) == "old"
    assert kit.l1.calls("set") == before
    assert kit.dual.stats.l1_hits == 0


async def test_what_was_evicted_near_is_put_there_again(kit: Kit) -> None:
    """Evicting is the near tier's own business: it is believed of what it has, and asked in vain but once."""
    await kit.warm()
    await kit.memory.delete(KEY)
    before = kit.l2.calls("get")
    for _ in range(5):
        assert await text(kit.dual) == "old"
    assert kit.l2.calls("get") == before + 1


# How long the near tier is believed.


async def test_nothing_is_believed_for_longer_than_max_stale() -> None:
    """Without any news, a change by another process is not seen for so long, and then it is."""
    clock = FakeClock(NOW)
    far = MemoryBackend()
    dual = DualBackend(MemoryBackend(), far, max_stale=60, clock=clock)
    for writes in (False, True):
        if writes:
            await dual.set(KEY, entry("old"))
        else:
            await far.set(KEY, entry("old"))
            assert await text(dual) == "old"
        await far.set(KEY, entry("new"))
        clock.advance(59.9)
        assert await text(dual) == "old"
        clock.advance(0.2)
        assert await text(dual) == "new"
    await dual.aclose()


async def test_the_time_counts_from_before_the_far_tier_was_asked() -> None:
    """However long it takes to answer, or the near one to be filled."""
    clock = FakeClock(NOW)
    l1, l2 = FaultyBackend(MemoryBackend()), FaultyBackend(MemoryBackend())
    dual = DualBackend(l1, l2, max_stale=60, clock=clock)
    await l2.set(KEY, entry("old"))
    for slow, verb in ((l2, "get"), (l1, "set")):
        before = slow.calls()
        slow.hold(verb)  # type: ignore[arg-type]
        reading = asyncio.create_task(dual.get(KEY))
        await slow.reached(verb, slow.calls(verb) + (slow.calls() == before))  # type: ignore[arg-type]
        clock.advance(59)
        slow.release(verb)  # type: ignore[arg-type]
        await reading
        asked = l2.calls("get")
        clock.advance(0.5)
        await dual.get(KEY)
        assert l2.calls("get") == asked
        clock.advance(1)
        await dual.get(KEY)
        assert l2.calls("get") == asked + 1
        clock.advance(1_000)
    await dual.aclose()


async def test_a_clock_that_is_set_back_makes_nothing_believed_for_longer() -> None:
    clock = FakeClock(NOW)
    far = MemoryBackend()
    dual = DualBackend(MemoryBackend(), far, max_stale=60, clock=clock)
    await dual.set(KEY, entry("old"))
    await far.set(KEY, entry("new"))
    clock.advance(-3_600)
    assert await text(dual) == "new"
    await dual.aclose()


async def test_a_change_by_another_process_is_seen_when_it_is_heard_of(kit: Kit) -> None:
    for words in ("new", "newer"):
        await kit.warm()
        await kit.elsewhere.set(KEY, entry(words))
        await turns()
        assert await text(kit.dual) == words
    await kit.elsewhere.delete(KEY)
    await turns()
    assert await text(kit.dual) is None
    assert kit.dual.stats.told >= 3


async def test_when_news_may_be_lost_nothing_is_believed(kit: Kit) -> None:
    """All of it is asked for anew, once."""
    await kit.warm()
    await kit.dual.set(OTHER, entry("other"))
    kit.store.cut()
    await turns()
    before = kit.l2.calls("get")
    for _ in range(3):
        assert [await text(kit.dual), await text(kit.dual, OTHER)] == ["old", "other"]
    assert kit.l2.calls("get") == before + 2


async def test_what_was_read_before_the_news_began_is_not_believed() -> None:
    """The first call reads while the news does not yet come: a change after that might not be told."""
    kit = Kit()
    await kit.elsewhere.set(KEY, entry("old"))
    assert await text(kit.dual) == "old"
    await kit.elsewhere.set(KEY, entry("new"))
    await turns()
    assert await text(kit.dual) == "new"
    await kit.dual.aclose()


def test_who_hears_no_more_believes_nothing() -> None:
    """The event loop that listened is over: what changes until another does is told nobody."""
    kit = Kit()

    async def fill() -> None:
        await kit.dual.get(OTHER)
        await kit.warm()

    async def read() -> str | None:
        await kit.elsewhere.set(KEY, entry("new"))
        return await text(kit.dual)

    asyncio.run(fill())
    assert asyncio.run(read()) == "new"


# Races. Each is a line of the docstring of `_read`.


async def test_changed_before_it_is_read(kit: Kit) -> None:
    """What is read is the new entry, and the near tier is believed with it."""
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    kit.l2.hold("get")
    reading = asyncio.create_task(text(kit.dual))
    await turns()
    await kit.elsewhere.set(KEY, entry("new"))
    await turns()
    kit.l2.release("get")
    assert await reading == "new"
    assert await text(kit.dual) == "new"


@pytest.mark.parametrize("by", ["another", "cut", "set", "delete"])
async def test_changed_after_it_was_read(kit: Kit, by: str) -> None:
    """Until the near tier is filled: it is not."""
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    after = Held(kit.l2.backend)
    kit.dual.l2 = after
    reading = asyncio.create_task(text(kit.dual))
    await after.has_read.wait()
    await change(kit, by)
    after.go_on.set()
    assert await reading == "old"
    kit.dual.l2 = kit.l2
    assert await kit.near() == ("new" if by == "set" else None)
    assert await text(kit.dual) == {"another": "new", "cut": "old", "set": "new", "delete": None}[by]


@pytest.mark.parametrize("by", ["another", "cut", "set", "delete"])
async def test_changed_while_it_is_filled(kit: Kit, by: str) -> None:
    """The near tier has the old entry then, and is not believed; neither before the filling is done, nor after,
    nor when somebody else fills it meanwhile."""
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    kit.l1.hold("set")
    reading = asyncio.create_task(text(kit.dual))
    await kit.l1.reached("set", 1)
    change_under_way = asyncio.create_task(change(kit, by))
    await turns()
    meanwhile = [asyncio.create_task(text(kit.dual)) for _ in range(3)]
    await turns()
    kit.l1.release("set")
    await asyncio.gather(reading, change_under_way, *meanwhile)
    now = {"another": "new", "cut": "old", "set": "new", "delete": None}[by]
    for _ in range(3):
        assert await text(kit.dual) == now
    assert (await kit.near() if kit.trusted() else now) == now


async def test_an_old_filling_that_lands_late(kit: Kit) -> None:
    """One has read the old entry, and its filling takes long. Until it has landed nobody else's is believed, since
    it may land after that."""
    late = Late(kit.memory)
    kit.dual.l1, kit.dual._near = late, late.get
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    reading = asyncio.create_task(text(kit.dual))
    await late.begun.wait()
    await kit.elsewhere.set(KEY, entry("new"))
    await turns()
    for _ in range(3):
        assert await text(kit.dual) == "new"
        assert not kit.trusted()
    late.land.set()
    assert await reading == "old"
    assert await kit.near() == "old"
    for _ in range(3):
        assert await text(kit.dual) == "new"
    assert kit.trusted()
    assert await kit.near() == "new"


async def test_an_old_filling_that_lands_after_a_write(kit: Kit) -> None:
    """The same, when it is this process that writes."""
    late = Late(kit.memory)
    kit.dual.l1, kit.dual._near = late, late.get
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    reading = asyncio.create_task(text(kit.dual))
    await late.begun.wait()
    await kit.dual.set(KEY, entry("new"))
    assert not kit.trusted()
    late.land.set()
    await reading
    assert await kit.near() == "old"
    assert [await text(kit.dual) for _ in range(3)] == ["new"] * 3


@pytest.mark.parametrize("by", ["another", "cut", "set", "delete"])
async def test_changed_after_it_was_filled(kit: Kit, by: str) -> None:
    """The trust is taken back."""
    await kit.warm()
    await change(kit, by)
    await turns()
    assert kit.trusted() is (by == "set")
    assert await text(kit.dual) == {"another": "new", "cut": "old", "set": "new", "delete": None}[by]


async def change(kit: Kit, by: str) -> None:
    """The key, and let that be heard of."""
    if by == "another":
        await kit.elsewhere.set(KEY, entry("new"))
    elif by == "cut":
        kit.store.cut()
    elif by == "set":
        await kit.dual.set(KEY, entry("new"))
    else:
        await kit.dual.delete(KEY)
    await turns()


class Held:
    """Reads at once, and answers when it is told to."""

    def __init__(self, backend: AsyncCacheBackend) -> None:
        self._backend = backend
        self.has_read, self.go_on = asyncio.Event(), asyncio.Event()
        self.set, self.delete, self.aclose = backend.set, backend.delete, backend.aclose

    async def get(self, key: CacheKey, /) -> Entry | None:
        found = await self._backend.get(key)
        self.has_read.set()
        await self.go_on.wait()
        return found


class Late:
    """Its first write lands late, after others that began later."""

    def __init__(self, backend: AsyncCacheBackend) -> None:
        self._backend = backend
        self.begun, self.land = asyncio.Event(), asyncio.Event()
        self.get, self.delete, self.aclose = backend.get, backend.delete, backend.aclose

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        if not self.begun.is_set():
            self.begun.set()
            await self.land.wait()
        await self._backend.set(key, entry)


async def test_while_one_writes_nobody_who_reads_fills(kit: Kit) -> None:
    """What they read may be the old entry or the new one; the near tier has the new one, and is believed with it
    when the write is done."""
    await kit.warm()
    kit.l2.hold("set")
    writing = asyncio.create_task(kit.dual.set(KEY, entry("new")))
    await kit.l2.reached("set", 1)
    for _ in range(3):
        assert await text(kit.dual) == "old"
        assert await kit.near() == "new"
    kit.l2.release("set")
    await writing
    before = kit.l2.calls("get")
    assert await text(kit.dual) == "new"
    assert kit.l2.calls("get") == before


async def test_two_who_write_at_the_same_time_are_not_believed(kit: Kit) -> None:
    """One may be last near, and the other far away."""
    kit.l2.hold("set")
    writes = [asyncio.create_task(kit.dual.set(KEY, entry(words))) for words in ("a", "b")]
    await kit.l2.reached("set", 2)
    kit.l2.release("set")
    await asyncio.gather(*writes)
    assert not kit.trusted()
    assert await text(kit.dual) == await text(kit.elsewhere)


async def test_who_reads_while_two_write_is_not_believed_either(kit: Kit) -> None:
    """It may have read what was there before both, and be late."""
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    held = Held(kit.l2)
    kit.dual.l2 = held
    kit.l2.hold("set")
    writes = [asyncio.create_task(kit.dual.set(KEY, entry(words))) for words in ("a", "b")]
    await kit.l2.reached("set", 2)
    reading = asyncio.create_task(text(kit.dual))
    await held.has_read.wait()
    kit.l2.release("set")
    await asyncio.gather(*writes)
    held.go_on.set()
    assert await reading == "old"
    assert await text(kit.dual) == await text(kit.elsewhere) != "old"


@pytest.mark.parametrize("verb", ["set", "delete"])
async def test_a_change_that_is_cancelled_is_not_believed(kit: Kit, verb: str) -> None:
    """Nobody knows whether it has reached the far tier; that is asked."""
    await kit.warm()
    kit.l2.hold(verb)  # type: ignore[arg-type]
    work: Coroutine[Any, Any, Any] = kit.dual.set(KEY, entry("new")) if verb == "set" else kit.dual.delete(KEY)
    changing = asyncio.create_task(work)
    await kit.l2.reached(verb, 1)  # type: ignore[arg-type]
    reading = asyncio.create_task(text(kit.dual))
    await turns()
    changing.cancel()
    await asyncio.wait((changing,))
    assert changing.cancelled()
    await reading
    assert not kit.trusted()
    kit.l2.release()
    await kit.elsewhere.set(KEY, entry("newest"))
    await turns()
    assert await text(kit.dual) == "newest"


async def test_a_hot_key_is_believed_soon(kit: Kit) -> None:
    """Readers without a pause between them do not keep each other from filling the near tier."""
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            await kit.dual.get(KEY)
            await asyncio.sleep(0)

    readers = []
    for number in range(20):
        readers.append(asyncio.create_task(read()))
        await turns(number % 3)
    for words in ("new", "newer", "newest"):
        await kit.elsewhere.set(KEY, entry(words))
        await turns()
        before = kit.l2.calls("get")
        await turns()
        assert kit.l2.calls("get") == before
        assert kit.trusted()
        assert await text(kit.dual) == words
    stop.set()
    await asyncio.gather(*readers)


async def test_of_those_who_read_at_the_same_time_one_fills(kit: Kit) -> None:
    await kit.elsewhere.set(KEY, entry("old"))
    await turns()
    kit.l2.hold("get")
    readers = [asyncio.create_task(text(kit.dual)) for _ in range(50)]
    await turns()
    kit.l2.release("get")
    assert await asyncio.gather(*readers) == ["old"] * 50
    assert kit.l1.calls("set") == 1
    assert kit.trusted()


# Failures.


async def test_a_near_tier_that_fails_is_done_without(kit: Kit) -> None:
    """It is counted, and the far one asked; what it may still have is not believed afterwards."""
    await kit.warm()
    kit.l1.fail(BackendUnavailable("no disk"), "get", "set", "delete")
    assert await text(kit.dual) == "old"
    await kit.dual.set(KEY, entry("new"))
    assert await text(kit.dual) == "new"
    assert await kit.dual.delete(KEY) is True
    assert await text(kit.dual) is None
    assert kit.dual.stats.l1_errors == 5
    kit.l1.heal()
    assert await kit.near() == "old"
    assert await text(kit.dual) is None
    assert await kit.dual.delete(KEY) is False


async def test_a_far_tier_that_fails_is_said_so(kit: Kit) -> None:
    """Reading what is not near, writing and deleting raise; what is near, and what was written, is read all the
    same; what was deleted is not."""
    await kit.warm()
    kit.l2.fail(BackendUnavailable("gone"))
    assert await text(kit.dual) == "old"
    with pytest.raises(BackendUnavailable):
        await kit.dual.get(OTHER)
    with pytest.raises(BackendUnavailable):
        await kit.dual.set(KEY, entry("new"))
    assert await text(kit.dual) == "new"
    with pytest.raises(BackendUnavailable):
        await kit.dual.delete(KEY)
    with pytest.raises(BackendUnavailable):
        await kit.dual.get(KEY)
    kit.l2.heal()
    assert await text(kit.dual) == "old"  # where it could not be deleted


async def test_what_only_the_near_tier_has_can_be_deleted(kit: Kit) -> None:
    """It was there for whoever read it here."""
    kit.l2.fail(BackendTimeout("slow"), "set")
    with pytest.raises(BackendTimeout):
        await kit.dual.set(KEY, entry("new"))
    kit.l2.heal()
    assert await kit.dual.delete(KEY) is True
    assert await kit.dual.delete(KEY) is False


async def test_ping_asks_both(kit: Kit) -> None:
    await kit.dual.ping()
    for tier in (kit.l1, kit.l2):
        tier.fail(BackendUnavailable("no"), "ping")
        with pytest.raises(BackendUnavailable):
            await kit.dual.ping()
        tier.heal()


async def test_a_tier_that_cannot_be_closed_does_not_keep_the_other_open() -> None:
    l1, l2 = FaultyBackend(MemoryBackend()), MemoryBackend()
    l1.fail(BackendUnavailable("no"), "aclose")
    with pytest.raises(BackendUnavailable):
        await DualBackend(l1, l2).aclose()
    with pytest.raises(BackendClosed):
        await l2.get(KEY)


# Listening.


async def test_leaving_and_closing_end_the_listening() -> None:
    """No task is left; who comes again listens again."""
    kit = Kit()
    for _ in range(2):
        await kit.dual.get(KEY)
        await turns()
        assert len(others()) == 1
        assert len(kit.store.listeners) == 1
        await kit.dual.leave()
        assert not others()
        assert not kit.store.listeners
    await kit.dual.get(KEY)
    await kit.dual.aclose()
    assert not others()
    with pytest.raises(BackendClosed):
        await kit.dual.get(KEY)
    assert not others()


async def test_a_warm_key_is_closed_with_the_rest(kit: Kit) -> None:
    await kit.warm()
    await kit.dual.aclose()
    with pytest.raises(BackendClosed):
        await kit.dual.get(KEY)


async def test_news_that_breaks_its_law_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The tiers go on without it: then `max_stale` is what bounds."""

    class Broken:
        @asynccontextmanager
        async def listen(self, told: Told, /) -> AsyncIterator[None]:
            raise RuntimeError("a bug")
            yield

    kit = Kit()
    kit.l2.changes = Broken()  # type: ignore[assignment]
    await kit.dual.set(KEY, entry("old"))
    await turns()
    assert await text(kit.dual) == "old"
    assert [record.getMessage() for record in caplog.records] == [
        "there is no news of changes: the backend broke its law"
    ]
    await kit.dual.aclose()
    gc.collect()


class SlowNews:
    """Tells its listeners when the test says so, one after another."""

    def __init__(self) -> None:
        self.listeners: list[Told] = []

    @asynccontextmanager
    async def listen(self, told: Told, /) -> AsyncIterator[None]:
        self.listeners.append(told)
        told(None)
        yield


async def test_an_upper_tier_hears_of_a_change_after_the_lower_one() -> None:
    """So there is no moment in which it can be filled with what that is about to forget, in whatever order listeners
    are told, and whenever it is asked."""
    for backwards in (False, True):
        far = Far(SharedStore().backend())
        far.changes = news = SlowNews()  # type: ignore[assignment]
        lower = DualBackend(MemoryBackend(), far)
        upper = DualBackend(MemoryBackend(), lower)
        await upper.get(KEY)
        await turns()
        await far.set(KEY, entry("old"))
        assert [await text(upper), await text(lower)] == ["old", "old"]
        await far.set(KEY, entry("new"))
        for told in sorted(news.listeners, key=news.listeners.index, reverse=backwards):
            told(KEY.digest)
            await text(upper)
            await turns()
        assert [await text(upper), await text(lower)] == ["new", "new"]
        await upper.aclose()
        assert not others()


async def test_three_tiers_hear_of_what_was_cut_off() -> None:
    store = SharedStore()
    far = FaultyBackend(store.backend())
    lower = DualBackend(MemoryBackend(), Far(store.backend()))
    upper = DualBackend(MemoryBackend(), lower)
    await upper.set(KEY, entry("old"))
    await turns()
    assert await text(upper) == "old"
    store.cut()
    await turns()
    assert not upper._trusted
    assert not lower._trusted
    await upper.leave()
    assert not others()
    assert not store.listeners
    assert not lower._above
    await upper.aclose()
    await far.aclose()


def test_loops_in_threads_share_it() -> None:
    """Several write, delete and read the same few keys; in the end all read what the far tier has."""
    store = SharedStore()
    dual = DualBackend(MemoryBackend(), store.backend())
    keys = [CacheKey(f"{number:064x}") for number in range(4)]
    failures: list[BaseException] = []

    async def use(number: int) -> None:
        for count in range(200):
            key = keys[count % 4]
            await dual.set(key, entry(f"{number} {count}"))
            await asyncio.gather(*[dual.get(key) for key in keys])
            if count % 7 == 0:
                await dual.delete(key)
        await dual.leave()

    def run(number: int) -> None:
        try:
            asyncio.run(use(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    async def compare() -> None:
        far = store.backend()
        for key in keys:
            assert await dual.get(key) == await far.get(key)
        assert not dual._fills
        await dual.aclose()

    assert not failures
    asyncio.run(compare())


# In a cache.


async def test_an_invalidation_by_another_process_ends_what_is_near() -> None:
    """The numbers of tags are read in the far tier: a near one would not know of them."""
    clock = FakeClock(NOW)
    store = SharedStore(clock=clock)
    upstream = FakeUpstream()
    ask: Any = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}
    caches = [Cache(DualBackend(MemoryBackend(), store.backend(), clock=clock), clock=clock) for _ in range(2)]
    one, other = (cache.wrap(upstream, name="f") for cache in caches)
    await one(**ask)
    await turns()
    assert [status(await call(**ask)).outcome for call in (one, other, other)] == ["hit"] * 3
    await caches[0].clear()
    clock.advance(1.01)
    assert status(await other(**ask)).outcome == "miss"
    for cache in caches:
        await cache.aclose()
        await cache.backend.aclose()
    assert not others()


# Against a model.


class TwoProcesses(RuleBasedStateMachine):
    """Two processes with tiers of their own over one store, and one without. Operations may be any number of turns
    apart; at rest all read the same."""

    keys = st.sampled_from([KEY, OTHER])
    process = st.integers(0, 1)
    pauses = st.integers(0, 6)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock(NOW)
        self.store = SharedStore(clock=self.clock)
        self.memories = [MemoryBackend(max_bytes=2_000), MemoryBackend()]
        lower = DualBackend(FaultyBackend(MemoryBackend()), self.store.backend(), clock=self.clock)
        self.duals = [
            DualBackend(Slow(self.memories[0]), self.store.backend(), clock=self.clock),
            DualBackend(Slow(self.memories[1]), lower, clock=self.clock),
        ]
        self.plain = self.store.backend()
        self.number = 0
        self.tasks: list[asyncio.Task[Any]] = []

    def begin(self, work: Coroutine[Any, Any, Any], pause: int) -> None:
        self.tasks.append(self.loop.create_task(work))
        self.run(turns(pause))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def new(self) -> Entry:
        self.number += 1
        return entry(str(self.number))

    @rule(who=process, key=keys, pause=pauses)
    def read(self, who: int, key: CacheKey, pause: int) -> None:
        self.begin(self.duals[who].get(key), pause)

    @rule(who=process, key=keys, pause=pauses)
    def write(self, who: int, key: CacheKey, pause: int) -> None:
        self.begin(self.duals[who].set(key, self.new()), pause)

    @rule(who=process, key=keys, pause=pauses)
    def delete(self, who: int, key: CacheKey, pause: int) -> None:
        self.begin(self.duals[who].delete(key), pause)

    @rule(key=keys, pause=pauses)
    def change(self, key: CacheKey, pause: int) -> None:
        self.begin(self.plain.set(key, self.new()), pause)

    @rule(key=keys, pause=pauses)
    def remove(self, key: CacheKey, pause: int) -> None:
        self.begin(self.plain.delete(key), pause)

    @rule(who=process, key=keys)
    def evict(self, who: int, key: CacheKey) -> None:
        self.run(self.memories[who].delete(key))

    @rule(data=st.data(), pause=pauses)
    def cancel(self, data: st.DataObject, pause: int) -> None:
        under_way = [task for task in self.tasks if not task.done()]
        if under_way:
            data.draw(st.sampled_from(under_way)).cancel()
            self.run(turns(pause))

    @rule()
    def cut(self) -> None:
        self.store.cut()

    @rule(who=process)
    def leave(self, who: int) -> None:
        self.run(self.duals[who].leave())

    @rule()
    def rest(self) -> None:
        async def all_read() -> None:
            if self.tasks:
                await asyncio.wait(self.tasks)
            await turns()
            for key in (KEY, OTHER):
                truth = await self.plain.get(key)
                for _ in range(2):
                    for dual in self.duals:
                        assert await dual.get(key) == truth

        self.run(all_read())
        for task in self.tasks:
            assert task.cancelled() or task.exception() is None
        self.tasks.clear()

    @invariant()
    def nothing_is_remembered_of_what_is_over(self) -> None:
        if all(task.done() for task in self.tasks):
            assert not any(dual._fills for dual in self.duals)

    def teardown(self) -> None:
        try:
            self.rest()
            for dual in self.duals:
                self.run(dual.aclose())
            assert not asyncio.all_tasks(self.loop)
        finally:
            self.loop.close()


class Slow:
    """A near tier whose operations take a turn or two before they act, in no order."""

    def __init__(self, memory: MemoryBackend) -> None:
        self._memory = memory
        self._calls = 0

    async def _step(self) -> None:
        self._calls += 1
        await turns(self._calls * 7 % 4)

    async def get(self, key: CacheKey, /) -> Entry | None:
        await self._step()
        return await self._memory.get(key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await self._step()
        await self._memory.set(key, entry)

    async def delete(self, key: CacheKey, /) -> bool:
        await self._step()
        return await self._memory.delete(key)

    async def aclose(self) -> None:
        await self._memory.aclose()


def test_two_processes() -> None:
    """In any order of reading, writing, deleting, evicting, cancelling and losing the news, and at any pace: when all
    is done and heard, every process reads what the store has."""
    TwoProcesses.TestCase.settings = settings(
        derandomize=True,
        deadline=None,
        max_examples=150,
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
    )
    TwoProcesses.TestCase().runTest()
