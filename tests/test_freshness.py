"""The laws of freshness: how long an answer lives, what is served after that, and what is refreshed behind it."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asynccache import Cache, NotCached, status
from asynccache.backends.memory import MemoryBackend
from asynccache.errors import BackendUnavailable, ConfigError
from asynccache.freshness import Freshness, is_outage
from asynccache.model import Entry
from asynccache.protocols import Stage
from asynccache.stages.coalesce import Coalesce
from asynccache.sync import CallersThread
from asynccache.testing import FakeClock, FakeUpstream, FaultyBackend

ASK: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}
SPANS = st.floats(0, 1e6)
CHANCES = st.floats(0, 1, exclude_max=True)
ORDER = ["fresh", "revalidate", "if-error", "over"]


class Status(Exception):
    """An upstream's error with an HTTP status."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code


async def turns(count: int = 30) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def conserved(cache: Cache, calls: int) -> bool:
    stats = cache.stats
    return stats.calls == stats.hits + stats.stale + stats.coalesced + stats.misses + stats.bypassed == calls


async def ask(call: Any, **more: Any) -> Any:
    """(outcome, reason) of one call; a stream is read to its end."""
    answer = await call(**{**ASK, **more})
    if more.get("stream"):
        assert [chunk async for chunk in answer]
    return status(answer).outcome, status(answer).reason


# -- the policy -----------------------------------------------------------------------------------


@given(SPANS, st.floats(0, 1), CHANCES, SPANS, SPANS)
def test_jitter_only_shortens(ttl: float, jitter: float, chance: float, swr: float, sie: float) -> None:
    """A jittered life is no longer than the ttl, and no shorter than what jitter leaves; what follows it is whole."""
    fresh_until, expires = Freshness(swr, sie, jitter=jitter).ends(0, ttl, lambda: chance)
    assert expires is not None
    end = expires if fresh_until is None else fresh_until
    assert ttl * (1 - jitter) <= end <= ttl
    assert (fresh_until is None) == (swr == sie == 0)
    assert expires == end + max(swr, sie)


@given(SPANS, SPANS, st.floats(1e-3, 1e6), st.lists(st.floats(0, 4e6), min_size=2))
def test_an_entry_only_gets_older(swr: float, sie: float, ttl: float, times: list[float]) -> None:
    """An entry is fresh, then to be revalidated, then for errors only, then over, and never goes back."""
    policy = Freshness(swr, sie)
    fresh_until, expires = policy.ends(0, ttl, lambda: 0)
    entry = Entry(b"{}", "completion", 0, fresh_until, expires)
    lives = [ORDER.index(policy.judge(entry, now, lambda: 0)) for now in sorted(times)]
    assert lives == sorted(lives)


@given(st.floats(0.01, 100), st.floats(0.1, 10), st.floats(0.01, 1000), CHANCES)
def test_early_refresh_follows_the_formula(duration: float, beta: float, left: float, chance: float) -> None:
    """A fresh entry is refreshed early just when `now - duration * beta * log(U) >= end`, as in the paper."""
    entry = Entry(b"{}", "completion", 0, expires=left, meta={"duration": duration})
    gap = -duration * beta * math.log(chance) if chance else math.inf
    assume(not math.isclose(gap, left, rel_tol=1e-6) and left / (duration * beta) < 700)
    assert Freshness(early_refresh=beta).judge(entry, 0, lambda: chance) == ("early" if gap >= left else "fresh")


@pytest.mark.parametrize("duration", [None, "1", -1, math.inf, math.nan, [], 0])
def test_an_entry_that_tells_no_duration_is_never_early(duration: Any) -> None:
    """What a store says of an entry can be anything."""
    entry = Entry(b"{}", "completion", 0, expires=1, meta={"duration": duration})
    assert Freshness(early_refresh=100).judge(entry, 0.999, lambda: 0) == "fresh"


def test_the_hard_end_holds_whatever_the_policy_says() -> None:
    """An entry that was stored without windows is not stretched by a later policy."""
    policy = Freshness(1000, 1000)
    assert policy.judge(Entry(b"", "completion", 0, expires=10), 10, lambda: 0) == "over"
    assert policy.judge(Entry(b"", "completion", 0), 1e12, lambda: 0) == "fresh"


@pytest.mark.parametrize(
    "wrong",
    [
        {"stale_while_revalidate": -1},
        {"stale_if_error": math.inf},
        {"early_refresh": "1"},
        {"jitter": 1.5},
        {"jitter": True},
        {"max_refreshes": -1},
        {"max_refreshes": 1.0},
        {"hedge_after": -1},
        {"negative_ttl": 5},
        {"negative_errors": (ValueError,)},
        {"negative_ttl": 5, "negative_errors": "ValueError"},
        {"negative_ttl": 5, "negative_errors": ["ValueError"]},
        {"negative_ttl": 5, "negative_errors": [KeyboardInterrupt]},
        {"negative_ttl": 5, "negative_errors": ["builtins:NoSuchError"]},
    ],
)
def test_a_wrong_option_is_refused_by_name(wrong: dict[str, Any]) -> None:
    """A value that means nothing is a ConfigError that names its option."""
    with pytest.raises(ConfigError, match=list(wrong)[-1].removesuffix("_errors").removesuffix("_ttl")):
        Cache(**wrong)


def _named(name: str, **attributes: Any) -> Exception:
    error: Exception = type(name, (Exception,), attributes)("failed")
    return error


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        *[(Status(code), True) for code in (408, 429, 500, 502, 503, 529)],
        *[(Status(code), False) for code in (400, 401, 403, 404, 409, 413, 422)],
        (_named("APIConnectionError"), True),
        (_named("APITimeoutError"), True),
        (_named("APIConnectionError", status_code=400), False),
        (_named("HTTPStatusError", response=Status(503)), True),
        (_named("APIError", code=429), True),
        (_named("APIError", code="rate_limit_exceeded"), False),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(101, "Network is unreachable"), True),
        (FileNotFoundError(2, "No such file", "prompt.txt"), False),
        (ValueError(), False),
    ],
)
def test_what_counts_as_an_outage(error: Exception, outage: bool) -> None:
    """The status decides; without one, a timeout or a lost connection is an outage, and nothing else."""
    assert is_outage(error) is outage


# -- stale while it is refreshed ------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_stale_while_revalidate(stream: bool) -> None:
    """Within its window a stale answer is served at once and refreshed once behind it, whoever asks meanwhile."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call = cache.wrap(upstream)
    await ask(call, stream=stream)
    clock.advance(10)
    upstream.hold()
    for _ in range(3):
        assert await ask(call, stream=stream) == ("stale", "stale-while-revalidate")
        await turns()
    assert (upstream.calls, cache.stats.refreshes) == (2, 1)
    upstream.release()
    await turns(200)
    assert await ask(call, stream=stream) == ("hit", "")
    assert (upstream.calls, cache.stats.stale, cache.stats.refresh_errors) == (2, 3, 0)
    assert conserved(cache, 5)
    clock.advance(15)
    assert await ask(call, stream=stream) == ("miss", "expired")
    assert not others()


async def test_a_refresh_asks_what_was_asked() -> None:
    """A caller that goes on with its messages, as agents do, changes nothing in the refresh of what it was given."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    clock.advance(12)
    messages = [dict(ASK["messages"][0])]
    assert status(await call(model="m", messages=messages)).outcome == "stale"
    messages[0]["content"] = "and now?"
    messages.append({"role": "user", "content": "what else?"})
    await turns()
    assert upstream.requests[-1]["messages"] == ASK["messages"]
    assert await ask(call) == ("hit", "")


async def test_a_failed_refresh_is_nobodys_error() -> None:
    """The caller of a stale answer never hears of the refresh; it is counted, and tried again by the next one."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    clock.advance(10)
    upstream.fail(Status(401))
    for _ in range(2):
        assert (await ask(call))[0] == "stale"
        await turns()
    assert (cache.stats.refreshes, cache.stats.refresh_errors) == (2, 1)
    assert (await ask(call))[0] == "hit"
    assert conserved(cache, 4)


async def test_refreshes_are_bounded() -> None:
    """Beyond `max_refreshes` a stale answer is served without a refresh."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, max_refreshes=2, clock=clock)
    call = cache.wrap(upstream)
    for seed in range(5):
        await ask(call, seed=seed)
    clock.advance(10)
    upstream.hold()
    assert [(await ask(call, seed=seed))[0] for seed in range(5)] == ["stale"] * 5
    await turns()
    assert (upstream.calls, cache.stats.refreshes) == (7, 2)
    await cache.aclose()


async def test_closing_gives_refreshes_up() -> None:
    """`aclose` cancels the refreshes under way and leaves no task."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    clock.advance(10)
    upstream.hold()
    await ask(call)
    await upstream.reached(2)
    await cache.aclose()
    assert (upstream.cancelled, cache.stats.refresh_errors) == (1, 0)
    assert not others()


def test_a_loop_that_is_gone_holds_up_no_refresh() -> None:
    """A refresh whose event loop was closed does not count as under way: the next loop refreshes anew."""
    clock = FakeClock()
    calls = 0

    async def once(model: str, messages: list[Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls > 1:
            await asyncio.Event().wait()
        return await FakeUpstream()(model=model, messages=messages)  # type: ignore[no-any-return]

    async def asked() -> Any:
        outcome, _ = await ask(call)
        await turns()
        return outcome

    def on_a_loop_of_its_own() -> Any:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(asked())
        finally:
            loop.close()

    def alone(stages: list[Stage]) -> list[Stage]:
        return [stage for stage in stages if not isinstance(stage, Coalesce)]

    cache = Cache(ttl=10, stale_while_revalidate=5, max_refreshes=1, clock=clock, stages=alone)
    call = cache.wrap(once)
    outcomes = [on_a_loop_of_its_own()]
    clock.advance(10)
    outcomes += [on_a_loop_of_its_own() for _ in range(2)]
    assert (outcomes, cache.stats.refreshes) == (["miss", "stale", "stale"], 2)


async def test_a_caller_who_misses_shares_the_refresh() -> None:
    """A refresh is a flight like any other: who may have no stale answer joins it."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    clock.advance(12)
    upstream.hold()
    await ask(call)
    await upstream.reached(2)
    strict = asyncio.create_task(call(**ASK, cache={"s-maxage": 12}))
    await turns()
    upstream.release()
    assert status(await strict).outcome == "coalesced"
    assert (upstream.calls, cache.stats.misses, conserved(cache, 3)) == (2, 1, True)


@pytest.mark.parametrize("control", [{"no-cache": True}, {"s-maxage": 12}, {"s-maxage": 0}])
async def test_who_gets_no_stale_answer(control: dict[str, Any]) -> None:
    """A `no-cache` call, and one whose `s-maxage` is below the answer's age, is never served a stale answer."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=60, stale_if_error=60, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    clock.advance(12)
    upstream.fail(Status(503))
    with pytest.raises(Status):
        await ask(call, cache=control)
    assert (await ask(call, cache=control))[0] == "miss"


async def test_s_maxage_0_wants_an_answer_of_this_moment() -> None:
    """`s-maxage: 0` refuses even what was stored in the same instant."""
    clock, upstream = FakeClock(), FakeUpstream()
    call = Cache(clock=clock).wrap(upstream)
    assert [await ask(call, cache={"s-maxage": 0}) for _ in range(2)] == [("miss", "absent"), ("miss", "max-age")]


@pytest.mark.parametrize("control", [{"no-store": True}, {"ttl": 0}, {"only-if-cached": True}])
async def test_what_could_not_be_stored_is_not_refreshed(control: dict[str, Any]) -> None:
    """A call that stores nothing, or may cost nothing, gets the stale answer and begins no refresh."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    clock.advance(10)
    assert (await ask(call, cache=control))[0] == "stale"
    await turns()
    assert (upstream.calls, cache.stats.refreshes) == (1, 0)


async def test_what_was_invalidated_is_never_served() -> None:
    """Neither window serves an answer whose tag was invalidated, not even while the upstream is failing."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_while_revalidate=5, stale_if_error=60, clock=clock)
    call = cache.wrap(upstream)
    await ask(call, cache={"tags": ["a"]})
    clock.advance(12)
    await cache.invalidate("a")
    upstream.fail(Status(503))
    with pytest.raises(Status):
        await ask(call)


async def test_early_refresh() -> None:
    """A fresh answer that the dice choose is a hit, and is refreshed behind it by one call."""
    clock, upstream = FakeClock(), FakeUpstream()
    dice = [0.999]

    async def slow(model: str, messages: list[Any]) -> Any:
        clock.advance(2)
        return await upstream(model=model, messages=messages)

    cache = Cache(ttl=10, early_refresh=1, clock=clock, random=lambda: dice[0])
    call = cache.wrap(slow)
    await ask(call)
    clock.advance(9)
    assert await ask(call) == ("hit", "")
    await turns()
    assert (upstream.calls, cache.stats.refreshes) == (1, 0)
    dice[0] = 0.5  # P = exp(-1/2)
    assert await ask(call) == ("hit", "")
    await turns()
    assert (upstream.calls, cache.stats.refreshes, cache.stats.hits) == (2, 1, 2)
    answer = status(await call(**ASK))
    assert (answer.outcome, answer.ttl) == ("hit", 10)


# -- stale when the upstream fails ----------------------------------------------------------------


async def broken_stream(error: Exception) -> Any:
    raise error
    yield


@pytest.mark.parametrize("stream", [False, True])
async def test_stale_if_error(stream: bool) -> None:
    """Beyond freshness the upstream is asked; when it fails by an outage the stale answer stands in, and says so."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_if_error=60, clock=clock)
    call = cache.wrap(upstream)
    await ask(call, stream=stream)
    clock.advance(30)
    upstream.fail(Status(503))
    assert await ask(call, stream=stream) == ("stale", "stale-if-error: Status")
    upstream.fail(Status(400))
    with pytest.raises(Status, match="400"):
        await ask(call, stream=stream)
    clock.advance(40)
    upstream.fail(Status(503))
    with pytest.raises(Status, match="503"):
        await ask(call, stream=stream)
    assert (await ask(call, stream=stream)) == ("miss", "expired")
    assert (cache.stats.stale, cache.stats.refreshes, conserved(cache, 5)) == (1, 0, True)


@pytest.mark.parametrize(("error", "outcome"), [(TimeoutError(), "stale"), (ValueError("no"), "raised")])
async def test_a_stream_that_fails_before_its_first_chunk(error: Exception, outcome: str) -> None:
    """An outage before the first chunk brings the stale answer; any other error is raised where the stream is read."""
    clock, upstream = FakeClock(), FakeUpstream()
    failing = False

    async def call_it(**params: Any) -> Any:
        return broken_stream(error) if failing else await upstream(**params)

    cache = Cache(ttl=10, stale_if_error=60, clock=clock)
    call = cache.wrap(call_it)
    await ask(call, stream=True)
    clock.advance(30)
    failing = True
    answer = await call(**ASK, stream=True)
    if outcome == "stale":
        assert status(answer).reason == "stale-if-error: TimeoutError"
        assert [chunk async for chunk in answer]
    else:
        with pytest.raises(ValueError, match="no"):
            await anext(answer)
    failing = False
    assert (await ask(call, stream=True))[0] == "miss"


async def test_a_good_stream_is_whole_although_it_was_looked_into() -> None:
    """With a stale answer in reserve, a stream that begins well is given on with its first chunk, and stored."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_if_error=60, clock=clock)
    call = cache.wrap(upstream)
    first = [chunk async for chunk in await call(**ASK, stream=True)]
    clock.advance(30)
    second = [chunk async for chunk in await call(**ASK, stream=True)]
    assert [chunk["choices"] for chunk in second] == [chunk["choices"] for chunk in first]
    assert await ask(call, stream=True) == ("hit", "")
    clock.advance(30)
    broken = await call(**ASK, stream=True)
    await broken.aclose()
    assert not others()


async def test_callers_who_share_a_failure_each_have_their_stale_answer() -> None:
    """When a shared call fails by an outage, all who wait for it are served, each an answer of its own."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_if_error=60, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    clock.advance(30)
    upstream.fail(ConnectionError())
    answers = await asyncio.gather(*[call(**ASK) for _ in range(5)])
    assert [status(answer).outcome for answer in answers] == ["stale"] * 5
    assert len({id(answer["choices"]) for answer in answers}) == 5
    assert upstream.calls == 2


@pytest.mark.parametrize(("takes", "outcome"), [(10, "stale"), (40, "raised")])
async def test_a_call_that_fails_too_late(takes: float, outcome: str) -> None:
    """What counts is the moment of the failure: an answer that is over by then is not served."""
    clock, upstream = FakeClock(), FakeUpstream()

    async def slow(**params: Any) -> Any:
        if upstream.calls:
            clock.advance(takes)
            raise TimeoutError
        return await upstream(**params)

    call = Cache(ttl=10, stale_if_error=60, clock=clock).wrap(slow)
    await ask(call)
    clock.advance(40)
    if outcome == "stale":
        assert (await ask(call))[0] == "stale"
    else:
        with pytest.raises(TimeoutError):
            await ask(call)


async def test_a_store_that_fails_too_leaves_the_upstreams_error() -> None:
    """When it cannot be told whether the stale answer was invalidated, the caller gets the upstream's error."""
    clock, upstream = FakeClock(), FakeUpstream()
    faulty = FaultyBackend(MemoryBackend())

    async def failing(**params: Any) -> Any:
        if upstream.calls:
            clock.advance(5)
            faulty.fail(BackendUnavailable("gone"), "get")
            raise Status(503)
        return await upstream(**params)

    cache = Cache(faulty, ttl=10, stale_if_error=60, clock=clock)
    call = cache.wrap(failing)
    await ask(call)
    clock.advance(30)
    with pytest.raises(Status):
        await ask(call)


# -- soft purges ----------------------------------------------------------------------------------


async def purge(cache: Cache, what: str) -> None:
    await (cache.clear(soft=True) if what == "clear" else cache.invalidate("a", "b", soft=True))


@pytest.mark.parametrize("what", ["invalidate", "clear"])
@pytest.mark.parametrize("ttl", [None, 1000])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_purged_answer_is_served_while_it_is_refreshed(what: str, ttl: float | None, stream: bool) -> None:
    """After a soft purge an answer is stale, whether it had a ttl or none: it is served, and refreshed behind that."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=ttl, stale_while_revalidate=5, clock=clock)
    call = cache.bind(tags=["a"]).wrap(upstream)
    await ask(call, stream=stream)
    await purge(cache, what)
    clock.advance(4.9)
    upstream.hold()
    answers = [await call(**ASK, stream=stream) for _ in range(3)]
    assert [status(answer).outcome for answer in answers] == ["stale"] * 3
    assert status(answers[0]).ttl == 0
    await upstream.reached(2)
    upstream.release()
    await turns(300)
    assert await ask(call, stream=stream) == ("hit", "")
    assert (upstream.calls, cache.stats.refreshes, conserved(cache, 5)) == (2, 1, True)
    await cache.aclose()


async def test_how_long_a_purged_answer_may_be_served() -> None:
    """The windows begin at the purge: first it is refreshed behind the caller, then it stands in for an outage, then
    it is over. What was purged again is no younger for it."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(stale_while_revalidate=5, stale_if_error=60, clock=clock)
    call = cache.bind(tags=["a"]).wrap(upstream)
    only = {"only-if-cached": True}
    await ask(call)
    await cache.invalidate("a", soft=True)
    clock.advance(4)
    await cache.invalidate("a", soft=True)
    assert await ask(call, cache=only) == ("stale", "stale-while-revalidate")
    clock.advance(1)
    with pytest.raises(NotCached, match="purged"):
        await ask(call, cache=only)
    upstream.fail(Status(503))
    assert await ask(call) == ("stale", "stale-if-error: Status")
    clock.advance(55)
    upstream.fail(Status(503))
    with pytest.raises(Status):
        await ask(call)
    assert await ask(call) == ("miss", "purged")


@pytest.mark.parametrize(("at", "purged_at", "over_at"), [(10, 2, 7), (10, 12, 15)])
async def test_the_end_that_was_first_counts(at: float, purged_at: float, over_at: float) -> None:
    """An answer is stale from its own end or from the purge, whichever was first."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=at, stale_while_revalidate=5, clock=clock)
    call = cache.wrap(upstream)
    only = {"only-if-cached": True}
    await ask(call)
    clock.advance(purged_at)
    await cache.clear(soft=True)
    clock.advance(over_at - purged_at - 0.01)
    assert await ask(call, cache=only) == ("stale", "stale-while-revalidate")
    clock.advance(0.02)
    with pytest.raises(NotCached):
        await ask(call, cache=only)


async def test_the_hard_end_holds_for_what_was_purged() -> None:
    """An entry that was stored without windows is over at its end, however lately it was purged."""
    clock, backend, upstream = FakeClock(), MemoryBackend(), FakeUpstream()
    await ask(Cache(backend, ttl=10, clock=clock).wrap(upstream))
    cache = Cache(backend, ttl=10, stale_while_revalidate=100, stale_if_error=100, clock=clock)
    call = cache.wrap(upstream)
    only = {"only-if-cached": True}
    clock.advance(9)
    await cache.clear(soft=True)
    assert (await ask(call, cache=only))[0] == "stale"
    clock.advance(1)
    with pytest.raises(NotCached):
        await ask(call, cache=only)


@pytest.mark.parametrize("ttl", [None, 10])
async def test_without_windows_a_soft_purge_ends_answers(ttl: float | None) -> None:
    """With neither window configured there is nothing to serve a stale answer for."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=ttl, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    await cache.clear(soft=True)
    assert [await ask(call) for _ in range(2)] == [("miss", "purged"), ("hit", "")]


@pytest.mark.parametrize("other", [False, True])
async def test_a_hard_invalidation_ends_what_was_purged(other: bool) -> None:
    """It ends stale answers too, for the upstream's outages as well, and whether it is of this tag or another."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(stale_while_revalidate=50, stale_if_error=60, clock=clock)
    call = cache.bind(tags=["a", "b"]).wrap(upstream)
    await ask(call)
    await cache.invalidate("a", soft=True)
    await cache.invalidate("b" if other else "a")
    upstream.fail(Status(503))
    with pytest.raises(Status):
        await ask(call)
    assert await ask(call) == ("miss", "invalidated")


async def test_a_call_that_a_purge_overtakes() -> None:
    """What was asked for before a soft purge is given to those who asked, and not stored: it would be stale, and
    might take the place of a newer one. Who comes later begins a call of his own."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(stale_while_revalidate=50, clock=clock)
    call = cache.wrap(upstream)
    upstream.hold()
    before = asyncio.create_task(ask(call))
    await upstream.reached(1)
    clock.advance(0.1)
    await cache.clear(soft=True)
    after = asyncio.create_task(ask(call))
    await upstream.reached(2)
    upstream.release()
    assert [await before, await after] == [("miss", "absent")] * 2
    assert cache.stats.reject_reasons == {"invalidated": 1}
    assert await ask(call) == ("hit", "")


async def test_a_refresh_that_a_purge_overtakes() -> None:
    """A refresh that had begun before a purge makes nothing fresh: the next caller has the stale answer, too."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(stale_while_revalidate=50, clock=clock)
    call = cache.wrap(upstream)
    await ask(call)
    await cache.clear(soft=True)
    upstream.hold()
    await ask(call)
    await upstream.reached(2)
    clock.advance(0.1)
    await cache.clear(soft=True)
    upstream.release()
    await turns()
    assert (await ask(call))[0] == "stale"
    await turns()
    assert (await ask(call), upstream.calls) == (("hit", ""), 3)
    upstream.hold()
    await cache.clear(soft=True)
    await ask(call)
    await upstream.reached(4)
    clock.advance(0.1)
    await cache.clear()
    upstream.release()
    await turns()
    assert await ask(call) == ("miss", "invalidated")


async def test_another_process_hears_of_a_purge() -> None:
    """Within a second it serves the answer as stale, and refreshes it."""
    clock, backend, upstream = FakeClock(), MemoryBackend(), FakeUpstream()
    here, there = (Cache(backend, stale_while_revalidate=50, clock=clock) for _ in range(2))
    call = there.wrap(upstream)
    await ask(call)
    await here.clear(soft=True)
    assert await ask(call) == ("hit", "")
    clock.advance(1.1)
    assert await ask(call) == ("stale", "stale-while-revalidate")
    await turns()
    assert await ask(call) == ("hit", "")


async def test_a_purge_reaches_no_other_tenant() -> None:
    """A tenant's handle purges its own answers only."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(stale_while_revalidate=50, clock=clock)
    mine, theirs = cache.bind(tenant="t"), cache.bind(tenant="u")
    calls = [handle.wrap(upstream) for handle in (mine, theirs, cache)]
    for call in calls:
        await ask(call)
    await mine.clear(soft=True)
    assert [(await ask(call))[0] for call in calls] == ["stale", "hit", "hit"]
    await cache.aclose()


# -- only if cached -------------------------------------------------------------------------------


async def test_only_if_cached() -> None:
    """The answer comes from the cache or not at all: NotCached says why, and the upstream is not called."""
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(ttl=10, stale_if_error=60, clock=clock)
    call = cache.wrap(upstream)
    only = {"only-if-cached": True}
    with pytest.raises(NotCached, match="absent"):
        await ask(call, cache=only)
    await ask(call)
    assert await ask(call, cache=only) == ("hit", "")
    clock.advance(10)
    for control, reason in [(only, "expired"), ({**only, "no-cache": True}, "no-cache")]:
        with pytest.raises(LookupError, match=reason):
            await ask(call, cache=control)
    with pytest.raises(NotCached, match="default-off"):
        await ask(call, cache={**only, "use-cache": False})
    assert (upstream.calls, cache.stats.misses, cache.stats.bypassed) == (1, 4, 1)
    assert conserved(cache, 6)


def test_a_sync_function_is_refreshed_behind_its_caller() -> None:
    """A wrapped sync function has it too: its refresh runs on a thread of its own, when its caller has left."""
    clock = FakeClock()
    calls: list[str] = []

    def shout(text: str) -> str:
        calls.append(text)
        return text.upper()

    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call: Any = cache.wrap(shout)
    assert call("a") == "A"
    clock.advance(10)
    assert call("a") == "A"
    asyncio.run(cache.aclose())
    assert (cache.stats.stale, cache.stats.refreshes, cache.stats.misses) == (1, 1, 1)


def test_a_sync_refresh_never_runs_on_its_callers_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when it begins before the caller comes to take his answer: he would wait for it."""
    clock = FakeClock()
    refreshed = threading.Event()
    threads: list[threading.Thread] = []
    wait = CallersThread.wait

    def late(thread: CallersThread, answer: Future[Any]) -> Any:
        answer.exception()
        while cache.stats.stale and thread._jobs.empty() and not refreshed.wait(0.001):
            pass
        return wait(thread, answer)

    def shout(text: str) -> str:
        if threads:
            refreshed.set()
        threads.append(threading.current_thread())
        return text.upper()

    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call: Any = cache.wrap(shout)
    call("a")
    clock.advance(10)
    monkeypatch.setattr(CallersThread, "wait", late)
    call("a")
    asyncio.run(cache.aclose())
    assert [thread is threading.current_thread() for thread in threads] == [True, False]


def test_a_sync_refresh_may_outlive_the_cache() -> None:
    """A thread cannot be cancelled: a refresh that is given up at closing runs out on its own, and disturbs nobody."""
    clock = FakeClock()
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def shout(text: str) -> str:
        if threads:
            threads.append(threading.current_thread())
            begun.set()
            go_on.wait()
        else:
            threads.append(threading.current_thread())
        return text.upper()

    cache = Cache(ttl=10, stale_while_revalidate=5, clock=clock)
    call: Any = cache.wrap(shout)
    call("a")
    clock.advance(10)
    call("a")
    begun.wait()
    asyncio.run(cache.aclose())
    go_on.set()
    threads[1].join()
    assert cache.stats.stale == 1
