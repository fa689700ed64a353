"""Embeddings of a real `AsyncOpenAI` over real HTTP, text by text."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import CreateEmbeddingResponse, Embedding

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider

TEXTS = ["Where is my parcel?", "How do I reset my password?", "Can I pay later?"]


@pytest.fixture
async def plain(provider: SimulatedProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def create(plain: AsyncOpenAI, cache: Cache) -> Any:
    return cache.wrap(plain).embeddings.create


def inputs(provider: SimulatedProvider) -> list[Any]:
    return [request["input"] for request in provider.requests]


@pytest.mark.parametrize("extra", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 8}])
async def test_as_the_provider_answers(
    provider: SimulatedProvider, plain: AsyncOpenAI, create: Any, extra: dict[str, Any]
) -> None:
    """Missed, found in part, found: the SDK's own type, equal in all but the usage to what the provider says."""
    expected = await plain.embeddings.create(model="small", input=TEXTS, **extra)
    first = await create(model="small", input=TEXTS[1:], **extra)
    mixed, hit = [await create(model="small", input=TEXTS, **extra) for _ in range(2)]
    assert inputs(provider)[1:] == [TEXTS[1:], TEXTS[:1]]
    assert [status(each).outcome for each in (first, mixed, hit)] == ["miss", "miss", "hit"]
    assert status(mixed).reason == "partial: 2 of 3"
    for answer in (mixed, hit):
        assert type(answer) is CreateEmbeddingResponse
        assert all(type(each) is Embedding for each in answer.data)
        assert answer.model_dump(warnings=False) == expected.model_dump(warnings=False)
        assert answer.to_json(warnings=False) == expected.to_json(warnings=False)


async def test_base64(provider: SimulatedProvider, create: Any) -> None:
    """The vectors stay texts, and have entries of their own."""
    await create(model="small", input=TEXTS)
    answer = await create(model="small", input=TEXTS, encoding_format="base64")
    assert status(answer).reason == "absent"
    again = await create(model="small", input=TEXTS[0], encoding_format="base64")
    assert status(again).outcome == "hit"
    assert len(base64.b64decode(again.data[0].embedding)) == 4 * 256


async def test_tokens(provider: SimulatedProvider, create: Any) -> None:
    """One text as numbers, and several."""
    await create(model="small", input=[1, 2, 3])
    answer = await create(model="small", input=[[1, 2, 3], [4, 5]])
    assert (status(answer).reason, len(answer.data)) == ("partial: 1 of 2", 2)
    assert inputs(provider) == [[1, 2, 3], [[4, 5]]]


async def test_usage(provider: SimulatedProvider, create: Any) -> None:
    """Of the whole list it is what the provider said; of any part, the parts' shares."""
    whole = await create(model="small", input=TEXTS)
    alone = [(await create(model="small", input=text)).usage.total_tokens for text in TEXTS]
    assert sum(alone) == whole.usage.total_tokens
    some = await create(model="small", input=TEXTS[1:])
    assert some.usage.prompt_tokens == some.usage.total_tokens == sum(alone[1:])
    assert len(provider.requests) == 1


async def test_lists_that_overlap(provider: SimulatedProvider, create: Any) -> None:
    """What one has under way the other waits for."""
    provider.hold()
    first = asyncio.create_task(create(model="small", input=TEXTS[:2]))
    await provider.reached(1)
    second = asyncio.create_task(create(model="small", input=TEXTS[::-1]))
    await provider.reached(2)
    provider.release()
    answers = await asyncio.gather(first, second)
    assert inputs(provider) == [TEXTS[:2], TEXTS[2:]]
    assert answers[1].data[2].embedding == answers[0].data[0].embedding
    answers[1].data[2].embedding[0] = 9.0
    assert answers[0].data[0].embedding[0] != 9.0


async def test_errors(provider: SimulatedProvider, create: Any, cache: Cache) -> None:
    """The SDK's own, for the whole list; what was known stays known."""
    await create(model="small", input=TEXTS[:1])
    provider.fail_next(429, headers={"retry-after": "7"})
    with pytest.raises(openai.RateLimitError) as caught:
        await create(model="small", input=TEXTS)
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.__cause__ is None
    assert cache.stats.upstream_errors == 1
    assert status(await create(model="small", input=TEXTS)).reason == "partial: 1 of 3"


async def test_a_long_list(provider: SimulatedProvider, create: Any) -> None:
    """A thousand texts are one request, and then none."""
    texts = [f"text number {number}" for number in range(1000)]
    await create(model="small", input=texts, dimensions=4)
    answer = await create(model="small", input=texts[::-1], dimensions=4)
    assert status(answer).outcome == "hit"
    assert [each.index for each in answer.data] == list(range(1000))
    assert len(provider.requests) == 1


def test_a_sync_client() -> None:
    """`OpenAI` has the same."""
    with SimulatedProvider() as provider, OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain:
        cache = Cache()
        create = cache.wrap(plain).embeddings.create
        create(model="small", input=TEXTS[:2])
        answer = create(model="small", input=TEXTS)
        assert status(answer).reason == "partial: 2 of 3"
        assert type(answer) is CreateEmbeddingResponse
        assert inputs(provider) == [TEXTS[:2], TEXTS[2:]]
        provider.fail_next(500)
        with pytest.raises(openai.InternalServerError):
            create(model="small", input=["another"])
        asyncio.run(cache.aclose())
