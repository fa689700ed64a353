"""The contract passes a backend that keeps the law, and fails each one that breaks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asynccache.errors import BackendClosed, BackendError
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Size
from asynccache.testing import BackendContract


class LawfulBackend:
    """Entries in a dict that is handed in."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self._closed = False

    async def get(self, key: CacheKey, /) -> Entry | None:
        await self._step()
        return self._entries.get(key.digest)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await self._step()
        self._entries[key.digest] = entry

    async def delete(self, key: CacheKey, /) -> bool:
        await self._step()
        return self._entries.pop(key.digest, None) is not None

    async def ping(self) -> None:
        await self._step()

    async def size(self) -> Size:
        await self._step()
        return Size(len(self._entries), sum(len(entry.body) for entry in self._entries.values()))

    async def aclose(self) -> None:
        self._closed = True

    async def _step(self) -> None:
        if self._closed:
            raise BackendClosed("used after aclose()")
        await asyncio.sleep(0)


class TestLawful(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self) -> Callable[[], LawfulBackend]:
        entries: dict[str, Entry] = {}
        return lambda: LawfulBackend(entries)


class RaisesOnMiss(LawfulBackend):
    async def get(self, key: CacheKey, /) -> Entry | None:
        await self._step()
        return self._entries[key.digest]


class DecodesBodies(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await super().set(key, replace(entry, body=entry.body.decode("utf-8", "replace").encode()))


class StripsBodies(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await super().set(key, replace(entry, body=entry.body.strip()))


class GivesBytearrays(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await super().set(key, replace(entry, body=bytearray(entry.body)))  # type: ignore[arg-type]


class ForgetsMeta(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await super().set(key, replace(entry, meta={}))


class RoundsTimes(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await super().set(key, replace(entry, fresh_until=entry.fresh_until and round(entry.fresh_until)))


class ShortensKeys(LawfulBackend):
    async def get(self, key: CacheKey, /) -> Entry | None:
        return await super().get(CacheKey(key.digest[:63]))

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await super().set(CacheKey(key.digest[:63]), entry)

    async def delete(self, key: CacheKey, /) -> bool:
        return await super().delete(CacheKey(key.digest[:63]))


class KeepsTheFirst(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        await self._step()
        self._entries.setdefault(key.digest, entry)


class KeepsTheFirstEnd(LawfulBackend):
    """As a store does whose own expiry is set once and outlives the entry it was meant for."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        super().__init__(entries)
        self._ends: dict[str, float | None] = {}

    async def get(self, key: CacheKey, /) -> Entry | None:
        end = self._ends.get(key.digest)
        return None if end is not None and end < time.time() else await super().get(key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        self._ends.setdefault(key.digest, entry.expires)
        await super().set(key, entry)


class HollowsTheExpired(LawfulBackend):
    async def get(self, key: CacheKey, /) -> Entry | None:
        entry = await super().get(key)
        expired = entry is not None and entry.expires is not None and entry.expires < time.time()
        return replace(entry, body=b"") if entry is not None and expired else entry


class DeletesBlindly(LawfulBackend):
    async def delete(self, key: CacheKey, /) -> bool:
        await super().delete(key)
        return True


class Mixes(LawfulBackend):
    """Keeps the request it is working on in a place that all tasks share."""

    async def get(self, key: CacheKey, /) -> Entry | None:
        self._key = key
        await self._step()
        return self._entries.get(self._key.digest)


class WritesInPieces(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        half = len(entry.body) // 2
        await super().set(key, replace(entry, body=entry.body[:half]))
        await super().set(key, entry)


class WritesAfterCancellation(LawfulBackend):
    """Hands the write to a task that a cancelled caller leaves behind."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        super().__init__(entries)
        self._writes: set[asyncio.Task[None]] = set()

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        task = asyncio.ensure_future(self._later(key, entry))
        self._writes.add(task)
        await asyncio.shield(task)

    async def _later(self, key: CacheKey, entry: Entry) -> None:
        for _ in range(len(entry.body) // 10_000):
            await asyncio.sleep(0)
        self._entries[key.digest] = entry

    async def aclose(self) -> None:
        await super().aclose()
        if self._writes:
            await asyncio.wait(self._writes)


class ReadsFromItsConstructor(LawfulBackend):
    def __init__(self, entries: dict[str, Entry]) -> None:
        super().__init__(entries)
        Path(__file__).read_bytes()


class Blocks(LawfulBackend):
    async def get(self, key: CacheKey, /) -> Entry | None:
        time.sleep(0)  # noqa: ASYNC251 that is the point
        return await super().get(key)


class ClosesOnce(LawfulBackend):
    async def aclose(self) -> None:
        if self._closed:
            raise BackendError("closed twice")
        await super().aclose()


class NeverCloses(LawfulBackend):
    async def aclose(self) -> None:
        pass


class LeavesATask(LawfulBackend):
    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        self._task = asyncio.ensure_future(asyncio.Event().wait())
        await super().set(key, entry)


class KeepsToItself(LawfulBackend):
    def __init__(self, entries: dict[str, Entry]) -> None:
        super().__init__(dict(entries))


class Miscounts(LawfulBackend):
    async def size(self) -> Size:
        return Size(7, 7)


async def broken_laws(kind: type[LawfulBackend]) -> set[str]:
    """The tests of the contract that this backend fails."""
    contract = BackendContract()
    contract.durable = contract.shared = True
    broken = set()
    for name in dir(contract):
        if name.startswith("test_"):
            entries: dict[str, Entry] = {}
            before = asyncio.all_tasks()
            try:
                await getattr(contract, name)(lambda entries=entries: kind(entries))
            except (AssertionError, KeyError, UnicodeError, BackendError):
                broken.add(name)
            for task in asyncio.all_tasks() - before:
                task.cancel()
    return broken


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (RaisesOnMiss, "test_a_miss_is_none"),
        (DecodesBodies, "test_any_body_comes_back_byte_for_byte"),
        (StripsBodies, "test_any_body_comes_back_byte_for_byte"),
        (GivesBytearrays, "test_any_body_comes_back_byte_for_byte"),
        (ForgetsMeta, "test_tags_and_meta_come_back"),
        (RoundsTimes, "test_all_times_come_back_exactly"),
        (ShortensKeys, "test_keys_are_told_apart"),
        (KeepsTheFirst, "test_the_last_entry_stays"),
        (KeepsTheFirstEnd, "test_a_later_end_takes_the_place_of_an_earlier_one"),
        (HollowsTheExpired, "test_an_expired_entry_comes_back_whole_or_not_at_all"),
        (DeletesBlindly, "test_delete_says_whether_there_was_one"),
        (Mixes, "test_many_tasks_each_get_their_own"),
        (WritesInPieces, "test_many_writers_of_one_key_leave_one_whole_entry"),
        (WritesInPieces, "test_a_cancelled_set_leaves_the_old_entry_or_the_new"),
        (WritesAfterCancellation, "test_a_cancelled_call_changes_nothing_later"),
        (ReadsFromItsConstructor, "test_the_constructor_does_no_io"),
        (Blocks, "test_nothing_blocks_the_event_loop"),
        (ClosesOnce, "test_closing_twice_is_fine"),
        (NeverCloses, "test_use_after_closing_is_refused"),
        (LeavesATask, "test_closing_leaves_no_task_behind"),
        (KeepsToItself, "test_two_handles_see_each_other"),
        (KeepsToItself, "test_entries_outlive_the_handle"),
        (Miscounts, "test_size_counts_entries_and_bytes"),
    ],
)
async def test_a_broken_backend_is_found_out(kind: type[LawfulBackend], law: str) -> None:
    assert law in await broken_laws(kind)


async def test_a_lawful_backend_breaks_no_law() -> None:
    assert await broken_laws(LawfulBackend) == set()
