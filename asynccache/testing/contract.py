"""The law of `AsyncCacheBackend`, `Leases` and `Changes` as tests. See `BackendContract`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from hashlib import sha256
from typing import Any, get_args

from asynccache.errors import BackendClosed, BackendError
from asynccache.model import CacheKey, Entry, Kind
from asynccache.protocols import (
    AsyncCacheBackend,
    Changes,
    Leases,
    SupportsAdd,
    SupportsChanges,
    SupportsLease,
    SupportsLeave,
    SupportsPing,
    SupportsSize,
)
from asynccache.testing.blocking import blocking_calls

MakeBackend = Callable[[], AsyncCacheBackend]

_TURNS = 24  # a call is cancelled after each number of loop turns up to this
_LARGE = 1024 * 1024
_PATIENCE = 30.0  # seconds to wait for what a store does of itself

_BODIES = {
    "empty": b"",
    "one NUL": b"\0",
    "only NULs": b"\0" * 4096,
    "line breaks": b"\r\n\n\r\n{}\n\n",
    "every byte": bytes(range(256)) * 5,
    "no UTF-8": b"\xff\xfe\x80",
    "1 MiB": b"0123456789abcdef" * (_LARGE // 16),
}
_META: dict[str, Any] = {
    "model": "gpt-4o-2024-08-06",
    "usage": {"prompt_tokens": 0, "completion_tokens": 2**53, "details": None},
    "duration": 0.1 + 0.2,
    "flags": [True, False, [], {}, ""],
    "naïve ☃ 𝄞": 'quote " backslash \\ NUL \0 line\nbreak',
}
_TAGS = (("doc:42", 0), ("", 1), ("ключ ☃ 𝄞", 2**63 - 1), ("a b\n\0:*?{}[]", 7), ("x", 2**31))


def key_of(text: str) -> CacheKey:
    """A key as real ones are: 64 hex digits. Equal texts, equal keys."""
    return CacheKey(sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def entry_of(body: bytes, *, kind: Kind = "completion", expires_in: float | None = 3600.0) -> Entry:
    """An entry made now, which ends in so many seconds; None: never."""
    now = time.time()
    return Entry(body, kind, now, expires=None if expires_in is None else now + expires_in)


class BackendContract:
    """What every backend must do. Subclass it, and give it a factory:

        class TestFooBackend(BackendContract):
            durable = shared = True

            @pytest.fixture
            def make_backend(self, tmp_path):
                return lambda: FooBackend(tmp_path)

    Each test calls the factory for as many handles as it needs, all within one test on the same
    store, and closes them. The factory does no more than construct. The store must have room for a
    few MiB, and need not be empty. Any runner that knows async tests will do: these are plain
    methods with plain asserts.

    durable: what was stored is there after all handles were closed and a new one was opened.
    shared:  two handles that are open at the same time see each other's entries.
    """

    durable = False
    shared = False

    # What is stored comes back.

    async def test_a_miss_is_none(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            assert await backend.get(key_of("never stored")) is None

    async def test_any_body_comes_back_byte_for_byte(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            for name, body in _BODIES.items():
                await _keeps(backend, key_of(name), entry_of(body), name)

    async def test_every_kind_comes_back(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            for kind in get_args(Kind):
                await _keeps(backend, key_of(kind), entry_of(b"1", kind=kind), kind)

    async def test_all_times_come_back_exactly(self, make_backend: MakeBackend) -> None:
        now = time.time()
        async with aclosing(make_backend()) as backend:
            for fresh_until in (None, now + 1 / 3, now - 1 / 3, 0.0):
                for expires in (None, now + 3600 + 1 / 3, 2.0**40):
                    entry = Entry(b"{}", "completion", now, fresh_until, expires)
                    await _keeps(backend, key_of("times"), entry, "times")

    async def test_tags_and_meta_come_back(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            for tags in ((), _TAGS):
                for meta in ({}, _META):
                    entry = Entry(b"{}", "stream", time.time(), tags=tags, meta=meta)
                    await _keeps(backend, key_of("facts"), entry, "tags and meta")

    async def test_keys_are_told_apart(self, make_backend: MakeBackend) -> None:
        keys = _odd_keys()
        async with aclosing(make_backend()) as backend:
            for number, key in enumerate(keys):
                await backend.set(key, entry_of(b"%d" % number))
            for number, key in enumerate(keys):
                assert await _body(backend, key) == b"%d" % number, f"{key.digest} has another key's entry"

    async def test_a_key_is_known_by_its_digest_alone(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            full = CacheKey(key_of("full").digest, lambda: (key_of("scope").digest, "a prompt"))
            await backend.set(full, entry_of(b"1"))
            assert await _body(backend, CacheKey(full.digest)) == b"1"
            assert await backend.delete(CacheKey(full.digest))
            assert await backend.get(CacheKey(full.digest)) is None

    # Overwriting, deleting, expiring.

    async def test_the_last_entry_stays(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            for body in (b"first", b"a longer second", b"", b"4"):
                await _keeps(backend, key_of("again"), entry_of(body), "overwritten")

    async def test_a_later_end_takes_the_place_of_an_earlier_one(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            for expires_in in (-10.0, 3600.0, -10.0, None):
                await backend.set(key_of("end"), entry_of(b"old", expires_in=-10.0))
                entry = entry_of(b"new", expires_in=expires_in)
                await backend.set(key_of("end"), entry)
                found = await backend.get(key_of("end"))
                assert found == entry or (found is None and expires_in == -10.0), f"ends in {expires_in} s"

    async def test_an_expired_entry_comes_back_whole_or_not_at_all(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            for expires in (0.0, time.time() - 1e6, time.time() - 0.001):
                entry = Entry(b"old", "completion", 1.0, 2.0, expires, _TAGS, _META)
                await backend.set(key_of("expired"), entry)
                assert await backend.get(key_of("expired")) in (None, entry)

    async def test_delete_says_whether_there_was_one(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            key, other = key_of("deleted"), key_of("kept")
            assert await backend.delete(key) is False
            await backend.set(key, entry_of(b"1"))
            await backend.set(other, entry_of(b"2"))
            assert await backend.delete(key) is True
            assert await backend.get(key) is None
            assert await backend.delete(key) is False
            assert await _body(backend, other) == b"2"
            await _keeps(backend, key, entry_of(b"3"), "stored again after a delete")

    # Several at once.

    async def test_many_tasks_each_get_their_own(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:

            async def one(number: int) -> None:
                key, body = key_of(f"task {number}"), b"%d" % number
                assert await backend.get(key) is None
                await backend.set(key, entry_of(body))
                assert await _body(backend, key) == body, "another task's entry"

            await asyncio.gather(*[one(number) for number in range(200)])

    async def test_many_writers_of_one_key_leave_one_whole_entry(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            key = key_of("contended")
            entries = [entry_of(b"%d" % number * (number * 100 + 1)) for number in range(50)]

            async def read() -> None:
                for _ in range(20):
                    assert await backend.get(key) in (None, *entries), "a mixture"

            await asyncio.gather(read(), *[backend.set(key, entry) for entry in entries], read())
            assert await backend.get(key) in entries

    async def test_two_handles_see_each_other(self, make_backend: MakeBackend) -> None:
        if not self.shared:
            return
        async with aclosing(make_backend()) as one, aclosing(make_backend()) as other:
            for writer, reader in ((one, other), (other, one)):
                await writer.set(key_of("shared"), entry_of(b"1"))
                assert await _body(reader, key_of("shared")) == b"1"
                await writer.set(key_of("shared"), entry_of(b"2"))
                assert await _body(reader, key_of("shared")) == b"2"
                assert await writer.delete(key_of("shared"))
                assert await reader.get(key_of("shared")) is None

    async def test_entries_outlive_the_handle(self, make_backend: MakeBackend) -> None:
        if not self.durable:
            return
        entries = {key_of(str(number)): entry_of(b"%d" % number) for number in range(20)}
        async with aclosing(make_backend()) as backend:
            for key, entry in entries.items():
                await backend.set(key, entry)
        async with aclosing(make_backend()) as backend:
            for key, entry in entries.items():
                assert await backend.get(key) == entry

    # Cancellation.

    async def test_a_cancelled_set_leaves_the_old_entry_or_the_new(self, make_backend: MakeBackend) -> None:
        old, new = entry_of(b"old" * 5000), entry_of(b"new" * 50_000)
        async with aclosing(make_backend()) as backend:
            for turns in range(_TURNS):
                key = key_of(f"set {turns}")
                await backend.set(key, old)
                await _cancelled(backend.set(key, new), turns)
                assert await backend.get(key) in (old, new), f"cancelled after {turns} turns"

    async def test_a_cancelled_call_changes_nothing_later(self, make_backend: MakeBackend) -> None:
        """What the caller does after it was cancelled stays done."""
        late, last = entry_of(b"late" * 50_000), entry_of(b"last")
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(aclosing(make_backend()))
            for turns in range(_TURNS):
                await _cancelled(backend.set(key_of(f"set {turns}"), late), turns)
                await backend.set(key_of(f"set {turns}"), last)
                await _cancelled(backend.set(key_of(f"gone {turns}"), late), turns)
                await backend.delete(key_of(f"gone {turns}"))
                await backend.set(key_of(f"delete {turns}"), late)
                await _cancelled(backend.delete(key_of(f"delete {turns}")), turns)
                await backend.set(key_of(f"delete {turns}"), last)
            if self.durable:
                # Whatever is still under way has ended when this returns.
                await backend.aclose()
                backend = await stack.enter_async_context(aclosing(make_backend()))
            for turns in range(_TURNS):
                assert await backend.get(key_of(f"set {turns}")) == last, "a cancelled set came later"
                assert await backend.get(key_of(f"gone {turns}")) is None, "a cancelled set undid a delete"
                assert await backend.get(key_of(f"delete {turns}")) == last, "a cancelled delete came later"

    async def test_a_cancelled_get_harms_nobody_else(self, make_backend: MakeBackend) -> None:
        key, entry = key_of("read"), entry_of(b"1")
        async with aclosing(make_backend()) as backend:
            await backend.set(key, entry)
            for turns in range(_TURNS):
                others = [asyncio.ensure_future(backend.get(key)) for _ in range(3)]
                await _cancelled(backend.get(key), turns)
                assert await asyncio.gather(*others) == [entry] * 3

    # From the constructor to the end.

    async def test_the_constructor_does_no_io(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()):
            pass  # modules that are loaded late are loaded now
        with blocking_calls() as calls:
            backend = make_backend()
        await backend.aclose()
        assert not calls, f"the constructor did {calls}"

    async def test_nothing_blocks_the_event_loop(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            await _exercise(backend)  # connections are made and modules loaded: what follows is the rule
            with blocking_calls() as calls:
                await _exercise(backend)
                await backend.aclose()
        assert not calls, f"on the event loop's thread: {calls}"

    async def test_closing_twice_is_fine(self, make_backend: MakeBackend) -> None:
        backend = make_backend()
        await backend.set(key_of("a"), entry_of(b"1"))
        await backend.aclose()
        await backend.aclose()
        await asyncio.gather(backend.aclose(), backend.aclose())

    async def test_closing_before_any_use_is_fine(self, make_backend: MakeBackend) -> None:
        await make_backend().aclose()

    async def test_use_after_closing_is_refused(self, make_backend: MakeBackend) -> None:
        backend = make_backend()
        await backend.set(key_of("a"), entry_of(b"1"))
        await backend.aclose()
        await _refused(backend.get(key_of("a")))
        await _refused(backend.set(key_of("a"), entry_of(b"2")))
        await _refused(backend.delete(key_of("a")))
        if isinstance(backend, SupportsPing):
            await _refused(backend.ping())

    async def test_closing_leaves_no_task_behind(self, make_backend: MakeBackend) -> None:
        before = asyncio.all_tasks()
        async with aclosing(make_backend()) as backend:
            await _exercise(backend)
        left = asyncio.all_tasks() - before
        assert not left, f"still running: {left}"

    async def test_closing_lets_calls_under_way_end(self, make_backend: MakeBackend) -> None:
        """They work or raise BackendError. None hangs, and none starts anything after the end."""
        before = asyncio.all_tasks()
        backend = make_backend()
        keys = [key_of(str(number)) for number in range(20)]
        calls: list[asyncio.Future[Any]] = [asyncio.ensure_future(backend.set(key, entry_of(b"1"))) for key in keys]
        calls += [asyncio.ensure_future(backend.get(key)) for key in keys]
        await asyncio.sleep(0)
        await backend.aclose()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, BackendError), repr(outcome)
        left = asyncio.all_tasks() - before
        assert not left, f"still running: {left}"

    # What only some can do.

    async def test_ping_returns_when_all_is_well(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            if isinstance(backend, SupportsPing):
                await backend.ping()

    async def test_size_counts_entries_and_bytes(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            if not isinstance(backend, SupportsSize):
                return
            before = await backend.size()
            for number in range(3):
                await backend.set(key_of(f"sized {number}"), entry_of(b"%d" % number * 1000))
            await backend.set(key_of("sized 0"), entry_of(b"0" * 1000))
            full = await backend.size()
            assert full.entries == before.entries + 3
            assert full.bytes > before.bytes
            for number in range(3):
                await backend.delete(key_of(f"sized {number}"))
            assert await backend.size() == before

    async def test_of_all_who_add_one_does(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as one, aclosing(make_backend()) as other:
            if not isinstance(one, SupportsAdd):
                return
            assert isinstance(other, SupportsAdd)
            entries = [entry_of(b"%d" % number) for number in range(40)]
            handles = [one, other if self.shared else one] * 20
            added = await asyncio.gather(
                *[handle.add(key_of("added"), entry) for handle, entry in zip(handles, entries, strict=True)]
            )
            assert added.count(True) == 1, f"{added.count(True)} have added"
            assert await one.get(key_of("added")) == entries[added.index(True)], "another's than who was told so"

    async def test_add_keeps_what_is_there(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            if not isinstance(backend, SupportsAdd):
                return
            key, first, second = key_of("kept"), entry_of(b"1"), entry_of(b"2", expires_in=None)
            assert await backend.add(key, first) is True
            assert await backend.add(key, second) is False
            assert await backend.get(key) == first
            assert await backend.delete(key)
            assert await backend.add(key, second) is True
            assert await backend.get(key) == second
            await backend.set(key, first)
            assert await backend.add(key, second) is False
            assert await backend.get(key) == first

    async def test_add_in_the_place_of_an_expired_entry_is_whole(self, make_backend: MakeBackend) -> None:
        """A store that knows of the end takes such an entry for none."""
        async with aclosing(make_backend()) as backend:
            if not isinstance(backend, SupportsAdd):
                return
            old, new = entry_of(b"old", expires_in=-10.0), entry_of(b"new")
            await backend.set(key_of("over"), old)
            if await backend.add(key_of("over"), new):
                assert await backend.get(key_of("over")) == new
            else:
                assert await backend.get(key_of("over")) == old

    async def test_leave_ends_nothing_but_connections(self, make_backend: MakeBackend) -> None:
        before = asyncio.all_tasks()
        async with aclosing(make_backend()) as backend:
            if not isinstance(backend, SupportsLeave):
                return
            await backend.leave()
            await _exercise(backend)
            await backend.set(key_of("left"), entry_of(b"1"))
            await backend.leave()
            await backend.leave()
            if left := asyncio.all_tasks() - before:  # what only tidies up may end by itself
                _, left = await asyncio.wait(left, timeout=_PATIENCE)
            assert not left, f"still running: {left}"
            assert await _body(backend, key_of("left")) == b"1"


class LeaseContract:
    """The law of `Leases`, for a backend that `SupportsLease`. Subclass it, give it `make_backend` as for
    `BackendContract`, and choose leases that hold for a second or less: one test waits for the end of three.

    Nothing but that test asks for any time, and no time is too long.
    """

    async def test_one_has_it_until_it_is_released(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as (one, other):
            assert one.seconds > 0
            assert await one.acquire(key_of("k"), "a") is True
            assert await other.acquire(key_of("k"), "b") is False
            assert await one.acquire(key_of("k"), "c") is False, "another caller in the same process"
            assert await other.acquire(key_of("another"), "d") is True
            await one.release(key_of("k"), "a", True)
            assert await other.acquire(key_of("k"), "b") is True
            assert await one.acquire(key_of("k"), "e") is False

    async def test_of_all_who_ask_one_gets_it(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as both:
            for _ in range(5):
                asked = await asyncio.gather(
                    *[both[number % 2].acquire(key_of("k"), str(number)) for number in range(40)]
                )
                assert asked.count(True) == 1, f"{asked.count(True)} have it"
                await both[0].release(key_of("k"), str(asked.index(True)), False)

    async def test_only_its_holder_renews_and_ends_it(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as (one, other):
            assert await one.renew(key_of("k"), "a") is False, "nobody had it"
            assert await one.acquire(key_of("k"), "a")
            assert await one.renew(key_of("k"), "a") is True
            assert await other.renew(key_of("k"), "b") is False
            await other.release(key_of("k"), "b", True)
            assert await other.acquire(key_of("k"), "b") is False, "ended by one who did not have it"
            await one.release(key_of("k"), "a", False)
            assert await one.renew(key_of("k"), "a") is False, "renewed after its end"
            await one.release(key_of("k"), "a", False)
            assert await other.acquire(key_of("k"), "b") is True

    async def test_it_ends_by_itself_unless_it_is_renewed(self, make_backend: MakeBackend) -> None:
        now = asyncio.get_running_loop().time
        async with _two_leases(make_backend) as (one, other):
            nearly = one.seconds * 0.9
            asked = now()
            assert await one.acquire(key_of("k"), "a")
            async with asyncio.timeout(_PATIENCE):
                while not await other.acquire(key_of("k"), "b"):  # noqa: ASYNC110 (a store gives no event of that)
                    await asyncio.sleep(one.seconds / 20)
            assert now() - asked > nearly, "ended too early"
            assert await one.renew(key_of("k"), "a") is False, "two have it"
            end = now() + one.seconds * 1.5
            while now() < end:
                renewed = now()
                if not await other.renew(key_of("k"), "b"):
                    break  # this machine stands still for longer than the lease holds
                await asyncio.sleep(one.seconds / 10)
                taken = await one.acquire(key_of("k"), "c")
                assert not taken or now() - renewed > nearly, "ended although it was renewed"

    async def test_a_lease_is_no_entry(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            leases = _leases(backend)
            assert await leases.acquire(key_of("k"), "a")
            assert await backend.get(key_of("k")) is None
            await backend.set(key_of("k"), entry_of(b"1"))
            assert await backend.delete(key_of("k"))
            assert await backend.delete(key_of("k")) is False
            assert await leases.acquire(key_of("k"), "b") is False, "ended with the entry"
            await backend.set(key_of("k"), entry_of(b"2"))
            await leases.release(key_of("k"), "a", True)
            assert await _body(backend, key_of("k")) == b"2"

    async def test_all_who_wait_hear_of_the_release(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as both:
            for stored, released in ((True, "stored"), (False, "nothing")):
                assert await both[0].acquire(key_of("k"), "a")
                async with AsyncExitStack() as stack:
                    watches = [leases.watch(key_of("k")) for leases in (*both, *both)]
                    waits = [await stack.enter_async_context(watch) for watch in watches]
                    waiting = [asyncio.ensure_future(wait(_PATIENCE)) for wait in waits]
                    await both[0].release(key_of("k"), "a", stored)
                    assert await asyncio.gather(*waiting) == [released] * 4

    async def test_no_release_in_the_block_is_missed(self, make_backend: MakeBackend) -> None:
        """Also one that comes before anybody waits."""
        async with _two_leases(make_backend) as (one, other):
            assert await one.acquire(key_of("k"), "a")
            async with other.watch(key_of("k")) as wait:
                await one.release(key_of("k"), "a", True)
                assert await other.acquire(key_of("k"), "b")
                assert await wait(_PATIENCE) == "stored"

    async def test_nothing_else_wakes_who_waits(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as (one, other):
            assert await one.acquire(key_of("k"), "a")
            assert await one.acquire(key_of("another"), "a")
            async with other.watch(key_of("k")) as wait:
                await one.release(key_of("another"), "a", True)
                await one.release(key_of("k"), "b", False)
                assert await one.renew(key_of("k"), "a")
                assert await wait(0.05) == "lapsed"
                assert await wait(0.0) == "lapsed"
                await one.release(key_of("k"), "a", True)
                assert await wait(_PATIENCE) == "stored"

    async def test_one_may_wait_again(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as (one, other), other.watch(key_of("k")) as wait:
            for token, stored, released in (("a", False, "nothing"), ("b", True, "stored")):
                assert await one.acquire(key_of("k"), token)
                await one.release(key_of("k"), token, stored)
                assert await wait(_PATIENCE) == released

    async def test_a_cancelled_wait_harms_nobody_else(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as (one, other):
            for turns in range(_TURNS):
                key = key_of(f"wait {turns}")
                assert await one.acquire(key, "a")
                async with other.watch(key) as wait:
                    await _cancelled(_wait_for(other, key), turns)
                    await one.release(key, "a", True)
                    assert await wait(_PATIENCE) == "stored"

    async def test_a_cancelled_acquire_can_be_taken_back(self, make_backend: MakeBackend) -> None:
        async with _two_leases(make_backend) as (one, other):
            for turns in range(_TURNS):
                key = key_of(f"acquire {turns}")
                await _cancelled(one.acquire(key, "a"), turns)
                await one.release(key, "a", False)
                async with asyncio.timeout(_PATIENCE):
                    assert await other.acquire(key, "b") is True, f"cancelled after {turns} turns"

    async def test_closing_lets_those_who_wait_go_on(self, make_backend: MakeBackend) -> None:
        before = asyncio.all_tasks()
        backend = make_backend()
        async with _two_leases(make_backend) as (_, other):
            assert await other.acquire(key_of("k"), "a")
            async with _leases(backend).watch(key_of("k")) as wait:
                waiting = asyncio.ensure_future(wait(_PATIENCE))
                await asyncio.sleep(0)
                await backend.aclose()
                async with asyncio.timeout(_PATIENCE / 2):
                    assert await waiting == "lapsed"
            try:
                await _leases(backend).acquire(key_of("k"), "b")
            except BackendError:
                pass
            else:
                raise AssertionError("a lease of a closed backend")
        left = asyncio.all_tasks() - before
        assert not left, f"still running: {left}"


class ChangesContract:
    """The law of `Changes`, for a backend that `SupportsChanges`; as `LeaseContract`."""

    async def test_it_says_when_the_news_begins_to_come(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as backend:
            news = _News()
            async with _changes(backend).listen(news.told):
                assert await news.next() is None

    async def test_what_others_overwrite_and_delete_is_told(self, make_backend: MakeBackend) -> None:
        async with aclosing(make_backend()) as one, aclosing(make_backend()) as other:
            key = key_of("k")
            await other.set(key, entry_of(b"1"))
            news = _News()
            async with _changes(one).listen(news.told):
                assert await news.next() is None
                for number in range(3):
                    overwriting = asyncio.ensure_future(other.set(key, entry_of(b"%d" % number)))
                    assert await news.next() == key.digest, "overwritten"
                    assert await _body(one, key) == b"%d" % number, "told before it can be read"
                    await overwriting
                deleting = asyncio.ensure_future(other.delete(key))
                assert await news.next() == key.digest, "deleted"
                assert await one.get(key) is None, "told before it can be read"
                assert await deleting

    async def test_all_of_many_changes_are_told(self, make_backend: MakeBackend) -> None:
        """A `None` stands for any number of them."""
        keys = [key_of(str(number)) for number in range(300)]
        async with aclosing(make_backend()) as one, aclosing(make_backend()) as other:
            await asyncio.gather(*[other.set(key, entry_of(b"1")) for key in keys])
            news = _News()
            async with _changes(one).listen(news.told):
                assert await news.next() is None
                await asyncio.gather(*[other.set(key, entry_of(b"2" * 1000)) for key in keys])
                missing = {key.digest for key in keys}
                while missing:
                    digest = await news.next()
                    missing = set() if digest is None else missing - {digest}

    async def test_every_listener_is_told(self, make_backend: MakeBackend) -> None:
        async with AsyncExitStack() as stack:
            one, two, other = [await stack.enter_async_context(aclosing(make_backend())) for _ in range(3)]
            await other.set(key_of("k"), entry_of(b"1"))
            listeners = [_News() for _ in range(3)]
            for backend, news in zip((one, one, two), listeners, strict=True):
                await stack.enter_async_context(_changes(backend).listen(news.told))
                assert await news.next() is None
            await other.set(key_of("k"), entry_of(b"2"))
            for news in listeners:
                assert await news.next() == key_of("k").digest

    async def test_who_has_left_is_told_nothing(self, make_backend: MakeBackend) -> None:
        before = asyncio.all_tasks()
        async with aclosing(make_backend()) as one, aclosing(make_backend()) as other:
            await other.set(key_of("k"), entry_of(b"1"))
            gone, staying = _News(), _News()
            async with _changes(one).listen(staying.told):
                assert await staying.next() is None
                async with _changes(one).listen(gone.told):
                    assert await gone.next() is None
                await other.set(key_of("k"), entry_of(b"2"))
                assert await staying.next() == key_of("k").digest
            assert gone.empty
        left = asyncio.all_tasks() - before
        assert not left, f"still running: {left}"

    async def test_a_listener_may_be_cancelled_at_any_time(self, make_backend: MakeBackend) -> None:
        before = asyncio.all_tasks()
        async with aclosing(make_backend()) as one, aclosing(make_backend()) as other:
            await other.set(key_of("k"), entry_of(b"1"))
            for turns in range(_TURNS):
                await _cancelled(_listen(one, _News()), turns)
            news = _News()
            async with _changes(one).listen(news.told):
                assert await news.next() is None
                await other.set(key_of("k"), entry_of(b"2"))
                assert await news.next() == key_of("k").digest
        left = asyncio.all_tasks() - before
        assert not left, f"still running: {left}"

    async def test_closing_ends_the_news_quietly(self, make_backend: MakeBackend) -> None:
        backend = make_backend()
        news = _News()
        async with _changes(backend).listen(news.told):
            assert await news.next() is None
            await backend.aclose()


class _News:
    """What was told, in its order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def told(self, digest: str | None) -> None:
        self._queue.put_nowait(digest)

    @property
    def empty(self) -> bool:
        return self._queue.empty()

    async def next(self) -> str | None:
        async with asyncio.timeout(_PATIENCE):
            return await self._queue.get()


async def _listen(backend: AsyncCacheBackend, news: _News) -> None:
    async with _changes(backend).listen(news.told):
        await asyncio.get_running_loop().create_future()


async def _wait_for(leases: Leases, key: CacheKey) -> None:
    async with leases.watch(key) as wait:
        await wait(_PATIENCE)


def _changes(backend: AsyncCacheBackend) -> Changes:
    assert isinstance(backend, SupportsChanges)
    assert backend.changes is not None
    return backend.changes


def _leases(backend: AsyncCacheBackend) -> Leases:
    assert isinstance(backend, SupportsLease)
    assert backend.leases is not None
    return backend.leases


@asynccontextmanager
async def _two_leases(make_backend: MakeBackend) -> AsyncIterator[tuple[Leases, Leases]]:
    """Those of two handles on the same store, as of two processes."""
    async with aclosing(make_backend()) as one, aclosing(make_backend()) as other:
        yield _leases(one), _leases(other)


def _odd_keys() -> list[CacheKey]:
    near = [key_of("near").digest[:-1] + digit for digit in "0123456789abcdef"]
    front = [digit + key_of("near").digest[1:] for digit in "0123456789abcdef"]
    texts = ["", "\0", "a", "A", "a ", "a\n", "../../etc/passwd", "a/b", "*", "{a}", "ключ", "é", "e\u0301", "𝄞"]
    digests = {"0" * 64, "f" * 64, "0" * 63 + "1", *near, *front, *(key_of(text).digest for text in texts)}
    return [CacheKey(digest) for digest in sorted(digests)]


async def _keeps(backend: AsyncCacheBackend, key: CacheKey, entry: Entry, what: str) -> None:
    await backend.set(key, entry)
    found = await backend.get(key)
    assert found is not None, f"{what}: stored, then gone"
    for field in Entry.__slots__:
        before, after = getattr(entry, field), getattr(found, field)
        assert before == after, f"{what}: {field} was {before!r:.200} and came back as {after!r:.200}"
    assert type(found.body) is bytes, f"{what}: the body came back as {type(found.body).__name__}"


async def _body(backend: AsyncCacheBackend, key: CacheKey) -> bytes | None:
    entry = await backend.get(key)
    return None if entry is None else entry.body


async def _cancelled(call: Awaitable[Any], turns: int) -> None:
    """Start the call, cancel it after so many turns of the loop, and wait for its end."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


async def _refused(call: Awaitable[Any]) -> None:
    try:
        await call
    except BackendClosed:
        return
    raise AssertionError("used after aclose(), and BackendClosed was not raised")


async def _exercise(backend: AsyncCacheBackend) -> None:
    """All that a backend can do, once."""
    key = key_of("exercise")
    await backend.get(key)
    await backend.set(key, entry_of(b"1" * 100_000))
    await backend.get(key)
    await asyncio.gather(*[backend.get(key) for _ in range(10)])
    await backend.delete(key)
    if isinstance(backend, SupportsPing):
        await backend.ping()
    if isinstance(backend, SupportsSize):
        await backend.size()
