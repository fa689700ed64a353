from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asynccache.backends.disk import DiskBackend
from asynccache.errors import BackendClosed, BackendTimeout, BackendUnavailable
from asynccache.model import Entry
from asynccache.protocols import SupportsPing
from asynccache.testing import BackendContract, FakeClock, FaultyBackend
from asynccache.testing.contract import MakeBackend, key_of

KEY, ENTRY = key_of("a"), Entry(b"1", "completion", 1.0)


class TestContract(BackendContract):
    """With no fault set it keeps the law as well as the backend behind it."""

    durable = shared = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> MakeBackend:
        return lambda: FaultyBackend(DiskBackend(tmp_path))


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyBackend:
    return FaultyBackend(DiskBackend(tmp_path))


async def test_it_fails_what_it_was_told_to_until_it_is_healed(faulty: FaultyBackend) -> None:
    faulty.fail(BackendTimeout("slow"), "get", "ping")
    await faulty.set(KEY, ENTRY)
    with pytest.raises(BackendTimeout):
        await faulty.get(KEY)
    assert isinstance(faulty, SupportsPing)
    with pytest.raises(BackendTimeout):
        await faulty.ping()
    faulty.heal("get")
    assert await faulty.get(KEY) == ENTRY
    faulty.fail(BackendUnavailable("gone"))
    with pytest.raises(BackendUnavailable):
        await faulty.delete(KEY)
    faulty.heal()
    assert await faulty.delete(KEY)
    assert (faulty.calls("get"), faulty.calls("delete"), faulty.calls()) == (2, 2, 6)
    await faulty.aclose()
    with pytest.raises(BackendClosed):
        await faulty.get(KEY)


async def test_it_holds_calls_until_they_are_released(faulty: FaultyBackend) -> None:
    faulty.hold("set")
    writes = [asyncio.ensure_future(faulty.set(KEY, ENTRY)) for _ in range(3)]
    await faulty.reached("set", 3)
    assert await faulty.get(KEY) is None
    writes[0].cancel()
    faulty.release("set")
    await asyncio.wait(writes)
    assert [write.cancelled() for write in writes] == [True, False, False]
    assert await faulty.get(KEY) == ENTRY
    await faulty.aclose()


def test_a_fake_clock_stands_still_until_it_is_advanced() -> None:
    clock = FakeClock(100.0)
    assert (clock(), clock()) == (100.0, 100.0)
    clock.advance(1.5)
    assert clock() == 101.5
    clock.advance(-1.5)
    assert clock() == 100.0
