"""A real `OpenAI` over real HTTP: streams, helpers and raw responses of a sync client."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from asynccache import Cache, StreamError, status
from asynccache.testing.provider import SimulatedProvider

CHAT: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture
def provider() -> Iterator[SimulatedProvider]:
    with SimulatedProvider() as provider:
        yield provider


@pytest.fixture
def cache() -> Iterator[Cache]:
    cache = Cache()
    yield cache
    asyncio.run(cache.aclose())


@pytest.fixture
def client(provider: SimulatedProvider, cache: Cache) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.base_url, api_key="k", max_retries=0) as plain:
        yield cache.wrap(plain)


def calls(provider: SimulatedProvider) -> int:
    return sum(provider.calls.values())


def test_a_stream_is_recorded_and_replayed(provider: SimulatedProvider, client: OpenAI) -> None:
    """As a sync stream of the SDK's own type; and one entry serves both ways."""
    runs = []
    for outcome in ("miss", "hit"):
        with client.chat.completions.create(**CHAT, stream=True) as stream:
            assert isinstance(stream, Stream)
            assert status(stream).outcome == outcome
            assert stream.response.status_code == 200
            runs.append(list(stream))
    assert all(type(chunk) is ChatCompletionChunk for chunk in runs[1])
    assert runs[0] == runs[1]
    assert status(client.chat.completions.create(**CHAT)).outcome == "hit"
    assert calls(provider) == 1


def test_a_whole_answer_is_streamed(provider: SimulatedProvider, client: OpenAI) -> None:
    """In pieces that make it up."""
    whole = client.chat.completions.create(**CHAT)
    chunks = client.chat.completions.create(**CHAT, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert calls(provider) == 1


def test_a_stream_left_early(provider: SimulatedProvider, client: OpenAI, cache: Cache) -> None:
    """Nothing is stored; who goes on reading is told; closing twice is fine."""
    stream = client.chat.completions.create(**CHAT, stream=True)
    next(stream)
    stream.close()
    stream.close()
    with pytest.raises(StreamError):
        next(stream)
    assert cache.stats.reject_reasons == {"aborted": 1}
    assert status(client.chat.completions.create(**CHAT, stream=True)).outcome == "miss"


def test_a_stream_that_is_dropped(provider: SimulatedProvider, client: OpenAI, cache: Cache) -> None:
    """It is left as if it had been closed."""
    stream: Any = client.chat.completions.create(**CHAT, stream=True)
    next(stream)
    del stream
    gc.collect()
    asyncio.run(cache.drain())
    assert status(client.chat.completions.create(**CHAT)).outcome == "miss"


def test_a_stream_that_breaks(provider: SimulatedProvider, client: OpenAI, cache: Cache) -> None:
    """The SDK's own error, after what has come before it."""
    provider.abort_next(after=3, error={"message": "overloaded"})
    stream = client.chat.completions.create(**CHAT, stream=True)
    with pytest.raises(openai.APIError, match="overloaded"):
        list(stream)
    provider.fail_next(429)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**CHAT, stream=True)
    assert cache.stats.stored == 0


def test_threads_share_a_stream(provider: SimulatedProvider, client: OpenAI) -> None:
    """Two threads that want the same stream at the same time get it from one request."""
    texts: list[str] = []

    def read() -> None:
        chunks = client.chat.completions.create(**CHAT, stream=True)
        texts.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(texts)) == 1
    assert calls(provider) == 1


class Capital(BaseModel):
    name: str


def test_helpers(provider: SimulatedProvider, client: OpenAI) -> None:
    """`parse` and `stream` share their entries."""
    provider.answer_next('{"name": "Paris"}')
    for outcome in ("miss", "hit"):
        answer = client.chat.completions.parse(**CHAT, response_format=Capital)
        assert (status(answer).outcome, answer.choices[0].message.parsed) == (outcome, Capital(name="Paris"))
    with client.chat.completions.stream(**CHAT, response_format=Capital) as stream:
        assert {event.type for event in stream} >= {"chunk", "content.delta", "content.done"}
        assert stream.get_final_completion().choices[0].message.parsed == Capital(name="Paris")
    assert calls(provider) == 1


def test_raw_responses(provider: SimulatedProvider, client: OpenAI) -> None:
    """Whole and streamed, read at once and later."""
    miss, hit = [client.chat.completions.with_raw_response.create(**CHAT) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit.parse() == miss.parse()
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert (status(response).outcome, response.parse()) == ("hit", miss.parse())
    runs = []
    for outcome in ("miss", "hit"):
        raw = client.chat.completions.with_raw_response.create(**CHAT, seed=1, stream=True)
        assert status(raw).outcome == outcome
        runs.append(list(raw.parse()))
    assert runs[0] == runs[1]
    with client.chat.completions.with_streaming_response.create(**CHAT, seed=1, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert (len(lines), lines[-1]) == (len(runs[0]) + 1, "data: [DONE]")
    with client.chat.completions.with_streaming_response.create(**CHAT, seed=1, stream=True) as response:
        next(response.iter_lines())
    assert calls(provider) == 2
    provider.answer_next('{"name": "Paris"}')
    for _ in range(2):
        parsed = client.chat.completions.with_raw_response.parse(**CHAT, response_format=Capital).parse()
        assert parsed.choices[0].message.parsed == Capital(name="Paris")
    assert calls(provider) == 3
    provider.fail_next(429)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.with_raw_response.create(**CHAT, seed=2)
