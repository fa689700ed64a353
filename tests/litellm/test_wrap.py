"""`cache.wrap` of LiteLLM's further functions and of its Router: a miss, a hit, a stream and an error each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import litellm
import pytest

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider
from tests.litellm.test_drop_in import CALLS, HELLO

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    async with SimulatedProvider() as provider:
        yield provider


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    async with Cache() as cache:
        yield cache


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_miss_and_hit(cache: Cache, provider: SimulatedProvider, name: str) -> None:
    """The async function pays, and its sync twin finds what it paid for; each answer is of LiteLLM's own type."""
    call = CALLS[name](provider)
    asynchronous, sync = cache.wrap(getattr(litellm, f"a{name}")), cache.wrap(getattr(litellm, name))
    miss = await asynchronous(**call)
    hit = await asynchronous(**call)
    twin = await asyncio.to_thread(sync, **call)
    assert [status(answer).outcome for answer in (miss, hit, twin)] == ["miss", "hit", "hit"]
    assert type(hit) is type(twin) is type(miss)
    assert hit.model_dump() == twin.model_dump() == miss.model_dump()
    assert sum(provider.calls.values()) == 1


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_error(cache: Cache, provider: SimulatedProvider, name: str) -> None:
    """LiteLLM's exception reaches the caller, and nothing is kept."""
    function, call = cache.wrap(getattr(litellm, f"a{name}")), CALLS[name](provider)
    provider.fail_next(status=400)
    with pytest.raises(litellm.BadRequestError):
        await function(**call, max_retries=0)
    assert cache.stats.stored == 0
    assert status(await function(**call, max_retries=0)).outcome == "miss"


async def test_text_completion_stream(cache: Cache, provider: SimulatedProvider) -> None:
    """Chunk by chunk."""
    function, call = cache.wrap(litellm.atext_completion), CALLS["text_completion"](provider)
    runs = [[chunk async for chunk in await function(**call, stream=True)] for _ in range(2)]
    assert [c.choices[0].text for c in runs[0]] == [c.choices[0].text for c in runs[1]]
    assert sum(provider.calls.values()) == 1


async def test_sync_streams(cache: Cache, provider: SimulatedProvider) -> None:
    """A sync function's stream is a sync one, recorded or new, and can be left."""
    completion, call = cache.wrap(litellm.completion), CALLS["completion"](provider)

    def text() -> tuple[str, str]:
        stream = completion(**call, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return status(stream).outcome, said

    (miss, first), (hit, again) = [await asyncio.to_thread(text) for _ in range(2)]
    assert (miss, hit) == ("miss", "hit")
    assert first == again != ""

    def leave() -> None:
        stream = completion(**call, stream=True, temperature=0.5)
        next(iter(stream))
        stream.close()

    await asyncio.to_thread(leave)
    assert cache.stats.stored == 1
    assert sum(provider.calls.values()) == 2


async def test_anthropic_messages(cache: Cache, provider: SimulatedProvider) -> None:
    """Whole answers are cached; of streams, which are raw events, the cache keeps out, and says so."""
    function = cache.wrap(litellm.anthropic_messages)
    call: dict[str, Any] = {"model": "anthropic/claude-sonnet-4", "messages": HELLO, "max_tokens": 500}
    call |= {"api_base": provider.origin, "api_key": "k"}
    miss, hit = [await function(**call) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit == miss
    events = [event async for event in await function(**call, stream=True)]
    assert events
    assert cache.stats.bypass_reasons == {"stream": 1}


@pytest.fixture
def router(provider: SimulatedProvider) -> litellm.Router:
    where = {"api_base": provider.base_url, "api_key": "k", "max_retries": 0}
    models = [
        {"model_name": "small", "litellm_params": {"model": "openai/gpt-4o-mini", **where}},
        {"model_name": "large", "litellm_params": {"model": "openai/gpt-4o", **where}},
        {"model_name": "vectors", "litellm_params": {"model": "openai/text-embedding-3-small", **where}},
    ]
    return litellm.Router(model_list=models, num_retries=0)


async def test_router(cache: Cache, provider: SimulatedProvider, router: litellm.Router) -> None:
    """It is a Router still; the one that was wrapped is as it was."""
    wrapped = cache.wrap(router)
    assert type(wrapped) is litellm.Router
    miss, hit = [await wrapped.acompletion(model="small", messages=HELLO) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit.model_dump() == miss.model_dump()
    vectors = [await wrapped.aembedding(model="vectors", input=["a", "b"]) for _ in range(2)]
    assert [status(answer).outcome for answer in vectors] == ["miss", "hit"]
    assert status(await wrapped.acompletion(model="large", messages=HELLO)).outcome == "miss"
    plain = await router.acompletion(model="small", messages=HELLO)
    with pytest.raises(TypeError):
        status(plain)


async def test_router_stream_and_error(cache: Cache, provider: SimulatedProvider, router: litellm.Router) -> None:
    wrapped = cache.wrap(router)
    provider.fail_next(status=400)
    with pytest.raises(litellm.BadRequestError):
        await wrapped.acompletion(model="small", messages=HELLO)
    runs = []
    for _ in range(2):
        stream = await wrapped.acompletion(model="small", messages=HELLO, stream=True)
        runs.append([chunk.choices[0].delta.content async for chunk in stream])
    assert runs[0] == runs[1]
    assert sum(provider.calls.values()) == 2


async def test_router_groups(provider: SimulatedProvider, router: litellm.Router) -> None:
    """Models that are to share entries do."""
    async with Cache(caching_groups=[("small", "large")]) as cache:
        wrapped = cache.wrap(router)
        for model in ("small", "large"):
            await wrapped.acompletion(model=model, messages=HELLO)
    assert sum(provider.calls.values()) == 1


async def test_routers_with_other_deployments_do_not_meet(
    cache: Cache, provider: SimulatedProvider, router: litellm.Router
) -> None:
    """An alias may be any model."""
    where = {"api_base": provider.base_url, "api_key": "k"}
    other = litellm.Router(model_list=[{"model_name": "small", "litellm_params": {"model": "openai/o3", **where}}])
    for each in (router, other):
        await cache.wrap(each).acompletion(model="small", messages=HELLO)
    assert sum(provider.calls.values()) == 2
