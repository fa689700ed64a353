from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from asynccache.errors import BackendClosed, ConfigError, EmbeddingError
from asynccache.semantic.embedding import Embedding
from asynccache.semantic.vectors import unit
from tests.semantic.standins import WordEmbedder, until


async def test_concurrent_texts_go_in_one_call_and_equal_ones_once() -> None:
    embedder = WordEmbedder()
    embedding = Embedding(embedder, deadline=20)
    found = await asyncio.gather(*[embedding(f"text {n % 20}") for n in range(60)])
    assert embedder.batches == [[f"text {n}" for n in range(20)]]
    assert embedding.stats.joined == 40
    for n, vector in enumerate(found):
        assert np.allclose(vector, unit(embedder.vector(f"text {n % 20}")))
    await asyncio.gather(*[embedding(f"text {n}") for n in range(20)])
    assert embedding.stats.remembered == 20
    assert (embedding.stats.calls, embedding.stats.texts) == (1, 20)
    await embedding.aclose()


async def test_a_batch_has_an_end_and_those_under_way_too() -> None:
    embedder = WordEmbedder()
    embedder.gate = asyncio.Event()
    embedding = Embedding(embedder, deadline=20, max_batch=4, concurrent=2)
    asked = asyncio.gather(*[embedding(f"text {n}") for n in range(20)])
    await until(lambda: len(embedder.batches) == 2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert [len(batch) for batch in embedder.batches] == [4, 4]
    embedder.gate.set()
    await asked
    assert sorted(map(len, embedder.batches)) == [4] * 5
    await embedding.aclose()


async def test_the_memo_is_bounded_and_forgets_what_was_used_least_recently() -> None:
    embedder = WordEmbedder()
    embedding = Embedding(embedder, deadline=20, memo=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        await embedding(text)
    assert embedder.texts == ["a", "b", "c", "b"]
    await embedding.aclose()


async def test_who_waits_too_long_gets_an_error_and_the_vector_comes_all_the_same() -> None:
    embedder = WordEmbedder()
    embedder.gate = asyncio.Event()
    embedding = Embedding(embedder, deadline=0.01)
    with pytest.raises(EmbeddingError, match=r"0\.01 s"):
        await embedding("a")
    embedder.gate.set()
    await until(lambda: embedding.known("a") is not None)
    await embedding("a")
    assert embedder.texts == ["a"]
    await embedding.aclose()


async def test_a_caller_who_is_cancelled_takes_nothing_from_the_others() -> None:
    embedder = WordEmbedder()
    embedder.gate = asyncio.Event()
    embedding = Embedding(embedder, deadline=20)
    one, other = asyncio.ensure_future(embedding("a")), asyncio.ensure_future(embedding("a"))
    await until(lambda: bool(embedder.batches))
    one.cancel()
    await asyncio.wait((one,))
    embedder.gate.set()
    assert np.allclose(await other, unit(embedder.vector("a")))
    await embedding.aclose()


async def test_a_failure_is_every_waiting_callers_own_and_is_not_remembered() -> None:
    embedder = WordEmbedder()
    embedder.error = RuntimeError("no quota")
    embedding = Embedding(embedder, deadline=20)
    errors = await asyncio.gather(embedding("a"), embedding("a"), embedding("b"), return_exceptions=True)
    assert all(isinstance(error, EmbeddingError) and "no quota" in str(error) for error in errors)
    assert all(isinstance(error.__cause__, RuntimeError) for error in errors)  # type: ignore[union-attr]
    assert len({id(error) for error in errors}) == 3
    assert embedding.stats.errors == 1
    embedder.error = None
    await embedding("a")
    await embedding.aclose()


async def test_that_it_fails_is_logged_once_and_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    embedder = WordEmbedder()
    embedding = Embedding(embedder, deadline=20)
    for turn in range(2):
        embedder.error = RuntimeError("no quota")
        for n in range(3):
            with pytest.raises(EmbeddingError):
                await embedding(f"fails {turn} {n}")
        embedder.error = None
        for n in range(3):
            await embedding(f"works {turn} {n}")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 4
    assert "no quota" in said[0]
    assert "again" in said[1]
    await embedding.aclose()


@pytest.mark.parametrize(
    "answer",
    [[], [[1.0], [2.0]], [[]], [[0.0, 0.0]], [[math.nan, 1.0]], ["text"], [None], [[[1.0]]], [[math.inf, 0.0]]],
)
async def test_what_is_no_vector_is_an_error(answer: Any) -> None:
    async def embedder(texts: Any, /) -> Any:
        return answer

    embedding = Embedding(embedder, deadline=20)
    with pytest.raises(EmbeddingError):
        await embedding("a")
    await embedding.aclose()


async def test_vectors_of_two_sizes_are_an_error() -> None:
    async def embedder(texts: Any, /) -> Any:
        return [[1.0] * len(text) for text in texts]

    embedding = Embedding(embedder, deadline=20)
    assert embedding.size == 0
    await embedding("abc")
    assert embedding.size == 3
    with pytest.raises(EmbeddingError, match="2 numbers, where it had given 3"):
        await embedding("ab")
    await embedding.aclose()


async def test_closing_ends_what_is_under_way() -> None:
    before = asyncio.all_tasks()
    embedder = WordEmbedder()
    embedder.gate = asyncio.Event()
    embedding = Embedding(embedder, deadline=20)
    waiting = asyncio.ensure_future(embedding("a"))
    await until(lambda: bool(embedder.batches))
    await embedding.aclose()
    with pytest.raises(BackendClosed):
        await waiting
    with pytest.raises(BackendClosed):
        await embedding("b")
    assert asyncio.all_tasks() == before


def test_several_event_loops_share_the_memo() -> None:
    embedder = WordEmbedder()
    embedding = Embedding(embedder, deadline=20)
    for _ in range(2):
        asyncio.run(_once(embedding))
    assert embedder.texts == ["a"]


async def _once(embedding: Embedding) -> None:
    await embedding("a")
    await embedding.leave()


@pytest.mark.parametrize("options", [{"deadline": 0}, {"memo": 0}, {"max_batch": True}, {"concurrent": 1.5}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Embedding(WordEmbedder(), **options)
