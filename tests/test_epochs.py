"""The laws of tags' numbers: what was invalidated is never served again, and nothing else is lost."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from math import inf

import pytest

from asynccache import epochs
from asynccache.backends.memory import MemoryBackend
from asynccache.epochs import Epochs
from asynccache.errors import BackendUnavailable, CorruptEntry
from asynccache.model import CacheKey, Directives, Entry
from asynccache.protocols import AsyncCacheBackend
from asynccache.testing import FakeClock, FaultyBackend

TAG = "tag"
KEY = CacheKey(sha256(b"asynccache/epoch\0tag").hexdigest())
MARK = CacheKey(sha256(b"asynccache/epoch\0mark of tag").hexdigest())


class Two:
    """Two processes on one backend, and the clock they share."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.backend = FaultyBackend(MemoryBackend())
        self.here = Epochs(self.backend, clock=self.clock)
        self.there = Epochs(self.backend, clock=self.clock)

    async def verdict(self, numbers: epochs.Numbers) -> str:
        """What `here` says of an entry with these numbers, as Lookup asks it."""
        now = self.clock()
        quick = self.here.judge(numbers, now)
        return await self.here.check(numbers, now) if quick is None else quick


async def test_a_bump_ends_what_was_before_and_nothing_after() -> None:
    """An entry with an older number is over at once where the tag was bumped; one with the new number lives."""
    two = Two()
    old = await two.here.read([TAG])
    assert await two.verdict(old) == ""
    await two.here.bump(TAG)
    assert await two.verdict(old) == "invalidated"
    assert await two.verdict(await two.here.read([TAG])) == ""


@pytest.mark.parametrize("step", [0.1, 0.3, 0.5, 0.7, 1.0])
async def test_another_process_hears_of_it_within_a_second(step: float) -> None:
    """However often the number is asked for, an invalidation by another process is heard of after one second."""
    two = Two()
    numbers = await two.here.read([TAG])
    await two.there.bump(TAG)
    at = two.clock()
    while two.clock() <= at + 1.0:
        await two.verdict(numbers)
        two.clock.advance(step)
    assert await two.verdict(numbers) == "invalidated"


async def test_the_second_holds_while_reads_hang_or_fail() -> None:
    """A number is not believed for longer than a second because reading it again takes long, or fails."""
    two = Two()
    numbers = await two.here.read([TAG])
    two.backend.hold("get")
    two.clock.advance(0.6)
    reading = asyncio.create_task(two.verdict(numbers))
    await two.backend.reached("get", 2)
    assert await two.verdict(numbers) == ""  # while one reads, the others go on
    two.clock.advance(0.5)
    assert two.here.judge(numbers, two.clock()) is None
    two.backend.release()
    assert await reading == ""
    two.backend.fail(BackendUnavailable("gone"), "get")
    two.clock.advance(1.1)
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await two.verdict(numbers)


async def test_one_caller_reads_for_all() -> None:
    """A number that many ask for is read once in each half second."""
    two = Two()
    numbers = await two.here.read([TAG])
    before = two.backend.calls("get")
    for _ in range(4):
        two.clock.advance(0.6)
        two.backend.hold("get")
        asked = [asyncio.create_task(two.verdict(numbers)) for _ in range(100)]
        await asyncio.sleep(0)
        two.backend.release("get")
        assert set(await asyncio.gather(*asked)) == {""}
    assert two.backend.calls("get") == before + 4


async def test_a_clock_that_is_set_back_does_not_prolong_belief() -> None:
    """After the clock was corrected backward by an hour, another process's invalidation is still heard of."""
    two = Two()
    numbers = await two.here.read([TAG])
    two.clock.advance(-3600)
    await two.there.bump(TAG)
    assert await two.verdict(numbers) == "invalidated"


async def test_concurrent_readers_of_a_new_tag_agree() -> None:
    """However many calls meet a tag that has no number, it gets one, and none of their answers is lost."""
    two = Two()
    two.backend.hold("get")
    readers = [asyncio.create_task(two.here.read([TAG])) for _ in range(20)]
    await two.backend.reached("get", 20)
    two.backend.release("get")
    assert len(set(await asyncio.gather(*readers))) == 1
    assert two.backend.calls("set") == 1


async def test_a_lost_number_never_brings_an_answer_back() -> None:
    """When the number of a tag was evicted, entries with the old one stay over, and so after it got a new one."""
    two = Two()
    numbers = await two.here.read([TAG])
    await two.here.bump(TAG)
    await two.backend.delete(KEY)
    two.clock.advance(2)
    assert await two.verdict(numbers) == "invalidated"
    assert await two.there.read([TAG]) != numbers
    two.clock.advance(2)
    assert await two.verdict(numbers) == "invalidated"


@pytest.mark.parametrize("body", [b"", b"-1", b"x", b'{"a": 1}', "\u00b2".encode(), b"0", b"9" * 5000, b"5 "])
async def test_a_broken_number_is_replaced(body: bytes) -> None:
    """What cannot be read as a number counts as none: it ends answers, and the next call gives a new one."""
    two = Two()
    numbers = await two.here.read([TAG])
    await two.backend.set(KEY, Entry(body, "epoch", 0.0))
    two.clock.advance(2)
    assert await two.verdict(numbers) == "invalidated"
    assert await two.verdict(await two.here.read([TAG])) == ""


async def test_a_corrupt_number_is_replaced() -> None:
    """A number whose entry is corrupt counts as none, so that it is written anew."""
    two = Two()
    two.backend.fail(CorruptEntry("torn"), "get")
    numbers = await two.here.read([TAG])
    two.backend.heal()
    two.clock.advance(2)
    assert await two.verdict(numbers) == ""


async def test_a_bump_that_fails_says_so_and_is_forgotten() -> None:
    """When the backend cannot write the number, `bump` raises, and what the backend has goes on to count."""
    two = Two()
    numbers = await two.here.read([TAG])
    two.backend.fail(BackendUnavailable("gone"), "set")
    with pytest.raises(BackendUnavailable):
        await two.here.bump(TAG)
    two.backend.heal()
    assert await two.verdict(numbers) == ""


async def test_a_read_that_was_overtaken_by_a_bump() -> None:
    """A number that was read before a bump and arrives after it is not taken for the current one."""
    two = Two()
    numbers = await two.here.read([TAG])
    two.clock.advance(2)
    inner = two.backend.backend
    old = await inner.get(KEY)

    class Slow(MemoryBackend):
        async def get(self, key: CacheKey, /) -> Entry | None:
            if key != KEY:
                return None
            arrived.set()
            await go.wait()
            return old

        async def set(self, key: CacheKey, entry: Entry, /) -> None:
            await inner.set(key, entry)

    arrived, go = asyncio.Event(), asyncio.Event()
    two.backend.backend = Slow()
    reading = asyncio.create_task(two.verdict(numbers))
    await arrived.wait()
    await two.here.bump(TAG)
    go.set()
    assert await reading == "invalidated"
    assert await two.verdict(numbers) == "invalidated"


async def test_numbers_differ_at_the_same_moment() -> None:
    """Bumps never repeat a number, however close together."""
    two = Two()
    assert len({await two.here.bump(TAG) for _ in range(1000)}) > 990
    first = await two.here.bump(TAG)
    assert await two.here.bump(TAG) != first


# -- soft purges ----------------------------------------------------------------------------------


async def test_a_soft_purge_ends_nothing_for_good() -> None:
    """What was before it is purged since then, in this process at once, and in others as they hear of it."""
    two = Two()
    old = await two.there.read([TAG])
    two.clock.advance(5)
    at = two.clock()
    await two.here.bump(TAG, soft=True)
    new = await two.here.read([TAG])
    assert (await two.verdict(old), await two.verdict(new), new == old) == ("purged", "", False)
    two.clock.advance(1.1)
    for process in (two.here, two.there):
        assert await process.check(old, two.clock()) == "purged"
        assert await process.ended(old, two.clock()) == pytest.approx(at, abs=0.001)
        assert await process.ended(new, two.clock()) == inf
    assert two.here.moved(old)


async def test_each_number_is_purged_since_its_own_purge() -> None:
    """Eight soft purges are remembered, each with its time; what is older is over."""
    two = Two()
    numbers, times = [await two.here.read([TAG])], []
    for _ in range(9):
        two.clock.advance(10)
        times.append(two.clock())
        await two.here.bump(TAG, soft=True)
        numbers.append(await two.here.read([TAG]))
    two.clock.advance(2)
    for process in (two.here, two.there):
        ends = [await process.ended(one, two.clock()) for one in numbers]
        assert ends == [-inf, *[pytest.approx(time, abs=0.001) for time in times[1:]], inf]


@pytest.mark.parametrize("by", ["here", "there"])
async def test_a_hard_bump_ends_what_was_purged(by: str) -> None:
    """After it nothing that was before it is served, stale or not, whoever invalidates; nor after another purge."""
    two = Two()
    old = await two.here.read([TAG])
    await two.here.bump(TAG, soft=True)
    later = await two.here.read([TAG])
    await getattr(two, by).bump(TAG)
    two.clock.advance(1.1)
    assert (await two.verdict(old), await two.verdict(later)) == ("invalidated", "invalidated")
    await two.here.bump(TAG, soft=True)
    assert (await two.verdict(old), await two.verdict(later)) == ("invalidated", "invalidated")


async def test_one_tag_is_enough() -> None:
    """Of several tags the first purge counts, and one that was invalidated ends it."""
    two = Two()
    numbers = await two.here.read(["a", "b", "c"])
    two.clock.advance(1)
    await two.here.bump("b", soft=True)
    at = two.clock()
    two.clock.advance(1)
    await two.here.bump("a", soft=True)
    assert await two.here.ended(numbers, two.clock()) == pytest.approx(at, abs=0.001)
    await two.here.bump("c")
    assert await two.verdict(numbers) == "invalidated"


class Bare:
    """A backend with nothing but what every backend has."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.backend = backend

    async def get(self, key: CacheKey, /) -> Entry | None:
        await self._wait()
        return await self.backend.get(key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await self._wait()
        await self.backend.set(key, entry)

    async def delete(self, key: CacheKey, /) -> bool:
        await self._wait()
        return await self.backend.delete(key)

    async def aclose(self) -> None:
        await self.backend.aclose()

    async def _wait(self) -> None:
        pass


class Held(Bare):
    """One whose operations wait until they are let through, one by one."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.waiting: list[asyncio.Event] = []
        self.arrived = asyncio.Event()

    async def through(self, place: int = 0) -> None:
        """Let one operation through, the oldest unless told otherwise, when it has come."""
        while len(self.waiting) <= place:
            self.arrived.clear()
            await self.arrived.wait()
        self.waiting.pop(place).set()
        for _ in range(5):
            await asyncio.sleep(0)

    async def _wait(self) -> None:
        go = asyncio.Event()
        self.waiting.append(go)
        self.arrived.set()
        await go.wait()


def memory(two: Two) -> MemoryBackend:
    backend = two.backend.backend
    assert isinstance(backend, MemoryBackend)
    return backend


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("places", [(i, j) for i in range(5) for j in range(i, 5)])
async def test_a_soft_purge_that_crosses_an_invalidation(places: tuple[int, int], known: bool) -> None:
    """Whatever the order of what two processes do, and whether the tag was purged before: when the invalidation has
    returned, the answer is over."""
    two = Two()
    old = await two.here.read([TAG])
    if known:
        await two.here.bump(TAG, soft=True)
    two.clock.advance(2)
    here, there = Held(memory(two)), Held(memory(two))
    soft = asyncio.create_task(Epochs(here, clock=two.clock).bump(TAG, soft=True))
    hard = asyncio.create_task(Epochs(there, clock=two.clock).bump(TAG))
    for step in range(5):
        for place in places:
            if place == step:
                await there.through()
        if not soft.done():
            await here.through()
    await asyncio.gather(soft, hard)
    two.clock.advance(2)
    assert await two.verdict(old) == "invalidated"


async def test_nobody_has_a_number_before_it_is_written() -> None:
    """A number whose writing has not ended is given to no answer: it may be written late, after another bump that
    ended that answer, and would bring it back."""
    two = Two()
    await two.here.read([TAG])
    two.backend.hold("set")
    bump = asyncio.create_task(two.here.bump(TAG))
    await two.backend.reached("set", 2)
    numbers = await two.here.read([TAG])
    assert two.here.moved(numbers)
    assert two.there.moved(numbers)  # which has heard of nothing
    two.backend.release("set")
    await bump
    assert two.here.moved(numbers)
    assert await two.verdict(numbers) == "invalidated"
    assert not two.here.moved(await two.here.read([TAG]))


async def test_what_is_being_invalidated_is_over_however_long_that_takes() -> None:
    """While a bump is being written its process reads nothing: that could be the number before, and come late."""
    two = Two()
    old = await two.here.read([TAG])
    two.backend.hold("set")
    bump = asyncio.create_task(two.here.bump(TAG))
    await two.backend.reached("set", 2)
    before = two.backend.calls("get")
    for _ in range(4):
        assert await two.verdict(old) == "invalidated"
        two.clock.advance(0.6)
    assert two.backend.calls("get") == before
    two.backend.release("set")
    await bump
    assert await two.verdict(old) == "invalidated"


async def test_two_bumps_of_one_process_that_cross() -> None:
    """Which came later only the backend knows: what another process made of the earlier is over."""
    for first in (0, 1):
        two = Two()
        await two.here.read([TAG])
        held = Held(memory(two))
        here = Epochs(held, clock=two.clock)
        bumps = [asyncio.create_task(here.bump(TAG)) for _ in range(2)]
        await asyncio.sleep(0)
        await held.through(first)
        between = await two.there.read([TAG])
        for _ in range(3):  # the other, and both marks
            await held.through()
        await asyncio.gather(*bumps)
        check = asyncio.create_task(here.check(between, two.clock()))
        await held.through()
        assert await check == "invalidated"


async def test_a_slow_read_does_not_hide_a_later_one() -> None:
    """One who asks while another's reading hangs believes what it has read itself, and not that older news."""
    two = Two()
    numbers = await two.here.read([TAG])
    held = Held(memory(two))
    here = Epochs(held, clock=two.clock)
    slow = asyncio.create_task(here.check(numbers, two.clock()))
    await asyncio.sleep(0)
    two.clock.advance(5)
    late = asyncio.create_task(here.check(numbers, two.clock()))
    await asyncio.sleep(0)
    await held.through()
    assert await slow == ""
    await two.there.bump(TAG)
    await held.through()
    assert await late == "invalidated"


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_clocks_that_disagree_prolong_no_stale_life(skew: float) -> None:
    """A purge by a process whose clock is ahead counts from when it is heard of, also when that is set back later."""
    two = Two()
    numbers = await two.here.read([TAG])
    ahead = FakeClock(two.clock() + skew)
    await Epochs(two.backend, clock=ahead).bump(TAG, soft=True)
    two.clock.advance(2)
    heard = await two.here.ended(numbers, two.clock())
    assert heard == pytest.approx(two.clock() - max(0, 2 - skew), abs=0.001)
    two.clock.advance(10)
    assert await two.here.ended(numbers, two.clock()) == heard
    two.clock.advance(-100)
    assert await two.here.ended(numbers, two.clock()) <= two.clock()


async def test_a_mark_that_is_lost_ends_what_was_purged() -> None:
    """When the mark was evicted, what was purged is over; and so after a new one was given."""
    two = Two()
    old = await two.here.read([TAG])
    await two.here.bump(TAG, soft=True)
    await two.backend.delete(MARK)
    two.clock.advance(2)
    assert await two.verdict(old) == "invalidated"
    await two.there.bump(TAG, soft=True)
    two.clock.advance(2)
    assert await two.verdict(old) == "invalidated"


async def test_a_purge_that_fails_says_so_and_is_forgotten() -> None:
    """When it cannot be read what is to be purged, or not be written, `bump` raises, and nothing is purged."""
    two = Two()
    numbers = await two.here.read([TAG])
    for verb in ("get", "set"):
        two.backend.fail(BackendUnavailable("gone"), verb)
        with pytest.raises(BackendUnavailable):
            await two.here.bump(TAG, soft=True)
        two.backend.heal()
        assert await two.verdict(numbers) == ""


# -- first numbers --------------------------------------------------------------------------------


class Adding(MemoryBackend):
    """A store that can write on a condition."""

    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        if await self.get(key) is not None:
            return False
        await self.set(key, entry)
        return True


async def race(backend: AsyncCacheBackend) -> tuple[epochs.Numbers, epochs.Numbers, Epochs]:
    """Two processes find that a tag has no number, and then both give it one."""
    clock = FakeClock()
    here, there = (Epochs(backend, clock=clock) for _ in range(2))
    assert not (await here._current(TAG, clock()))[0]
    assert not (await there._current(TAG, clock()))[0]
    first, second = await here.read([TAG]), await there.read([TAG])
    clock.advance(2)
    return first, second, here


async def test_two_processes_agree_on_a_new_tag() -> None:
    """Where the backend can add, both have the number that won; where it cannot, the later one stays."""
    first, second, here = await race(Adding())
    assert first == second
    assert await here.check(first, 1_700_000_002) == ""
    first, second, here = await race(Bare(MemoryBackend()))
    assert await here.check(first, 1_700_000_002) == "invalidated"
    assert await here.check(second, 1_700_000_002) == ""


async def test_an_invalidation_wins_over_a_first_number() -> None:
    """A process that was about to give a tag its first number has that of another's invalidation, which says so."""
    clock, backend = FakeClock(), Adding()
    here, there = (Epochs(backend, clock=clock) for _ in range(2))
    began = clock()
    assert not (await here._current(TAG, began))[0]
    clock.advance(0.1)
    await there.bump(TAG)
    assert epochs.invalidated_since(await here.read([TAG]), began)


async def test_what_cannot_be_read_is_no_number_to_add_to() -> None:
    """A broken number where one is to be added is overwritten: the tag is not lost for ever."""
    clock, backend = FakeClock(), Adding()
    here = Epochs(backend, clock=clock)
    await backend.set(KEY, Entry(b"x", "epoch", 0.0))
    numbers = await here.read([TAG])
    clock.advance(2)
    assert await here.check(numbers, clock()) == ""


async def test_who_gives_a_number_may_be_cancelled_or_fail() -> None:
    """Those who wait for it go on: when it was cancelled one of them gives it, when it failed all hear of that."""
    two = Two()
    two.backend.hold("set")
    readers = [asyncio.create_task(two.here.read([TAG])) for _ in range(5)]
    await two.backend.reached("set", 1)
    readers[0].cancel()
    await two.backend.reached("set", 2)
    two.backend.fail(BackendUnavailable("gone"), "set")
    two.backend.release("set")
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert {type(result) for result in results[1:]} == {BackendUnavailable}
    two.backend.heal()
    assert await two.verdict(await two.here.read([TAG])) == ""


async def test_who_is_invalidated_since() -> None:
    """The mark of an invalidation is told from a tag's first number."""
    two = Two()
    began = two.clock()
    two.clock.advance(1)
    assert not epochs.invalidated_since(await two.here.read([TAG]), began)
    await two.here.bump(TAG)
    assert epochs.invalidated_since(await two.here.read([TAG]), began)
    assert not epochs.invalidated_since(await two.here.read([TAG]), two.clock())


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tags there are, the process remembers a bounded number of them, and reads the others again."""
    monkeypatch.setattr(epochs, "_KNOWN", 10)
    two = Two()
    all_numbers = [await two.here.read([f"tag {i}"]) for i in range(100)]
    assert len(two.here._known) <= 10
    assert [await two.verdict(numbers) for numbers in all_numbers] == [""] * 100


def test_names_do_not_collide() -> None:
    """No namespace, tenant and tag stand for those of another call."""
    names = ["", "a", "b", "null", '"', "a,b", '["a"]', "None"]
    seen: dict[str, tuple[str, str | None, str | None]] = {}
    for namespace in names:
        for tenant in [None, *names[1:]]:
            for tag in [None, *names]:
                where = (namespace, tenant, tag)
                full = epochs.widest(Directives(namespace=namespace, tenant=tenant), tag)
                assert seen.setdefault(full, where) == where


def test_a_tenants_answers_are_reached_by_two_handles() -> None:
    """An answer of a tenant's carries the tags of its namespace and its own; one of no tenant's only the first."""
    one = Directives(namespace="n", tenant="t")
    everybody = Directives(namespace="n")
    assert epochs.scopes(one) == (epochs.widest(everybody, None), epochs.widest(one, None))
    assert epochs.scopes(everybody) == (epochs.widest(everybody, None),)
    assert epochs.tags(one, ["x"]) == (epochs.widest(everybody, "x"), epochs.widest(one, "x"))
