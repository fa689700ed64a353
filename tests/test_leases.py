"""One upstream call per key, however many processes; and no process that waits for nothing."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from asynccache import AsyncCacheError, BackendClosed, BackendTimeout, BackendUnavailable, Cache, CacheKey, status
from asynccache.backends.dual import DualBackend
from asynccache.backends.memory import MemoryBackend
from asynccache.guard import Guard
from asynccache.leases import Leadership
from asynccache.protocols import Leases, Stage
from asynccache.stages.coalesce import Coalesce, OnAbandon
from asynccache.stats import Stats
from asynccache.testing import FakeClock, FakeUpstream, SharedStore
from asynccache.testing.shared import SharedBackend
from asynccache.testing.turnstile import Turnstile
from tests.stages.test_flights import Flights
from tests.virtual_time import here, in_virtual_time

pytestmark = pytest.mark.usefixtures("small_heap")

ASK: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


async def turns(count: int = 40) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def words(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


class Processes(AsyncExitStack):
    """Caches that stand for processes over one store, and one upstream that counts the calls of all of them. At the
    end no task, lease or waiter is left."""

    def __init__(
        self, count: int = 3, *, backend: Callable[[SharedStore], Any] = SharedStore.backend, **options: Any
    ) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = SharedStore(clock=options.pop("lease_clock", self.clock))
        self.upstream = FakeUpstream(options.pop("answer", None))
        options = {"clock": self.clock, **options}
        self.backends = [backend(self.store) for _ in range(count)]
        self.caches = [Cache(backend, **options) for backend in self.backends]
        self.calls = [cache.wrap(self.upstream, name="f") for cache in self.caches]
        self.key = CacheKey(self.caches[0].get_cache_key(self.calls[0], **ASK))

    async def __aenter__(self) -> Processes:
        for backend in self.backends:
            await self.enter_async_context(aclosing(backend))
        for cache in self.caches:
            await self.enter_async_context(cache)
        return self

    async def __aexit__(self, *error: Any) -> bool:
        self.upstream.release()
        suppressed = await super().__aexit__(*error)
        if error[0] is None:
            assert not others()
            assert not self.store.waits
            assert self.store.holder(self.key) in (None, "dead")
        return bool(suppressed)

    def ask(self, process: int, **more: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.calls[process](**ASK, **more))

    def stream(self, process: int, **more: Any) -> asyncio.Task[list[Any]]:
        async def read() -> list[Any]:
            return await words(await self.calls[process](**ASK, stream=True, **more))

        return asyncio.create_task(read())

    def sum(self, counter: str) -> int:
        return sum(getattr(cache.stats, counter) for cache in self.caches)


# One call for all.


@pytest.mark.parametrize("count", [2, 3, 4])
async def test_one_upstream_call_for_all_processes(count: int) -> None:
    """However many callers each has. Each answer is its caller's own, and says that it was shared."""
    async with Processes(count) as processes:
        processes.upstream.hold()
        callers = [processes.ask(process) for process in range(count) for _ in range(200)]
        await turns()
        processes.upstream.release()
        answers = await asyncio.gather(*callers)
        assert processes.upstream.calls == 1
        assert all(answer == answers[0] for answer in answers)
        assert len({id(answer) for answer in answers}) == 200 * count
        outcomes = [status(answer).outcome for answer in answers]
        assert sorted(outcomes) == ["coalesced"] * (200 * count - 1) + ["miss"]
        assert (processes.sum("coalesced"), processes.sum("misses")) == (200 * count - 1, 1)
        assert (processes.sum("lease_waits"), processes.sum("lease_errors")) == (count - 1, 0)
        assert status(await processes.calls[-1](**ASK)).outcome == "hit"


@pytest.mark.parametrize("count", [2, 4])
async def test_one_upstream_stream_for_all_processes(count: int) -> None:
    """In the process that calls they follow it live; elsewhere they get the recording."""
    async with Processes(count) as processes:
        processes.upstream.hold()
        readers = [processes.stream(process) for process in range(count) for _ in range(50)]
        await turns()
        processes.upstream.release()
        streams = await asyncio.gather(*readers)
        assert processes.upstream.calls == 1
        assert all(stream == streams[0] for stream in streams)
        assert (processes.sum("coalesced"), processes.sum("misses")) == (50 * count - 1, 1)


async def test_a_stream_and_a_whole_answer_are_one_call() -> None:
    """Also in the same process, where they cannot share a flight."""
    async with Processes(2) as processes:
        processes.upstream.hold()
        first = processes.stream(0)
        await processes.upstream.reached(1)
        rest = [processes.ask(0), processes.ask(1), processes.stream(1)]
        await turns()
        processes.upstream.release()
        chunks, whole, elsewhere, again = await asyncio.gather(first, *rest)
        assert processes.upstream.calls == 1
        assert chunks == again
        assert whole == elsewhere
        assert status(whole).outcome == "coalesced"


async def test_different_calls_do_not_wait_for_each_other() -> None:
    async with Processes(2) as processes:
        processes.upstream.hold()
        callers = [processes.ask(number % 2, seed=number) for number in range(40)]
        await processes.upstream.reached(40)
        processes.upstream.release()
        await asyncio.gather(*callers)
        assert processes.sum("lease_waits") == 0


async def test_through_tiers_and_guards() -> None:
    """The lease is the far tier's, in its guard; what was stored is found there."""

    def tiers(store: SharedStore) -> DualBackend:
        return DualBackend(MemoryBackend(), Guard(store.backend(), read_timeout=30, write_timeout=30))

    async with Processes(3, backend=tiers) as processes:
        processes.upstream.hold()
        callers = [processes.ask(process) for process in range(3) for _ in range(20)]
        await turns()
        processes.upstream.release()
        answers = await asyncio.gather(*callers)
        assert processes.upstream.calls == 1
        assert sorted({status(answer).outcome for answer in answers}) == ["coalesced", "miss"]


# The one who calls does not bring anything.


async def test_the_one_who_calls_is_cancelled() -> None:
    """The others call at once, each for itself, and not one after another."""
    async with Processes(4) as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        rest = [processes.ask(process) for process in (1, 2, 3) for _ in range(5)]
        await turns()
        first.cancel()
        await processes.upstream.reached(4)
        processes.upstream.release()
        await asyncio.gather(*rest)
        assert (processes.upstream.calls, processes.upstream.cancelled) == (4, 1)


@pytest.mark.parametrize("streams", [False, True])
async def test_the_one_who_calls_fails(streams: bool) -> None:
    """Its callers get the error; the others call, all at once."""
    async with Processes(3) as processes:
        processes.upstream.fail(ValueError("no"), after=2 if streams else 0)
        begin = processes.stream if streams else processes.ask
        processes.upstream.hold()
        first = [begin(0) for _ in range(5)]
        await processes.upstream.reached(1)
        rest = [begin(process) for process in (1, 2) for _ in range(5)]
        await turns()
        processes.upstream.release()
        assert {str(error) for error in await asyncio.gather(*first, return_exceptions=True)} == {"no"}
        await asyncio.gather(*rest)
        assert processes.upstream.calls == 3


async def test_they_call_at_once_when_it_fails() -> None:
    """While one of the others still calls, the next does not wait for it."""
    async with Processes(4) as processes:
        processes.upstream.fail(ValueError("no"))
        gate = Turnstile()

        async def slow_after_the_first(**params: Any) -> Any:
            number = gate.arrive()
            if number > 1:
                await gate.passage()
            return await processes.upstream(**params)

        calls = [cache.wrap(slow_after_the_first, name="f", call_type="chat") for cache in processes.caches]
        gate.hold()
        processes.upstream.hold()
        callers = [asyncio.create_task(call(**ASK)) for call in calls]
        await gate.reached(1)
        await turns()
        processes.upstream.release()
        await gate.reached(4)
        gate.release()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [isinstance(outcome, ValueError) for outcome in outcomes].count(True) == 1


async def test_an_answer_that_may_not_be_stored() -> None:
    """Is its caller's alone: the others call, all at once."""
    async with Processes(3, answer={"choices": []}) as processes:
        processes.upstream.hold()
        callers = [processes.ask(process) for process in range(3)]
        await processes.upstream.reached(1)
        await turns()
        processes.upstream.release()
        answers = await asyncio.gather(*callers)
        assert processes.upstream.calls == 3
        assert [status(answer).outcome for answer in answers] == ["miss"] * 3
        assert processes.sum("stored") == 0


async def test_a_stream_that_is_left() -> None:
    """Nothing of it is stored; the others call."""
    async with Processes(2) as processes:
        stream = await processes.calls[0](**ASK, stream=True)
        await anext(stream)
        other = processes.ask(1)
        await turns()
        assert not other.done()
        await stream.aclose()
        assert status(await other).outcome == "miss"
        assert processes.upstream.calls == 2


async def test_a_flight_that_goes_on_for_nobody() -> None:
    """Under "finish" it fills the cache for the other processes."""
    async with Processes(2, on_abandon="finish") as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        other = processes.ask(1)
        await turns()
        first.cancel()
        await asyncio.wait((first,))
        processes.upstream.release()
        assert status(await other).outcome == "coalesced"
        assert processes.upstream.calls == 1


# The one who calls is dead, or its lease is.


async def test_the_one_who_calls_dies() -> None:
    """Its lease ends by itself; then one of the others calls for all of them."""
    async with Processes(3) as processes:
        dead = processes.store.backend()
        assert await dead.leases.acquire(processes.key, "dead")
        processes.upstream.hold()
        callers = [processes.ask(process) for process in range(3) for _ in range(20)]
        await turns()
        assert processes.upstream.calls == 0
        processes.clock.advance(processes.store.lease_seconds)
        processes.store.cut()  # they look again
        await processes.upstream.reached(1)
        await turns()
        processes.upstream.release()
        answers = await asyncio.gather(*callers)
        assert processes.upstream.calls == 1
        assert sorted(status(answer).outcome for answer in answers) == ["coalesced"] * 59 + ["miss"]


@in_virtual_time
async def test_they_look_again_by_themselves() -> None:
    """No later than half a lease after the end of the dead one's."""
    async with Processes(2, lease_clock=here().time) as processes:
        assert await processes.store.backend().leases.acquire(processes.key, "dead")
        began = here().time()
        await processes.calls[0](**ASK)
        assert 10.0 <= here().time() - began <= 15.1


@in_virtual_time
async def test_a_lease_is_renewed_for_as_long_as_the_call_lasts() -> None:
    """A call that takes many times as long as a lease holds stays the only one; afterwards nothing is renewed."""
    async with Processes(2, lease_clock=here().time, lease_wait=1_000) as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        other = processes.ask(1)
        await asyncio.sleep(95)
        assert not other.done()
        processes.upstream.release()
        assert status(await other).outcome == "coalesced"
        await first
        assert processes.upstream.calls == 1
        await turns()
        assert not processes.store._leases
        await asyncio.sleep(100)
        assert not processes.store._leases


@in_virtual_time
async def test_patience_has_an_end() -> None:
    """Who has waited for `lease_wait` seconds calls as well; and its callers with it, once."""
    async with Processes(2, lease_clock=here().time, lease_wait=25) as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        rest = [processes.ask(1) for _ in range(5)]
        began = here().time()
        await processes.upstream.reached(2)
        assert here().time() - began == pytest.approx(25, abs=0.1)
        processes.upstream.release()
        await asyncio.gather(first, *rest)
        assert processes.upstream.calls == 2


async def test_without_patience_there_are_no_leases() -> None:
    async with Processes(2, lease_wait=0) as processes:
        processes.upstream.hold()
        callers = [processes.ask(process) for process in range(2)]
        await processes.upstream.reached(2)
        processes.upstream.release()
        await asyncio.gather(*callers)
        assert processes.sum("lease_waits") == 0


# A store that fails.


class Failing:
    """Leases that fail on demand, and count what is asked of them."""

    def __init__(self, inner: Leases) -> None:
        self._inner = inner
        self.watch = inner.watch
        self.errors: dict[str, list[Exception]] = {}
        self.asked: list[str] = []
        self.released: list[bool] = []
        self.answers = Turnstile()
        """While it is held what is asked is done, and not answered."""
        self.seconds = inner.seconds

    async def acquire(self, key: CacheKey, token: str, /) -> bool:
        return bool(await self._do("acquire", self._inner.acquire, key, token))

    async def renew(self, key: CacheKey, token: str, /) -> bool:
        return bool(await self._do("renew", self._inner.renew, key, token))

    async def release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        self.released.append(stored)
        await self._do("release", self._inner.release, key, token, stored)

    async def _do(self, verb: str, act: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        self.asked.append(verb)
        if errors := self.errors.get(verb):
            raise errors.pop(0)
        result = await act(*args)
        await self.answers.passage()
        return result


class FailingBackend(SharedBackend):
    leases: Any

    def __init__(self, store: SharedStore) -> None:
        super().__init__(store)
        self.leases = Failing(self.leases)


@pytest.mark.parametrize("error", [BackendUnavailable("gone"), BackendTimeout("slow"), RuntimeError("a bug")])
@pytest.mark.parametrize("verb", ["acquire", "release"])
async def test_a_lease_store_that_fails(verb: str, error: Exception) -> None:
    """It is counted, and the call goes on; also when the backend breaks its law."""
    async with Processes(1, backend=FailingBackend) as processes:
        processes.backends[0].leases.errors[verb] = [error]
        assert status(await processes.calls[0](**ASK)).outcome == "miss"
        await turns()
        assert processes.caches[0].stats.lease_errors == 1
        assert processes.caches[0].stats.stored == 1
        await processes.backends[0].leases.release(processes.key, "nobody", False)
        processes.store._leases.clear()


async def test_a_lease_that_may_have_been_taken_is_released() -> None:
    """The answer of the store was lost, and not the question."""
    async with Processes(2, backend=FailingBackend) as processes:
        leases = processes.backends[0].leases
        acquire = leases._inner.acquire

        async def takes_it_and_fails(key: CacheKey, token: str, /) -> bool:
            assert await acquire(key, token)
            raise BackendTimeout("no answer")

        leases._inner.acquire = takes_it_and_fails
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        other = processes.ask(1)
        await turns()
        processes.upstream.release()
        assert [status(answer).outcome for answer in await asyncio.gather(first, other)] == ["miss", "coalesced"]


@in_virtual_time
async def test_a_renewal_that_fails_is_tried_again() -> None:
    """There is time for that before the lease is over."""
    async with Processes(2, backend=FailingBackend, lease_clock=here().time) as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        processes.backends[0].leases.errors["renew"] = [BackendTimeout("slow")]
        other = processes.ask(1)
        await asyncio.sleep(35)
        processes.upstream.release()
        assert status(await other).outcome == "coalesced"
        await first
        assert (processes.upstream.calls, processes.caches[0].stats.lease_errors) == (1, 1)


@in_virtual_time
async def test_a_process_that_was_paused_for_too_long() -> None:
    """Its lease is another's by then: it renews that no more, and does not end it."""
    async with Processes(2, backend=FailingBackend, lease_clock=here().time) as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        other = processes.ask(1)
        await turns()
        lost = processes.store.holder(processes.key)
        assert lost is not None
        del processes.store._leases[processes.key.digest]
        processes.store.cut()
        await processes.upstream.reached(2)
        await asyncio.sleep(9)
        renewals = processes.backends[0].leases.asked.count("renew")
        assert renewals >= 1
        await asyncio.sleep(30)
        assert processes.backends[0].leases.asked.count("renew") == renewals
        assert processes.store.holder(processes.key) not in (None, lost)
        processes.upstream.release()
        await asyncio.gather(first, other)


async def test_a_backend_that_was_closed() -> None:
    """By its owner, before the cache: the calls go on."""
    async with Processes(1) as processes:
        await processes.backends[0].aclose()
        with pytest.raises(BackendClosed):
            await processes.backends[0].get(processes.key)
        assert status(await processes.calls[0](**ASK)).outcome == "miss"
        await turns()


# Who takes none.


@pytest.mark.parametrize("control", [{"no-cache": True}, {"no-store": True}, {"no-cache": True, "no-store": True}])
async def test_who_may_not_read_or_write_takes_no_lease(control: dict[str, Any]) -> None:
    async with Processes(2, backend=FailingBackend) as processes:
        processes.upstream.hold()
        callers = [processes.ask(process, cache=control) for process in range(2)]
        await processes.upstream.reached(2)
        processes.upstream.release()
        await asyncio.gather(*callers)
        assert [backend.leases.asked for backend in processes.backends] == [[], []]


class HeldBackend(FailingBackend):
    """Its reads and writes can be held."""

    def __init__(self, store: SharedStore) -> None:
        super().__init__(store)
        self.reads, self.writes = Turnstile(), Turnstile()

    async def get(self, key: CacheKey, /) -> Any:
        await self.reads.passage()
        return await super().get(key)

    async def set(self, key: CacheKey, entry: Any, /) -> None:
        self.writes.arrive()
        await self.writes.passage()
        await super().set(key, entry)


@in_virtual_time
async def test_who_hedges_takes_no_lease() -> None:
    """The backend is slow: nobody waits for it once more."""
    async with Processes(1, backend=HeldBackend, hedge_after=0.05) as processes:
        backend = processes.backends[0]
        backend.reads.hold()
        assert status(await processes.calls[0](**ASK)).outcome == "miss"
        assert backend.leases.asked == []
        backend.reads.release()


# Beside the call.


async def test_a_refresh_is_one_for_all_processes() -> None:
    """Each answers from the stale entry, and one of them refreshes it."""
    async with Processes(3, ttl=10, stale_while_revalidate=100) as processes:
        await processes.calls[0](**ASK)
        processes.clock.advance(20)
        processes.upstream.hold()
        answers = await asyncio.gather(*[call(**ASK) for call in processes.calls])
        assert [status(answer).outcome for answer in answers] == ["stale"] * 3
        await processes.upstream.reached(2)
        await turns()
        processes.upstream.release()
        await turns(100)
        assert not others()
        assert (processes.upstream.calls, processes.sum("refreshes"), processes.sum("refresh_errors")) == (2, 3, 0)
        answers = await asyncio.gather(*[call(**ASK) for call in processes.calls])
        assert [status(answer).outcome for answer in answers] == ["hit"] * 3


async def test_written_behind_it_is_released_when_it_can_be_read() -> None:
    """The caller has its answer before; the other processes wait until it is there for them."""
    async with Processes(2, backend=HeldBackend, write_behind=10) as processes:
        await processes.calls[0](**ASK, seed=1)  # the numbers of tags are known from here on
        await processes.caches[0].drain()
        await turns()
        processes.backends[0].writes.hold()
        first = await processes.calls[0](**ASK)
        assert status(first).outcome == "miss"
        other = processes.ask(1)
        await turns()
        assert not other.done()
        assert processes.store.holder(processes.key) is not None
        processes.backends[0].writes.release()
        assert status(await other).outcome == "coalesced"
        assert processes.upstream.calls == 2


@in_virtual_time
async def test_while_it_is_written_the_lease_is_renewed() -> None:
    async with Processes(2, backend=HeldBackend, write_behind=10, lease_clock=here().time) as processes:
        await processes.calls[0](**ASK, seed=1)
        await processes.caches[0].drain()
        processes.backends[0].writes.hold()
        await processes.calls[0](**ASK)
        other = processes.ask(1)
        await asyncio.sleep(50)
        assert not other.done()
        processes.backends[0].writes.release()
        assert status(await other).outcome == "coalesced"


async def test_a_call_after_an_invalidation_does_not_wait_for_the_flight_before_it() -> None:
    """What that brings is over already. The other processes do not wait for it either."""
    async with Processes(2) as processes:
        processes.upstream.hold()
        before = processes.ask(0)
        await processes.upstream.reached(1)
        other = processes.ask(1)
        await turns()
        await processes.caches[0].clear()
        after = [processes.ask(0) for _ in range(3)]
        await processes.upstream.reached(3)
        processes.upstream.release()
        first, second, *more = await asyncio.gather(before, *after)
        await other
        assert first["id"] not in {answer["id"] for answer in (second, *more)}
        assert len({answer["id"] for answer in (second, *more)}) == 1
        assert processes.upstream.calls == 3


# Nothing is left behind.


@pytest.mark.parametrize("held", [False, True])
async def test_who_is_cancelled_leaves_no_lease(held: bool) -> None:
    """At whatever moment: while it asks for it, has it, or waits for another's."""
    for count in range(40):
        async with Processes(2) as processes:
            if held:
                assert await processes.store.backend().leases.acquire(processes.key, "dead")
            processes.upstream.hold()
            caller = processes.ask(0)
            await turns(count)
            caller.cancel()
            await asyncio.wait((caller,))
            assert caller.cancelled()
            await turns()
            assert not others()
            assert processes.store.holder(processes.key) == ("dead" if held else None), f"after {count} turns"
            assert not processes.store.waits
            if not held:
                processes.upstream.release()
                assert status(await processes.calls[1](**ASK)).outcome == "miss"


@pytest.mark.parametrize("waited", [False, True])
async def test_who_is_cancelled_before_it_knows_leaves_no_lease(waited: bool) -> None:
    """The store has given it, and its answer has not come yet."""
    async with Processes(1, backend=FailingBackend) as processes:
        leases = processes.backends[0].leases
        if waited:
            assert await processes.store.backend().leases.acquire(processes.key, "dead")
            waiting = processes.ask(0)
            await turns()
            processes.clock.advance(10)
        leases.answers.hold()
        caller = waiting if waited else processes.ask(0)
        processes.store.cut()
        await turns()
        assert processes.store.holder(processes.key) not in (None, "dead")
        caller.cancel()
        await asyncio.wait((caller,))
        leases.answers.release()
        await turns()
        assert processes.store.holder(processes.key) is None


async def test_a_wait_that_turns_into_a_lease_and_is_cancelled() -> None:
    """It had waited for another process, and was just about to take its place."""
    for count in range(20):
        async with Processes(1) as processes:
            leases = processes.store.backend().leases
            assert await leases.acquire(processes.key, "gone")
            processes.upstream.hold()
            caller = processes.ask(0)
            await turns()
            processes.clock.advance(10)
            processes.store.cut()
            await turns(count)
            caller.cancel()
            await asyncio.wait((caller,))
            await turns()
            assert processes.store.holder(processes.key) is None, f"after {count} turns"


async def test_closing_a_cache_ends_who_waits() -> None:
    """They get an error, and neither a task nor a waiter is left."""
    async with Processes(2) as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        waiting = [processes.ask(1) for _ in range(5)]
        await turns()
        await processes.caches[1].aclose()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, AsyncCacheError)
        assert not processes.store.waits
        processes.upstream.release()
        await first


async def test_closing_the_cache_that_calls_lets_the_others_go_on() -> None:
    """Its lease is released when it is closed."""
    async with Processes(2) as processes:
        processes.upstream.hold()
        first = processes.ask(0)
        await processes.upstream.reached(1)
        other = processes.ask(1)
        await turns()
        await processes.caches[0].aclose()
        await asyncio.wait((first,))
        await processes.upstream.reached(2)
        processes.upstream.release()
        assert status(await other).outcome == "miss"


@pytest.mark.parametrize("kind", ["stored", "streamed", "found", "failed", "left", "not storable"])
async def test_the_release_says_whether_there_is_an_entry(kind: str) -> None:
    answer: Any = {"choices": []} if kind == "not storable" else None
    async with Processes(1, backend=FailingBackend, answer=answer) as processes:
        leases = processes.backends[0].leases
        if kind == "failed":
            processes.upstream.fail(ValueError("no"))
        if kind == "found":
            await processes.calls[0](**ASK)
            await turns()
            leases.released.clear()
            entry = processes.store.get(processes.key)
            assert entry is not None
            await processes.backends[0].delete(processes.key)
            leases.answers.hold()
            caller = processes.ask(0)
            await turns()
            await processes.store.backend().set(processes.key, entry)
            leases.answers.release()
            assert status(await caller).outcome == "hit"
        elif kind in ("streamed", "left"):
            stream = await processes.calls[0](**ASK, stream=True)
            await anext(stream)
            await (words(stream) if kind == "streamed" else stream.aclose())
        else:
            await asyncio.gather(processes.ask(0), return_exceptions=True)
        await turns()
        assert leases.released == [kind in ("stored", "streamed", "found")]


async def test_what_is_landing_is_waited_for() -> None:
    """`drain` returns when the lease is released."""
    async with Processes(1) as processes:
        await processes.calls[0](**ASK)
        await processes.caches[0].drain()
        assert processes.store.holder(processes.key) is None
        assert not others()


def test_sync_functions() -> None:
    """Threads of two processes: one call, made by one of the callers on its own thread. Nothing is left."""
    store = SharedStore()
    before = set(threading.enumerate())
    begun, go_on = threading.Event(), threading.Event()
    made_on: list[str] = []

    def upstream(prompt: str) -> str:
        made_on.append(threading.current_thread().name)
        begun.set()
        assert go_on.wait(30)
        return prompt.upper()

    caches = [Cache(DualBackend(MemoryBackend(), store.backend())) for _ in range(2)]
    calls = [cache.wrap(upstream, name="f") for cache in caches]
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda call=call: outcomes.append(call("why?")), name=f"caller {number}")
        for number, call in enumerate(calls * 10)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert outcomes == ["WHY?"] * 20
    assert len(made_on) == 1
    assert made_on[0].startswith("caller")

    async def close() -> None:
        for cache in caches:
            await cache.aclose()
            await cache.backend.aclose()

    asyncio.run(close())
    assert set(threading.enumerate()) == before
    assert not store.waits
    assert not store.listeners
    assert all(store.holder(CacheKey(digest)) is None for digest in store._leases)


# In any order.


class LeasedFlights(Flights):
    """The flight table against its model, in a process that takes leases."""

    processes = 1

    def __init__(self) -> None:
        super().__init__()
        self.store = SharedStore()
        self.tables: list[Coalesce] = []
        caches = [Cache(self.store.backend(), stages=self._stages) for _ in range(self.processes)]
        self.cache = caches[0]
        calls = itertools.cycle([cache.wrap(self._call, name="f") for cache in caches])
        self.call = lambda *args, **params: next(calls)(*args, **params)

    def _stages(self, default: list[Stage]) -> list[Stage]:
        place = next(i for i, stage in enumerate(default) if isinstance(stage, Coalesce))
        old = default[place]
        assert isinstance(old, Coalesce)
        options: dict[str, Any] = {"on_abandon": self.on_abandon, "leadership": old._leadership}
        self.coalesce = Coalesce(old._look_again, old._outdated, **options)
        if hasattr(self, "tables"):
            self.tables.append(self.coalesce)
        return [*default[:place], self.coalesce, *default[place + 1 :]]

    def _wind_up(self) -> None:
        super()._wind_up()
        for upstream in self.live():  # which the last look has begun, and under "finish" goes on
            for step in ("open", "end"):
                self.loop.do(lambda upstream=upstream, step=step: upstream.then(step))  # type: ignore[misc]
        self.loop.settle()
        assert not self.loop.tasks()
        assert not self.store._leases
        assert not self.store.waits
        assert not any(table._flights or table._under_way for table in self.tables)


class LeasedFlightsAtRest(LeasedFlights):
    at_rest = True


class LeasedFlightsThatFinish(LeasedFlights):
    on_abandon: OnAbandon = "finish"


class FlightsOfTwo(LeasedFlights):
    """Two processes."""

    processes = 2

    def invalidate(self) -> None:
        """No rule: the other process hears of it a second later."""


class FlightsOfTwoThatFinish(FlightsOfTwo):
    on_abandon: OnAbandon = "finish"


@pytest.mark.parametrize(
    "machine", [LeasedFlights, LeasedFlightsAtRest, LeasedFlightsThatFinish, FlightsOfTwo, FlightsOfTwoThatFinish]
)
def test_flights_with_leases(machine: type[Flights]) -> None:
    """In any order of coming, reading, leaving, cancelling, giving, ending, failing and invalidating: what holds
    without leases holds with them, and none is left."""
    machine.TestCase.settings = settings(
        derandomize=True,
        deadline=None,
        max_examples=20,
        stateful_step_count=30,
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase().runTest()


# By itself.


async def test_a_lead_is_released_once() -> None:
    """By the flight, or before its end, by one who knows that it brings nothing."""
    store = SharedStore()
    backend = FailingBackend(store)
    leadership = Leadership(backend.leases, patience=1, stats=Stats())
    lead = await leadership.take(CacheKey("a" * 64))
    assert lead.held
    assert not lead.waited
    lead.release(False)
    lead.release(True)
    await leadership.drain()
    lead.release(True)
    await leadership.drain()
    assert backend.leases.asked == ["acquire", "release"]
    assert backend.leases.released == [False]
    assert not lead.held
    assert not others()
