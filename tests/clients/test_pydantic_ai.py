"""A real pydantic-ai `Agent` over real HTTP, on a cached model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent, ModelHTTPError
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from asynccache import Cache, ConfigError
from asynccache.clients.pydantic_ai import CachedModel
from asynccache.testing.provider import SimulatedProvider, ToolCall

QUESTION = "What is the capital of France?"


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
async def model(request: pytest.FixtureRequest, provider: SimulatedProvider) -> AsyncIterator[Model]:
    async with request.param("gpt-4o", provider=OpenAIProvider(base_url=provider.base_url, api_key="k")) as model:
        yield model


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


async def streamed(agent: Agent[None, Any]) -> tuple[list[str], Any]:
    async with agent.run_stream(QUESTION) as result:
        return [text async for text in result.stream_text(debounce_by=None)], result


async def test_a_miss_and_a_hit(provider: SimulatedProvider, model: Model, cache: Cache) -> None:
    """The second run is answered from the cache, with the same answer."""
    agent = Agent(cache.wrap(model))
    miss, hit = [await agent.run(QUESTION) for _ in range(2)]
    assert (calls(provider), cache.stats.misses, cache.stats.hits) == (1, 1, 1)
    assert miss.output
    assert hit.output == miss.output
    assert hit.usage.output_tokens == miss.usage.output_tokens
    said = [result.all_messages()[-1] for result in (miss, hit)]
    assert said[0].parts == said[1].parts
    assert said[0].timestamp == said[1].timestamp
    await agent.run("And of Spain?")
    assert calls(provider) == 2


async def test_a_stream(provider: SimulatedProvider, model: Model, cache: Cache) -> None:
    """A stream comes live on a miss and as it was recorded on a hit; and serves a whole call."""
    plain, _ = await streamed(Agent(model))
    agent = Agent(cache.wrap(model))
    (first, miss), (again, hit) = [await streamed(agent) for _ in range(2)]
    assert calls(provider) == 2
    assert len(first) > 3
    assert first == again == plain
    assert miss.usage == hit.usage
    assert miss.all_messages()[-1].finish_reason == hit.all_messages()[-1].finish_reason == "stop"
    assert (await agent.run(QUESTION)).output == first[-1]
    assert calls(provider) == 2


async def test_a_whole_answer_serves_a_stream(provider: SimulatedProvider, model: Model, cache: Cache) -> None:
    """What was asked for as a whole is streamed from the cache, each part at once."""
    agent = Agent(cache.wrap(model))
    whole = await agent.run(QUESTION)
    texts, _ = await streamed(agent)
    assert texts[-1] == whole.output
    assert calls(provider) == 1


async def test_an_error(provider: SimulatedProvider, model: Model, cache: Cache) -> None:
    """An error is pydantic-ai's own, whole or streamed, and is not kept."""
    agent = Agent(cache.wrap(model))
    provider.fail_next(400, times=2)
    with pytest.raises(ModelHTTPError):
        await agent.run(QUESTION)
    with pytest.raises(ModelHTTPError):
        await streamed(agent)
    assert (await agent.run(QUESTION)).output


async def test_a_tool_is_called_and_both_requests_hit(provider: SimulatedProvider, model: Model, cache: Cache) -> None:
    """A run with a tool is two requests; a second such run calls the tool again, and the model never."""
    agent = Agent(cache.wrap(model))
    asked: list[str] = []

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "rain"

    provider.answer_next(tool_calls=[ToolCall("weather", '{"city": "Paris"}')])
    results = [await agent.run("How is the weather in Paris?") for _ in range(2)]
    assert asked == ["Paris", "Paris"]
    assert results[0].output == results[1].output
    assert calls(provider) == 2


async def test_what_counts(provider: SimulatedProvider, model: Model, cache: Cache) -> None:
    """Settings, instructions and tools are in the key; a time limit is not."""
    cached = cache.wrap(model)
    await Agent(cached).run(QUESTION)
    await Agent(cached).run(QUESTION, model_settings={"timeout": 7})
    assert calls(provider) == 1
    await Agent(cached).run(QUESTION, model_settings={"temperature": 0.3})
    await Agent(cached, instructions="Be short.").run(QUESTION)
    await Agent(cached, tools=[lookup]).run(QUESTION)
    assert calls(provider) == 4


def lookup(city: str) -> str:
    """Look a city up."""
    return city


async def test_what_was_cut_off_is_not_kept(provider: SimulatedProvider, model: Model, cache: Cache) -> None:
    """An answer that ended at its limit is passed on only."""
    agent = Agent(cache.wrap(model))
    provider.answer_next("The capital", finish_reason="length")
    await agent.run(QUESTION)
    await agent.run(QUESTION)
    assert calls(provider) == 2


async def test_it_is_a_model(model: Model, cache: Cache) -> None:
    """`wrap` gives a model that is known by the name of what it wraps; other things of the library it refuses."""
    wrapped = cache.wrap(model)
    assert isinstance(wrapped, CachedModel)
    assert wrapped.model_name == model.model_name
    with pytest.raises(ConfigError):
        cache.wrap(OpenAIProvider(base_url="http://127.0.0.1:1", api_key="k"))
