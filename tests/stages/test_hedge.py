"""The laws of the hedged look-up: a slow store delays nobody, and nothing is left behind by who loses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from asynccache import Cache, status
from asynccache.backends.memory import MemoryBackend
from asynccache.errors import BackendUnavailable
from asynccache.testing import FakeClock, FakeUpstream, FaultyBackend

ASK: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


async def turns(count: int = 30) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def setup(**options: Any) -> tuple[Cache, FaultyBackend, FakeUpstream, Any, FakeClock]:
    clock, upstream, faulty = FakeClock(), FakeUpstream(), FaultyBackend(MemoryBackend())
    cache = Cache(faulty, clock=clock, **{"ttl": 60, "hedge_after": 0, **options})
    return cache, faulty, upstream, cache.wrap(upstream), clock


async def ended(cache: Cache, faulty: FaultyBackend, calls: int) -> bool:
    """All is quiet: nothing runs once the store answers again, and every call was counted once."""
    faulty.release()
    await cache.drain()
    await turns()
    stats = cache.stats
    assert not others()
    return stats.calls == stats.hits + stats.stale + stats.coalesced + stats.misses + stats.bypassed == calls


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_store_that_hangs_delays_nobody(warm: bool, stream: bool) -> None:
    """When the look-up hangs the upstream answers, although its epochs hang too; the answer is stored afterwards."""
    cache, faulty, upstream, call, clock = setup()
    if warm:
        await call(**ASK, seed=1)
        clock.advance(10)  # what is known of epochs is too old by now
    faulty.hold("get")
    answer = await call(**ASK, stream=stream)
    if stream:
        assert [chunk async for chunk in answer]
    assert (status(answer).outcome, status(answer).reason, status(answer).stored) == ("miss", "hedged", False)
    assert await ended(cache, faulty, 1 + warm)
    assert (upstream.calls, cache.stats.stored) == (1 + warm, 1 + warm)
    again = await call(**ASK, stream=stream)
    assert status(again).outcome == "hit"
    assert await ended(cache, faulty, 2 + warm)


async def test_a_quick_look_up_calls_nobody() -> None:
    """A look-up that answers in time is a plain hit; one that finds nothing in time is a plain miss."""
    cache, faulty, upstream, call, _ = setup(hedge_after=3600)
    assert [status(await call(**ASK)).reason for _ in range(2)] == ["absent", ""]
    assert (upstream.calls, cache.stats.hits, cache.stats.misses) == (1, 1, 1)
    assert await ended(cache, faulty, 2)


async def test_the_look_up_wins() -> None:
    """A look-up that answers while the upstream is called is a hit; the call is cancelled before its caller goes on."""
    cache, faulty, upstream, call, _ = setup()
    await call(**ASK)
    faulty.hold("get")
    upstream.hold()
    caller = asyncio.create_task(call(**ASK))
    await upstream.reached(2)
    faulty.release()
    assert status(await caller).outcome == "hit"
    assert (upstream.calls, upstream.cancelled, cache.stats.hits) == (2, 1, 1)
    assert await ended(cache, faulty, 2)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_look_up_without_an_answer_leaves_the_call_running(fails: bool) -> None:
    """A late look-up that finds nothing, or fails, changes nothing: the call goes on and answers."""
    cache, faulty, upstream, call, _ = setup()
    faulty.hold("get")
    upstream.hold()
    caller = asyncio.create_task(call(**ASK))
    await upstream.reached(1)
    if fails:
        faulty.fail(BackendUnavailable("gone"), "get")
    faulty.release()
    await turns()
    assert not caller.done()
    faulty.heal()
    upstream.release()
    answer = await caller
    assert (status(answer).outcome, status(answer).reason) == ("miss", "backend-error" if fails else "absent")
    assert (upstream.calls, cache.stats.read_errors) == (1, int(fails))
    assert await ended(cache, faulty, 1)


@pytest.mark.parametrize("there", [False, True])
async def test_a_call_that_fails_leaves_the_look_up_its_chance(there: bool) -> None:
    """An upstream that fails first is no loss when the look-up brings the answer; else its error is raised."""
    cache, faulty, upstream, call, _ = setup()
    if there:
        await call(**ASK)
    faulty.hold("get")
    upstream.fail(ValueError("upstream"))
    caller = asyncio.create_task(call(**ASK))
    await upstream.reached(1 + there)
    await turns()
    assert not caller.done()
    faulty.release()
    if there:
        assert status(await caller).outcome == "hit"
    else:
        with pytest.raises(ValueError, match="upstream"):
            await caller
    assert await ended(cache, faulty, 1 + there)


@pytest.mark.parametrize("when", ["look-up", "both", "answered"])
async def test_a_cancelled_caller_cancels_both(when: str) -> None:
    """Whoever is cancelled leaves neither a look-up nor a call, and is counted once."""
    cache, faulty, upstream, call, _ = setup(hedge_after=3600 if when == "look-up" else 0)
    faulty.hold("get")
    upstream.hold()
    caller = asyncio.create_task(call(**ASK))
    if when == "look-up":
        await faulty.reached("get", 1)
    else:
        await upstream.reached(1)
    if when == "answered":
        upstream.release()
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert upstream.calls == (when != "look-up")
    assert cache.stats.misses == 1
    assert await ended(cache, faulty, 1)


async def test_hedged_callers_still_share_one_call() -> None:
    """Many whose look-ups hang make one upstream call."""
    cache, faulty, upstream, call, _ = setup()
    faulty.hold("get")
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(20)]
    await upstream.reached(1)
    await turns()
    upstream.release()
    outcomes = sorted([status(answer).outcome for answer in await asyncio.gather(*callers)])
    assert (outcomes, upstream.calls) == (["coalesced"] * 19 + ["miss"], 1)
    assert await ended(cache, faulty, 20)


@pytest.mark.parametrize("warm", [False, True])
async def test_an_invalidation_under_way_ends_what_a_hedged_call_brings(warm: bool) -> None:
    """What was invalidated after a hedged call began is not stored, and nobody joins that call."""
    cache, faulty, upstream, call, clock = setup()
    if warm:
        await call(**ASK, seed=1, cache={"tags": ["a"]})
        clock.advance(10)
    faulty.hold("get")
    upstream.hold()
    first = asyncio.create_task(call(**ASK, cache={"tags": ["a"]}))
    await upstream.reached(1 + warm)
    clock.advance(1)
    await cache.invalidate("a")
    second = asyncio.create_task(call(**ASK, cache={"tags": ["a"]}))
    await upstream.reached(2 + warm)
    upstream.release()
    assert [status(answer).outcome for answer in await asyncio.gather(first, second)] == ["miss", "miss"]
    faulty.release()
    await cache.drain()
    assert cache.stats.reject_reasons == {"invalidated": 1}
    assert await ended(cache, faulty, 2 + warm)


async def test_a_stale_answer_wins_and_is_refreshed() -> None:
    """A late look-up that brings a stale answer wins like any other, and a refresh takes the place of the call."""
    cache, faulty, upstream, call, clock = setup(stale_while_revalidate=30)
    await call(**ASK)
    clock.advance(70)
    faulty.hold("get")
    upstream.hold()
    caller = asyncio.create_task(call(**ASK))
    await upstream.reached(2)
    faulty.release()
    assert status(await caller).outcome == "stale"
    upstream.release()
    await turns(100)
    assert (cache.stats.refreshes, cache.stats.refresh_errors, upstream.calls) == (1, 0, 3)
    assert status(await call(**ASK)).outcome == "hit"
    assert await ended(cache, faulty, 3)


async def test_an_outage_while_the_look_up_is_late() -> None:
    """When the call fails by an outage, a late look-up that brings an answer for errors only is good enough."""
    cache, faulty, upstream, call, clock = setup(stale_if_error=30)
    await call(**ASK)
    clock.advance(70)
    faulty.hold("get")
    upstream.fail(ConnectionError())
    caller = asyncio.create_task(call(**ASK))
    await upstream.reached(2)
    await turns()
    faulty.release()
    assert status(await caller).reason == "stale-if-error: ConnectionError"
    assert await ended(cache, faulty, 2)
