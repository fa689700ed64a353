"""LiteLLM's functions, wrapped: over real HTTP to a server that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import litellm
import pytest
from litellm.types.utils import ModelResponse, ModelResponseStream

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def call(provider: SimulatedProvider) -> dict[str, Any]:
    return {"model": "openai/gpt-4o", "messages": MESSAGES, "api_base": provider.base_url, "api_key": "k"}


async def test_hit_equals_miss(provider: SimulatedProvider, cache: Cache, call: dict[str, Any]) -> None:
    """A hit is a ModelResponse equal to the one that was paid for, and says so where LiteLLM would."""
    acompletion = cache.wrap(litellm.acompletion)
    miss, hit = [await acompletion(**call) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert type(hit) is ModelResponse
    assert hit.model_dump() == miss.model_dump()
    assert miss._hidden_params["cache_hit"] is False
    assert hit._hidden_params["cache_hit"] is True
    assert hit._hidden_params["response_cost"] == 0.0
    assert sum(provider.calls.values()) == 1


async def test_signature_and_positional_arguments(cache: Cache, call: dict[str, Any]) -> None:
    """The signature stays; an argument by position is the same argument by name; None is not given."""
    acompletion = cache.wrap(litellm.acompletion)
    assert inspect.signature(acompletion) == inspect.signature(litellm.acompletion)
    await acompletion(**call)
    rest = {name: value for name, value in call.items() if name not in ("model", "messages")}
    again = await acompletion(call["model"], MESSAGES, temperature=None, timeout=9, **rest)
    assert status(again).outcome == "hit"


async def test_stream(cache: Cache, provider: SimulatedProvider, call: dict[str, Any]) -> None:
    """A recorded stream comes again chunk by chunk, as LiteLLM's chunks."""
    acompletion = cache.wrap(litellm.acompletion)
    runs = [[chunk async for chunk in await acompletion(**call, stream=True)] for _ in range(2)]
    assert all(type(chunk) is ModelResponseStream for chunk in runs[1])
    assert [c.model_dump() for c in runs[0]] == [c.model_dump() for c in runs[1]]
    assert sum(provider.calls.values()) == 1


async def test_embeddings_by_position(cache: Cache, provider: SimulatedProvider) -> None:
    """`aembedding(model, input)` by position keeps both in the key: another model, another vector."""
    aembedding = cache.wrap(litellm.aembedding)
    where = {"api_base": provider.base_url, "api_key": "k"}
    small = await aembedding("openai/text-embedding-3-small", ["a"], **where)
    large = await aembedding("openai/text-embedding-3-large", ["a"], **where)
    again = await aembedding(model="openai/text-embedding-3-small", input=["a"], **where)
    assert [status(a).outcome for a in (small, large, again)] == ["miss", "miss", "hit"]
    assert again.model_dump() == small.model_dump()


async def test_the_sync_twin(cache: Cache, call: dict[str, Any]) -> None:
    """`litellm.completion` stays sync and shares its entries with `acompletion`."""
    await cache.wrap(litellm.acompletion)(**call)
    hit = await asyncio.to_thread(lambda: cache.wrap(litellm.completion)(**call))
    assert status(hit).outcome == "hit"
    assert type(hit) is ModelResponse


async def test_errors_pass_through(cache: Cache, provider: SimulatedProvider, call: dict[str, Any]) -> None:
    """LiteLLM's exceptions reach the caller as they are."""
    provider.fail_next(status=429)
    with pytest.raises(litellm.RateLimitError):
        await cache.wrap(litellm.acompletion)(**call, max_retries=0)


async def test_concurrent_callers_share_one_call(
    cache: Cache, provider: SimulatedProvider, call: dict[str, Any]
) -> None:
    """Twenty identical concurrent calls make one request (LiteLLM's own cache makes twenty)."""
    acompletion = cache.wrap(litellm.acompletion)
    provider.hold()
    tasks = [asyncio.create_task(acompletion(**call)) for _ in range(20)]
    await provider.reached(1)
    provider.release()
    answers = await asyncio.gather(*tasks)
    assert sum(provider.calls.values()) == 1
    assert len({id(a) for a in answers}) == 20
