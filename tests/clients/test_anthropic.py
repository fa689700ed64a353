"""A real `AsyncAnthropic` over real HTTP, wrapped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic, AsyncStream, Stream
from anthropic.types import Message
from pydantic import BaseModel

from asynccache import Cache, status
from asynccache.testing.provider import SimulatedProvider, ToolCall

CALL: dict[str, Any] = {
    "model": "claude-of-no-date",
    "max_tokens": 300,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}


@pytest.fixture
async def client(provider: SimulatedProvider, cache: Cache) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=provider.origin, api_key="k", max_retries=0) as plain:
        yield cache.wrap(plain)


async def test_hit_equals_miss(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """A hit is a Message equal to the one that was paid for."""
    miss, hit = [await client.messages.create(**CALL) for _ in range(2)]
    assert type(client) is AsyncAnthropic
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert type(hit) is Message
    assert hit.model_dump() == miss.model_dump()
    assert sum(provider.calls.values()) == 1


async def test_stream_replays_as_it_came(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """Every event comes again, of the same type."""
    runs = []
    for _ in range(2):
        stream = await client.messages.create(**CALL, stream=True)
        assert isinstance(stream, AsyncStream)
        runs.append([event async for event in stream])
    assert len(runs[0]) > 4
    assert [type(e) for e in runs[0]] == [type(e) for e in runs[1]]
    assert [e.model_dump() for e in runs[0]] == [e.model_dump() for e in runs[1]]
    assert sum(provider.calls.values()) == 1


async def test_what_counts(client: AsyncAnthropic) -> None:
    """System prompt, tools and beta headers are in the key; tracing headers are not."""
    more: list[dict[str, Any]] = [
        {},
        {"system": "Be brief."},
        {"extra_headers": {"anthropic-beta": "context-1m"}},
        {"extra_headers": {"x-trace": "7"}},
    ]
    outcomes = [status(await client.messages.create(**CALL, **extra)).outcome for extra in more]
    assert outcomes == ["miss", "miss", "miss", "hit"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"finish_reason": "length"}, "length"), ({"refusal": "No."}, "refusal"), ({"text": ""}, "empty")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_stored(
    provider: SimulatedProvider, client: AsyncAnthropic, cache: Cache, said: dict[str, Any], reason: str, stream: bool
) -> None:
    """Truncated answers and refusals reach their caller and are not kept, streamed or not."""
    provider.answer_next(**said)
    answer: Any = await client.messages.create(**CALL, stream=stream)
    if stream:
        assert [event async for event in answer]
    assert cache.stats.reject_reasons == {reason: 1}
    assert cache.stats.stored == 0


async def test_errors_pass_through(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """What the SDK raises reaches the caller as it is."""
    provider.fail_next(status=529)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(**CALL)
    assert caught.value.status_code == 529


async def test_the_stream_helper(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """`messages.stream` shares the entry of `create`: the same events, texts and final message, of the same types."""
    runs, texts, finals = [], [], []
    for _ in range(2):
        async with client.messages.stream(**CALL) as stream:
            runs.append([event async for event in stream])
            finals.append(await stream.get_final_message())
            texts.append(await stream.get_final_text())
            assert stream.response.status_code == 200
    assert [type(event) for event in runs[0]] == [type(event) for event in runs[1]]
    assert [event.model_dump() for event in runs[0]] == [event.model_dump() for event in runs[1]]
    assert finals[0].model_dump() == finals[1].model_dump()
    async with client.messages.stream(**CALL) as stream:
        assert "".join([piece async for piece in stream.text_stream]) == texts[0] == texts[1]
    whole = await client.messages.create(**CALL)
    assert status(whole).outcome == "hit"
    assert whole.content[0].model_dump() == finals[0].content[0].model_dump(exclude={"parsed_output"})
    assert sum(provider.calls.values()) == 1


async def test_the_stream_helper_after_a_whole_answer(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """An answer that came whole is streamed by the helper, a tool's input included; an error is the SDK's own."""
    provider.answer_next("Let me see.", tool_calls=[ToolCall("weather", '{"city": "Paris"}')])
    whole = await client.messages.create(**CALL)
    async with client.messages.stream(**CALL) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_message()
    assert {"text", "input_json", "content_block_stop", "message_stop"} <= kinds
    assert final.model_dump(exclude={"content"}) == whole.model_dump(exclude={"content"})
    assert [block.type for block in final.content] == ["text", "tool_use"]
    assert getattr(final.content[1], "input", None) == {"city": "Paris"}
    assert sum(provider.calls.values()) == 1
    provider.fail_next(529)
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(**CALL, system="Be brief."):
            pass


class Capital(BaseModel):
    name: str


async def test_parse(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """`messages.parse` gives typed output on a hit, and takes controls; the schema is in the key."""
    provider.answer_next('{"name": "Paris"}', times=2)
    parse: Any = client.messages.parse
    miss, hit = [await parse(**CALL, output_format=Capital, cache={"ttl": 60}) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit.parsed_output == Capital(name="Paris")
    assert hit.model_dump() == miss.model_dump()
    assert hit._request_id == miss._request_id == "req_00000001"
    assert status(await client.messages.create(**CALL)).outcome == "miss"


async def test_raw_responses(provider: SimulatedProvider, client: AsyncAnthropic) -> None:
    """`with_raw_response` and `with_streaming_response` are answered from the entries of `create`."""
    miss, hit = [await client.messages.with_raw_response.create(**CALL) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert type(hit) is type(miss)
    assert (await hit.parse()).model_dump() == (await miss.parse()).model_dump()
    assert (hit.request_id, hit.status_code) == ("req_00000001", 200)
    assert (hit.headers["cache-status"], hit.headers["age"]) == ("asynccache; hit", "0")
    async with client.messages.with_streaming_response.create(**CALL, stream=True) as raw:
        events = [event async for event in await raw.parse()]
    assert events[0].type == "message_start"
    assert status(await client.messages.create(**CALL)).outcome == "hit"
    assert sum(provider.calls.values()) == 1


def test_a_sync_client() -> None:
    """`Anthropic` is wrapped too, and stays sync: whole, streamed, and through its helpers."""
    with SimulatedProvider() as provider, Anthropic(base_url=provider.origin, api_key="k", max_retries=0) as plain:
        cache = Cache()
        client = cache.wrap(plain)
        assert type(client) is Anthropic
        runs = []
        for _ in range(2):
            with client.messages.create(**CALL, stream=True) as events:
                assert isinstance(events, Stream)
                runs.append([event.model_dump() for event in events])
        assert runs[0] == runs[1]
        with client.messages.stream(**CALL) as stream:
            text = "".join(stream.text_stream)
            assert stream.get_final_text() == text
        assert status(client.messages.create(**CALL)).outcome == "hit"
        raw = client.messages.with_raw_response.create(**CALL)
        assert isinstance(raw.parse(), Message)
        assert sum(provider.calls.values()) == 1
        provider.fail_next(529)
        with pytest.raises(anthropic.APIStatusError):
            client.messages.create(**CALL, system="Be brief.", stream=True)
        asyncio.run(cache.aclose())
