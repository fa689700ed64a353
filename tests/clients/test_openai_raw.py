"""Raw responses of a real `AsyncOpenAI` over real HTTP: `with_raw_response` and `with_streaming_response`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from asynccache import Cache, status
from asynccache.testing.clock import FakeClock
from asynccache.testing.provider import Pace, SimulatedProvider

CHAT: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
CALLS: dict[str, Any] = {
    "chat.completions": CHAT,
    "completions": {"model": "base", "prompt": "Once upon a time"},
    "responses": {"model": "gpt-4o", "input": "What is the capital of France?"},
    "embeddings": {"model": "small", "input": ["a", "b"]},
    "audio.transcriptions": {"model": "whisper", "file": ("a.wav", b"sound")},
}


@pytest.fixture
async def plain(provider: SimulatedProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def cache(clock: FakeClock) -> AsyncIterator[Cache]:
    async with Cache(ttl=600, clock=clock) as cache:
        yield cache


@pytest.fixture
def client(plain: AsyncOpenAI, cache: Cache) -> AsyncOpenAI:
    return cache.wrap(plain)


def resource(client: Any, path: str) -> Any:
    for name in path.split("."):
        client = getattr(client, name)
    return client


@pytest.mark.parametrize("path", CALLS)
async def test_miss_and_hit(provider: SimulatedProvider, client: AsyncOpenAI, path: str) -> None:
    """Both are the SDK's raw response, and parse to the same typed answer, which has a status as well."""
    create = resource(client, path).with_raw_response.create
    miss, hit = [await create(**CALLS[path]) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert type(hit) is type(miss)
    assert hit.parse() == miss.parse()
    assert type(hit.parse()) is type(miss.parse())
    assert status(hit.parse()).outcome == "hit"
    assert hit.parse() is hit.parse()
    assert (hit.status_code, hit.method, hit.url, hit.retries_taken) == (200, "POST", miss.url, 0)
    assert hit.headers["content-type"].startswith("application/json")
    assert hit.elapsed.total_seconds() < 60
    assert hit.is_closed
    assert sum(provider.calls.values()) == 1


@pytest.mark.parametrize("path", CALLS)
async def test_entries_are_those_of_create(provider: SimulatedProvider, client: AsyncOpenAI, path: str) -> None:
    """In both ways."""
    here = resource(client, path)
    plainly = await here.create(**CALLS[path])
    raw = await here.with_raw_response.create(**CALLS[path])
    assert (status(raw).outcome, raw.parse()) == ("hit", plainly)
    await here.with_raw_response.create(**CALLS[path], extra_query={"x": "1"})
    assert status(await here.create(**CALLS[path], extra_query={"x": "1"})).outcome == "hit"


@pytest.mark.parametrize("path", CALLS)
async def test_responses_that_are_read_later(provider: SimulatedProvider, client: AsyncOpenAI, path: str) -> None:
    """`with_streaming_response`: its readers and its parser work on a hit as on a miss."""
    create = resource(client, path).with_streaming_response.create
    answers, bodies = [], []
    for outcome in ("miss", "hit"):
        async with create(**CALLS[path]) as raw:
            assert status(raw).outcome == outcome
            answers.append(await raw.parse())
            bodies.append(await raw.json())
            assert b"".join([piece async for piece in raw.iter_bytes()]) == await raw.read()
        assert raw.is_closed
    assert answers[0] == answers[1]
    assert bodies[0].keys() == bodies[1].keys()
    assert sum(provider.calls.values()) == 1


async def test_headers(provider: SimulatedProvider, client: AsyncOpenAI, clock: FakeClock) -> None:
    """On a miss the provider's own. On a hit what is still true: whose answer it is, how old, and how long it holds."""
    miss = await client.chat.completions.with_raw_response.create(**CHAT)
    assert miss.headers["x-request-id"] == miss.request_id == "req_00000001"
    assert "cache-status" not in miss.headers
    clock.advance(90)
    hit = await client.chat.completions.with_raw_response.create(**CHAT)
    assert dict(hit.headers) == {
        "content-type": "application/json",
        "content-length": str(len(hit.content)),
        "x-request-id": "req_00000001",
        "age": "90",
        "cache-status": "asynccache; hit; ttl=510",
    }
    assert hit.request_id == hit.parse()._request_id == "req_00000001"


async def test_streams(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """`parse()` gives the SDK's stream of typed chunks; or the events can be read line by line."""
    runs = []
    for outcome in ("miss", "hit"):
        raw = await client.chat.completions.with_raw_response.create(**CHAT, stream=True)
        stream = raw.parse()
        assert isinstance(stream, AsyncStream)
        assert (status(raw).outcome, status(stream).outcome) == (outcome, outcome)
        assert raw.headers["content-type"].startswith("text/event-stream")
        runs.append([chunk async for chunk in stream])
    assert all(type(chunk) is ChatCompletionChunk for chunk in runs[1])
    assert runs[0] == runs[1]
    async with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) == len(runs[0]) + 1
    whole = await client.chat.completions.create(**CHAT)
    assert status(whole).outcome == "hit"
    assert sum(provider.calls.values()) == 1


async def test_streams_of_typed_events(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """Events that have a type are framed with their name, and end without a word."""
    for _ in range(2):
        call = client.responses.with_streaming_response.create(**CALLS["responses"], stream=True)
        async with call as response:
            lines = [line async for line in response.iter_lines() if line]
        assert lines[0] == "event: response.created"
        assert lines[-2] == "event: response.completed"
    assert sum(provider.calls.values()) == 1


async def test_a_whole_answer_as_a_raw_stream(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """As everywhere, one entry serves both ways."""
    whole = await client.chat.completions.create(**CHAT)
    raw = await client.chat.completions.with_raw_response.create(**CHAT, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in raw.parse()])
    assert text == whole.choices[0].message.content


async def test_a_raw_stream_left_early(cache: Cache) -> None:
    """Nothing is stored. The provider is slow, so that the stream cannot have ended before its reader leaves."""
    async with SimulatedProvider(lambda _: Pace(per_token=1.0)) as slow:  # noqa: SIM117
        async with cache.wrap(AsyncOpenAI(base_url=slow.base_url, api_key="k", max_retries=0)) as client:
            async with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
                async for _ in response.iter_lines():
                    break
            assert response.is_closed
            async with asyncio.timeout(30):
                while not cache.stats.reject_reasons:  # noqa: ASYNC110 (the recording ends after its reader)
                    await asyncio.sleep(0.001)
    assert cache.stats.reject_reasons == {"aborted": 1}
    assert cache.stats.stored == 0


async def test_callers_share_a_call(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """Raw or not: each gets what he asked for, from one request."""
    create: Any = client.chat.completions.with_raw_response.create
    provider.hold()
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(create(**CHAT)) for _ in range(3)]
    await provider.reached(1)
    answer = asyncio.create_task(client.chat.completions.create(**CHAT))
    provider.release()
    whole = await answer
    raws = await asyncio.gather(*tasks)
    assert all(raw.parse() == whole for raw in raws)
    assert sorted(status(raw).outcome for raw in raws) == ["coalesced", "coalesced", "miss"]
    (shared,) = {raw.headers.get("cache-status") for raw in raws} - {None}
    assert shared == "asynccache; fwd=miss; collapsed"
    assert sum(provider.calls.values()) == 1


async def test_embeddings_of_which_some_are_known(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """The raw response of a list that was put together has all of it, under the headers of the call that was made."""
    await client.embeddings.create(model="small", input=["a"])
    raw = await client.embeddings.with_raw_response.create(model="small", input=["a", "b"])
    assert provider.requests[-1]["input"] == ["b"]
    assert (status(raw).reason, raw.headers["x-request-id"]) == ("partial: 1 of 2", "req_00000002")
    parsed = raw.parse()
    assert type(parsed) is CreateEmbeddingResponse
    assert [each.index for each in parsed.data] == [0, 1]
    assert parsed == await client.embeddings.create(model="small", input=["a", "b"])


class Capital(BaseModel):
    name: str


async def test_parse(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """`with_raw_response.parse`: the raw response parses to the typed object, on a miss and on a hit."""
    provider.answer_next('{"name": "Paris"}')
    for outcome in ("miss", "hit"):
        raw = await client.chat.completions.with_raw_response.parse(**CHAT, response_format=Capital)
        assert status(raw).outcome == outcome
        assert raw.headers["x-request-id"] == "req_00000001"
        assert raw.parse().choices[0].message.parsed == Capital(name="Paris")
    assert sum(provider.calls.values()) == 1


async def test_what_parse_refuses(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """It is refused when it is parsed, and not before."""
    provider.answer_next('{"na', finish_reason="length")
    raw = await client.chat.completions.with_raw_response.parse(**CHAT, response_format=Capital)
    with pytest.raises(openai.LengthFinishReasonError):
        raw.parse()


async def test_errors(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """The SDK's own, with the provider's response."""
    provider.fail_next(429, headers={"retry-after": "7"})
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.with_raw_response.create(**CHAT)
    assert caught.value.response.headers["retry-after"] == "7"


async def test_what_is_kept_out(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """A raw response that is not cached is the provider's own."""
    create: Any = client.responses.with_raw_response.create
    for stream in (False, True, False, True):
        raw = await create(**CALLS["responses"], store=True, stream=stream)
        assert (status(raw).outcome, raw.request_id) == ("bypass", f"req_{sum(provider.calls.values()):08d}")
        assert [event async for event in raw.parse()] if stream else raw.parse().output
    assert sum(provider.calls.values()) == 4


async def test_controls(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """`cache={…}` is taken off, here too."""
    create: Any = client.chat.completions.with_raw_response.create
    await create(**CHAT, cache={"ttl": 60})
    raw = await create(**CHAT, cache={"no-cache": True})
    assert (status(raw).outcome, status(raw).reason) == ("miss", "no-cache")
    assert not any("cache" in request for request in provider.requests)


async def test_texts(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """A transcription as a text is one in a raw response too."""
    call = {**CALLS["audio.transcriptions"], "response_format": "srt"}
    miss, hit = [await client.audio.transcriptions.with_raw_response.create(**call) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit.parse() == miss.parse() == hit.text == await client.audio.transcriptions.create(**call)
    assert hit.headers["content-type"].startswith("text/plain")


async def test_all_of_a_client_at_once(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    """`client.with_raw_response.…` is the same."""
    await client.chat.completions.create(**CHAT)
    raw = await client.with_raw_response.chat.completions.create(**CHAT)
    assert (status(raw).outcome, type(raw.parse())) == ("hit", ChatCompletion)
