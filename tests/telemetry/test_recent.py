"""What has happened lately: bounded, and without a word of a prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asynccache import Cache
from asynccache.telemetry.observation import NOTHING, Observation, Usage
from asynccache.telemetry.prices import Prices
from asynccache.telemetry.recent import Recent
from asynccache.testing.clock import FakeClock
from asynccache.testing.upstream import FakeUpstream

SECRET = "Zanzibar"
PRICES = {"m": {"input": 1_000_000, "output": 1_000_000}}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def seen(clock: FakeClock, outcome: Any = "hit", key: str = "k", **facts: Any) -> Observation:
    said: dict[str, Any] = {
        "call_type": "chat",
        "model": "m",
        "provider": "",
        "reason": "" if outcome == "hit" else "absent",
        "tier": "memory" if outcome == "hit" else "",
        "stream": False,
        "stored": True,
        "tenant": None,
        "namespace": "",
        "tags": (),
        "began": clock(),
        "seconds": 0.001,
        "first": None,
        "usage": Usage(1, 1),
        "error": "",
        "paid": NOTHING,
    }
    return Observation(**{**said, **facts}, outcome=outcome, key=key)


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


async def report_of(*calls: dict[str, Any], prompts: bool = False, **options: Any) -> dict[str, Any]:
    """The report after these calls of a cache."""
    recent = Recent(prompts=prompts)
    async with Cache(observers=[recent], stages=recent.stages, **options) as cache:
        answer = cache.wrap(FakeUpstream())
        for call in calls:
            await answer(**call)
    return recent.report()


# -- the live numbers -------------------------------------------------------------------------------


def test_before_anything(clock: FakeClock) -> None:
    report = Recent(clock=clock).report()
    assert report["live"]["hit_ratio"] is None
    assert (report["latency"], report["entries"], report["misses"], report["tenants"]) == ({}, [], [], [])


def test_the_hit_ratio_is_that_of_the_last_minutes(clock: FakeClock) -> None:
    recent = Recent(clock=clock)
    for outcome in ("miss", "miss", "miss", "hit"):
        recent.observe(seen(clock, outcome))
    assert recent.report()["live"]["hit_ratio"] == 0.25
    clock.advance(200)
    for outcome in ("hit", "stale", "coalesced", "semantic"):
        recent.observe(seen(clock, outcome))
    assert recent.report()["live"]["hit_ratio"] == 5 / 8
    clock.advance(200)
    assert recent.report()["live"]["hit_ratio"] == 1
    clock.advance(200)
    assert recent.report()["live"]["hit_ratio"] is None


def test_bypassed_calls_are_in_no_ratio(clock: FakeClock) -> None:
    recent = Recent(clock=clock)
    for outcome in ("hit", "bypass", "miss", "bypass"):
        recent.observe(seen(clock, outcome))
    live = recent.report()["live"]
    assert (live["hit_ratio"], live["bypassed"], live["calls"]) == (0.5, 2, 4)


def test_the_steps_are_as_many_as_ever_and_the_newest_is_last(clock: FakeClock) -> None:
    recent = Recent(clock=clock)
    recent.observe(seen(clock, "miss"))
    clock.advance(1000)
    recent.observe(seen(clock, "hit"))
    recent.observe(seen(clock, "miss"))
    steps = recent.report()["live"]["steps"]
    assert len(steps) == 60
    assert steps[-1] == [1, 1]
    assert sum(map(sum, steps)) == 2


def test_percentiles_by_where_the_answer_came_from(clock: FakeClock) -> None:
    recent = Recent(clock=clock)
    for number in range(1, 101):
        recent.observe(seen(clock, seconds=number / 1000))
        recent.observe(seen(clock, "miss", seconds=float(number)))
    recent.observe(seen(clock, "miss", seconds=9999.0, error="Refused"))
    latency = recent.report()["latency"]
    assert latency["memory"] == {"calls": 100, "p50": 0.051, "p95": 0.096, "p99": 0.1}
    assert latency["upstream"]["p99"] == 100.0


# -- entries ----------------------------------------------------------------------------------------


def test_the_most_valuable_entries_are_those_that_have_saved_most(clock: FakeClock) -> None:
    recent = Recent(clock=clock, prices=Prices(PRICES, library=False))
    for key, hits, tokens in (("often", 10, 2), ("dear", 2, 100), ("seldom", 1, 1)):
        for _ in range(hits):
            recent.observe(seen(clock, key=key, usage=Usage(tokens, 0)))
    entries = recent.report()["entries"]
    assert [(entry["key"], entry["saved"]) for entry in entries] == [("dear", 200), ("often", 20), ("seldom", 1)]


def test_without_a_price_the_tokens_tell(clock: FakeClock) -> None:
    recent = Recent(clock=clock)
    for key, hits, tokens in (("often", 10, 2), ("dear", 2, 100)):
        for _ in range(hits):
            recent.observe(seen(clock, key=key, usage=Usage(tokens, 0)))
    entries = recent.report()["entries"]
    assert [(entry["key"], entry["saved"]) for entry in entries] == [("dear", None), ("often", None)]


def test_nothing_grows_without_end_and_the_valuable_stays(clock: FakeClock) -> None:
    recent = Recent(clock=clock)
    for _ in range(50):
        recent.observe(seen(clock, key="loved"))
    for number in range(20_000):
        recent.observe(seen(clock, key=f"once {number}", tenant=f"t{number}", tier=f"tier {number}"))
        recent.observe(seen(clock, "miss", key=f"never {number}"))
    report = recent.report()
    assert report["entries"][0]["key"] == "loved"
    assert len(report["misses"]) <= 100
    assert len(report["tenants"]) <= 100
    assert len(report["latency"]) <= 10
    assert len(json.dumps(report)) < 50_000


def test_a_credential_that_stands_for_a_tenant_is_shortened(clock: FakeClock) -> None:
    recent = Recent(clock=clock)
    recent.observe(seen(clock, tenant="credential:" + "ab" * 32))
    recent.observe(seen(clock, tenant="team credential:" + "cd" * 32))
    assert recent.report()["tenants"] == ["credential:abababab", "team credential:cdcdcdcd"]


# -- misses -----------------------------------------------------------------------------------------


async def test_a_miss_is_explained_by_the_call_that_has_most_in_common() -> None:
    report = await report_of(
        ask("one", temperature=0.1, top_p=0.5), ask("two", seed=1), ask("one", temperature=0.2, top_p=0.5)
    )
    latest, second, first = report["misses"]
    assert [each["path"] for each in latest["why"]["differences"]] == ["temperature"]
    assert latest["why"]["shared"] > second["why"]["shared"]
    assert first["why"] is None


async def test_a_call_made_again_whose_answer_was_not_kept_differs_in_nothing() -> None:
    report = await report_of(ask("one", cache={"no-store": True}), ask("one"))
    why = report["misses"][0]["why"]
    assert (why["differences"], why["shared"]) == ([], 1)
    assert report["misses"][1]["stored"] is False


async def test_what_is_not_in_the_key_is_no_difference() -> None:
    report = await report_of(
        ask("one", user="a", seed=1), ask("one", user="b", seed=2), key_builder={"ignore": ["user"]}
    )
    assert [each["path"] for each in report["misses"][0]["why"]["differences"]] == ["seed"]


async def test_a_builder_of_texts_is_explained_by_its_text() -> None:
    def build(model: str, messages: Any, **_: Any) -> str:
        return str(messages[0]["content"])

    report = await report_of(ask("one"), ask("two"), key_builder=build)
    paths = [each["path"] for each in report["misses"][0]["why"]["differences"]]
    assert "key_builder" in paths


async def test_a_namespace_and_a_tenant_are_told_by_name() -> None:
    report = await report_of(ask("one", cache={"tenant": "a"}), ask("one", cache={"tenant": "b"}))
    assert report["misses"][0]["why"]["differences"] == [{"path": "cache.tenant", "before": '"a"', "now": '"b"'}]


async def test_a_hundred_differences_are_told_as_some_and_a_number() -> None:
    one, two = ({f"field{n}": (n, side) for n in range(100)} for side in (1, 2))
    report = await report_of(ask("x", metadata=one), ask("x", metadata=two))
    why = report["misses"][0]["why"]
    assert len(why["differences"]) + why["more"] == 100


@pytest.mark.parametrize("prompts", [False, True])
async def test_prompts_are_kept_only_where_that_is_wanted(prompts: bool) -> None:
    calls = [ask(f"{SECRET} {number}", user=SECRET, metadata={"x": [SECRET]}) for number in (1, 2, 2)]
    report = await report_of(*calls, prompts=prompts)
    assert (SECRET in json.dumps(report)) == prompts
    assert report["prompts"] == prompts


async def test_the_hashes_are_of_no_use_elsewhere() -> None:
    """Another process has other ones: nobody can try out texts."""
    told = []
    for _ in range(2):
        report = await report_of(ask("one"), ask("two"))
        told.append(report["misses"][0]["why"]["differences"][0]["now"])
    assert told[0] != told[1]
    assert len(told[0]) == 8


async def test_prompts_that_are_no_longer_wanted_are_forgotten() -> None:
    recent = Recent(prompts=True)
    async with Cache(observers=[recent], stages=recent.stages) as cache:
        answer = cache.wrap(FakeUpstream())
        await answer(**ask(SECRET))
        assert SECRET in json.dumps(recent.report())
        recent.show_prompts(False)
        await answer(**ask(f"{SECRET} 2"))
        assert SECRET not in json.dumps(recent.report())


async def test_an_argument_that_cannot_be_read_breaks_nothing() -> None:
    report = await report_of({**ask("one"), "odd": object()}, ask("two"))
    assert len(report["misses"]) == 1
    assert report["live"]["bypassed"] == 1


async def test_texts_of_one_embedding_call_are_explained_too() -> None:
    recent = Recent()
    async with Cache(observers=[recent], stages=recent.stages) as cache:

        async def embed(*, model: str, input: Any) -> dict[str, Any]:
            data = [{"object": "embedding", "index": i, "embedding": [0.5]} for i, _ in enumerate(input)]
            return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 2, "total_tokens": 2}}

        answer = cache.wrap(embed, call_type="embedding")
        await answer(model="e", input=["one", "two"])
        await answer(model="e", input=["one", "two"])
    live = recent.report()["live"]
    assert (live["saved"], live["missed"]) == (1, 1)
