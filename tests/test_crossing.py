"""One entry serves both ways: whole answers and streams, over real SDKs and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from asynccache import BackendUnavailable, Cache, ConfigError, status
from asynccache.backends.memory import MemoryBackend
from asynccache.testing import FakeUpstream, FaultyBackend
from asynccache.testing.provider import SimulatedProvider

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def create(provider: SimulatedProvider) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain, Cache() as cache:
        yield cache.wrap(plain).chat.completions.create


async def chunks_of(create: Any, **options: Any) -> tuple[list[Any], str]:
    stream = await create(**CHAT, **options)
    return [chunk async for chunk in stream], status(stream).outcome


async def test_a_recorded_stream_answers_a_whole_call(provider: SimulatedProvider, create: Any) -> None:
    """Assembled, it is what the provider would have answered."""
    chunks, _ = await chunks_of(create, **USAGE)
    whole = await create(**CHAT)
    assert status(whole).outcome == "hit"
    assert type(whole) is ChatCompletion
    assert whole.choices[0].message.content == "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage == chunks[-1].usage
    direct = await create(**CHAT, cache={"no-cache": True, "no-store": True})
    direct.choices[0].message.annotations = None  # a stream has no word for an empty list
    same = {"id", "created", "system_fingerprint"}
    assert whole.model_dump(exclude=same) == direct.model_dump(exclude=same)


async def test_a_whole_answer_serves_a_stream(provider: SimulatedProvider, create: Any) -> None:
    """Cut into chunks, it says the same, and its usage to who asks for it."""
    whole = await create(**CHAT)
    plain, outcome = await chunks_of(create, stream=True)
    counted, again = await chunks_of(create, **USAGE)
    assert (outcome, again) == ("hit", "hit")
    assert all(type(chunk) is ChatCompletionChunk for chunk in plain)
    assert "".join(c.choices[0].delta.content or "" for c in plain) == whole.choices[0].message.content
    assert not any(chunk.usage for chunk in plain)
    assert counted[-1].usage == whole.usage
    assert sum(provider.calls.values()) == 1


async def test_usage_is_told_to_who_asks_and_to_nobody_else(provider: SimulatedProvider, create: Any) -> None:
    """A recording with usage serves who does not want it; one without is no answer for who does."""
    bare, _ = await chunks_of(create, stream=True)
    assert (await chunks_of(create, stream=True))[1] == "hit"
    counted, outcome = await chunks_of(create, **USAGE)
    assert outcome == "miss"
    assert counted[-1].usage is not None
    stripped, outcome = await chunks_of(create, stream=True)
    assert outcome == "hit"
    assert [chunk.choices for chunk in stripped] == [chunk.choices for chunk in bare]
    assert not any(chunk.usage for chunk in stripped)
    assert (await chunks_of(create, **USAGE)) == (counted, "hit")
    assert sum(provider.calls.values()) == 2


async def test_anthropic_both_ways(provider: SimulatedProvider) -> None:
    """A Message from recorded events, and events from a stored Message."""
    call: dict[str, Any] = {"model": "claude-of-no-date", "max_tokens": 300, "messages": MESSAGES}
    async with AsyncAnthropic(base_url=provider.origin, api_key="k", max_retries=0) as plain, Cache() as cache:
        create: Any = cache.wrap(plain).messages.create
        events = [event async for event in await create(**call, stream=True)]
        whole = await create(**call)
        assert status(whole).outcome == "hit"
        assert whole.content[0].text == "".join(e.delta.text for e in events if e.type == "content_block_delta")
        other = await create(**{**call, "max_tokens": 301})
        again = [event async for event in await create(**{**call, "max_tokens": 301}, stream=True)]
        assert "".join(e.delta.text for e in again if e.type == "content_block_delta") == other.content[0].text
        assert [e.type for e in again][-1] == "message_stop"
    assert sum(provider.calls.values()) == 2


async def test_responses_both_ways(provider: SimulatedProvider) -> None:
    """A Response from recorded events, and events from a stored Response."""
    async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain, Cache() as cache:
        create: Any = cache.wrap(plain).responses.create
        for model, streamed_first in (("a", True), ("b", False)):
            texts = []
            for stream in (streamed_first, not streamed_first):
                answer = await create(model=model, input="hi", stream=stream)
                if stream:
                    last = [event async for event in answer][-1]
                    assert last.type == "response.completed"
                    texts.append(last.response.output_text)
                else:
                    texts.append(answer.output_text)
            assert texts[0] == texts[1]
        assert cache.stats.hits == 2


async def test_a_function_of_no_known_kind_does_not_cross() -> None:
    """What its chunks make is not known: the other kind is a miss, and says why."""

    async def tell(topic: str, stream: bool = False) -> Any:
        async def pieces() -> AsyncIterator[str]:
            yield topic

        return pieces() if stream else topic

    cache = Cache()
    call = cache.wrap(tell)
    assert [piece async for piece in await call("sea", stream=True)] == ["sea"]
    assert await call("sea") == "sea"
    assert (cache.stats.misses, cache.stats.corrupt) == (2, 0)


@pytest.mark.parametrize("pace", ["instant", "original", 1e9])
async def test_a_paced_replay_is_the_same_stream(pace: Any) -> None:
    """The pace changes when chunks come, and nothing else."""
    cache = Cache(pace=pace)
    call = cache.wrap(FakeUpstream())
    runs = [[chunk async for chunk in await call(**CHAT, stream=True)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert cache.stats.hits == 1


@pytest.mark.parametrize(("pace", "comes"), [("instant", True), (1e-6, False)])
async def test_the_pace_is_kept(pace: Any, comes: bool) -> None:
    """A replay at a millionth of a token a second has not begun after many turns of the loop; an instant one has."""
    cache = Cache(pace=pace)
    call = cache.wrap(FakeUpstream())
    recorded = [chunk async for chunk in await call(**CHAT, stream=True)]
    replay = await call(**CHAT, stream=True)
    assert len(status(replay).entry.meta["gaps"]) == len(recorded)  # type: ignore[union-attr]
    first = asyncio.ensure_future(anext(replay))
    for _ in range(100):
        await asyncio.sleep(0)
    assert first.done() is comes
    first.cancel()
    await asyncio.wait((first,))


def test_a_wrong_pace_is_refused() -> None:
    """At once, and with what would be right."""
    with pytest.raises(ConfigError, match="tokens per second"):
        Cache(pace="slow")


async def test_write_behind() -> None:
    """A miss does not wait for its write, what waits can be read, and draining writes it."""
    backend = FaultyBackend(MemoryBackend())
    async with Cache(backend, write_behind=10) as cache:
        call = cache.wrap(FakeUpstream())
        await call(**CHAT)
        await cache.drain()
        backend.hold("set")
        assert status(await call(**CHAT, temperature=0.5)).outcome == "miss"
        assert status(await call(**CHAT, temperature=0.5)).outcome == "hit"
        backend.release("set")
        await cache.drain()
        assert status(await Cache(backend).wrap(FakeUpstream())(**CHAT, temperature=0.5)).outcome == "hit"


async def test_what_is_lost_behind_the_callers_back_is_counted() -> None:
    """Entries dropped from a full queue, and writes that fail, show in the statistics and nowhere else."""
    backend = FaultyBackend(MemoryBackend())
    async with Cache(backend, write_behind=1) as cache:
        call = cache.wrap(FakeUpstream())
        await call(**CHAT)
        await cache.drain()
        backend.hold("set")
        for n in range(12):
            await call(**CHAT, seed=n)
            await asyncio.sleep(0)
        backend.fail(BackendUnavailable("full"), "set")
        backend.release("set")
        await cache.drain()
        assert cache.stats.dropped > 0
        assert cache.stats.dropped + cache.stats.write_errors == 12


async def test_an_answer_too_large_is_passed_on(provider: SimulatedProvider) -> None:
    """Beyond `max_entry_bytes` an answer reaches its caller and is not kept, streamed or not."""
    cache = Cache(max_entry_bytes=100)
    call = cache.wrap(FakeUpstream())
    for _ in range(2):
        await call(**CHAT)
        assert len([chunk async for chunk in await call(**CHAT, stream=True)]) > 1
    assert cache.stats.reject_reasons == {"too-large": 4}
