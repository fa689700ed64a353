"""The laws of coalescing: one upstream call per key, and nobody pays for what another does."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from asynccache import Cache, status
from asynccache.backends.memory import MemoryBackend
from asynccache.testing import FakeClock, FakeUpstream, FaultyBackend

ASK: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


async def turns(count: int = 20) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    """All tasks but the test's own."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def outcomes(cache: Cache) -> tuple[int, int, int]:
    return cache.stats.hits, cache.stats.coalesced, cache.stats.misses


async def test_identical_concurrent_calls_make_one_upstream_call() -> None:
    """Twenty callers of one key share one upstream call, and each gets an answer of its own."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(20)]
    await upstream.reached(1)
    await turns()
    upstream.release()
    answers = await asyncio.gather(*callers)
    assert upstream.calls == 1
    assert all(answer == answers[0] for answer in answers)
    assert len({id(answer["choices"]) for answer in answers}) == 20
    assert sorted(status(answer).outcome for answer in answers) == ["coalesced"] * 19 + ["miss"]
    assert all(status(answer).stored for answer in answers)
    assert outcomes(cache) == (0, 19, 1)
    assert status(await call(**ASK)).outcome == "hit"


async def test_ten_thousand_callers() -> None:
    """Ten thousand identical callers make one upstream call and leave no task behind."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(10_000)]
    await upstream.reached(1)
    await turns(3)
    upstream.release()
    await asyncio.gather(*callers)
    await turns()
    assert (upstream.calls, cache.stats.calls) == (1, 10_000)
    assert not others()


async def test_different_calls_do_not_wait_for_each_other() -> None:
    """Calls of different keys are under way at the same time."""
    upstream = FakeUpstream()
    call = Cache().wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK, seed=seed)) for seed in range(50)]
    await upstream.reached(50)
    upstream.release()
    await asyncio.gather(*callers)


@pytest.mark.parametrize("leaves", [0, 1, 2])
async def test_a_cancelled_caller_leaves_alone(leaves: int) -> None:
    """Whoever is cancelled, the one who began the flight or one who joined, the others get the answer."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(3)]
    await upstream.reached(1)
    await turns()
    callers[leaves].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[leaves]
    upstream.release()
    staying = [caller for i, caller in enumerate(callers) if i != leaves]
    assert len(await asyncio.gather(*staying)) == 2
    assert (upstream.calls, upstream.cancelled) == (1, 0)
    assert cache.stats.stored == 1
    assert cache.stats.calls == 3


async def test_the_last_one_to_leave_cancels_the_upstream() -> None:
    """When the last caller leaves the upstream is cancelled, and has cleaned up before the caller goes on."""
    log: list[str] = []
    begun, cleaning, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(prompt: str) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()
            log.append("cleaned")
        return prompt

    async def caller() -> None:
        try:
            await call("why?")
        except asyncio.CancelledError:
            log.append("left")
            raise

    cache = Cache()
    call = cache.wrap(slow)
    callers = [asyncio.create_task(caller()) for _ in range(2)]
    await begun.wait()
    await turns()
    for task in callers:
        task.cancel()
    await cleaning.wait()
    await turns()
    cleaned.set()
    await asyncio.wait(callers)
    assert all(task.cancelled() for task in callers)
    assert log == ["left", "cleaned", "left"]
    assert cache.stats.calls == 2
    assert not others()


async def test_a_second_cancellation_reaches_the_upstream() -> None:
    """A caller that is cancelled again while the upstream cleans up passes that on, and leaves nothing behind."""
    begun, cleaning = asyncio.Event(), asyncio.Event()

    async def stubborn(prompt: str) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.Event().wait()
        return prompt

    caller = asyncio.create_task(Cache().wrap(stubborn)("why?"))
    await begun.wait()
    caller.cancel()
    await cleaning.wait()
    await turns()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not others()


async def test_a_newcomer_does_not_join_a_dying_flight() -> None:
    """A call that comes while a cancelled flight still cleans up begins one of its own."""
    begun, cleaned = asyncio.Event(), asyncio.Event()
    calls = 0

    async def slow(prompt: str) -> str:
        nonlocal calls
        calls += 1
        if calls > 1:
            return "second"
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
        return "first"

    call = Cache().wrap(slow)
    first = asyncio.create_task(call("why?"))
    await begun.wait()
    first.cancel()
    await turns()
    assert await call("why?") == "second"
    cleaned.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await call("why?") == "second"
    assert calls == 2


@pytest.mark.parametrize("error", [ValueError("no"), GeneratorExit("no"), asyncio.InvalidStateError()], ids=repr)
async def test_a_failure_reaches_all(error: BaseException) -> None:
    """When the upstream raises, all callers get that very exception, and nothing is stored."""
    upstream = FakeUpstream()
    upstream.fail(error)
    cache = Cache()
    call = cache.wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(20)]
    await upstream.reached(1)
    await turns()
    upstream.release()
    assert all(raised is error for raised in await asyncio.gather(*callers, return_exceptions=True))
    assert (upstream.calls, cache.stats.stored, outcomes(cache)) == (1, 0, (0, 0, 20))
    assert status(await call(**ASK)).outcome == "miss"


async def test_a_failure_that_nobody_waits_for_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """A flight that fails after its last caller has left is not reported as an exception never retrieved."""
    begun = asyncio.Event()

    async def failing(prompt: str) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError(prompt) from None
        return prompt

    caller = asyncio.create_task(Cache().wrap(failing)("why?"))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await turns()
    assert not caplog.records


async def test_an_upstream_that_cancels_itself_hurts_only_its_caller() -> None:
    """A CancelledError of the upstream's own goes to the caller who made that call; the others try anew."""
    upstream = FakeUpstream()
    upstream.fail(asyncio.CancelledError())
    cache = Cache()
    call = cache.wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(3)]
    await upstream.reached(1)
    await turns()
    upstream.release()
    first, *rest = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert [type(answer).__name__ for answer in rest] == ["AnswerDict", "AnswerDict"]
    assert upstream.calls == 2
    assert cache.stats.calls == 3


async def test_a_timeout_around_a_call() -> None:
    """`asyncio.timeout` around a call ends it with TimeoutError, and the upstream with it."""
    upstream = FakeUpstream()
    call = Cache().wrap(upstream)
    upstream.hold()

    async def hurried() -> None:
        async with asyncio.timeout(None) as scope:
            asyncio.get_running_loop().call_soon(scope.reschedule, asyncio.get_running_loop().time())
            await call(**ASK)

    with pytest.raises(TimeoutError):
        await hurried()
    assert upstream.cancelled == 1
    assert not others()


async def test_a_task_group_that_fails() -> None:
    """A failure elsewhere in a task group takes its callers out, and not those outside of it."""
    upstream = FakeUpstream()
    call = Cache().wrap(upstream)
    upstream.hold()
    outside = asyncio.create_task(call(**ASK))
    await upstream.reached(1)

    async def fail() -> None:
        await turns()
        raise ValueError("elsewhere")

    inside: list[asyncio.Task[Any]] = []

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            inside.append(group.create_task(call(**ASK)))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await together()
    assert inside[0].cancelled()
    upstream.release()
    assert status(await outside).outcome == "miss"
    assert upstream.cancelled == 0


async def test_a_call_after_an_invalidation_does_not_join_the_flight_before_it() -> None:
    """Who calls after a tag was invalidated, or all was cleared, never gets an answer asked for before."""
    for end in ("invalidate", "clear"):
        upstream = FakeUpstream()
        cache = Cache()
        call = cache.wrap(upstream)
        upstream.hold()
        before = asyncio.create_task(call(**ASK, cache={"tags": ["doc"]}))
        await upstream.reached(1)
        await (cache.invalidate("doc") if end == "invalidate" else cache.clear())
        after = asyncio.create_task(call(**ASK, cache={"tags": ["doc"]}))
        await upstream.reached(2)
        upstream.release()
        assert (await before)["id"] != (await after)["id"]
        assert cache.stats.reject_reasons == {"invalidated": 1}
        hit = await call(**ASK)
        assert (status(hit).outcome, hit["id"]) == ("hit", (await after)["id"])


async def test_an_invalidation_of_another_tag_does_not_split_a_flight() -> None:
    """Callers go on sharing a flight when what was invalidated is none of its tags."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)
    upstream.hold()
    first = asyncio.create_task(call(**ASK, cache={"tags": ["doc"]}))
    await upstream.reached(1)
    await cache.invalidate("other")
    await cache.bind(namespace="other").clear()
    second = asyncio.create_task(call(**ASK))
    await turns()
    upstream.release()
    assert [status(await first).outcome, status(await second).outcome] == ["miss", "coalesced"]


async def test_an_answer_that_cannot_be_copied_is_not_shared() -> None:
    """When an answer has no bytes to copy from, every caller makes a call of its own, all at once."""
    upstream = FakeUpstream()

    class Opaque:
        pass

    async def opaque(**params: Any) -> Any:
        await upstream(**params)
        return Opaque()

    cache = Cache()
    call = cache.wrap(opaque)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(5)]
    await upstream.reached(1)
    await turns()
    upstream.release()
    answers = await asyncio.gather(*callers)
    assert len({id(answer) for answer in answers}) == upstream.calls == 5
    assert cache.stats.reject_reasons == {"answer-type": 5}
    assert outcomes(cache) == (0, 0, 5)


async def test_a_caller_with_other_types_is_served() -> None:
    """Two functions that share keys but not answer types never fail each other's calls."""
    upstream = FakeUpstream()

    class Other(BaseModel):
        unheard_of: int = 1
        id: int = 0

    async def as_dict(model: str, messages: list[Any]) -> Any:
        return await upstream(model=model, messages=messages)

    async def as_model(model: str, messages: list[Any]) -> Other:
        await upstream(model=model, messages=messages)
        return Other()

    cache = Cache()
    upstream.hold()
    first = asyncio.create_task(cache.wrap(as_dict)(**ASK))
    await upstream.reached(1)
    second = asyncio.create_task(cache.wrap(as_model, returns=Other)(**ASK))
    await turns()
    upstream.release()
    assert "choices" in await first
    assert await second == Other()
    assert cache.stats.calls == 2


@pytest.mark.parametrize("control", [{"no-cache": True}, {"no-store": True}, {"no-cache": True, "no-store": True}])
async def test_who_may_not_read_or_write_flies_alone(control: dict[str, Any]) -> None:
    """A call that must not read, or not write, shares its upstream call with nobody."""
    upstream = FakeUpstream()
    call = Cache().wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK, cache=control)) for _ in range(3)]
    await upstream.reached(3)
    upstream.release()
    await asyncio.gather(*callers)


async def test_a_new_flight_looks_again() -> None:
    """A caller whose look-up missed just before another's answer was stored finds it, and pays nothing."""
    faulty = FaultyBackend(MemoryBackend())
    upstream = FakeUpstream()
    cache = Cache(faulty)
    call = cache.wrap(upstream)
    await call(**ASK, seed=0)  # the epochs are known from here on
    gets = faulty.calls("get")
    held = asyncio.Event()

    async def stage(request: Any, call_next: Any) -> Any:
        if request.directives.tags:
            await held.wait()
        return await call_next(request)

    cache = Cache(faulty, stages=lambda default: [*default[:-2], stage, *default[-2:]])
    call = cache.wrap(upstream)
    late = asyncio.create_task(call(**ASK, cache={"tags": ["late"]}))
    await faulty.reached("get", gets + 1)
    await turns()
    await call(**ASK)
    held.set()
    assert status(await late).outcome == "hit"
    assert upstream.calls == 2
    assert outcomes(cache) == (1, 0, 1)


async def test_what_a_flight_finds_is_judged_for_each_caller() -> None:
    """A caller with an `s-maxage` never gets an older answer because the flight it joined took one."""
    clock = FakeClock()
    faulty = FaultyBackend(MemoryBackend())
    upstream = FakeUpstream()
    cache = Cache(faulty, clock=clock)
    call = cache.wrap(upstream)
    old = await call(**ASK)
    clock.advance(100)
    faulty.fail(ValueError("gone"), "get")
    faulty.hold("get")
    gets = faulty.calls("get")
    first = asyncio.create_task(call(**ASK))
    second = asyncio.create_task(call(**ASK, cache={"s-maxage": 10}))
    await faulty.reached("get", gets + 2)
    faulty.release("get")
    faulty.hold("get")
    await faulty.reached("get", gets + 3)
    faulty.heal()
    faulty.release("get")
    assert (await first)["id"] == old["id"]
    assert status(await first).age == 100
    assert (await second)["id"] != old["id"]
    assert outcomes(cache) == (1, 0, 2)


async def test_a_flight_sees_the_context_of_who_began_it() -> None:
    """The upstream runs with the context variables of the caller whose call it is."""
    name = contextvars.ContextVar("name", default="")

    async def who(prompt: str) -> str:
        return name.get() + prompt

    name.set("ann")
    assert await Cache().wrap(who)("?") == "ann?"


async def test_one_cache_on_several_loops() -> None:
    """A cache serves one event loop after another, and several at the same time, each with its own flights."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)

    def in_a_loop_of_its_own() -> str:
        return status(asyncio.run(call(**ASK))).outcome

    upstream.hold()
    here = asyncio.create_task(call(**ASK))
    await upstream.reached(1)
    there = asyncio.create_task(asyncio.to_thread(in_a_loop_of_its_own_without_turnstile, cache))
    assert await there == ["miss", "coalesced"]
    upstream.release()
    await here
    assert await asyncio.to_thread(in_a_loop_of_its_own) == "hit"
    assert await asyncio.to_thread(in_a_loop_of_its_own) == "hit"


def in_a_loop_of_its_own_without_turnstile(cache: Cache) -> list[str]:
    async def main() -> list[str]:
        call = cache.wrap(FakeUpstream())
        return [status(answer).outcome for answer in await asyncio.gather(call(**ASK), call(**ASK))]

    return asyncio.run(main())
