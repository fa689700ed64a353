"""The helpers of a real `AsyncOpenAI` around `create`, over real HTTP: `parse` and `stream`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.lib._parsing import type_to_response_format_param
from openai.types.chat import ParsedChatCompletion
from openai.types.responses import ParsedResponse
from pydantic import BaseModel

from asynccache import Cache, ConfigError, status
from asynccache.testing.provider import SimulatedProvider, ToolCall

CHAT: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
ASK: Any = {"model": "gpt-4o", "input": "What is the capital of France?"}
PARIS = '{"name": "Paris"}'


class Capital(BaseModel):
    name: str


class City(BaseModel):
    name: str
    country: str = ""


@pytest.fixture
async def client(provider: SimulatedProvider, cache: Cache) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain:
        yield cache.wrap(plain)


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


def dumped(answer: BaseModel) -> dict[str, Any]:
    """The SDK's own types do not expect what it parses, and warn of it."""
    return answer.model_dump(warnings=False)


async def test_parse(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """Structured output is typed on a hit, for the caller's own class; another class has other entries."""
    provider.answer_next(PARIS, times=2)
    miss, hit = [await client.chat.completions.parse(**CHAT, response_format=Capital) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome, calls(provider)) == ("miss", "hit", 1)
    assert isinstance(hit, ParsedChatCompletion)
    assert hit.choices[0].message.parsed == Capital(name="Paris")
    assert dumped(hit) == dumped(miss)
    assert hit is not miss
    assert hit._request_id == miss._request_id == "req_00000001"
    assert status(await client.chat.completions.parse(**CHAT, response_format=City)).outcome == "miss"


async def test_parse_shares_its_entry_with_create(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """The same schema, said by hand, is the same request."""
    provider.answer_next(PARIS)
    schema: Any = type_to_response_format_param(Capital)
    created = await client.chat.completions.create(**CHAT, response_format=schema)
    parsed = await client.chat.completions.parse(**CHAT, response_format=Capital)
    assert (status(created).outcome, status(parsed).outcome) == ("miss", "hit")
    assert parsed.choices[0].message.parsed == Capital(name="Paris")


async def test_parsed_tools(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """The arguments of a tool are parsed on a hit as on a miss."""
    provider.answer_next(tool_calls=[ToolCall("Capital", PARIS)])
    tool: Any = openai.pydantic_function_tool(Capital)
    for outcome in ("miss", "hit"):
        answer = await client.chat.completions.parse(**CHAT, tools=[tool])
        assert status(answer).outcome == outcome
        made = answer.choices[0].message.tool_calls
        assert made is not None
        assert made[0].function.parsed_arguments == Capital(name="Paris")


async def test_what_parse_refuses_is_not_stored(provider: SimulatedProvider, client: AsyncOpenAI, cache: Cache) -> None:
    """An answer that was cut off raises the SDK's own error, each time; so does one that is no such object."""
    for _ in range(2):
        provider.answer_next('{"na', finish_reason="length")
        with pytest.raises(openai.LengthFinishReasonError):
            await client.chat.completions.parse(**CHAT, response_format=Capital)
    assert cache.stats.reject_reasons == {"length": 2}


async def test_parse_of_responses(provider: SimulatedProvider, client: AsyncOpenAI, cache: Cache) -> None:
    """As with chats; what must get to the provider gets there."""
    provider.answer_next(PARIS, times=3)
    miss, hit = [await client.responses.parse(**ASK, text_format=Capital) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert isinstance(hit, ParsedResponse)
    assert hit.output_parsed == Capital(name="Paris")
    assert dumped(hit) == dumped(miss)
    assert status(await client.responses.parse(**ASK, text_format=Capital, store=True)).reason.startswith("store")


async def test_controls_of_helpers(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """Every helper takes `cache={…}`, which never reaches the provider."""
    parse: Any = client.chat.completions.parse
    stream: Any = client.chat.completions.stream
    provider.answer_next(PARIS, times=9)
    await parse(**CHAT, response_format=Capital, cache={"ttl": 60})
    again = await parse(**CHAT, response_format=Capital, cache={"no-cache": True})
    assert (status(again).outcome, status(again).reason) == ("miss", "no-cache")
    async with stream(**CHAT, response_format=Capital, cache={"no-cache": True}) as events:
        await events.until_done()
    assert calls(provider) == 3
    assert not any("cache" in request for request in provider.requests)
    with pytest.raises(ConfigError, match="did you mean 'ttl'"):
        await parse(**CHAT, cache={"tll": 60})


async def test_stream(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """Its events, snapshots and parsed objects are the same on a hit, and a whole answer makes them too."""
    provider.answer_next(PARIS)
    runs, finals = [], []
    for _ in range(2):
        async with client.chat.completions.stream(**CHAT, response_format=Capital) as stream:
            runs.append([event async for event in stream])
            finals.append(await stream.get_final_completion())
    assert [type(event) for event in runs[0]] == [type(event) for event in runs[1]]
    assert [dumped(event) for event in runs[0]] == [dumped(event) for event in runs[1]]
    assert {event.type for event in runs[1]} >= {"chunk", "content.delta", "content.done"}
    assert finals[1].choices[0].message.parsed == Capital(name="Paris")
    assert dumped(finals[1]) == dumped(finals[0])
    whole = await client.chat.completions.parse(**CHAT, response_format=Capital)
    assert status(whole).outcome == "hit"
    assert calls(provider) == 1


async def test_stream_of_a_whole_answer(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """What `parse` has stored, `stream` gives in pieces; a tool's arguments too."""
    provider.answer_next("Let me see.", tool_calls=[ToolCall("Capital", PARIS)])
    tool: Any = openai.pydantic_function_tool(Capital)
    whole = await client.chat.completions.parse(**CHAT, tools=[tool])
    async with client.chat.completions.stream(**CHAT, tools=[tool]) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert kinds >= {"content.delta", "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"}
    made = final.choices[0].message.tool_calls
    assert made is not None
    assert made[0].function.parsed_arguments == Capital(name="Paris")
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert calls(provider) == 1


async def test_stream_of_responses(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """The same for responses: from a recorded stream, and from a whole response."""
    provider.answer_next(PARIS, times=2)
    runs = []
    for _ in range(2):
        async with client.responses.stream(**ASK, text_format=Capital) as stream:
            runs.append([dumped(event) async for event in stream])
            assert (await stream.get_final_response()).output_parsed == Capital(name="Paris")
    assert runs[0] == runs[1]
    assert runs[1][-1]["type"] == "response.completed"
    await client.responses.parse(**ASK, text_format=Capital, temperature=0.5)
    async with client.responses.stream(**ASK, text_format=Capital, temperature=0.5) as stream:
        assert (await stream.get_final_response()).output_parsed == Capital(name="Paris")
    assert calls(provider) == 2


async def test_errors_of_helpers(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """The SDK's own, as they are."""
    provider.fail_next(429, times=2)
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.parse(**CHAT, response_format=Capital)
    with pytest.raises(openai.RateLimitError):
        async with client.responses.stream(**ASK):
            pass


async def test_other_methods_pass_through(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """What a resource has beside these is the SDK's own."""
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.retrieve("chatcmpl-1")
    with pytest.raises(openai.NotFoundError):
        async with client.responses.stream(response_id="resp_1"):
            pass


async def test_the_old_place_of_parse(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """`beta.chat.completions` is the same resource, and shares its entries."""
    provider.answer_next(PARIS)
    await client.chat.completions.parse(**CHAT, response_format=Capital)
    answer = await client.beta.chat.completions.parse(**CHAT, response_format=Capital)
    assert (status(answer).outcome, answer.choices[0].message.parsed) == ("hit", Capital(name="Paris"))
