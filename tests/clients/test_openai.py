"""A real `AsyncOpenAI` over real HTTP, wrapped."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, AsyncStream, OpenAI
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from asynccache import Cache, ConfigError, status
from asynccache.testing.provider import SimulatedProvider

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}


@pytest.fixture
async def plain(provider: SimulatedProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client:
        yield client


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


async def test_hit_equals_miss(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """A hit is an object of the same type as a miss, equal to it, and equal in every dump."""
    client = cache.wrap(plain)
    miss = await client.chat.completions.create(**CHAT)
    hit = await client.chat.completions.create(**CHAT)
    assert (status(miss).outcome, status(hit).outcome, calls(provider)) == ("miss", "hit", 1)
    assert type(hit) is type(miss) is ChatCompletion
    assert hit == miss
    assert hit.model_dump() == miss.model_dump()
    assert hit.to_json() == miss.to_json()
    assert hit.model_dump(exclude_unset=True) == miss.model_dump(exclude_unset=True)
    assert hit is not miss


async def test_responses_and_embeddings(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """Responses and embeddings come back as their own types, equal."""
    client = cache.wrap(plain)
    answers = [await client.responses.create(model="gpt-4o", input="hi") for _ in range(2)]
    vectors = [await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]) for _ in range(2)]
    assert [status(a).outcome for a in (*answers, *vectors)] == ["miss", "hit", "miss", "hit"]
    assert type(answers[1]) is Response
    assert type(vectors[1]) is CreateEmbeddingResponse
    assert answers[0].model_dump() == answers[1].model_dump()
    assert answers[0].output_text == answers[1].output_text
    assert vectors[0].model_dump() == vectors[1].model_dump()
    assert calls(provider) == 2


async def test_it_is_the_same_kind_of_client(plain: AsyncOpenAI, cache: Cache) -> None:
    """Wrapping gives a client of the same type, and leaves the one that was wrapped as it was."""
    client = cache.wrap(plain)
    assert type(client) is AsyncOpenAI
    assert client is not plain
    assert inspect.signature(client.chat.completions.create) == inspect.signature(plain.chat.completions.create)
    await plain.chat.completions.create(**CHAT)
    assert cache.stats.calls == 0


async def test_errors_pass_through(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """What the SDK raises reaches the caller as it is, and nothing is stored."""
    client = cache.wrap(plain)
    provider.fail_next(status=429, headers={"retry-after": "7"})
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**CHAT)
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.__cause__ is None
    assert status(await client.chat.completions.create(**CHAT)).outcome == "miss"
    assert cache.stats.upstream_errors == 1


async def test_a_changed_extra_body_misses(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """What the SDK passes on blindly counts like any other argument; what is inert does not."""
    client = cache.wrap(plain)
    create = client.chat.completions.create
    outcomes = [
        status(await create(**CHAT, **extra)).outcome
        for extra in (
            {},
            {"extra_body": {"guided_json": {"type": "object"}}},
            {"extra_body": {"guided_json": {"type": "array"}}},
            {"extra_body": {"guided_json": {"type": "object"}}, "timeout": 3, "extra_headers": {"X-Trace": "1"}},
            {"temperature": openai.NOT_GIVEN, "stop": openai.omit},
        )
    ]
    assert outcomes == ["miss", "miss", "miss", "hit", "hit"]


async def test_controls_never_reach_the_provider(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """`cache={…}` is taken off the call."""
    create: Any = cache.wrap(plain).chat.completions.create
    await create(**CHAT, cache={"ttl": 60, "tags": ["doc:1"]})
    assert "cache" not in provider.requests[0]
    with pytest.raises(ConfigError, match="did you mean 'ttl'"):
        await create(**CHAT, cache={"tll": 60})


async def test_concurrent_callers_share_one_call(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """Twenty identical concurrent calls make one request; each caller has an object of its own."""
    client = cache.wrap(plain)
    provider.hold()
    tasks = [asyncio.create_task(client.chat.completions.create(**CHAT)) for _ in range(20)]
    await provider.reached(1)
    provider.release()
    answers = await asyncio.gather(*tasks)
    assert calls(provider) == 1
    assert len({id(a) for a in answers}) == 20
    assert sorted(status(a).outcome for a in answers) == ["coalesced"] * 19 + ["miss"]
    assert all(a == answers[0] for a in answers)


async def test_stream_replays_as_it_came(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """A stream is an AsyncStream of typed chunks, and its replay is equal chunk by chunk."""
    client = cache.wrap(plain)
    runs, outcomes = [], []
    for _ in range(2):
        stream = await client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        assert isinstance(stream, AsyncStream)
        assert stream.response.status_code == 200
        runs.append([chunk async for chunk in stream])
        outcomes.append(status(stream).outcome)
    assert outcomes == ["miss", "hit"]
    assert len(runs[0]) > 3
    assert all(type(chunk) is ChatCompletionChunk for chunk in runs[1])
    assert runs[0] == runs[1]
    assert [c.model_dump() for c in runs[0]] == [c.model_dump() for c in runs[1]]
    assert calls(provider) == 1


async def test_the_stream_helper_works_on_a_replay(
    provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache
) -> None:
    """`chat.completions.stream()` goes through `create` and is answered from the cache too."""
    client = cache.wrap(plain)
    finals = []
    for _ in range(2):
        async with client.chat.completions.stream(**CHAT) as stream:
            async for _ in stream:
                pass
            finals.append((await stream.get_final_completion()).model_dump())
    assert finals[0] == finals[1]
    assert calls(provider) == 1


async def test_a_stream_left_early_is_not_stored(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """A consumer that breaks off leaves nothing behind, and its HTTP response is closed."""
    client = cache.wrap(plain)
    async with await client.chat.completions.create(**CHAT, stream=True) as stream:
        async for _ in stream:
            break
    assert stream.response.is_closed
    assert cache.stats.reject_reasons == {"aborted": 1}
    again = await client.chat.completions.create(**CHAT, stream=True)
    assert status(again).outcome == "miss"
    await again.close()


async def test_text_completions(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """The older API: whole and streamed share an entry, as with chats."""
    call: dict[str, Any] = {"model": "base", "prompt": "Once upon a time", "n": 2}
    client = cache.wrap(plain)
    miss, hit = [await client.completions.create(**call) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert type(hit) is Completion
    assert hit.model_dump() == miss.model_dump()
    stream = await client.completions.create(**call, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert status(stream).outcome == "hit"
    assert all(type(chunk) is Completion for chunk in chunks)
    for index in range(2):
        said = [each.text for chunk in chunks for each in chunk.choices if each.index == index]
        assert "".join(said) == miss.choices[index].text
    assert chunks[-1].usage == miss.usage
    assert calls(provider) == 1


async def test_a_recorded_text_completion_answers_a_whole_call(
    provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache
) -> None:
    """The other way round, and chunk by chunk the same."""
    call: dict[str, Any] = {"model": "base", "prompt": "Once upon a time"}
    client = cache.wrap(plain)
    runs = [[chunk async for chunk in await client.completions.create(**call, stream=True)] for _ in range(2)]
    assert runs[0] == runs[1]
    whole = await client.completions.create(**call)
    assert status(whole).outcome == "hit"
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in runs[0])
    provider.answer_next(finish_reason="length")
    assert (await client.completions.create(**call, seed=1)).choices[0].finish_reason == "length"
    assert cache.stats.reject_reasons == {"length": 1}


@pytest.mark.parametrize("extra", [{"store": True}, {"background": True}, {"conversation": "conv_1"}])
async def test_responses_that_change_something_are_not_cached(
    provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache, extra: dict[str, Any]
) -> None:
    """They reach the provider each time, and the status says why."""
    client = cache.wrap(plain)
    for _ in range(2):
        answer = await client.responses.create(model="gpt-4o", input="hi", **extra)
        assert (status(answer).outcome, status(answer).reason.partition(":")[0]) == ("bypass", next(iter(extra)))
    assert calls(provider) == 2
    assert cache.stats.bypass_reasons == {next(iter(extra)): 2}


async def test_the_response_before_counts(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """The same question after another response is another question."""
    create = cache.wrap(plain).responses.create
    extras: list[dict[str, Any]] = [{}, {"previous_response_id": "resp_1"}, {"previous_response_id": "resp_2"}, {}]
    outcomes = [status(await create(model="gpt-4o", input="hi", store=False, **extra)).outcome for extra in extras]
    assert outcomes == ["miss", "miss", "miss", "hit"]


async def test_the_request_id(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """What code logs of an answer is there on a hit too: the id of the request that brought it."""
    client = cache.wrap(plain)
    miss, hit = [await client.chat.completions.create(**CHAT) for _ in range(2)]
    assert miss._request_id == hit._request_id == "req_00000001"
    stream = await client.chat.completions.create(**CHAT, seed=1, stream=True)
    assert [chunk async for chunk in stream]
    assert (await client.chat.completions.create(**CHAT, seed=1))._request_id is None


async def test_azure(provider: SimulatedProvider, cache: Cache) -> None:
    """A client derived from OpenAI's is wrapped as that is, and its entries are its own."""
    plain = AsyncAzureOpenAI(azure_endpoint=provider.origin, api_key="k", api_version="2024-06-01", max_retries=0)
    async with plain:
        client = cache.wrap(plain)
        miss, hit = [await client.chat.completions.create(**CHAT) for _ in range(2)]
        assert type(client) is AsyncAzureOpenAI
        assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
        assert hit == miss
        raw = await client.chat.completions.with_raw_response.create(**CHAT)
        assert (status(raw).outcome, raw.parse()) == ("hit", miss)
        vectors = [await client.embeddings.create(model="small", input=["a", "b"]) for _ in range(2)]
        assert [status(each).outcome for each in vectors] == ["miss", "hit"]
        other = await client.with_options(api_version="2025-01-01").chat.completions.create(**CHAT)
        assert status(other).outcome == "miss"
        provider.fail_next(429)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**CHAT, seed=1)


async def test_with_options_stays_wrapped(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """A client made from a wrapped one is wrapped; another endpoint has other entries."""
    client = cache.wrap(plain)
    await client.chat.completions.create(**CHAT)
    assert status(await client.with_options(timeout=9).chat.completions.create(**CHAT)).outcome == "hit"
    assert status(await client.copy(organization="other").chat.completions.create(**CHAT)).outcome == "miss"


async def test_a_method_can_be_wrapped_alone(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """`cache.wrap(client.chat.completions.create)` shares its entries with the wrapped client."""
    create = cache.wrap(plain.chat.completions.create)
    assert type(await create(**CHAT)) is ChatCompletion
    assert status(await cache.wrap(plain).chat.completions.create(**CHAT)).outcome == "hit"


async def test_delete_by_key(provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache) -> None:
    """The key of a call can be computed before it, and deletes its entry."""
    create = cache.wrap(plain).chat.completions.create
    key = cache.get_cache_key(create, **CHAT)
    assert status(await create(**CHAT)).key == key
    assert await cache.delete(key)
    assert status(await create(**CHAT)).outcome == "miss"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"refusal": "I cannot help with that."}, "refusal"),
        ({"text": ""}, "empty"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_stored(
    provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache, said: dict[str, Any], reason: str, stream: bool
) -> None:
    """Truncated, filtered, refused and empty answers reach their caller and are not kept, streamed or not."""
    create = cache.wrap(plain).chat.completions.create
    for _ in range(2):
        provider.answer_next(**said)
        answer: Any = await create(**CHAT, stream=stream)
        if stream:
            assert [chunk async for chunk in answer]
    assert calls(provider) == 2
    assert cache.stats.reject_reasons == {reason: 2}


async def test_an_answer_that_strays_from_its_type_is_kept(
    provider: SimulatedProvider, plain: AsyncOpenAI, cache: Cache
) -> None:
    """What a compatible server says beyond or against OpenAI's types comes back as it was."""
    client = cache.wrap(plain)
    strange: Any = "eos_token"
    provider.answer_next(finish_reason=strange)
    miss = await client.chat.completions.create(**CHAT)
    hit = await client.chat.completions.create(**CHAT)
    assert status(hit).outcome == "hit"
    assert hit.choices[0].finish_reason == "eos_token"
    assert type(hit) is ChatCompletion
    assert hit == miss


def test_a_sync_client() -> None:
    """`OpenAI` is wrapped too, and stays sync."""
    with SimulatedProvider() as provider, OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain:
        cache = Cache()
        client = cache.wrap(plain)
        miss, hit = (client.chat.completions.create(**CHAT) for _ in range(2))
        assert type(client) is OpenAI
        assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
        assert miss == hit
        provider.fail_next(status=500)
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**CHAT, temperature=0.5)
        asyncio.run(cache.aclose())


async def test_something_else_of_the_sdk_is_refused(cache: Cache) -> None:
    """What is no function and no known client cannot be wrapped, and the error says so."""
    with pytest.raises(ConfigError, match="a function or a known client"):
        cache.wrap(AsyncOpenAI)
    with pytest.raises(ConfigError, match="a function or a known client"):
        cache.wrap(42)
