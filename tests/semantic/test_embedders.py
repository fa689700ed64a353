from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asynccache.errors import ConfigError, EmbeddingError
from asynccache.semantic.embedders import OwnEmbedder, adapt, load
from asynccache.semantic.embedders import openai as openai_embedder
from asynccache.semantic.embedding import Embedding
from asynccache.semantic.vectors import unit
from asynccache.testing.loopback import serving

# Of sentence-transformers with the same weights.
COSINES = {
    ("What is the capital of France?", "Tell me France's capital city."): 0.903,
    ("What is the capital of France?", "What is the capital of Spain?"): 0.676,
    ("How do I reset my password?", "I forgot my password, how can I change it?"): 0.894,
    ("Increase the limit to 5", "Increase the limit to 50"): 0.742,
    ("Is X safe?", "Is X not safe?"): 0.972,
}


async def test_the_local_model_gives_the_numbers_of_sentence_transformers(minilm: str) -> None:
    embedder = load(f"local:{minilm}")
    texts = [text for pair in COSINES for text in pair]
    vectors = dict(zip(texts, await embedder(texts), strict=True))
    for (one, other), cosine in COSINES.items():
        assert float(unit(vectors[one]) @ unit(vectors[other])) == pytest.approx(cosine, abs=6e-4)
    assert {len(vector) for vector in vectors.values()} == {384}
    await embedder.aclose()


async def test_the_local_model_gives_the_same_alone_and_among_longer_ones(minilm: str) -> None:
    embedder = load(f"local:{minilm}")
    texts = ["Is X safe?", "a b c " * 40, "", "What is the capital of France? " * 100, "ключ ☃ 𝄞"]
    together = await embedder(texts)
    for text, vector in zip(texts, together, strict=True):
        [alone] = await embedder([text])
        assert np.abs(unit(alone) - unit(vector)).max() < 2e-6, text[:20]
    await embedder.aclose()


async def test_a_folder_without_a_model_is_an_embedding_error(tmp_path: Path) -> None:
    embedder = load(f"local:{tmp_path}")
    with pytest.raises(EmbeddingError, match="no model"):
        await embedder(["a"])
    await embedder.aclose()
    await embedder.aclose()
    with pytest.raises(EmbeddingError):
        await embedder(["a"])


class Api:
    """An embedding API on the loopback interface."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status = 200
        self.url = ""

    async def answer(self, request: Request) -> JSONResponse:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        if self.status != 200:
            return JSONResponse({"error": {"message": "no such model"}}, self.status)
        rows = [
            {"object": "embedding", "index": n, "embedding": [n + 1.0, 1.0]}
            for n in range(len(self.asked[-1]["input"]))
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return JSONResponse({"object": "list", "model": "m", "data": rows[::-1], "usage": usage})


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    found = Api()
    async with serving(Starlette(routes=[Route("/v1/embeddings", found.answer, methods=["POST"])])) as url:
        found.url = f"{url}/v1"
        yield found


@pytest.fixture(params=["openai", "httpx2", "httpx"])
def through(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., OwnEmbedder]:
    """An embedder as it is where this is the first library that is installed."""
    monkeypatch.setattr(openai_embedder, "_library", lambda: request.param)
    return load


async def test_an_api_is_asked_once_for_all(through: Callable[..., OwnEmbedder], api: Api) -> None:
    embedder = through("openai:m", api_base=api.url, api_key="secret")
    vectors = await embedder(["a", "b", "c"])
    assert vectors == [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]], "in the order of the texts, not of the answer"
    assert api.asked == [{"model": "m", "input": ["a", "b", "c"], "encoding_format": "float"}]
    assert api.keys == ["Bearer secret"]
    await embedder.aclose()


async def test_the_environment_says_where_the_api_is(
    through: Callable[..., OwnEmbedder], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    monkeypatch.setenv("OPENAI_API_KEY", "from outside")
    embedder = through("text-embedding-3-small")
    await embedder(["a"])
    assert api.asked[0]["model"] == "text-embedding-3-small"
    assert api.keys == ["Bearer from outside"]
    await embedder.aclose()


async def test_an_api_that_refuses_is_an_embedding_error(through: Callable[..., OwnEmbedder], api: Api) -> None:
    api.status = 404
    embedder = through("m", api_base=api.url, api_key="secret")
    embedding = Embedding(embedder, deadline=20)
    with pytest.raises(EmbeddingError, match="no such model"):
        await embedding("a")
    await embedding.aclose()
    await embedder.aclose()


async def test_what_users_have_at_hand_is_an_embedder(api: Api) -> None:
    async def like_litellm(**arguments: Any) -> dict[str, Any]:
        assert arguments == {"model": "m", "input": ["a", "b"]}
        return {"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}

    async def with_input(input: list[str], dimensions: int = 1) -> Any:
        return SimpleNamespace(data=[SimpleNamespace(embedding=[float(len(text))]) for text in input])

    async def plain(texts: Any) -> list[list[float]]:
        return [[float(len(text))] for text in texts]

    assert await adapt(like_litellm, "m")(["a", "b"]) == [[1.0], [2.0]]
    assert await adapt(with_input)(["a", "bb"]) == [[1.0], [2.0]]
    assert await adapt(plain)(["a", "bb"]) == [[1.0], [2.0]]
    async with openai.AsyncOpenAI(base_url=api.url, api_key="x") as client:
        for embedder in (adapt(client, "m"), adapt(client.embeddings.create, "m")):
            assert await embedder(["a", "b"]) == [[1.0, 1.0], [2.0, 1.0]]


@pytest.mark.parametrize("answer", [None, {}, {"data": 5}, {"data": [{}]}])
async def test_an_answer_of_another_shape_is_an_embedding_error(answer: Any) -> None:
    async def call(**_: Any) -> Any:
        return answer

    embedding = Embedding(adapt(call, "m"), deadline=20)
    with pytest.raises(EmbeddingError, match=r"'data'|'embedding'"):
        await embedding("a")
    await embedding.aclose()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("", "a name is wanted"),
        ("local:", "after 'local:'"),
        ("Local:/models", "did you mean 'local:/models'"),
        ("sentence-transformer:x", "did you mean 'sentence-transformers:x'"),
        ("fastembed:x", r"asynccache\[fastembed\]"),
    ],
)
def test_a_name_that_says_nothing_is_refused(model: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)
    monkeypatch.delitem(sys.modules, "asynccache.semantic.embedders.fastembed", raising=False)
    with pytest.raises(ConfigError, match=said):
        load(model)


def test_options_of_an_api_say_nothing_to_a_local_model() -> None:
    with pytest.raises(ConfigError, match="embedding_api_base"):
        load("local:folder", api_base="http://127.0.0.1:1")
