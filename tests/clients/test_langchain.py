"""A real `ChatOpenAI` over real HTTP, with our cache under LangChain."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from asynccache import Cache, Handler, Request, Response
from asynccache.backends.memory import MemoryBackend
from asynccache.clients.httpx import AsyncCacheTransport
from asynccache.clients.langchain import LangChainCache
from asynccache.errors import BackendUnavailable
from asynccache.testing import FaultyBackend
from asynccache.testing.provider import SimulatedProvider

QUESTION = "What is the capital of France?"


def model(provider: SimulatedProvider, cache: Cache, **options: Any) -> ChatOpenAI:
    under: dict[str, Any] = {"model": "gpt-4o", "base_url": provider.base_url, "api_key": "k", "max_retries": 0}
    return ChatOpenAI(**under, cache=LangChainCache(cache), **options)


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_miss_and_a_hit(provider: SimulatedProvider, cache: Cache, streaming: bool) -> None:
    """The second call is answered from the cache with the same message; another question is not."""
    llm = model(provider, cache, streaming=streaming)
    miss, hit = [await llm.ainvoke(QUESTION) for _ in range(2)]
    assert (calls(provider), cache.stats.misses, cache.stats.hits) == (1, 1, 1)
    assert type(hit) is type(miss) is AIMessage
    assert miss.content
    assert hit.content == miss.content
    assert hit.response_metadata == miss.response_metadata
    assert hit.usage_metadata == {**(miss.usage_metadata or {}), "total_cost": 0}  # LangChain says so of any hit
    await llm.ainvoke("And of Spain?")
    assert calls(provider) == 2


async def test_sync_shares_with_async(provider: SimulatedProvider, cache: Cache) -> None:
    """What one stores, the other finds."""
    llm = model(provider, cache)
    answer = await llm.ainvoke(QUESTION)
    assert llm.invoke(QUESTION).content == answer.content
    assert calls(provider) == 1


async def test_a_stream(provider: SimulatedProvider, cache: Cache) -> None:
    """`astream` never asks LangChain's cache; an HTTP client with our transport answers it chunk by chunk."""
    async with httpx.AsyncClient(transport=AsyncCacheTransport(cache)) as client:
        under: dict[str, Any] = {"model": "gpt-4o", "base_url": provider.base_url, "api_key": "k"}
        llm = ChatOpenAI(**under, http_async_client=client)
        first, again = [[chunk.content async for chunk in llm.astream(QUESTION)] for _ in range(2)]
    assert len(first) > 3
    assert again == first
    assert calls(provider) == 1


async def test_an_error(provider: SimulatedProvider, cache: Cache) -> None:
    """An error is the SDK's own, and is not kept."""
    llm = model(provider, cache)
    provider.fail_next(429)
    with pytest.raises(openai.RateLimitError):
        await llm.ainvoke(QUESTION)
    assert (await llm.ainvoke(QUESTION)).content
    assert calls(provider) == 2


async def test_parameters_count(provider: SimulatedProvider, cache: Cache) -> None:
    """Models with other parameters do not share answers."""
    for temperature in (0.1, 0.2):
        await model(provider, cache, temperature=temperature).ainvoke(QUESTION)
    assert calls(provider) == 2


async def test_what_was_cut_off_is_not_kept(provider: SimulatedProvider, cache: Cache) -> None:
    """An answer that ended at its limit is passed on only."""
    llm = model(provider, cache)
    provider.answer_next("The capital", finish_reason="length")
    await llm.ainvoke(QUESTION)
    await llm.ainvoke(QUESTION)
    assert calls(provider) == 2


class City(BaseModel):
    name: str


async def test_structured_output(provider: SimulatedProvider, cache: Cache) -> None:
    """A parsed answer comes back as the type that was asked for."""
    provider.answer_next('{"name": "Paris"}', times=2)
    llm = model(provider, cache).with_structured_output(City)
    assert [await llm.ainvoke(QUESTION) for _ in range(2)] == [City(name="Paris"), City(name="Paris")]
    assert calls(provider) == 1


async def test_clear_ends_this_namespace_only(cache: Cache) -> None:
    """`aclear` is `Cache.clear`: other namespaces keep theirs."""
    ours, others = (LangChainCache(cache.bind(namespace=name)) for name in ("ours", "others"))
    said = [Generation(text="Paris")]
    for each in (ours, others):
        await each.aupdate("p", "l", said)
    assert await ours.alookup("p", "l") == said
    await ours.aclear()
    assert await ours.alookup("p", "l") is None
    assert await others.alookup("p", "l") == said


async def test_what_is_cleared_while_it_is_asked_for_is_not_kept() -> None:
    """An answer whose look-up was before a `clear` is not stored after it."""
    now = [1000.0]
    async with Cache(clock=lambda: now[0]) as cache:
        under = LangChainCache(cache)
        assert await under.alookup("p", "l") is None
        now[0] += 1
        await under.aclear()
        now[0] += 1
        await under.aupdate("p", "l", [Generation(text="old")])
        assert await under.alookup("p", "l") is None
        await under.aupdate("p", "l", [Generation(text="new")])
        assert await under.alookup("p", "l") == [Generation(text="new")]


@pytest.mark.parametrize("blocking", [False, True])
async def test_the_same_call_twice_under_way(blocking: bool) -> None:
    """Neither answer is stored after a `clear`: what the first has brought does not hide when the other began."""
    now = [1000.0]
    async with Cache(clock=lambda: now[0]) as cache:
        under = LangChainCache(cache)
        looked, cleared = asyncio.Barrier(3), asyncio.Event()

        async def call(text: str) -> None:
            if blocking:
                with ThreadPoolExecutor(1) as thread:  # a thread of its own, as a sync caller is
                    assert await loop.run_in_executor(thread, under.lookup, "p", "l") is None
                    await looked.wait()
                    await cleared.wait()
                    await loop.run_in_executor(thread, under.update, "p", "l", [Generation(text=text)])
            else:
                assert await under.alookup("p", "l") is None
                await looked.wait()
                await cleared.wait()
                await under.aupdate("p", "l", [Generation(text=text)])

        loop = asyncio.get_running_loop()
        both = [asyncio.create_task(call(text)) for text in ("one", "two")]
        await looked.wait()
        now[0] += 1
        await under.aclear()
        cleared.set()
        await asyncio.gather(*both)
        assert cache.stats.reject_reasons == {"invalidated": 2}


async def test_stages_of_ones_own(provider: SimulatedProvider) -> None:
    """They take part: one before the look-up in what is read and in what is written."""
    seen: list[str] = []

    async def spy(request: Request, call_next: Handler, /) -> Response:
        seen.append("asked")
        response = await call_next(request)
        seen.append(response.status.outcome)
        return response

    async with Cache(stages=lambda default: [spy, *default]) as cache:
        llm = model(provider, cache)
        await llm.ainvoke(QUESTION)
        assert seen == ["asked", "asked", "miss"]
        await llm.ainvoke(QUESTION)
        assert seen[3:] == ["asked", "hit"]


async def test_a_type_never_comes_from_the_store() -> None:
    """Only what a model answers with is stored and read: not a prompt, nor another kind of message."""
    async with Cache() as cache:
        under = LangChainCache(cache)
        await under.aupdate("p", "l", [ChatGeneration(message=HumanMessage("hi"))])
        assert await under.alookup("p", "l") is None
        kept = [ChatGeneration(message=AIMessage("hi", id="run-1", additional_kwargs={"lc": 1, "type": "secret"}))]
        await under.aupdate("p", "l", list(kept))
        assert await under.alookup("p", "l") == kept


async def test_a_broken_backend_is_counted(provider: SimulatedProvider) -> None:
    """The call goes on without the cache."""
    backend = FaultyBackend(MemoryBackend())
    async with Cache(backend) as cache:
        backend.fail(BackendUnavailable("gone"), "get", "set")
        assert (await model(provider, cache).ainvoke(QUESTION)).content
        assert cache.stats.read_errors == 1
        assert cache.stats.write_errors == 1
