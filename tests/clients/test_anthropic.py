"""A real `AsyncAnthropic` over real HTTP, wrapped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic, AsyncStream
from anthropic.types import Message

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider

CALL: dict[str, Any] = {
    "model": "claude-of-no-date",
    "max_tokens": 300,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    async with SimulatedProvider() as provider:
        yield provider


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    async with Cache() as cache:
        yield cache


@pytest.fixture
async def client(provider: SimulatedProvider, cache: Cache) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=provider.origin, api_key="k", max_retries=0) as plain:
        yield cache.wrap(plain)


async def test_hit_equals_miss(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """A hit is a Message equal to the one that was paid for."""
    miss, hit = [await client.messages.create(**CALL) for _ in range(2)]
    assert type(client) is AsyncAnthropic
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert type(hit) is Message
    assert hit.model_dump() == miss.model_dump()
    assert sum(provider.calls.values()) == 1


async def test_stream_replays_as_it_came(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """Every event comes again, of the same type."""
    runs = []
    for _ in range(2):
        stream = await client.messages.create(**CALL, stream=True)
        assert isinstance(stream, AsyncStream)
        runs.append([event async for event in stream])
    assert len(runs[0]) > 4
    assert [type(e) for e in runs[0]] == [type(e) for e in runs[1]]
    assert [e.model_dump() for e in runs[0]] == [e.model_dump() for e in runs[1]]
    assert sum(provider.calls.values()) == 1


async def test_what_counts(client: AsyncAnthropic) -> None:
    """System prompt, tools and beta headers are in the key; tracing headers are not."""
    more: list[dict[str, Any]] = [
        {},
        {"system": "Be brief."},
        {"extra_headers": {"anthropic-beta": "context-1m"}},
        {"extra_headers": {"x-trace": "7"}},
    ]
    outcomes = [status(await client.messages.create(**CALL, **extra)).outcome for extra in more]
    assert outcomes == ["miss", "miss", "miss", "hit"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"finish_reason": "length"}, "length"), ({"refusal": "No."}, "refusal"), ({"text": ""}, "empty")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_stored(
    provider: SimulatedProvider, client: AsyncAnthropic, cache: Cache, said: dict[str, Any], reason: str, stream: bool
) -> None:
    """Truncated answers and refusals reach their caller and are not kept, streamed or not."""
    provider.answer_next(**said)
    answer: Any = await client.messages.create(**CALL, stream=stream)
    if stream:
        assert [event async for event in answer]
    assert cache.stats.reject_reasons == {reason: 1}
    assert cache.stats.stored == 0


async def test_errors_pass_through(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """What the SDK raises reaches the caller as it is."""
    provider.fail_next(status=529)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(**CALL)
    assert caught.value.status_code == 529


async def test_raw_responses_pass_through(client: AsyncAnthropic, cache: Cache) -> None:
    """`with_raw_response` and the `stream` helper give what the SDK gives, uncached."""
    raw = await client.messages.with_raw_response.create(**CALL)
    assert isinstance(await raw.parse(), Message)
    async with client.messages.stream(**CALL) as stream:
        assert (await stream.get_final_message()).content
    assert cache.stats.stored == 0
