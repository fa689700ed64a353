"""`embedding_model="litellm:NAME"`: vectors through the real LiteLLM, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asynccache.errors import EmbeddingError
from asynccache.semantic.embedders import load
from asynccache.semantic.embedding import Embedding
from asynccache.testing.loopback import serving

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business


@pytest.fixture
async def asked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[dict[str, Any]]]:
    """What an embedding API was asked, to which LiteLLM's environment leads."""
    bodies: list[dict[str, Any]] = []

    async def answer(request: Request) -> JSONResponse:
        body = await request.json()
        bodies.append(body)
        if body["model"] == "unknown":
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        rows = [{"object": "embedding", "index": n, "embedding": [n + 1.0, 1.0]} for n in range(len(body["input"]))]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return JSONResponse({"object": "list", "model": body["model"], "data": rows[::-1], "usage": usage})

    async with serving(Starlette(routes=[Route("/v1/embeddings", answer, methods=["POST"])])) as url:
        monkeypatch.setenv("OPENAI_API_BASE", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
        yield bodies


async def test_litellm_embeds_all_texts_in_one_call(asked: list[dict[str, Any]]) -> None:
    embedder = load("litellm:openai/text-embedding-3-small")
    assert await embedder(["a", "b", "c"]) == [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]], "in the order of the texts"
    assert [(body["model"], body["input"]) for body in asked] == [("text-embedding-3-small", ["a", "b", "c"])]
    await embedder.aclose()


async def test_what_litellm_raises_is_an_embedding_error(asked: list[dict[str, Any]]) -> None:
    embedding = Embedding(load("litellm:openai/unknown"), deadline=20)
    with pytest.raises(EmbeddingError, match="no such model"):
        await embedding("a")
    assert asked
    await embedding.aclose()
