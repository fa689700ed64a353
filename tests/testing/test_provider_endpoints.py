"""The simulated provider's other endpoints: rerank, text completions, transcriptions, and Azure's paths."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai.types import Completion

from asynccache.testing.provider import SimulatedProvider

DOCUMENTS = ["The parcel is late.", "Reset your password in Settings.", "Where is my parcel? It is late."]


@pytest.fixture
async def client(provider: SimulatedProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="any", max_retries=0) as client:
        yield client


async def rerank(provider: SimulatedProvider, **body: Any) -> httpx2.Response:
    async with httpx2.AsyncClient() as http:
        return await http.post(f"{provider.base_url}/rerank", json=body)


async def test_rerank_puts_what_shares_words_first(provider: SimulatedProvider) -> None:
    call: dict[str, Any] = {"model": "rerank", "query": "Where is my parcel?", "documents": DOCUMENTS}
    results = (await rerank(provider, **call)).json()["results"]
    assert [each["index"] for each in results] == [2, 0, 1]
    scores = [each["relevance_score"] for each in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    documents = [{"text": text} for text in DOCUMENTS]
    best = (await rerank(provider, **{**call, "documents": documents}, top_n=1, return_documents=True)).json()[
        "results"
    ]
    assert best == [{"index": 2, "relevance_score": scores[0], "document": {"text": DOCUMENTS[2]}}]
    assert (await rerank(provider, model="rerank", query="a")).status_code == 400


async def test_a_text_completion_is_valid(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="base", prompt="Once upon a time", n=2)
    Completion.model_validate(answer.model_dump(), strict=True)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    several = await client.completions.create(model="base", prompt=["a", "b"], n=2)
    assert len(several.choices) == 4
    assert len((await client.completions.create(model="base", prompt=[1, 2])).choices) == 1
    cut = await client.completions.create(model="base", prompt="Once", max_tokens=3)
    assert cut.choices[0].finish_reason == "length"


async def test_a_stream_of_a_text_completion_says_the_same(client: AsyncOpenAI) -> None:
    call: Any = {"model": "base", "prompt": "Once upon a time"}
    whole = await client.completions.create(**call)
    stream: Any = await client.completions.create(**call, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


async def test_a_file_that_is_missing(client: AsyncOpenAI, provider: SimulatedProvider) -> None:
    with pytest.raises(openai.BadRequestError, match="'file'"):
        await client.post("/audio/transcriptions", cast_to=object, body={"model": "whisper"})
    await client.audio.transcriptions.create(model="whisper", file=("a b.wav", b"\x00\r\n\xff"), temperature=0.5)
    request = provider.requests[-1]
    assert (request["file"]["filename"], request["file"]["size"], request["temperature"]) == ("a b.wav", 4, "0.5")


async def test_azure(provider: SimulatedProvider) -> None:
    client = AsyncAzureOpenAI(azure_endpoint=provider.origin, api_key="any", api_version="2024-06-01", max_retries=0)
    async with client:
        answer = await client.chat.completions.create(model="deployed", messages=[{"role": "user", "content": "Hi"}])
        assert answer.model == "deployed"
        await client.embeddings.create(model="deployed", input="Hi")
    assert provider.calls == {"/v1/chat/completions": 1, "/v1/embeddings": 1}
