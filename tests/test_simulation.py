"""What-if: a simulated cache does with a log what a real one does when the log is replayed through it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from asynccache import Cache, ConfigError
from asynccache.backends.memory import MemoryBackend
from asynccache.model import Directives
from asynccache.simulation import EXACT, Eviction, KeyRule, Outcome, Scenario, key_rule, scenarios, simulate
from asynccache.telemetry.prices import Prices
from asynccache.telemetry.usage import Usage
from asynccache.traffic_log import LoggedCall
from tests.virtual_time import here, in_virtual_time

SEED = 11


def answer(text: str, *, finish: str = "stop", read: int = 500, written: int = 150) -> dict[str, Any]:
    return {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def call(text: str, began: float | None = None, seconds: float | None = 1.0, **more: Any) -> LoggedCall:
    params = {"model": "m", "messages": [{"role": "user", "content": text}]}
    said = more.pop("answer", answer(f"About {text}."))
    return LoggedCall(params, answer=said, began=began, seconds=seconds, **{"usage": Usage(500, 150), **more})


def traffic(count: int, questions: int, *, seed: int = SEED) -> list[LoggedCall]:
    """Questions by Zipf's law, some respelt, some answers cut short, answers of many sizes, several calls under way."""
    dice = random.Random(seed)
    weights = [1 / rank for rank in range(1, questions + 1)]
    sizes = [int(min(dice.lognormvariate(6.5, 1.0), 20_000)) for _ in range(questions)]
    now, calls = 1_700_000_000.0, []
    for number in dice.choices(range(questions), weights, k=count):
        now += dice.expovariate(2.0)
        text = f"Question {number}?"
        said = answer("x" * sizes[number], finish="length" if number % 17 == 3 else "stop")
        spelt = text if dice.random() < 0.7 else f" {text.upper()} "
        calls.append(call(spelt, now, dice.uniform(0.2, 3.0), answer=said))
    return calls


async def replayed(calls: Sequence[LoggedCall], scenario: Scenario) -> tuple[Cache, int]:
    """A real cache after these calls, each begun at its time and answered after as long as it took; and how many
    calls reached the provider."""
    loop, start = here(), calls[0].began or 0.0
    zero = loop.time()

    def clock() -> float:
        return start + loop.time() - zero

    made = 0

    async def acompletion(*, model: str, messages: list[Any], number: int) -> dict[str, Any]:
        nonlocal made
        made += 1
        await asyncio.sleep(calls[number].seconds or 0.0)
        said: dict[str, Any] = calls[number].answer
        return said

    limit = 1 << 40 if scenario.max_bytes is None else scenario.max_bytes
    # The number says which answer the provider gives, and is none of the question.
    builder: list[Any] = [{"ignore": ["number"]}]
    if scenario.keys.builder is not None:
        builder += scenario.keys.builder  # type: ignore[arg-type]
    cache = Cache(MemoryBackend(max_bytes=limit, clock=clock), ttl=scenario.ttl, clock=clock, key_builder=builder)
    wrapped = cache.wrap(acompletion)

    async def one(number: int, logged: LoggedCall) -> None:
        await asyncio.sleep((logged.began or 0.0) - clock())
        await wrapped(**logged.params, number=number)

    await asyncio.gather(*(one(number, logged) for number, logged in enumerate(calls)))
    return cache, made


CASES = [
    Scenario(),
    Scenario(ttl=60),
    Scenario(max_bytes=60_000),
    Scenario(ttl=300, max_bytes=150_000),
    Scenario(max_bytes=150_000, keys=key_rule("normalized")),
    Scenario(max_bytes=5_000),
]


@pytest.mark.parametrize("scenario", CASES, ids=str)
@in_virtual_time
async def test_it_agrees_with_a_real_replay(scenario: Scenario) -> None:
    """Within one hundredth of the hit ratio, hits and waiting calls each; and no scenario is a trivial one."""
    calls = traffic(2_000, 400)
    (told,) = (await simulate(calls, [scenario])).outcomes
    cache, made = await replayed(calls, scenario)
    stats = cache.stats
    real = (stats.hits + stats.coalesced) / len(calls)
    assert 0.05 < real < 0.95
    assert abs(told.hit_ratio - real) <= 0.01
    assert abs(told.hits - stats.hits) <= 0.01 * len(calls)
    assert abs(told.coalesced - stats.coalesced) <= 0.01 * len(calls)
    assert abs(told.misses - made) <= 0.01 * len(calls)
    assert (told.evictions > 0) is (scenario.max_bytes is not None)
    await cache.aclose()


async def outcome(calls: Sequence[LoggedCall], scenario: Scenario = Scenario(), **more: Any) -> Outcome:  # noqa: B008
    (told,) = (await simulate(calls, [scenario], **more)).outcomes
    return told


async def test_a_ttl_counts_from_the_answer() -> None:
    """Asked at 0, answered at 1, kept for ten seconds: a hit before 11, a miss at 11."""
    for at, hits in ((10.9, 1), (11.0, 0)):
        told = await outcome([call("a", 0.0), call("a", at)], Scenario(ttl=10))
        assert (told.hits, told.misses) == (hits, 2 - hits)


async def test_the_same_call_under_way_is_waited_for() -> None:
    """The second begins when half of the first has passed: it saves the other half."""
    told = await outcome([call("a", 0.0, 2.0), call("a", 1.0, 2.0), call("a", 5.0, 2.0)])
    assert (told.misses, told.coalesced, told.hits) == (1, 1, 1)
    assert told.seconds_saved == pytest.approx(1.0 + 2.0)


async def test_money_saved_is_that_of_the_calls_that_are_not_made() -> None:
    prices = Prices({"m": {"input": 5, "output": 15}}, library=False)
    told = await outcome([call("a", 0.0), call("a", 5.0), call("b", 9.0)], prices=prices)
    assert told.usd == pytest.approx(2 * 0.00475)
    assert told.usd_saved == pytest.approx(0.00475)
    assert told.unpriced == 0


async def test_an_unknown_price_is_said_to_be_unknown() -> None:
    told = await outcome([call("a", 0.0), call("a", 5.0)], prices=Prices({"other": {"input": 1}}, library=False))
    assert (told.usd, told.usd_saved, told.unpriced) == (0, 0, 2)


async def test_what_the_log_says_was_paid_counts_before_a_price_list() -> None:
    told = await outcome([call("a", 0.0, usd=0.25), call("a", 5.0, usd=0.75)])
    assert (told.usd, told.usd_saved) == (0.25, 0.75)


async def test_answers_that_the_cache_would_not_keep_are_not_kept() -> None:
    """Cut short, or failed."""
    for bad in (call("a", 0.0, answer=answer("…", finish="length")), call("a", 0.0, answer=None, failed=True)):
        told = await outcome([bad, call("a", 5.0), call("a", 9.0)])
        assert (told.misses, told.refused, told.hits) == (2, 1, 1)


async def test_tenants_share_nothing() -> None:
    told = await outcome([call("a", 0.0, tenant="x"), call("a", 5.0, tenant="y"), call("a", 9.0, tenant="x")])
    assert (told.hits, told.misses) == (1, 2)


async def test_a_call_without_a_key_is_passed_by() -> None:
    told = await outcome(
        [call("a", 0.0), call("a", 5.0)], Scenario(keys=KeyRule("tenants", [{"per_tenant": ["user"]}]))
    )
    assert (told.bypassed, told.hit_ratio) == (2, 0.0)


async def test_embeddings_are_kept_text_by_text() -> None:
    """Of the second list one text of two is there; the third is all there."""

    def embedding(at: float, *texts: str) -> LoggedCall:
        vectors = [{"object": "embedding", "index": i, "embedding": [0.1]} for i in range(len(texts))]
        said = {"object": "list", "model": "e", "data": vectors, "usage": {"prompt_tokens": 8, "total_tokens": 8}}
        params = {"model": "e", "input": list(texts)}
        return LoggedCall(params, "embedding", said, at, 1.0, Usage(8), usd=1.0)

    told = await outcome([embedding(0, "a", "b"), embedding(5, "b", "c"), embedding(9, "c", "a")])
    assert (told.misses, told.hits) == (2, 1)
    assert (told.usd, told.usd_saved) == (1.5, 1.5)


async def test_a_log_without_times_is_one_call_after_another() -> None:
    told = await outcome([call("a"), call("a"), call("b")])
    assert (told.hits, told.coalesced, told.misses) == (1, 0, 2)


async def test_a_hit_in_the_log_takes_as_long_as_a_call_of_its_model() -> None:
    told = await outcome([call("b", 0.0, 4.0), call("a", 1.0, 0.001, cached=True), call("a", 9.0, 0.001, cached=True)])
    assert told.seconds_saved == pytest.approx(4.0)


async def test_more_room_is_never_worse_in_the_curve_and_ends_at_all_there_is() -> None:
    """The largest size holds all entries, so nothing has to go."""
    calls = traffic(1_500, 300)
    found = await simulate(calls, [Scenario(ttl=3600)], curve=6)
    sizes = [each.scenario.max_bytes for each in found.curve]
    assert sizes == sorted(size for size in sizes if size)
    assert len(sizes) == 6
    assert found.curve[-1].evictions == 0
    assert found.curve[-1].hit_ratio == found.outcomes[0].hit_ratio
    assert found.curve[0].hit_ratio < found.curve[-1].hit_ratio


async def test_least_recently_used_is_that() -> None:
    """Room for two: with a, b, a, c the one to go is b."""
    room = (await outcome([call("a", 0.0), call("b", 2.0)])).peak_bytes
    asked = [call(text, 2.0 * place) for place, text in enumerate("abacab")]
    # An epoch's number is partly random, and takes a few bytes more or less.
    told = await outcome(asked, Scenario("lru", max_bytes=room + 50))
    assert (told.hits, told.misses, told.evictions) == (2, 4, 2)


async def test_a_namespace_is_one_of_the_caches_own() -> None:
    told = await outcome([call("a", 0.0), call("a", 5.0)], directives=Directives(namespace="n", tags=("t",)))
    assert told.hits == 1


async def test_a_memory_too_small_for_anything_has_no_hit() -> None:
    policies: tuple[Eviction, ...] = ("s3-fifo", "lru")
    for policy in policies:
        told = await outcome([call("a", 0.0), call("a", 5.0)], Scenario(policy, max_bytes=100))
        assert (told.hits, told.misses) == (0, 2)


def test_scenarios_are_all_that_differ() -> None:
    policies: tuple[Eviction, ...] = ("s3-fifo", "lru")
    made = scenarios(policies=policies, ttls=[60, None], sizes=[None, 1_000], keys=[EXACT, key_rule("normalized")])
    assert len(made) == len(set(map(str, made))) == 2 * 2 * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: key_rule("normalised"), "normalised"),
        (lambda: Scenario(ttl=-1), "ttl"),
        (lambda: Scenario(max_bytes=0), "max_bytes"),
        (lambda: Scenario("fifo"), "s3-fifo, lru"),  # type: ignore[arg-type]
    ],
)
def test_wrong_scenarios_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
