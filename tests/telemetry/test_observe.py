"""What observers are told: every call once, at its end; every upstream call once, whoever waited for it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, RateLimitError

from asynccache import Cache, ConfigError, NotCached, status
from asynccache.backends.disk import DiskBackend
from asynccache.backends.memory import MemoryBackend
from asynccache.stages.observe import Meter, Observe
from asynccache.telemetry.ledger import Ledger
from asynccache.telemetry.observation import LEFT, NOTHING, Observation, Observer, UpstreamObserver, Usage
from asynccache.telemetry.prices import Prices
from asynccache.telemetry.prometheus import PrometheusObserver
from asynccache.telemetry.recent import Recent
from asynccache.telemetry.usage import usage_of
from asynccache.testing import FakeClock, FakeUpstream
from asynccache.testing.provider import SimulatedProvider
from asynccache.testing.shapes import embeddings
from tests.telemetry.recorder import Recorder, until

MESSAGES = [{"role": "user", "content": "Where is my order?"}]
ASK: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}
STREAM: dict[str, Any] = {**ASK, "stream": True, "stream_options": {"include_usage": True}}


def test_without_observers_there_is_no_stage() -> None:
    kinds = [type(stage) for stage in Cache()._stages]
    assert Observe not in kinds
    assert Meter not in kinds
    kinds = [type(stage) for stage in Cache(observers=[Recorder()])._stages]
    assert kinds[0] is Observe
    assert kinds[-1] is Meter


@pytest.mark.parametrize(
    ("observers", "said"),
    [
        ("log", "observers='log': a list is wanted"),
        ([object()], r"has no method observe\(seen\)"),
        ([Observation], r"has no method observe\(seen\)"),
    ],
)
def test_an_observer_has_to_observe(observers: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Cache(observers=observers)


async def test_a_miss_and_a_hit() -> None:
    recorder, clock = Recorder(), FakeClock(1_750_000_000.0)
    cache = Cache(observers=[recorder], namespace="shop", clock=clock).bind(tenant="acme", tags=["faq"])
    ask = cache.wrap(FakeUpstream())
    answer = await ask(**ASK)
    again = await ask(**ASK)
    usage = usage_of(answer["usage"])
    miss, hit = recorder.seen
    assert (miss.outcome, miss.reason, miss.tier, miss.stored, miss.error) == ("miss", "absent", "", True, "")
    assert (hit.outcome, hit.reason, hit.tier, hit.stored, hit.error) == ("hit", "", "memory", True, "")
    assert miss.key == hit.key == status(again).key
    for seen in (miss, hit):
        assert (seen.call_type, seen.model, seen.answered, seen.provider) == ("chat", "gpt-4o", "gpt-4o", "openai")
        assert (seen.tenant, seen.namespace, seen.tags, seen.stream) == ("acme", "shop", ("faq",), False)
        assert (seen.began, seen.usage, seen.first) == (1_750_000_000.0, usage, None)
        assert seen.seconds > 0
    assert miss.paid == usage
    assert hit.paid == NOTHING
    (made,) = recorder.made
    assert (made.usage, made.error, made.tenant, made.tags, made.model) == (usage, "", "acme", ("faq",), "gpt-4o")


async def test_a_stream_is_told_at_its_end() -> None:
    recorder = Recorder()
    ask = Cache(observers=[recorder]).wrap(FakeUpstream())
    for outcome in ("miss", "hit"):
        stream = await ask(**STREAM)
        first = await anext(stream)
        assert recorder.outcomes == ["miss"] * (outcome == "hit")
        chunks = [first, *[chunk async for chunk in stream]]
        seen = recorder.seen[-1]
        assert (seen.outcome, seen.stream, seen.error, seen.stored) == (outcome, True, "", True)
        assert seen.usage == usage_of(chunks[-1]["usage"])
        assert seen.first is not None
        assert 0 < seen.first < seen.seconds
    assert [made.usage for made in recorder.made] == [recorder.seen[0].usage]
    assert [seen.paid for seen in recorder.seen] == [recorder.seen[0].usage, NOTHING]


async def test_a_stream_that_nobody_asked_the_usage_of_is_unknown() -> None:
    recorder = Recorder()
    ask = Cache(observers=[recorder]).wrap(FakeUpstream())
    for _ in range(2):
        _ = [chunk async for chunk in await ask(**ASK, stream=True)]
    assert [(seen.outcome, seen.usage, seen.error) for seen in recorder.seen] == [("miss", None, ""), ("hit", None, "")]
    assert recorder.made[0].usage is None


async def test_a_stream_that_is_left() -> None:
    """Closed, dropped, or its reader cancelled: told once, as what it was, and nobody knows what was paid."""
    recorder, upstream = Recorder(), FakeUpstream()
    cache = Cache(observers=[recorder])
    ask = cache.wrap(upstream)
    stream = await ask(**STREAM)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    assert [(seen.outcome, seen.error, seen.usage, seen.paid) for seen in recorder.seen] == [("miss", LEFT, None, None)]
    assert [(made.error, made.usage) for made in recorder.made] == [(LEFT, None)]

    stream = await ask(**STREAM)
    await anext(stream)
    del stream
    gc.collect()
    await asyncio.sleep(0)
    assert [seen.error for seen in recorder.seen] == [LEFT, LEFT]

    reading = asyncio.Event()

    async def read() -> None:
        async for _ in await ask(**STREAM):
            upstream.hold()
            reading.set()

    reader = asyncio.create_task(read())
    await reading.wait()
    for _ in range(20):  # until it waits for the next chunk
        await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    assert [seen.error for seen in recorder.seen] == [LEFT, LEFT, "CancelledError"]
    await cache.aclose()
    assert len(recorder.made) == 3
    assert all(made.usage is None for made in recorder.made)


async def test_a_stream_that_is_found_dropped_while_an_observer_is_told() -> None:
    """Garbage is collected anywhere: the observer is told of it when it is done with what it does."""

    class Collecting(Recorder):
        busy = False

        def observe(self, seen: Observation, /) -> None:
            assert not self.busy, "it would wait for its own lock"
            self.busy = True
            super().observe(seen)
            gc.collect()
            self.busy = False

    recorder = Collecting()
    async with Cache(observers=[recorder]) as cache:
        ask = cache.wrap(FakeUpstream())
        stream = await ask(**STREAM)
        await anext(stream)
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        del cycle, stream
        await ask(**ASK)
        await asyncio.sleep(0)
        assert [seen.error for seen in recorder.seen] == ["", LEFT]


async def test_a_stream_that_fails() -> None:
    recorder, upstream = Recorder(), FakeUpstream()
    ask = Cache(observers=[recorder]).wrap(upstream)
    upstream.fail(ValueError("broken"), after=2)
    with pytest.raises(ValueError, match="broken"):
        _ = [chunk async for chunk in await ask(**STREAM)]
    assert [(seen.outcome, seen.error, seen.usage) for seen in recorder.seen] == [("miss", "ValueError", None)]
    assert [(made.error, made.usage) for made in recorder.made] == [("ValueError", None)]


class Refused(Exception):
    status_code = 429


@pytest.mark.parametrize(("error", "usage"), [(Refused(), NOTHING), (TimeoutError(), None)])
async def test_a_call_that_fails(error: Exception, usage: Usage | None) -> None:
    """A provider that refuses charges nothing; of a call that broke off, nobody knows."""
    recorder, upstream = Recorder(), FakeUpstream()
    upstream.fail(error)
    with pytest.raises(type(error)):
        await Cache(observers=[recorder]).wrap(upstream)(**ASK)
    (seen,) = recorder.seen
    assert (seen.outcome, seen.error, seen.paid) == ("miss", type(error).__name__, usage)
    assert [made.usage for made in recorder.made] == [usage]


async def test_calls_without_an_upstream() -> None:
    recorder, upstream = Recorder(), FakeUpstream()
    ask = Cache(observers=[recorder]).wrap(upstream)
    with pytest.raises(NotCached):
        await ask(**ASK, cache={"only-if-cached": True})
    (seen,) = recorder.seen
    assert (seen.outcome, seen.error, seen.usage, seen.paid) == ("miss", "NotCached", NOTHING, NOTHING)
    assert not recorder.made


async def test_a_bypass_says_its_kind_and_quotes_nothing() -> None:
    recorder = Recorder()
    ask = Cache(observers=[recorder]).wrap(FakeUpstream())

    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("the secret prompt")

    await ask(**ASK, metadata=Odd())
    await ask(**ASK, cache={"no-cache": True, "no-store": True})
    assert [(s.outcome, s.reason) for s in recorder.seen] == [("bypass", "unkeyable"), ("bypass", "no-cache, no-store")]
    assert all(seen.usage == made.usage != NOTHING for seen, made in zip(recorder.seen, recorder.made, strict=True))
    assert "secret" not in repr(recorder.seen)


async def test_what_is_not_stored_has_its_usage_too() -> None:
    recorder = Recorder()
    ask = Cache(observers=[recorder]).wrap(FakeUpstream())
    answer = await ask(**ASK, cache={"no-store": True})
    (seen,) = recorder.seen
    assert (seen.usage, seen.paid, seen.stored) == (usage_of(answer["usage"]), usage_of(answer["usage"]), False)


async def test_many_who_share_a_call() -> None:
    recorder, upstream = Recorder(), FakeUpstream()
    ask = Cache(observers=[recorder]).wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(ask(**ASK)) for _ in range(5)]
    await upstream.reached(1)
    upstream.release()
    await asyncio.gather(*callers)
    assert sorted(recorder.outcomes) == ["coalesced"] * 4 + ["miss"]
    assert {seen.usage for seen in recorder.seen} == {recorder.made[0].usage}
    assert sum(seen.paid == NOTHING for seen in recorder.seen) == 4
    assert len(recorder.made) == 1


async def test_many_who_share_a_stream() -> None:
    recorder, upstream = Recorder(), FakeUpstream()
    ask = Cache(observers=[recorder]).wrap(upstream)

    async def read() -> None:
        _ = [chunk async for chunk in await ask(**STREAM)]

    await asyncio.gather(*(read() for _ in range(3)))
    assert sorted(recorder.outcomes) == ["coalesced", "coalesced", "miss"]
    assert {seen.usage for seen in recorder.seen} == {recorder.made[0].usage}
    assert recorder.made[0].usage is not None


async def test_the_one_who_called_leaves_and_another_has_the_answer() -> None:
    """The upstream call is told once, with its usage, though no caller's call is said to have paid it."""
    recorder, upstream = Recorder(), FakeUpstream()
    ask = Cache(observers=[recorder]).wrap(upstream)
    upstream.hold()
    first = asyncio.create_task(ask(**ASK))
    await upstream.reached(1)
    second = asyncio.create_task(ask(**ASK))
    for _ in range(20):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    upstream.release()
    answer = await second
    assert [(s.outcome, s.error, s.paid) for s in recorder.seen] == [
        ("miss", "CancelledError", None),
        ("coalesced", "", NOTHING),
    ]
    assert [made.usage for made in recorder.made] == [usage_of(answer["usage"])]


async def test_a_refresh_behind_an_answer_is_an_upstream_call_and_no_call() -> None:
    recorder, clock, upstream = Recorder(), FakeClock(), FakeUpstream()
    cache = Cache(observers=[recorder], ttl=10, stale_while_revalidate=100, clock=clock, backend=MemoryBackend())
    ask = cache.wrap(upstream)
    await ask(**ASK)
    clock.advance(11)
    upstream.hold()
    await ask(**ASK)
    await upstream.reached(2)
    upstream.release()
    await until(lambda: len(recorder.made) == 2)
    assert recorder.outcomes == ["miss", "stale"]
    assert recorder.made[0].usage == recorder.made[1].usage
    await cache.aclose()


async def embed(model: str, input: Any) -> dict[str, Any]:
    return embeddings.embeddings({"model": model, "input": input})


async def test_embeddings_are_attributed_text_by_text() -> None:
    """Only the missing texts are paid; the call to the provider is one, about those."""
    recorder = Recorder()
    cached = Cache(observers=[recorder]).wrap(embed, call_type="embedding")
    used = {text: (await embed("e", text))["usage"]["prompt_tokens"] for text in ("alpha", "beta beta", "gamma rays!")}
    await cached(model="e", input=["alpha", "beta beta"])
    await cached(model="e", input=["alpha", "gamma rays!", "alpha"])
    await cached(model="e", input=["alpha", "beta beta"])
    both, partial, hit = recorder.seen
    assert (both.outcome, both.usage, both.paid) == ("miss", Usage(used["alpha"] + used["beta beta"]), both.usage)
    assert (partial.outcome, partial.reason) == ("miss", "partial: 2 of 3")
    assert partial.usage == Usage(2 * used["alpha"] + used["gamma rays!"])
    assert partial.paid == Usage(used["gamma rays!"])
    assert (hit.outcome, hit.paid, hit.usage) == ("hit", NOTHING, both.usage)
    assert [made.usage for made in recorder.made] == [both.usage, partial.paid]
    assert {made.model for made in recorder.made} == {"e"}


async def test_embeddings_that_are_not_stored() -> None:
    recorder = Recorder()
    cached: Any = Cache(observers=[recorder]).wrap(embed, call_type="embedding")
    await cached(model="e", input=["alpha"])
    await cached(model="e", input=["alpha", "beta beta"], cache={"no-store": True})
    assert recorder.seen[1].paid == recorder.made[1].usage
    assert recorder.seen[1].usage == usage_of((await embed("e", ["alpha", "beta beta"]))["usage"])


async def test_an_observer_that_raises_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def observe(self, seen: Observation) -> None:
            raise RuntimeError("no")

        def observe_upstream(self, made: Any) -> None:
            raise RuntimeError("no")

    recorder = Recorder()
    cache = Cache(observers=[Broken(), recorder])
    ask = cache.wrap(FakeUpstream())
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await ask(**ASK)
    assert recorder.outcomes == ["miss", "hit", "hit"]
    stage = cache._stages[0]
    assert isinstance(stage, Observe)
    assert stage.observers.errors == 4
    assert len(caplog.records) == 1


class InFull:
    """Tells an observer of every hit in full."""

    def __init__(self, observer: Observer) -> None:
        self.observe = observer.observe
        if isinstance(observer, UpstreamObserver):
            self.observe_upstream = observer.observe_upstream


@pytest.mark.parametrize("stored", ["memory", "disk"])
async def test_hits_in_short_count_as_hits_in_full(stored: str, tmp_path: Path) -> None:
    """An entry on disk is another object each time; one in memory is the same until it is replaced."""
    clock, random, recorder = FakeClock(), Random(7), Recorder()
    backend = MemoryBackend() if stored == "memory" else DiskBackend(tmp_path, clock=clock)
    prices = Prices({"m": {"input": "1", "output": "2"}}, library=False)
    ledgers, recents = (Ledger(prices), Ledger(prices)), (Recent(clock=clock), Recent(clock=clock))
    metrics = PrometheusObserver(prices), PrometheusObserver(prices)
    pairs: list[tuple[Observer, Observer]] = [ledgers, recents, metrics]
    observers = [observer for short, full in pairs for observer in (short, InFull(full))]
    async with Cache(backend, observers=[*observers, recorder], clock=clock, ttl=600) as cache:
        asks = [
            cache.bind(tenant=tenant, tags=tags).wrap(FakeUpstream()) for tenant in (None, "a") for tags in ((), ("t",))
        ]
        for _ in range(300):
            messages = [{"role": "user", "content": random.choice("xyz")}]
            await random.choice(asks)(model=random.choice("mn"), messages=messages)
            clock.advance(random.choice([0, 1, 50]))
    assert recorder.outcomes.count("hit") > 100
    assert ledgers[0].report() == ledgers[1].report()
    assert recents[0].report() == recents[1].report()
    short, full = [(await each.metrics_response()).body.decode() for each in metrics]
    assert without_times(short) == without_times(full) != []


def without_times(text: str) -> list[str]:
    """The lines of metrics, without those that say when the counting began."""
    return [line for line in text.splitlines() if "_created" not in line]


async def test_the_cache_drains_its_observers() -> None:
    class Slow(Recorder):
        drained = 0

        async def drain(self) -> None:
            self.drained += 1

    observer = Slow()
    async with Cache(observers=[observer]):
        pass
    assert observer.drained == 1


async def test_a_model_that_is_no_name_is_cut() -> None:
    recorder = Recorder()
    ask = Cache(observers=[recorder]).wrap(FakeUpstream())
    for _ in range(2):
        await ask(model="m" * 1000, messages=MESSAGES)
    assert {len(seen.model) for seen in recorder.seen} == {128}


async def test_the_real_sdks() -> None:
    """Typed answers and streams of openai and anthropic, over HTTP."""
    recorder = Recorder()
    async with (
        SimulatedProvider() as provider,
        Cache(observers=[recorder]) as cache,
        cache.wrap(AsyncOpenAI(base_url=provider.base_url, api_key="sk-secret", max_retries=0)) as openai,
        cache.wrap(AsyncAnthropic(base_url=provider.origin, api_key="sk-secret", max_retries=0)) as anthropic,
    ):
        for _ in range(2):
            await openai.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
            await openai.responses.create(model="gpt-4o", input="Hi")
            await anthropic.messages.create(
                model="claude-any", max_tokens=500, messages=[{"role": "user", "content": "Hi"}]
            )
            _ = [event async for event in await openai.responses.create(model="gpt-4o", input="Ho", stream=True)]
            async for _ in await anthropic.messages.create(
                model="claude-any", max_tokens=500, messages=[{"role": "user", "content": "Ho"}], stream=True
            ):
                pass
        provider.fail_next(429)
        with pytest.raises(RateLimitError):
            await openai.responses.create(model="gpt-4o", input="Hey")
    *calls, failed = recorder.seen
    assert [seen.outcome for seen in calls] == ["miss"] * 5 + ["hit"] * 5
    assert [seen.call_type for seen in calls] == ["chat", "responses", "messages", "responses", "messages"] * 2
    assert [seen.usage for seen in calls[:5]] == [seen.usage for seen in calls[5:]]
    assert all(seen.usage is not None and seen.usage.input and seen.usage.output for seen in calls)
    assert [made.usage for made in recorder.made[:5]] == [seen.usage for seen in calls[:5]]
    assert (failed.error, failed.paid) == ("RateLimitError", NOTHING)
    assert "sk-secret" not in repr(recorder.seen) + repr(recorder.made)


async def test_a_function_of_ones_own() -> None:
    """What says no usage has none; a stream of anything is passed on as it is."""
    recorder = Recorder()
    cache = Cache(observers=[recorder])

    @cache.wrap
    async def double(x: int) -> int:
        return 2 * x

    @cache.wrap
    async def count(to: int) -> AsyncIterator[int]:
        async def numbers() -> AsyncIterator[int]:
            for number in range(to):
                yield number

        return numbers()

    assert [await double(3), await double(3)] == [6, 6]
    assert [number async for number in await count(3)] == [0, 1, 2]
    assert [(seen.outcome, seen.usage, seen.model) for seen in recorder.seen][:2] == [
        ("miss", None, ""),
        ("hit", None, ""),
    ]
    assert recorder.seen[2].call_type == "function"


def test_a_sync_function() -> None:
    recorder = Recorder()

    def ask(model: str, messages: list[Mapping[str, Any]]) -> dict[str, Any]:
        return {"model": model, "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}

    Cache(observers=[recorder]).wrap(ask)(model="m", messages=[])
    assert [(seen.outcome, seen.usage) for seen in recorder.seen] == [("miss", Usage(2, 1))]
