"""Writes behind the caller's back."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asynccache import BackendUnavailable, CacheKey, Entry
from asynccache.backends.memory import MemoryBackend
from asynccache.testing import FaultyBackend
from asynccache.write_behind import WriteBehind

KEYS = [CacheKey(f"{n:064x}") for n in range(6)]


def entry(text: str) -> Entry:
    return Entry(text.encode(), "completion", 1.0)


class Kit:
    """A write-behind over a backend that can be held, and what it reported."""

    def __init__(self, limit: int = 3) -> None:
        self.inner = FaultyBackend(MemoryBackend())
        self.failures: list[Exception] = []
        self.dropped = 0
        self.backend = WriteBehind(self.inner, limit=limit, failed=self.failures.append, dropped=self.drop)

    def drop(self) -> None:
        self.dropped += 1


@pytest.fixture
def kit() -> Kit:
    return Kit()


async def test_a_write_returns_before_it_is_done(kit: Kit) -> None:
    """The caller does not wait, and reads what it wrote."""
    kit.inner.hold("set")
    await kit.backend.set(KEYS[0], entry("a"))
    assert await kit.backend.get(KEYS[0]) == entry("a")
    await kit.inner.reached("set", 1)
    assert await kit.backend.get(KEYS[0]) == entry("a")
    kit.inner.release("set")
    await kit.backend.drain()
    assert await kit.inner.get(KEYS[0]) == entry("a")


async def test_the_oldest_is_dropped(kit: Kit) -> None:
    """A full queue drops what has waited longest, counts it, and keeps the rest."""
    kit.inner.hold("set")
    for n, key in enumerate(KEYS):
        await kit.backend.set(key, entry(str(n)))
    assert kit.dropped == 3
    kit.inner.release("set")
    await kit.backend.drain()
    assert [await kit.inner.get(key) is not None for key in KEYS] == [False] * 3 + [True] * 3


async def test_the_last_write_of_a_key_stays() -> None:
    """Writes of one key arrive in their order, however many are under way."""
    kit = Kit(limit=100)
    for n in range(50):
        await kit.backend.set(KEYS[0], entry(str(n)))
        await asyncio.sleep(0)
    await kit.backend.drain()
    assert await kit.inner.get(KEYS[0]) == entry("49")


async def test_delete_undoes_a_write_under_way(kit: Kit) -> None:
    """What was deleted does not come back when its write is done later."""
    kit.inner.hold("set")
    await kit.backend.set(KEYS[0], entry("a"))
    await kit.inner.reached("set", 1)
    deleting = asyncio.create_task(kit.backend.delete(KEYS[0]))
    await asyncio.sleep(0)
    kit.inner.release("set")
    assert await deleting
    await kit.backend.drain()
    assert await kit.backend.get(KEYS[0]) is None


async def test_a_failed_write_is_reported(kit: Kit) -> None:
    """An error reaches the counter, not the caller, and the next write goes on."""
    kit.inner.fail(BackendUnavailable("down"), "set")
    await kit.backend.set(KEYS[0], entry("a"))
    await kit.backend.drain()
    kit.inner.heal("set")
    await kit.backend.set(KEYS[1], entry("b"))
    await kit.backend.drain()
    assert len(kit.failures) == 1
    assert await kit.inner.get(KEYS[1]) == entry("b")


async def test_the_callers_cancellation_loses_nothing(kit: Kit) -> None:
    """A caller that is cancelled after its write was queued has written."""

    async def caller() -> None:
        await kit.backend.set(KEYS[0], entry("a"))
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await kit.backend.drain()
    assert await kit.inner.get(KEYS[0]) == entry("a")


def test_a_loop_that_ends_leaves_its_writes_to_the_next() -> None:
    """What one event loop queued and did not write is written when another drains."""
    kit = Kit()

    async def queue() -> None:
        kit.inner.hold("set")
        await kit.backend.set(KEYS[0], entry("a"))
        await kit.inner.reached("set", 1)

    async def drain() -> None:
        kit.inner.release("set")
        await kit.backend.drain()
        assert await kit.inner.get(KEYS[0]) == entry("a")

    asyncio.run(queue())
    asyncio.run(drain())


async def test_draining_leaves_no_task(kit: Kit) -> None:
    """After `drain` nothing is under way."""
    for key in KEYS[:3]:
        await kit.backend.set(key, entry("a"))
    await kit.backend.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_written_waits_for_this_entry_and_no_other(kit: Kit) -> None:
    """Until it is in the backend; at once when nothing is queued under the key, however much is under others."""
    await kit.backend.written(KEYS[0])
    kit.inner.hold("set")
    await kit.backend.set(KEYS[0], entry("a"))
    await kit.backend.written(KEYS[1])
    waiting = asyncio.create_task(kit.backend.written(KEYS[0]))
    await kit.inner.reached("set", 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    kit.inner.release("set")
    await waiting
    assert await kit.inner.get(KEYS[0]) == entry("a")


async def test_written_does_not_wait_for_what_comes_later() -> None:
    """A queue that is never empty keeps nobody."""
    kit = Kit(limit=100)

    async def go_on() -> None:
        for n in range(10_000):
            await kit.backend.set(KEYS[1 + n % 5], entry(str(n)))
            await asyncio.sleep(0)

    await kit.backend.set(KEYS[0], entry("a"))
    others = asyncio.create_task(go_on())
    await kit.backend.written(KEYS[0])
    assert await kit.inner.get(KEYS[0]) == entry("a")
    assert not others.done()
    others.cancel()
    await kit.backend.drain()


@pytest.mark.parametrize("end", ["fails", "is dropped", "is deleted", "is overwritten"])
async def test_written_waits_for_no_entry_that_is_not_to_come(kit: Kit, end: str) -> None:
    """One that is overwritten in the queue is waited for in its new form."""
    kit.inner.hold("set")
    if end == "fails":
        kit.inner.fail(BackendUnavailable("down"), "set")
    await kit.backend.set(KEYS[0], entry("a"))
    waiting = asyncio.create_task(kit.backend.written(KEYS[0]))
    if end == "is dropped":
        for key in KEYS[1:4]:
            await kit.backend.set(key, entry("b"))
    elif end == "is deleted":
        assert await kit.backend.delete(KEYS[0]) is True
    elif end == "is overwritten":
        await kit.backend.set(KEYS[0], entry("b"))
    if end not in ("is dropped", "is deleted"):
        kit.inner.release("set")
    await waiting
    expected = entry("b") if end == "is overwritten" else None
    assert await kit.inner.get(KEYS[0]) == expected
    kit.inner.release("set")
    await kit.backend.drain()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_who_waits_and_is_cancelled_leaves_the_write_alone(kit: Kit) -> None:
    kit.inner.hold("set")
    await kit.backend.set(KEYS[0], entry("a"))
    waits = [asyncio.create_task(kit.backend.written(KEYS[0])) for _ in range(2)]
    await kit.inner.reached("set", 1)
    waits[0].cancel()
    await asyncio.wait(waits[:1])
    kit.inner.release("set")
    await waits[1]
    assert await kit.inner.get(KEYS[0]) == entry("a")


def test_what_another_loop_writes_is_waited_for() -> None:
    """Written, deleted and drained on one event loop, while another, in a thread, is at it."""

    class Slow(MemoryBackend):
        async def set(self, key: CacheKey, entry: Entry, /) -> None:
            begun.set()
            await asyncio.to_thread(go_on.wait, 30)
            await super().set(key, entry)

    begun, go_on = threading.Event(), threading.Event()
    inner = Slow()
    behind = WriteBehind(inner, limit=10, failed=lambda _: None, dropped=lambda: None)

    async def write() -> None:
        await behind.set(KEYS[0], entry("a"))
        await behind.drain()

    async def wait() -> None:
        waiting = [asyncio.create_task(behind.written(KEYS[0])), asyncio.create_task(behind.delete(KEYS[0]))]
        await asyncio.sleep(0)
        go_on.set()
        await waiting[0]
        assert await waiting[1] is True
        assert await inner.get(KEYS[0]) is None

    writing = threading.Thread(target=lambda: asyncio.run(write()))
    writing.start()
    assert begun.wait(30)
    asyncio.run(wait())
    writing.join(30)
    assert not writing.is_alive()
