"""The provider's own cache, through LiteLLM: what leaves it is what the providers ask for."""

from __future__ import annotations

import litellm
import pytest
from anyio.from_thread import start_blocking_portal

from asynccache import Cache, ConfigError, status
from asynccache.clients import litellm as ours
from asynccache.testing.provider import SimulatedProvider
from tests.providers.google_server import google

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business

LONG = "A sentence that is long enough. " * 400
MARK = {"type": "ephemeral"}
POINTS = [{"location": "message", "role": "system"}, {"location": "tool_config"}]
MESSAGES = [{"role": "system", "content": LONG}, {"role": "user", "content": "Why?"}]
TOOL = {"type": "function", "function": {"name": "f", "description": LONG, "parameters": {"type": "object"}}}


async def test_marks_reach_anthropic() -> None:
    """LiteLLM makes of ours what Anthropic wants; a second call is a hit."""
    async with SimulatedProvider() as provider, Cache(cache_control_injection_points=POINTS) as cache:
        acompletion = cache.wrap(litellm.acompletion)
        outcomes = []
        for _ in range(2):
            answer = await acompletion(
                model="anthropic/claude-opus-5",
                messages=MESSAGES,
                tools=[TOOL],
                max_tokens=1000,
                api_base=provider.origin,
                api_key="k",
            )
            outcomes.append(status(answer).outcome)
        [sent] = provider.requests
    assert outcomes == ["miss", "hit"]
    assert sent["system"] == [{"type": "text", "text": LONG, "cache_control": MARK}]
    assert sent["tools"][0]["cache_control"] == MARK


def test_context_cache_as_the_guide_prints_it() -> None:
    """Made by a sync function, and named by the call after it."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(google()) as server:
        cached_context = ours.create_context_cache(
            model="gemini/gemini-1.5-pro",
            system_instruction="You are a helpful assistant with extensive knowledge.",
            ttl=3600,
            api_key="k",
            base_url=f"{server.origin}/v1beta",
        )
        completion = Cache(cache_control_injection_points=POINTS).wrap(litellm.completion)
        response = completion(
            model="gemini/gemini-1.5-pro",
            messages=[{"role": "user", "content": "What is quantum computing?"}],
            context_cache_id=cached_context.id,
            api_base=f"{server.origin}/v1beta",
            api_key="k",
        )
        assert response.choices[0].message.content == "Blue."
    assert [path.rpartition("/")[2] for _, path, *_ in server.asked] == [
        "cachedContents",
        "gemini-1.5-pro:generateContent",
    ]
    assert server.asked[1][-1]["cachedContent"] == "cachedContents/1"


async def test_a_blocking_call_on_an_event_loop_is_refused() -> None:
    with pytest.raises(ConfigError, match="await acreate_context_cache"):
        ours.create_context_cache(model="gemini/x", system_instruction="x", api_key="k")
