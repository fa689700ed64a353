"""The laws of tags' numbers: what was invalidated is never served again, and nothing else is lost."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest

from asynccache import epochs
from asynccache.backends.memory import MemoryBackend
from asynccache.epochs import Epochs
from asynccache.errors import BackendUnavailable, CorruptEntry
from asynccache.model import CacheKey, Directives, Entry
from asynccache.testing import FakeClock, FaultyBackend

TAG = "tag"
KEY = CacheKey(sha256(b"asynccache/epoch\0tag").hexdigest())


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


@pytest.mark.parametrize("body", [b"", b"-1", b"x", b'{"a": 1}', "\u00b2".encode()])
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
