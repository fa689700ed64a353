"""Real SDKs, whose HTTP client has the caching transport: their quickstarts with one argument more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import anthropic
import groq
import httpx
import httpx2
import openai
import pytest
from anthropic.types import Message
from groq.types.chat import ChatCompletion as GroqCompletion
from langchain_openai import ChatOpenAI
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from mistralai.client.models import ChatCompletionResponse
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from starlette.applications import Starlette
from starlette.routing import Mount

from asynccache import Cache, ConfigError
from asynccache.clients.httpx import AsyncCacheTransport, CacheTransport
from asynccache.testing.loopback import serving
from asynccache.testing.provider import SimulatedProvider

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]


class SDK(Protocol):
    """One SDK, so far as these tests use it."""

    @property
    def answer(self) -> type[Any]: ...

    @property
    def error(self) -> type[Exception]: ...

    async def whole(self, seed: int) -> Any: ...

    async def streamed(self, seed: int) -> list[Any]: ...


@dataclass
class OpenAISDK:
    client: openai.AsyncOpenAI
    answer = ChatCompletion
    error = openai.RateLimitError

    async def whole(self, seed: int) -> Any:
        return await self.client.chat.completions.create(model="gpt-4o", messages=MESSAGES, seed=seed)

    async def streamed(self, seed: int) -> list[Any]:
        asked: Any = {"messages": MESSAGES, "seed": seed, "stream_options": {"include_usage": True}}
        stream = await self.client.chat.completions.create(model="gpt-4o", stream=True, **asked)
        return [chunk async for chunk in stream]


@dataclass
class ResponsesSDK:
    client: openai.AsyncOpenAI
    answer = Response
    error = openai.RateLimitError

    async def whole(self, seed: int) -> Any:
        return await self.client.responses.create(model="gpt-4o", input=f"{seed} rivers")

    async def streamed(self, seed: int) -> list[Any]:
        stream = await self.client.responses.create(model="gpt-4o", input=f"{seed} rivers", stream=True)
        return [event async for event in stream]


@dataclass
class AnthropicSDK:
    client: anthropic.AsyncAnthropic
    answer = Message
    error = anthropic.RateLimitError

    async def whole(self, seed: int) -> Any:
        return await self.client.messages.create(
            model="claude-of-no-date", max_tokens=300, messages=MESSAGES, metadata={"user_id": str(seed)}
        )

    async def streamed(self, seed: int) -> list[Any]:
        asked: Any = {"model": "claude-of-no-date", "max_tokens": 300, "messages": MESSAGES}
        async with self.client.messages.stream(**asked, metadata={"user_id": str(seed)}) as stream:
            return [event async for event in stream]


@dataclass
class MistralSDK:
    client: Mistral
    answer = ChatCompletionResponse
    error = SDKError

    async def whole(self, seed: int) -> Any:
        return await self.client.chat.complete_async(model="mistral-small", messages=MESSAGES, random_seed=seed)

    async def streamed(self, seed: int) -> list[Any]:
        stream = await self.client.chat.stream_async(model="mistral-small", messages=MESSAGES, random_seed=seed)
        return [event async for event in stream]


@dataclass
class GroqSDK:
    client: groq.AsyncGroq
    answer = GroqCompletion
    error = groq.RateLimitError

    async def whole(self, seed: int) -> Any:
        return await self.client.chat.completions.create(model="llama", messages=MESSAGES, seed=seed)

    async def streamed(self, seed: int) -> list[Any]:
        create = self.client.chat.completions.create
        return [chunk async for chunk in await create(model="llama", messages=MESSAGES, seed=seed, stream=True)]


@pytest.fixture(params=["openai", "responses", "anthropic", "mistralai", "groq"])
async def sdk(request: pytest.FixtureRequest, provider: SimulatedProvider, cache: Cache) -> AsyncIterator[SDK]:
    transport = AsyncCacheTransport(cache)
    async with AsyncExitStack() as stack:
        if request.param in ("openai", "responses", "anthropic"):
            http2 = await stack.enter_async_context(httpx2.AsyncClient(transport=transport))
            if request.param == "anthropic":
                yield AnthropicSDK(
                    anthropic.AsyncAnthropic(api_key="k", base_url=provider.origin, max_retries=0, http_client=http2)
                )
                return
            client = openai.AsyncOpenAI(api_key="k", base_url=provider.base_url, max_retries=0, http_client=http2)
            yield OpenAISDK(client) if request.param == "openai" else ResponsesSDK(client)
            return
        http: Any = await stack.enter_async_context(httpx.AsyncClient(transport=transport))
        if request.param == "mistralai":
            yield MistralSDK(Mistral(api_key="k", server_url=provider.origin, async_client=http))
            return
        # Groq's paths begin with /openai.
        origin = await stack.enter_async_context(serving(Starlette(routes=[Mount("/openai", provider.app)])))
        yield GroqSDK(groq.AsyncGroq(api_key="k", base_url=origin, max_retries=0, http_client=http))


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


async def test_a_miss_and_a_hit(sdk: SDK, provider: SimulatedProvider, cache: Cache) -> None:
    """The SDK builds equal objects of its own type from either; another request is another answer."""
    miss, hit = [await sdk.whole(1) for _ in range(2)]
    assert type(hit) is sdk.answer
    assert hit == miss
    assert hit.model_dump() == miss.model_dump()
    assert (calls(provider), cache.stats.hits) == (1, 1)
    assert await sdk.whole(2) != miss
    assert calls(provider) == 2


async def test_a_stream(sdk: SDK, provider: SimulatedProvider, cache: Cache) -> None:
    """Typed events come again, equal; and the whole answer can be had from what was
    recorded, if that has all of it."""
    live, replayed = [await sdk.streamed(1) for _ in range(2)]
    assert len(live) > 3
    assert [type(event) for event in replayed] == [type(event) for event in live]
    assert replayed == live
    assert (calls(provider), cache.stats.stored) == (1, 1)
    answers = [await sdk.whole(1) for _ in range(2)]
    assert [type(answer) for answer in answers] == [sdk.answer] * 2
    assert answers[0] == answers[1]
    # Mistral's and Groq's SDKs cannot ask for the usage, which this provider tells only those who do.
    assert calls(provider) == (2 if isinstance(sdk, MistralSDK | GroqSDK) else 1)


async def test_a_stream_from_a_whole_answer(sdk: SDK, provider: SimulatedProvider) -> None:
    """The SDK reads the events that were cut from it as it reads the provider's."""
    await sdk.whole(1)
    events = await sdk.streamed(1)
    assert len(events) > 3
    assert calls(provider) == 1


async def test_an_error(sdk: SDK, provider: SimulatedProvider, cache: Cache) -> None:
    """The SDK raises its own error with the provider's headers, and nothing is kept."""
    provider.fail_next(429, headers={"retry-after-ms": "7"})
    with pytest.raises(sdk.error) as caught:
        await sdk.whole(1)
    response: Any = getattr(caught.value, "response", None) or getattr(caught.value, "raw_response", None)
    assert (response.status_code, response.headers["retry-after-ms"]) == (429, "7")
    assert cache.stats.stored == 0
    await sdk.whole(1)
    assert calls(provider) == 2


async def test_langchain(provider: SimulatedProvider, cache: Cache) -> None:
    """`ChatOpenAI` with such a client: a miss, a hit, a stream and an error. Its messages have an id for each run."""
    async with httpx.AsyncClient(transport=AsyncCacheTransport(cache)) as http:
        under: Any = {"model": "gpt-4o", "base_url": provider.base_url, "api_key": "k", "max_retries": 0}
        llm = ChatOpenAI(**under, http_async_client=http)
        miss, hit = [(await llm.ainvoke("Capital?")).model_dump(exclude={"id"}) for _ in range(2)]
        assert hit == miss
        live, again = [
            [chunk.model_dump(exclude={"id"}) async for chunk in llm.astream("Capital?", seed=1)] for _ in range(2)
        ]
        assert len(live) > 3
        assert again == live
        assert (calls(provider), cache.stats.stored) == (2, 2)
        provider.fail_next(429, headers={"retry-after-ms": "7"})
        with pytest.raises(openai.RateLimitError) as caught:
            await llm.ainvoke("Capital?", seed=2)
        assert caught.value.response.headers["retry-after-ms"] == "7"
        assert (await llm.ainvoke("Capital?", seed=2)).content
    assert (calls(provider), cache.stats.stored) == (4, 3)


async def test_an_sdk_tries_again(provider: SimulatedProvider, cache: Cache) -> None:
    """Its retries see the provider's failures, and what comes of them is kept."""
    async with httpx2.AsyncClient(transport=AsyncCacheTransport(cache)) as http:
        client = openai.AsyncOpenAI(api_key="k", base_url=provider.base_url, max_retries=2, http_client=http)
        provider.fail_next(500, times=2, headers={"retry-after-ms": "1"})
        miss, hit = [await OpenAISDK(client).whole(1) for _ in range(2)]
    assert hit == miss
    assert calls(provider) == 3


async def test_controls_through_an_sdk(provider: SimulatedProvider, cache: Cache) -> None:
    """An SDK that lets headers be set can say all that a call may say, and be told how it was answered."""
    async with httpx2.AsyncClient(transport=AsyncCacheTransport(cache)) as http:
        client = openai.AsyncOpenAI(api_key="k", base_url=provider.base_url, max_retries=0, http_client=http)
        asked: Any = {"model": "gpt-4o", "messages": MESSAGES, "extra_headers": {"x-asynccache": '{"tags": ["doc:1"]}'}}
        create = client.chat.completions.with_raw_response.create
        told = [(await create(**asked)).headers["cache-status"].split("; ")[1] for _ in range(2)]
        await cache.invalidate("doc:1")
        told.append((await create(**asked)).headers["cache-status"].split("; ")[1])
        asked["extra_headers"] = {"x-asynccache": '{"tll": 1}'}
        with pytest.raises(ConfigError, match="did you mean 'ttl'"):
            await create(**asked)
    assert [word.partition("=")[0] for word in told] == ["fwd", "hit", "fwd"]


async def test_embeddings(provider: SimulatedProvider, cache: Cache) -> None:
    """As the SDK asks for them, in base64; text by text."""
    async with httpx2.AsyncClient(transport=AsyncCacheTransport(cache)) as http:
        client = openai.AsyncOpenAI(api_key="k", base_url=provider.base_url, max_retries=0, http_client=http)
        miss, hit = [await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]) for _ in "12"]
        mixed = await client.embeddings.create(model="text-embedding-3-small", input=["c", "b"])
    assert type(hit) is CreateEmbeddingResponse
    assert hit == miss
    assert mixed.data[1] == hit.data[1]
    assert [request["input"] for request in provider.requests] == [["a", "b"], ["c"]]


def test_a_sync_sdk() -> None:
    """`OpenAI` over the sync twin: a miss, a hit, a stream and an error."""
    cache = Cache()
    with SimulatedProvider() as provider, httpx2.Client(transport=CacheTransport(cache)) as http:
        client = openai.OpenAI(api_key="k", base_url=provider.base_url, max_retries=0, http_client=http)
        create = client.chat.completions.create
        miss, hit = (create(model="gpt-4o", messages=MESSAGES) for _ in range(2))
        assert hit == miss
        live, again = (list(create(model="gpt-4o", messages=MESSAGES, seed=1, stream=True)) for _ in range(2))
        assert live == again
        assert provider.calls["/v1/chat/completions"] == 2
        provider.fail_next(429)
        with pytest.raises(openai.RateLimitError):
            create(model="gpt-4o", messages=MESSAGES, seed=2)
    asyncio.run(cache.aclose())


async def test_an_http_client_can_be_wrapped(provider: SimulatedProvider, cache: Cache) -> None:
    """`cache.wrap(httpx2.AsyncClient())` is a client that an SDK takes."""
    async with httpx2.AsyncClient() as plain:
        http = cache.wrap(plain)
        client = openai.AsyncOpenAI(api_key="k", base_url=provider.base_url, max_retries=0, http_client=http)
        miss, hit = [await OpenAISDK(client).whole(1) for _ in range(2)]
    assert hit == miss
    assert calls(provider) == 1
