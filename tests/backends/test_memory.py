"""The laws of the memory backend beyond the contract: bounds, true sizes, who goes first, threads."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, Event
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynccache.backends.memory import BACKEND, MemoryBackend
from asynccache.errors import BackendClosed, ConfigError, EntryTooLarge
from asynccache.model import CacheKey, Entry, Kind
from asynccache.protocols import AsyncCacheBackend, SupportsPing, SupportsSize
from asynccache.testing import BackendContract, FakeClock

NOW = 1_800_000_000.0
META = orjson.dumps(
    {
        "model": "gpt-4o-2024-08-06",
        "usage": {
            "prompt_tokens": 1234,
            "completion_tokens": 456,
            "total_tokens": 1690,
            "prompt_tokens_details": {"cached_tokens": 512, "audio_tokens": 0},
        },
        "duration": 1.234,
    }
)


def key(number: int) -> CacheKey:
    return CacheKey(f"{number:064x}")


def entry(size: int = 100, kind: Kind = "completion", expires: float | None = None) -> Entry:
    return Entry(bytes(size), kind, NOW, None, expires)


async def cost(entry: Entry) -> int:
    """What an entry costs in a backend of its own."""
    backend = MemoryBackend()
    await backend.set(key(0), entry)
    return (await backend.size()).bytes


async def held(backend: MemoryBackend, numbers: range) -> set[int]:
    return {number for number in numbers if await backend.get(key(number)) is not None}


class TestContract(BackendContract):
    """The law of every backend."""

    @pytest.fixture
    def make_backend(self) -> Callable[..., MemoryBackend]:
        return MemoryBackend


def test_it_is_a_backend_that_can_be_pinged_and_sized() -> None:
    """The further powers are found by protocol, the class by the module's last line."""
    backend: AsyncCacheBackend = BACKEND()
    assert isinstance(backend, MemoryBackend)
    assert isinstance(backend, SupportsPing)
    assert isinstance(backend, SupportsSize)


# Options


@pytest.mark.parametrize("value", [0, -1, "10MB", 1e6, True, None])
def test_max_bytes_is_a_positive_whole_number(value: Any) -> None:
    """An option that makes no sense is refused with its name and its value in the text."""
    with pytest.raises(ConfigError, match=f"max_bytes must be .*{value!r}"):
        MemoryBackend(max_bytes=value)


@pytest.mark.parametrize("value", [0, -1, "many", 1.5, False])
def test_capacity_is_a_positive_whole_number_or_none(value: Any) -> None:
    """An option that makes no sense is refused with its name and its value in the text."""
    with pytest.raises(ConfigError, match=f"capacity must be .*{value!r}"):
        MemoryBackend(capacity=value)


# Bounds


class Write(NamedTuple):
    number: int
    entry: Entry


class Read(NamedTuple):
    number: int


class Delete(NamedTuple):
    number: int


class Wait(NamedTuple):
    seconds: float


NUMBERS = range(12)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["completion", "completion", "stream", "epoch"])
writes = st.builds(
    lambda number, size, kind, ttl: Write(
        number, entry(size, kind, None if ttl is None or kind == "epoch" else NOW + ttl)
    ),
    st.sampled_from(NUMBERS),
    st.integers(0, 3000),
    kinds,
    st.none() | st.integers(-5, 50),
)
numbers = st.sampled_from(NUMBERS)
steps = st.lists(
    st.one_of(
        writes, writes, writes, st.builds(Read, numbers), st.builds(Delete, numbers), st.builds(Wait, st.just(7.0))
    ),
    max_size=80,
)


class Model:
    """Runs steps against a backend and a dict that never evicts, and holds the laws after each."""

    def __init__(self, backend: MemoryBackend, clock: FakeClock) -> None:
        self.backend = backend
        self.clock = clock
        self.last: dict[int, Entry] = {}

    async def run(self, step: Write | Read | Delete | Wait) -> None:
        match step:
            case Write(number, value):
                await self.write(number, value)
            case Read(number):
                await self.backend.get(key(number))
            case Delete(number):
                there = await self.backend.get(key(number)) is not None
                assert await self.backend.delete(key(number)) is there
                self.last.pop(number, None)
            case Wait(seconds):
                self.clock.advance(seconds)
        await self.check()

    async def write(self, number: int, value: Entry) -> None:
        before = await self.resident()
        if await cost(value) > self.backend.max_bytes:
            with pytest.raises(EntryTooLarge):
                await self.backend.set(key(number), value)
            assert await self.resident() == before
            return
        evictions = self.backend.evictions
        await self.backend.set(key(number), value)
        self.last[number] = value
        after = await self.resident()
        assert after[number] is value
        self.check_lost({n: e for n, e in before.items() if n not in after}, after, number, evictions)

    def check_lost(self, lost: dict[int, Entry], after: dict[int, Entry], number: int, evictions: int) -> None:
        expired = [e for e in lost.values() if e.expires is not None and e.expires <= self.clock()]
        assert self.backend.evictions - evictions == len(lost) - len(expired)
        others = [e for n, e in after.items() if n != number]
        if len(lost) > len(expired):
            assert not [e for e in others if e.expires is not None and e.expires <= self.clock()]
        if any(e.kind == "epoch" for e in lost.values()):
            assert all(e.kind == "epoch" for e in others)

    async def resident(self) -> dict[int, Entry]:
        found = {number: await self.backend.get(key(number)) for number in NUMBERS}
        return {number: value for number, value in found.items() if value is not None}

    async def check(self) -> None:
        resident = await self.resident()
        size = await self.backend.size()
        assert all(value is self.last[number] for number, value in resident.items())
        assert size.entries == len(resident)
        assert size.bytes == sum([await cost(value) for value in resident.values()])
        assert size.bytes <= self.backend.max_bytes
        assert self.backend.capacity is None or size.entries <= self.backend.capacity


@given(steps=steps, max_bytes=st.integers(1, 12_000), capacity=st.none() | st.integers(1, 8))
def test_the_bounds_hold_whatever_is_done(steps: list[Any], max_bytes: int, capacity: int | None) -> None:
    """After any call both bounds hold, sizes add up exactly, a read gives the last entry set or None,
    what was set last is there, expired entries go before others, and epochs go last."""

    async def check() -> None:
        clock = FakeClock(NOW)
        model = Model(MemoryBackend(max_bytes=max_bytes, capacity=capacity, clock=clock), clock)
        for step in steps:
            await model.run(step)

    asyncio.run(check())


async def test_an_entry_that_can_never_fit_is_refused_and_the_old_one_stays() -> None:
    """EntryTooLarge names the backend and both sizes; nothing is evicted for it."""
    small, large = entry(100), entry(10_000)
    backend = MemoryBackend(max_bytes=5000)
    await backend.set(key(1), small)
    with pytest.raises(EntryTooLarge, match=f"memory: .*{await cost(large)} .*5000"):
        await backend.set(key(1), large)
    assert await backend.get(key(1)) is small
    assert backend.evictions == 0


async def test_an_entry_of_exactly_max_bytes_fits() -> None:
    """The bound is the last size that is allowed."""
    value = entry(1000)
    backend = MemoryBackend(max_bytes=await cost(value))
    await backend.set(key(1), value)
    await backend.set(key(2), value)
    assert await held(backend, range(3)) == {2}


# Sizes


async def test_a_large_answer_is_counted_in_full() -> None:
    """5 MB of body cost 5 MB and less than 2 KB."""
    body = 5_000_000
    assert body < await cost(entry(body)) < body + 2000


@pytest.mark.parametrize(
    "larger",
    [
        replace(entry(), tags=(("document:" + "x" * 1000, 1),)),
        replace(entry(), meta={"model": "x" * 1000}),
        replace(entry(), meta={"usage": {"details": [list(range(1000, 1100))]}}),
        replace(entry(), meta={"x" * 1000: 1}),
    ],
)
async def test_tags_and_meta_are_counted_however_deep(larger: Entry) -> None:
    """What an entry drags along counts as well as its body."""
    assert await cost(larger) > await cost(entry()) + 900


async def test_meta_may_be_nested_deeper_than_the_stack() -> None:
    """Data from outside raises nothing but BackendError, so it cannot raise RecursionError."""
    meta: dict[str, Any] = {}
    for _ in range(sys.getrecursionlimit() * 2):
        meta = {"": meta}
    assert await cost(replace(entry(), meta=meta)) > 100 * sys.getrecursionlimit()


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """How many bytes Python allocated since the test began."""
    gc.collect()
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()


@pytest.mark.parametrize("max_bytes", [1_000_000, 1_500_000, 2_200_000])
async def test_the_size_is_what_the_entries_really_take(max_bytes: int, traced: Callable[[], int]) -> None:
    """Full and turned over several times, with small answers, in which all the rest weighs most:
    within 10 % of the memory that `tracemalloc` sees."""
    rng = random.Random(1)
    backend = MemoryBackend(max_bytes=max_bytes)
    for number in range(4 * max_bytes // 1500):
        body = bytes(int(min(max(rng.lognormvariate(6.0, 1.0), 100), 65536)))
        tags = ((f"doc:{number}", number),)
        value = Entry(body, "completion", NOW + number, None, NOW + 1e6 * rng.random() + 1e9, tags, orjson.loads(META))
        await backend.set(key(number), value)
        await backend.get(key(rng.randrange(number + 1)))
        del body, tags, value
    gc.collect()
    real = traced()
    assert backend.evictions > 0
    assert (await backend.size()).bytes == pytest.approx(real, rel=0.1)


async def test_setting_one_key_for_ever_takes_no_more_memory(traced: Callable[[], int]) -> None:
    """Renewed ends of life do not pile up."""
    backend = MemoryBackend()
    for number in range(20_000):
        await backend.set(key(1), entry(expires=NOW + number))
    assert traced() < 50_000


async def test_deleting_all_leaves_nothing() -> None:
    """Every byte that was counted in is counted out."""
    backend = MemoryBackend(capacity=50)
    for number in range(200):
        await backend.set(key(number), entry(number, "epoch" if number % 7 == 0 else "completion"))
        await backend.get(key(number // 2))
    for number in range(200):
        await backend.delete(key(number))
    size = await backend.size()
    assert (size.entries, size.bytes) == (0, 0)


# Who goes first


async def test_a_scan_does_not_push_out_what_is_read_again() -> None:
    """Keys that were read survive any number of keys that are asked for once."""
    backend = MemoryBackend(capacity=100)
    for number in range(50):
        await backend.set(key(number), entry())
        await backend.get(key(number))
    for number in range(1000, 11_000):
        await backend.set(key(number), entry())
    assert await held(backend, range(50)) == set(range(50))


@pytest.mark.parametrize("capacity", [2, 3, 10, 100])
async def test_a_hot_key_survives(capacity: int) -> None:
    """A key read between any two writes is never evicted, however few entries there may be."""
    backend = MemoryBackend(capacity=capacity)
    await backend.set(key(0), entry())
    for number in range(1, 2000):
        assert await backend.get(key(0)) is not None
        await backend.set(key(number), entry())


async def test_old_fame_fades() -> None:
    """Keys that were read very often but are no more make room for those that are read now."""
    backend = MemoryBackend(capacity=50)
    for number in range(45):
        await backend.set(key(number), entry())
        for _ in range(1000):
            await backend.get(key(number))
    for _ in range(12):
        for number in range(100, 140):
            if await backend.get(key(number)) is None:
                await backend.set(key(number), entry())
    assert await held(backend, range(100, 140)) == set(range(100, 140))


async def test_a_key_that_comes_back_soon_after_eviction_stays() -> None:
    """The second time, it enters the main queue and outlives a scan that would have pushed it out."""
    backend = MemoryBackend(capacity=100)
    for number in range(110):
        await backend.set(key(number), entry())
    assert await backend.get(key(5)) is None
    await backend.set(key(5), entry())
    for number in range(1000, 2000):
        await backend.set(key(number), entry())
    assert await backend.get(key(5)) is not None


async def test_a_cache_in_which_all_is_hot_takes_a_new_key() -> None:
    """When every entry has been read, one of them goes all the same."""
    backend = MemoryBackend(capacity=1000)
    for number in range(1000):
        await backend.set(key(number), entry())
    for _ in range(5):
        await held(backend, range(1000))
    await backend.set(key(5000), entry())
    assert await backend.get(key(5000)) is not None
    assert backend.evictions == 1


async def test_overwriting_at_capacity_evicts_nobody() -> None:
    """A live key takes no second place, be it on probation or not, in entries or in bytes."""
    value = entry()
    backend = MemoryBackend(capacity=20, max_bytes=20 * await cost(value))
    for number in range(40):
        await backend.set(key(number), value)
        await backend.get(key(number // 2))
    present = await held(backend, range(40))
    assert len(present) == 20
    evictions = backend.evictions
    for number in [*present, *present]:
        await backend.set(key(number), replace(value, created=NOW + 1))
    assert await held(backend, range(40)) == present
    assert backend.evictions == evictions


@pytest.mark.parametrize("earlier_reads", [0, 1])
async def test_overwriting_keeps_what_an_entry_has_earned(earlier_reads: int) -> None:
    """Renewing an entry sends it neither back on probation nor forgets that it was read."""
    backend = MemoryBackend(capacity=100)
    await backend.set(key(1), entry())
    await backend.get(key(1))
    for number in range(1000, 1000 + 300 * earlier_reads):
        await backend.set(key(number), entry())
    await backend.set(key(1), entry())
    for number in range(2000, 2300):
        await backend.set(key(number), entry())
    assert await backend.get(key(1)) is not None


async def test_expired_entries_go_first() -> None:
    """While an expired entry is there, no other is evicted, even when it alone was never read."""
    clock = FakeClock(NOW)
    backend = MemoryBackend(capacity=100, clock=clock)
    for number in range(100):
        await backend.set(key(number), entry(expires=NOW + 10 if number % 2 else None))
        if number % 2:
            await backend.get(key(number))
    clock.advance(10)
    for number in range(1000, 1050):
        await backend.set(key(number), entry())
        assert (await backend.size()).entries == 100
    assert await held(backend, range(100)) == set(range(0, 100, 2))
    assert backend.evictions == 0


def history(seed: int) -> tuple[list[tuple[int, int]], set[int]]:
    """Keys with their ends of life in the order they are set, and those that are deleted afterwards."""
    rng = random.Random(seed)
    ends = [(rng.randrange(200), rng.randrange(100)) for _ in range(300)]
    return ends, set(rng.sample(range(200), 100))


@pytest.mark.parametrize("seed", range(20))
async def test_expired_entries_go_first_after_any_history(seed: int) -> None:
    """Whatever was overwritten and deleted before: as many new entries as there are expired ones evict
    nobody, and what is left has not expired."""
    ends, deleted = history(seed)
    clock = FakeClock(NOW)
    backend = MemoryBackend(capacity=200, clock=clock)
    for number, end in ends:
        await backend.set(key(number), entry(expires=NOW + end))
    for number in deleted:
        await backend.delete(key(number))
    live = {number for number, end in dict(ends).items() if number not in deleted and end > 50}
    new = range(200, 400 - len(live))
    clock.advance(50)
    for number in new:
        await backend.set(key(number), entry())
    assert await held(backend, range(400)) == live | set(new)
    assert backend.evictions == 0


async def test_an_expired_entry_stays_until_space_is_needed() -> None:
    """Judging freshness is the caller's: a stale answer may still be wanted."""
    clock = FakeClock(NOW)
    backend = MemoryBackend(capacity=3, clock=clock)
    await backend.set(key(1), entry(expires=NOW + 1))
    clock.advance(100)
    await backend.set(key(2), entry())
    assert await backend.get(key(1)) is not None


async def test_overwriting_renews_the_end_of_life() -> None:
    """An entry counts as expired by its last end, be it later or earlier than the one before."""
    clock = FakeClock(NOW)
    backend = MemoryBackend(capacity=3, clock=clock)
    for number, (first, second) in enumerate([(10, 100), (100, 10), (10, 100)]):
        await backend.set(key(number), entry(expires=NOW + first))
        await backend.set(key(number), entry(expires=NOW + second))
    clock.advance(50)
    await backend.set(key(3), entry())
    assert await held(backend, range(4)) == {0, 2, 3}
    assert backend.evictions == 0


async def test_an_expired_entry_is_not_dropped_under_the_one_that_replaces_it() -> None:
    """Replacing an expired entry by a larger one with the same end leaves one whole entry."""
    clock = FakeClock(NOW)
    old, new = entry(100, expires=NOW + 1), entry(1000, expires=NOW + 1)
    backend = MemoryBackend(max_bytes=await cost(new) + 50, clock=clock)
    await backend.set(key(1), old)
    clock.advance(5)
    await backend.set(key(1), new)
    assert await backend.get(key(1)) is new
    assert (await backend.size()).bytes == await cost(new)


async def test_epochs_outlive_everything_else() -> None:
    """No number of answers pushes out an epoch; only epochs do when there is nothing else."""
    backend = MemoryBackend(capacity=10)
    for number in range(9):
        await backend.set(key(number), entry(8, "epoch"))
    for number in range(100, 400):
        await backend.set(key(number), entry())
        await backend.get(key(number))
    assert await held(backend, range(9)) == set(range(9))
    for number in range(9, 20):
        await backend.set(key(number), entry(8, "epoch"))
    assert await held(backend, range(20)) == set(range(10, 20))
    for number in range(20, 25):
        await backend.set(key(number), entry(8, "epoch"))
    for number in range(100, 200):
        await backend.set(key(number), entry())
        await backend.get(key(number))
    assert await held(backend, range(100)) == set(range(16, 25))


async def test_an_entry_may_change_its_kind() -> None:
    """What was an epoch is evicted like an answer once it is one, and the other way round."""
    backend = MemoryBackend(capacity=2)
    await backend.set(key(1), entry(8, "epoch"))
    await backend.set(key(2), entry())
    await backend.set(key(1), entry())
    await backend.set(key(2), entry(8, "epoch"))
    for number in range(10, 15):
        await backend.set(key(number), entry())
    assert await held(backend, range(3)) == {2}


async def test_the_clock_is_asked_only_when_space_is_needed() -> None:
    """A hit, a miss and a write that fits cost no system call."""

    def broken() -> float:
        raise AssertionError("asked")

    backend = MemoryBackend(capacity=2, clock=broken)
    await backend.set(key(1), entry(expires=NOW))
    await backend.set(key(2), entry())
    await backend.set(key(2), entry())
    assert await backend.get(key(1)) is not None
    assert await backend.get(key(3)) is None
    with pytest.raises(AssertionError, match="asked"):
        await backend.set(key(3), entry())


# Closing


async def test_closing_frees_the_entries_and_refuses_all_but_closing() -> None:
    """After `aclose()` nothing is held, and every call but `aclose()` and `size()` raises BackendClosed."""
    value = entry(expires=NOW)
    alone = sys.getrefcount(value)
    backend = MemoryBackend()
    await backend.set(key(1), value)
    await backend.get(key(1))
    await backend.aclose()
    await backend.aclose()
    assert sys.getrefcount(value) == alone
    for call in (backend.get(key(1)), backend.set(key(1), value), backend.delete(key(1)), backend.ping()):
        with pytest.raises(BackendClosed, match="memory: "):
            await call
    assert (await backend.size()).bytes == 0


async def test_a_backend_that_is_let_go_is_freed_at_once(traced: Callable[[], int]) -> None:
    """No reference cycle keeps the entries until the garbage collector comes by."""
    backend = MemoryBackend()
    await backend.set(key(1), entry(5_000_000))
    gc.disable()
    try:
        del backend
        assert traced() < 1_000_000
    finally:
        gc.enable()


# Threads


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def hammer(backend: MemoryBackend, seed: int, start: Barrier) -> None:
    """One thread's work: entries say in their body which key they are of."""

    async def work() -> None:
        rng = random.Random(seed)
        start.wait()
        for turn in range(3000):
            number = rng.randrange(60)
            choice = rng.random()
            if choice < 0.6:
                found = await backend.get(key(number))
                assert found is None or found.body.startswith(b"%d " % number)
            elif choice < 0.9:
                body = b"%d " % number + bytes(rng.randrange(500))
                await backend.set(key(number), Entry(body, "completion", NOW, None, NOW + turn % 50))
            else:
                await backend.delete(key(number))

    asyncio.run(work())


@pytest.mark.usefixtures("impatient")
def test_threads_do_not_corrupt_it() -> None:
    """Reads, writes, evictions and deletes from many threads: each read is of its key, and afterwards
    both bounds hold and the sizes add up to what is there."""
    clock = FakeClock(NOW + 25)
    backend = MemoryBackend(capacity=30, max_bytes=30_000, clock=clock)
    start = Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(hammer, backend, seed, start) for seed in range(8)]:
            done.result()

    async def check() -> None:
        size = await backend.size()
        found = [await backend.get(key(number)) for number in range(60)]
        present = [value for value in found if value is not None]
        assert 0 < len(present) == size.entries <= 30
        assert sum([await cost(value) for value in present]) == size.bytes <= 30_000
        for number in range(60):
            await backend.delete(key(number))
        assert await backend.size() == await MemoryBackend().size()

    asyncio.run(check())


@pytest.mark.usefixtures("impatient")
def test_a_key_that_is_overwritten_is_never_missing() -> None:
    """Another thread reads the old entry or the new one, at capacity too."""
    backend = MemoryBackend(capacity=1)
    start = Barrier(2)

    async def write() -> None:
        start.wait()
        for number in range(5000):
            await backend.set(key(1), entry(number % 10))

    async def read() -> int:
        start.wait()
        return [await backend.get(key(1)) for _ in range(10_000)].count(None)

    asyncio.run(backend.set(key(1), entry()))
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: asyncio.run(write()))
        missing = pool.submit(lambda: asyncio.run(read()))
        writing.result()
        assert missing.result() == 0


async def test_a_read_does_not_wait_for_a_write() -> None:
    """While another thread is in the middle of a write, a hit and a miss answer at once."""
    writing, go_on = Event(), Event()

    def clock() -> float:
        writing.set()
        assert go_on.wait(10)
        return NOW

    backend = MemoryBackend(capacity=1, clock=clock)
    await backend.set(key(1), entry())
    with ThreadPoolExecutor(1) as pool:
        write = pool.submit(lambda: asyncio.run(backend.set(key(2), entry())))
        assert await asyncio.to_thread(writing.wait, 10)
        assert await backend.get(key(1)) is not None
        assert await backend.get(key(2)) is None
        go_on.set()
        write.result()
    assert await held(backend, range(3)) == {2}
