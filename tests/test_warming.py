"""`Cache.warm`: only what is missing or soon stale is called, within the budget, and what was done stays done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from asynccache import BackendUnavailable, Cache, CacheKey, ConfigError, Entry, Request, status
from asynccache.backends.memory import MemoryBackend
from asynccache.telemetry.observation import Observation, UpstreamCall
from asynccache.telemetry.prices import Prices
from asynccache.testing.clock import FakeClock
from asynccache.testing.upstream import Answer, FakeUpstream
from asynccache.warming import Warming

PRICES = Prices({"m": {"input": 5, "output": 15}}, library=False)


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def asked(upstream: FakeUpstream) -> list[str]:
    return [request["messages"][0]["content"] for request in upstream.requests]


def completion(read: int, written: int) -> dict[str, Any]:
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    message = {"role": "assistant", "content": "Yes."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


async def test_what_is_missing_is_called_and_then_a_hit() -> None:
    upstream = FakeUpstream()
    async with Cache(ttl=60) as cache:
        call = cache.wrap(upstream)
        warming = await cache.warm([ask("a"), ask("b")], call)
        assert (warming.asked, warming.called, warming.done, warming.complete) == (2, 2, 2, True)
        assert status(await call(**ask("a"))).outcome == "hit"
    assert sorted(asked(upstream)) == ["a", "b"]


async def test_what_is_there_is_not_called_again() -> None:
    """Nor is the same request twice in one list, however it is written."""
    upstream = FakeUpstream()
    async with Cache() as cache:
        call = cache.wrap(upstream)
        await call(**ask("a"))
        warming = await cache.warm([ask("a"), ask("b"), ask("b", stream=False), ask("c")], call, concurrency=1)
        assert (warming.present, warming.called, warming.repeated) == (1, 2, 1)
    assert asked(upstream) == ["a", "b", "c"]


async def test_it_takes_what_is_not_wrapped_yet() -> None:
    upstream = FakeUpstream()
    async with Cache() as cache:
        await cache.warm([ask("a")], upstream)
        assert status(await cache.wrap(upstream)(**ask("a"))).outcome == "hit"


async def test_an_answer_that_ends_soon_is_called_anew() -> None:
    """Its new life begins then. One that lasts is left as it is."""
    clock, upstream = FakeClock(), FakeUpstream()
    async with Cache(ttl=100, clock=clock) as cache:
        call = cache.wrap(upstream)
        await call(**ask("old"))
        clock.advance(60)
        await call(**ask("new"))
        warming = await cache.warm([ask("old"), ask("new")], call, refresh_within=50)
        assert (warming.refreshed, warming.present) == (1, 1)
        assert status(await call(**ask("old"))).ttl == 100
    assert asked(upstream) == ["old", "new", "old"]


async def test_what_is_served_stale_is_called_anew() -> None:
    """And is fresh when the warming is over, not some time later."""
    clock, upstream = FakeClock(), FakeUpstream()
    async with Cache(ttl=10, stale_while_revalidate=1000, clock=clock) as cache:
        call = cache.wrap(upstream)
        await call(**ask("a"))
        clock.advance(20)
        warming = await cache.warm([ask("a")], call)
        assert warming.refreshed == 1
        assert (status(found := await call(**ask("a"))).outcome, status(found).ttl) == ("hit", 10)
    assert upstream.calls == 2


async def test_what_was_invalidated_is_called_anew() -> None:
    upstream = FakeUpstream()
    async with Cache() as cache:
        call = cache.wrap(upstream)
        await cache.warm([ask("a", cache={"tags": ["t"]})], call)
        await cache.invalidate("t")
        warming = await cache.warm([ask("a", cache={"tags": ["t"]})], call)
        assert (warming.present, warming.refreshed) == (0, 1)
    assert upstream.calls == 2


async def test_an_interrupted_warming_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was answered is kept, calls under way are given up; afterwards only the rest is called."""
    requests = [ask(f"{number}") for number in range(10)]
    first, second = FakeUpstream(), FakeUpstream()
    four, two_more = asyncio.Event(), asyncio.Event()
    given_up: list[str] = []

    async def slow(*, model: str, messages: list[Any]) -> Any:
        answer = await first(model=model, messages=messages)
        if first.calls <= 4:
            return answer
        if first.calls == 6:
            two_more.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.append(messages[0]["content"])

    def progress(so_far: Warming) -> None:
        if so_far.called == 4:
            four.set()

    async with Cache(type="disk", path=tmp_path) as cache:
        call = cache.wrap(slow)
        running = asyncio.create_task(cache.warm(requests, call, concurrency=2, progress=progress))
        await asyncio.gather(four.wait(), two_more.wait())
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert sorted(given_up) == sorted(asked(first)[4:])
    async with Cache(type="disk", path=tmp_path) as cache:
        warming = await cache.warm(requests, cache.wrap(second))
    assert (warming.present, warming.called, warming.complete) == (4, 6, True)
    assert sorted(asked(second)) == sorted({f"{number}" for number in range(10)} - set(asked(first)[:4]))


async def test_a_failure_does_not_stop_the_others() -> None:
    upstream = FakeUpstream()
    upstream.fail(RuntimeError("the provider is\non fire"))
    async with Cache() as cache:
        warming = await cache.warm([ask("a"), ask("b")], cache.wrap(upstream), concurrency=1)
    assert (warming.called, warming.complete) == (1, False)
    (failure,) = warming.failures
    assert (failure.number, failure.request, failure.error) == (1, ask("a"), "RuntimeError: the provider is on fire")


async def test_an_answer_that_is_not_kept_is_a_failure() -> None:
    """It would be paid for again at each run, and nobody would know."""
    upstream = FakeUpstream(Answer("cut", finish_reason="length"))
    async with Cache() as cache:
        warming = await cache.warm([ask("a")], cache.wrap(upstream))
    assert "not kept" in warming.failures[0].error


async def test_a_call_that_the_cache_keeps_out_of_is_not_made() -> None:
    upstream = FakeUpstream()
    async with Cache() as cache:
        requests = [ask("a", cache={"no-store": True}), ask("b", tools=[object()])]
        warming = await cache.warm(requests, cache.wrap(upstream))
    assert [failure.error.partition(":")[0] for failure in warming.failures] == ["the cache keeps out of it"] * 2
    assert upstream.calls == 0


class Broken(MemoryBackend):
    async def get(self, key: CacheKey, /) -> Entry | None:
        raise BackendUnavailable("gone", backend="broken")


async def test_nothing_is_paid_for_when_it_could_not_be_kept() -> None:
    upstream = FakeUpstream()
    async with Cache(Broken()) as cache:
        warming = await cache.warm([ask("a")], cache.wrap(upstream))
    assert "BackendUnavailable" in warming.failures[0].error
    assert upstream.calls == 0


async def test_no_more_calls_at_a_time_than_allowed() -> None:
    upstream, most, under_way = FakeUpstream(), 0, 0

    async def acompletion(*, model: str, messages: list[Any]) -> Any:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        try:
            return await upstream(model=model, messages=messages)
        finally:
            under_way -= 1

    upstream.hold()
    async with Cache() as cache:
        warming = asyncio.create_task(cache.warm([ask(f"{n}") for n in range(20)], acompletion, concurrency=3))
        await upstream.reached(3)
        upstream.release()
        assert (await warming).called == 20
    assert most == 3


async def test_the_budget_holds() -> None:
    """Each call costs $0.00475 and may cost no more, by its limit of tokens: four are within two cents."""
    upstream = FakeUpstream(completion(500, 150))
    requests = [ask("x" * 1497 + f"{number:03}", max_tokens=150) for number in range(10)]
    async with Cache() as cache:
        warming = await cache.warm(requests, cache.wrap(upstream), prices=PRICES, max_usd=0.02, concurrency=4)
        assert (warming.called, warming.unaffordable, warming.complete) == (4, 6, False)
        assert warming.usd == 4 * Decimal("0.00475") <= Decimal("0.02")
        again = await cache.warm(requests, cache.wrap(upstream), prices=PRICES, max_usd=1)
        assert (again.present, again.called, again.complete) == (4, 6, True)
    assert upstream.calls == 10


async def test_money_set_apart_and_not_used_is_there_for_the_next() -> None:
    """A call that may write 1,000 tokens and writes one leaves room for others, which wait for it."""
    upstream = FakeUpstream(completion(10, 1))
    requests = [ask(f"{number}", max_tokens=1000) for number in range(10)]
    async with Cache() as cache:
        warming = await cache.warm(requests, cache.wrap(upstream), prices=PRICES, max_usd=0.017, concurrency=10)
    assert (warming.called, warming.unaffordable) == (10, 0)
    assert warming.usd == 10 * Decimal("0.000065")


async def test_hits_need_no_money() -> None:
    upstream = FakeUpstream(completion(10, 1))
    async with Cache() as cache:
        call = cache.wrap(upstream)
        await call(**ask("a"))
        warming = await cache.warm([ask("a"), ask("b")], call, prices=PRICES, max_usd=0)
    assert (warming.present, warming.unaffordable, upstream.calls) == (1, 1, 1)


async def test_an_unknown_price_is_refused_before_the_first_call() -> None:
    upstream = FakeUpstream()
    requests = [ask("a"), {**ask("b"), "model": "homemade"}]
    async with Cache() as cache:
        call = cache.wrap(upstream)
        with pytest.raises(ConfigError, match="price of 'homemade' is not known"):
            await cache.warm(requests, call, prices=PRICES, max_usd=1)
        assert upstream.calls == 0
        warming = await cache.warm(requests, call, prices=PRICES, max_usd=1, assume_usd=0.9, concurrency=1)
        assert (warming.called, warming.unpriced) == (2, 1)


async def test_an_assumed_price_counts_against_the_limit() -> None:
    upstream = FakeUpstream()
    requests = [{**ask(f"{number}"), "model": "homemade"} for number in range(5)]
    async with Cache() as cache:
        warming = await cache.warm(requests, cache.wrap(upstream), prices=PRICES, max_usd=1, assume_usd=0.4)
    assert (warming.called, warming.unaffordable, warming.usd) == (2, 3, Decimal(0))


async def test_a_call_that_was_refused_costs_nothing_and_one_that_was_lost_may_have() -> None:
    class Refused(Exception):
        status_code = 429

    for error, left in ((Refused(), 0), (ConnectionError(), 1)):
        upstream = FakeUpstream(completion(10, 100))
        upstream.fail(error)
        async with Cache() as cache:
            requests = [ask("a", max_tokens=100), ask("b", max_tokens=100)]
            warming = await cache.warm(requests, cache.wrap(upstream), prices=PRICES, max_usd=0.002, concurrency=1)
        assert (len(warming.failures), warming.unaffordable) == (1, left)


async def test_looking_is_told_to_nobody() -> None:
    """No observer hears of it, no hook sees an answer, and no statistics count it. The calls are told as all are."""
    heard: list[str] = []
    answers: list[Any] = []

    class Watcher:
        def observe(self, seen: Observation, /) -> None:
            heard.append(seen.outcome)

        def observe_upstream(self, made: UpstreamCall, /) -> None:
            heard.append("upstream")

    async def before(request: Request) -> dict[str, Any]:
        return {**request.params, "temperature": 0}

    async def after(response: Any, request: Request) -> None:
        answers.append(response)

    upstream = FakeUpstream()
    async with Cache(observers=[Watcher()], pre_hooks=[before], post_hooks=[after]) as cache:
        call = cache.wrap(upstream)
        await cache.warm([ask("a")], call)
        assert (heard, len(answers)) == (["upstream", "miss"], 1)
        assert (await cache.warm([ask("a")], call)).present == 1
        assert (heard, len(answers)) == (["upstream", "miss"], 1)
        assert (cache.stats.hits, cache.stats.misses) == (0, 1)
    assert upstream.requests[0]["temperature"] == 0


async def test_each_tenant_has_its_own() -> None:
    """Whose handle wrapped the function counts, as in any call; and what a request says itself."""
    upstream = FakeUpstream()
    async with Cache() as cache:
        mine, theirs = (cache.bind(tenant=name).wrap(upstream) for name in ("me", "them"))
        await cache.warm([ask("a")], mine)
        assert status(await mine(**ask("a"))).outcome == "hit"
        assert (await cache.warm([ask("a")], theirs)).called == 1
        assert (await cache.warm([ask("a", cache={"tenant": "them"})], cache.wrap(upstream))).present == 1


async def test_the_key_builder_counts() -> None:
    upstream = FakeUpstream()
    async with Cache(key_builder="normalized") as cache:
        warming = await cache.warm([ask("Where is it?"), ask("where  is it")], upstream, concurrency=1)
    assert (warming.called, warming.repeated) == (1, 1)


async def test_streams_are_read_to_their_end() -> None:
    upstream = FakeUpstream()
    async with Cache() as cache:
        call = cache.wrap(upstream)
        assert (await cache.warm([ask("a", stream=True)], call)).called == 1
        assert status(await call(**ask("a"))).outcome == "hit"


async def test_embeddings_are_warmed_text_by_text() -> None:
    sent: list[list[str]] = []

    async def aembedding(*, model: str, input: list[str]) -> dict[str, Any]:
        sent.append(input)
        data = [{"object": "embedding", "index": i, "embedding": [float(len(text))]} for i, text in enumerate(input)]
        usage = {"prompt_tokens": len(input), "total_tokens": len(input)}
        return {"object": "list", "model": model, "data": data, "usage": usage}

    async with Cache() as cache:
        call = cache.wrap(aembedding, call_type="embedding")
        first = await cache.warm([{"model": "e", "input": ["a", "bb"]}], call)
        more = [{"model": "e", "input": ["bb", "ccc"]}, {"model": "e", "input": ["a", "bb"]}]
        second = await cache.warm(more, call)
    assert (first.called, second.called, second.present) == (1, 1, 1)
    assert sent == [["a", "bb"], ["ccc"]]


async def test_a_sync_function_is_warmed_too() -> None:
    calls: list[str] = []

    def ask_it(question: str) -> dict[str, str]:
        calls.append(question)
        return {"answer": question}

    async with Cache() as cache:
        call = cache.wrap(ask_it)
        assert (await cache.warm([{"question": "a"}, {"question": "b"}], call)).called == 2
        assert (await cache.warm([{"question": "a"}], call)).present == 1
    assert sorted(calls) == ["a", "b"]


async def test_answers_that_carry_no_status() -> None:
    """A text: whether it was kept, another look tells."""

    async def echo(question: str) -> str:
        return question

    async with Cache() as cache:
        assert (await cache.warm([{"question": "a"}], cache.wrap(echo))).complete


@pytest.mark.parametrize("options", [{"write_behind": 100}, {"hedge_after": 0}])
async def test_writes_behind_the_caller_count(options: dict[str, Any]) -> None:
    async with Cache(**options) as cache:
        assert (await cache.warm([ask("a")], FakeUpstream())).complete


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda cache: cache.warm([], FakeUpstream(), concurrency=0), "concurrency"),
        (lambda cache: cache.warm([], FakeUpstream(), refresh_within=-1), "refresh_within"),
        (lambda cache: cache.warm([], FakeUpstream(), prices=PRICES, max_usd=-1), "max_usd"),
        (lambda cache: cache.warm([], FakeUpstream(), prices=PRICES, max_usd=1, assume_usd="x"), "assume_usd"),
        (lambda cache: cache.warm([], Cache().wrap(FakeUpstream())), "another cache"),
    ],
)
async def test_wrong_arguments_are_refused(make: Callable[[Cache], Any], message: str) -> None:
    async with Cache() as cache:
        with pytest.raises(ConfigError, match=message):
            await make(cache)
