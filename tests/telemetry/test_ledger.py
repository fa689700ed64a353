"""The ledger against what the provider counts, in whole picodollars."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from asynccache import Cache, ConfigError, status
from asynccache.backends.memory import MemoryBackend
from asynccache.telemetry.ledger import OTHER, Account, Ledger, Report, read_report
from asynccache.telemetry.observation import LEFT, NOTHING, Usage
from asynccache.telemetry.prices import Prices, dollars
from asynccache.telemetry.usage import usage_of
from asynccache.testing import FakeClock, FakeUpstream
from asynccache.testing.shapes import embeddings
from tests.telemetry.recorder import until
from tests.telemetry.samples import made, seen

PRICES: dict[str, dict[str, str]] = {
    "gpt-4o": {"input": "2.5", "output": "10", "cache_read": "1.25"},
    "claude": {"input": "3", "output": "15", "cache_read": "0.3", "cache_write": "3.75"},
    "e-small": {"input": "0.02"},
}
UNPRICED = "home-made"


class Refused(Exception):
    status_code = 429


class Provider:
    """Counts what it charges, call by call, by arithmetic of its own."""

    def __init__(self, dice: random.Random) -> None:
        self.charged: Counter[str] = Counter()  # by model, in millionths of a millionth of a dollar
        self.tokens: Counter[str] = Counter()
        self.unpriced = self.cancelled = self.unread = self.calls = self.refused = 0
        self.under_way = 0
        self.failures = True
        self._dice = dice
        self._model = FakeUpstream()

    async def acompletion(self, model: str, messages: list[Any], **params: Any) -> Any:
        self.calls += 1
        self.under_way += 1
        try:
            await asyncio.sleep(0)
            if self.failures and self._dice.random() < 0.05:
                self.refused += 1
                raise Refused
            answer = await self._model(model=model, messages=messages, **params)
            if params.get("stream"):
                self.unread += 1
                return self._stream(model, answer)
            answer["usage"] = self._charge(model, answer["usage"])
            return answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1

    async def _stream(self, model: str, chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """What is charged for a stream that nobody reads to its end is not known."""
        said = None
        async for chunk in chunks:
            if chunk.get("usage"):
                said = chunk["usage"]
                chunk["usage"] = self._said(model, said)
            yield chunk
        self.unread -= 1
        assert said is not None
        self._charge(model, said)

    async def aembedding(self, model: str, input: Any) -> dict[str, Any]:
        self.calls += 1
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = embeddings.embeddings({"model": model, "input": input, "dimensions": 2})
        answer["usage"] = self._charge(model, answer["usage"])
        return answer

    def _said(self, model: str, usage: dict[str, Any]) -> dict[str, Any]:
        """In the model's own words: a third of a prompt comes from the provider's cache, and a fifth may go there."""
        read, written, cached, put = self._parts(model, usage)
        if model == "claude":
            said = {"input_tokens": read - cached - put, "output_tokens": written}
            return said | {"cache_read_input_tokens": cached, "cache_creation_input_tokens": put}
        return {**usage, "prompt_tokens_details": {"cached_tokens": cached}} if cached else usage

    def _parts(self, model: str, usage: dict[str, Any]) -> tuple[int, int, int, int]:
        read = usage["prompt_tokens"]
        cached = 0 if model == "e-small" else read // 3
        return read, usage.get("completion_tokens", 0), cached, read // 5 if model == "claude" else 0

    def _charge(self, model: str, usage: dict[str, Any]) -> dict[str, Any]:
        read, written, cached, put = self._parts(model, usage)
        self.tokens.update(input=read, output=written, cached_read=cached, cached_write=put)
        if model in PRICES:
            price = {name: Decimal(value) for name, value in PRICES[model].items()}
            sums = (read - cached - put) * price["input"] + written * price.get("output", 0)
            sums += cached * price.get("cache_read", price["input"]) + put * price.get("cache_write", price["input"])
            self.charged[model] += int(sums * 10**6)
        else:
            self.unpriced += 1
        return self._said(model, usage)


def ledger(**options: Any) -> Ledger:
    return Ledger(Prices(PRICES, library=False), **options)


async def traffic(
    cache: Cache, provider: Provider, dice: random.Random, calls: int, *, leavers: bool, advance: Callable[[], None]
) -> tuple[Counter[str], list[Any]]:
    """Hits, misses, streams, errors, shared calls, lists of texts; and with `leavers` callers who do not wait."""
    ask = {
        t: cache.bind(tenant=t, tags=[f"tag-{t}"]).wrap(provider.acompletion, name="chat") for t in ("acme", "umbrella")
    }
    embed = cache.wrap(provider.aembedding, call_type="embedding", name="embed")
    ended: Counter[str] = Counter()
    answered: list[Any] = []

    async def one(number: int) -> None:
        kind = dice.random()
        if kind < 0.25:
            texts = dice.sample([f"text number {n} of them" for n in range(150)], dice.randint(1, 6))
            answer = await embed(model="e-small", input=texts)
            answered.append(("e-small", answer["usage"]))
            ended[status(answer).outcome] += 1
            return
        model = dice.choice(["gpt-4o", "claude", "claude", UNPRICED])
        question = f"question {min(int(dice.paretovariate(0.6)), 900)}"
        request: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}]}
        tenant = dice.choice(["acme", "umbrella"])
        left = leavers and dice.random() < 0.05
        try:
            if kind < 0.6:
                answer = await ask[tenant](**request)
                answered.append((model, answer["usage"]))
                ended[status(answer).outcome] += 1
                return
            stream = await ask[tenant](**request, stream=True, stream_options={"include_usage": True})
            ended[status(stream).outcome] += 1
            usage = None
            async for chunk in stream:
                usage = chunk.get("usage") or usage
                if left:
                    await stream.aclose()
                    return
            answered.append((model, usage))
        except Refused:
            ended["failed"] += 1

    for start in range(0, calls, 40):
        tasks = [asyncio.create_task(one(start + n)) for n in range(min(40, calls - start))]
        if leavers:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in tasks:
                if dice.random() < 0.02:
                    task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        advance()
    await until(lambda: not provider.under_way)
    await cache.drain()
    return ended, answered


async def test_ten_thousand_calls_are_what_the_provider_counts(tmp_path: Path) -> None:
    """Hits, misses, streams, errors, shared calls, partial lists, refreshes behind answers, and callers who leave: what
    was spent is what the provider has charged, to the last picodollar."""
    dice, clock = random.Random(7), FakeClock()
    provider, books = Provider(random.Random(8)), ledger(path=tmp_path / "calls.jsonl")
    cache = Cache(MemoryBackend(), observers=[books], ttl=600, stale_while_revalidate=900, clock=clock)
    ended, _ = await traffic(cache, provider, dice, 10_000, leavers=True, advance=lambda: clock.advance(20))
    await cache.aclose()
    await books.aclose()

    report = books.report()
    total = report.total
    stats = cache.stats
    assert {name for name, count in ended.items() if count} == {"hit", "stale", "coalesced", "miss", "failed"}
    assert stats.refreshes
    assert total.calls == stats.calls == 10_000
    assert (total.hits, total.stale, total.coalesced, total.misses) == (
        stats.hits,
        stats.stale,
        stats.coalesced,
        stats.misses,
    )
    assert total.upstream_calls == provider.calls == stats.upstream_calls
    assert total.spent == provider.charged.total() > 0
    assert {m: a.spent for m, a in report.models.items() if a.spent} == dict(provider.charged)
    assert total.embeddings_spent == provider.charged["e-small"] > 0
    assert total.unknown_spent == provider.unpriced + provider.cancelled + provider.unread
    assert provider.unread
    assert provider.refused
    for name, tokens in provider.tokens.items():
        assert getattr(total, name) == tokens, name
    by_tenant = sum(account.spent for account in report.tenants.values())
    assert by_tenant + total.embeddings_spent == total.spent
    assert {f"tag-{name}": account for name, account in report.tenants.items()} == report.tags
    assert total.saved > 0
    # The file says the same, call by call.
    again = read_report(tmp_path / "calls.jsonl")
    assert again == report
    assert again.unwritten == 0


async def test_what_was_saved_and_what_was_spent_is_what_all_answers_cost() -> None:
    """When nobody leaves and nothing is refreshed, every answer was either paid or saved: text by text."""
    dice = random.Random(3)
    provider, books = Provider(random.Random(4)), ledger()
    cache = Cache(observers=[books])
    _, answered = await traffic(cache, provider, dice, 2_000, leavers=False, advance=lambda: None)
    prices, worth = Prices(PRICES, library=False), 0
    for model, said in answered:
        usage = usage_of(said)
        assert usage is not None
        cost = prices.cost(usage, model)
        worth += 0 if cost is None else cost.total
    total = books.report().total
    assert total.spent == provider.charged.total()
    assert total.saved + total.spent == worth
    assert total.saved > total.spent


def test_a_hit_costs_nothing() -> None:
    books = ledger()
    books.observe(seen())
    total = books.report().total
    assert (total.spent, total.saved, total.hits, total.upstream_calls) == (
        0,
        1000 * 2_500_000 + 100 * 10_000_000,
        1,
        0,
    )


def test_what_nobody_knows_is_said_and_in_no_sum() -> None:
    books = ledger()
    books.observe_upstream(made(model=UNPRICED))
    books.observe_upstream(made(usage=None, error=LEFT))
    books.observe_upstream(made(usage=NOTHING, error="RateLimitError"))
    books.observe(seen(usage=None))
    books.observe(seen(model=UNPRICED))
    books.observe(seen(outcome="miss", usage=None, paid=None))
    total = books.report().total
    assert (total.spent, total.saved) == (0, 0)
    assert (total.unknown_spent, total.unknown_saved) == (2, 2)
    assert (total.upstream_calls, total.upstream_errors) == (3, 2)


def test_the_providers_cache() -> None:
    books = ledger()
    books.observe_upstream(made(model="claude", usage=Usage(1000, 0, 600, 100)))
    total = books.report().total
    assert total.cache_saved == 600 * 2_700_000
    assert total.cache_spent == 100 * 750_000
    assert total.spent == 300 * 3_000_000 + 600 * 300_000 + 100 * 3_750_000


def test_large_calls_have_their_own_rates() -> None:
    """Sums of small calls do not become one large call, and large ones keep their tier."""
    prices, books = Prices(), Ledger()
    small, large = Usage(15_000, 10), Usage(250_000, 10)
    for _ in range(30):
        books.observe_upstream(made(model="claude-sonnet-4-5", provider="anthropic", usage=small))
    books.observe_upstream(made(model="claude-sonnet-4-5", provider="anthropic", usage=large))
    costs = [prices.cost(usage, "claude-sonnet-4-5", at=1_750_000_000.0) for usage in (small, large)]
    assert costs[0] is not None
    assert costs[1] is not None
    assert books.report().total.spent == 30 * costs[0].total + costs[1].total


def test_labels_are_bounded() -> None:
    books = ledger(max_labels=3)
    for number in range(2_000):
        books.observe(seen(model=f"m{number}", tenant=f"t{number}", tags=(f"a{number}", f"b{number}")))
    report = books.report()
    assert list(report.models) == ["m0", "m1", "m2", OTHER]
    assert {len(accounts) for accounts in (report.models, report.tenants, report.tags)} == {4}
    assert report.models[OTHER].calls == report.tenants[OTHER].calls == 1_997
    assert report.total.calls == 2_000
    assert len(books._sums) <= 256


def test_a_report_does_not_change_any_more() -> None:
    books = ledger()
    books.observe(seen())
    report = books.report()
    books.observe(seen())
    assert (report.total.calls, report.models["gpt-4o"].calls) == (1, 1)
    assert books.report().total.calls == 2


def test_days_are_those_of_the_calls() -> None:
    books = ledger()
    books.observe(seen(began=0.0))
    books.observe(seen(began=86_399.0))
    books.observe(seen(began=86_400.0))
    report = books.report()
    assert {day: account.calls for day, account in report.days.items()} == {"1970-01-01": 2, "1970-01-02": 1}
    assert (report.since, report.until) == (0.0, 86_400.0)


def test_a_report_survives_json() -> None:
    books = ledger()
    books.observe(seen(tenant="acme", tags=("a",)))
    books.observe_upstream(made(model="claude", usage=Usage(9, 9, 3, 3)))
    report = books.report()
    said = json.loads(json.dumps(report.as_dict()))
    assert Report.from_dict(said) == report
    assert said["total"]["saved"] == f"{dollars(report.total.saved):f}".rstrip("0")
    wrongs: list[Any] = [{}, [], {"total": {"calls": "many"}}, {"total": {"spent": "x"}}, {"total": {"calls": True}}]
    for wrong in wrongs:
        with pytest.raises(ValueError):
            Report.from_dict(wrong)


def test_threads_lose_nothing() -> None:
    books = ledger()

    def run() -> None:
        for _ in range(2_000):
            books.observe(seen())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert books.report().total.calls == 8_000


async def test_the_file(tmp_path: Path) -> None:
    """A line a call; nothing of the key but its front; a damaged line is counted."""
    path = tmp_path / "calls.jsonl"
    books = ledger(path=path)
    books.observe(seen(tenant="acme", tags=("a", "b")))
    books.observe_upstream(made(usage=None, error="TimeoutError"))
    await books.drain()
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert first["kind"] == "call"
    assert (first["usd"], first["key"], first["tags"]) == ("0.0035", "0123456789ab", ["a", "b"])
    assert (second["kind"], second["usd"], second["usage"]) == ("upstream", None, None)
    await books.aclose()
    books.observe(seen())
    await books.aclose()
    assert len(path.read_bytes().splitlines()) == 3
    with path.open("ab") as file:
        file.write(b'{"kind": "call", "beg')
    report = read_report(path)
    assert report.unwritten == 1
    assert report.total == books.report().total


async def test_a_file_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    books = ledger(path=tmp_path / "missing" / "calls.jsonl")
    for _ in range(3):
        books.observe(seen())
        await books.drain()
    assert books.report().unwritten == 3
    assert books.report().total.calls == 3
    assert len(caplog.records) == 1
    await books.aclose()


async def test_lines_that_wait_are_bounded(tmp_path: Path) -> None:
    """A writer that is stuck costs memory up to a limit, and its callers no time."""
    path = tmp_path / "calls.jsonl"
    books = ledger(path=path, max_waiting=10)
    lines, go = books._lines, threading.Event()
    assert lines is not None
    write = lines._write
    stuck = threading.Event()

    def slow(told: list[Any]) -> None:
        stuck.set()
        go.wait()
        write(told)

    lines._write = slow  # type: ignore[method-assign]
    books.observe(seen())
    await asyncio.to_thread(stuck.wait)
    for _ in range(50):
        books.observe(seen())
    assert books.report().unwritten == 40
    go.set()
    await books.aclose()
    assert len(path.read_bytes().splitlines()) == 11


@pytest.mark.parametrize("options", [{"max_labels": 0}, {"max_waiting": True}, {"max_labels": 1.5}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="an int above 0"):
        ledger(**options)


def test_every_field_of_an_account_is_added() -> None:
    whole = Account(*range(1, len(fields(Account)) + 1))
    whole.add(whole)
    assert [getattr(whole, f.name) for f in fields(Account)] == [2 * n for n in range(1, len(fields(Account)) + 1)]
