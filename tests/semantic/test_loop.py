"""The event loop is not held up for more than 10 ms by embedding or index.

What is measured is what the loop's own thread computes between two ticks: time that other processes take is not in it,
nor is collecting the garbage of all that the tests have loaded. The bounds are several times the promise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from asynccache.backends.qdrant_semantic import QdrantSemanticBackend
from asynccache.backends.semantic import SemanticMemoryBackend
from asynccache.semantic.decisions import Candidate, Decision
from asynccache.semantic.indexes import Question
from asynccache.semantic.indexes.memory import MemoryIndex
from asynccache.testing.contract import entry_of
from tests.semantic.standins import Threshold, WordEmbedder, key

if TYPE_CHECKING:
    from tests.servers.qdrant import QdrantServer

pytestmark = pytest.mark.usefixtures("small_heap")
SCOPE = "a" * 64
ENTRIES = 20_000
PROMISE = 0.01


async def longest_stretch(work: Callable[[], Awaitable[Any]]) -> float:
    """Seconds that this thread computed at most between two ticks."""
    longest = 0.0

    async def ticking() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now

    ticker = asyncio.create_task(ticking())
    await asyncio.sleep(0)
    await work()
    await asyncio.sleep(0)
    ticker.cancel()
    return longest


def vectors(count: int) -> Any:
    found = np.random.default_rng(3).normal(size=(count, 384)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


async def test_what_an_index_in_memory_does_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    index = MemoryIndex(path=tmp_path / "vectors", max_vectors=ENTRIES, save_every=1e9)
    stored = vectors(ENTRIES)

    async def searching() -> None:
        for vector in stored[:50]:
            await index.search(SCOPE, vector, 5, 0.0)

    async def adding(start: int) -> None:
        for number, vector in enumerate(stored):
            await index.add(Question(SCOPE, f"{start + number:064d}", "a question", 0.0, None), vector)
            if number % 4 == 0:
                await asyncio.sleep(0)

    async def removing() -> None:
        for number in range(0, ENTRIES, 2):
            await index.remove(f"{number:064d}")
            if number % 8 == 0:
                await asyncio.sleep(0)

    async def among_searches(work: Awaitable[Any]) -> float:
        return await longest_stretch(lambda: asyncio.gather(work, *[searching() for _ in range(4)]))

    took = {
        "added": await among_searches(adding(0)),
        "removed": await among_searches(removing()),
        "added again": await among_searches(adding(0)),
        "evicted": await among_searches(adding(ENTRIES)),
        "told which are old": await among_searches(index.older(1.0, 256)),
        "saved and freed": await longest_stretch(index.aclose),
    }
    again = MemoryIndex(path=tmp_path / "vectors", max_vectors=ENTRIES)
    took["loaded"] = await longest_stretch(lambda: again.search(SCOPE, stored[0], 5, 0.0))
    assert len(again) == ENTRIES
    await again.aclose()
    assert max(took.values()) < 5 * PROMISE, took


class Thorough(Threshold):
    """Takes its time to decide."""

    def decide(self, query: str, candidates: Sequence[Candidate], /) -> Decision:
        end = time.thread_time() + PROMISE / 2
        while time.thread_time() < end:
            pass
        return super().decide(query, candidates)


@pytest.mark.parametrize("entries", [20, 3000], ids=["scanned on the loop", "in the thread"])
async def test_look_ups_whose_vectors_come_together_take_turns(entries: int) -> None:
    """All at once they would take half a second."""
    backend = SemanticMemoryBackend(embedder=WordEmbedder(), policy=Thorough(), embedding_deadline=60.0)
    for number in range(entries):
        await backend.set(key(f"question number {number}"), entry_of(b'"an answer"'))
    asked = [backend.get(key(f"the question number {number}")) for number in range(100)]
    took = await longest_stretch(lambda: asyncio.gather(*asked))
    assert backend.stats.searches == 100
    assert took < 10 * PROMISE
    await backend.aclose()


async def test_a_client_of_qdrant_takes_turns(qdrant_server: QdrantServer) -> None:
    """It computes half a millisecond for each request, and as much for each answer."""
    backend = QdrantSemanticBackend(
        qdrant_server.url,
        collection_name=f"test-{token_hex(8)}",
        embedder=WordEmbedder(),
        policy=Threshold(),
        timeout=30.0,
        embedding_deadline=60.0,
    )
    for number in range(20):
        await backend.set(key(f"question number {number}"), entry_of(b'"an answer"'))
    asked = [backend.get(key(f"the question number {number}")) for number in range(100)]
    took = await longest_stretch(lambda: asyncio.gather(*asked))
    assert backend.stats.searches == 100
    assert took < 3 * PROMISE
    await backend.aclose()


async def test_a_model_computes_off_the_loop(minilm: str) -> None:
    backend = SemanticMemoryBackend(embedding_model=f"local:{minilm}", policy=Threshold(), embedding_deadline=60.0)
    await backend.set(key("the model is loaded"), entry_of(b'"an answer"'))
    asked = [backend.get(key(f"what is the capital of number {number}")) for number in range(100)]
    assert await longest_stretch(lambda: asyncio.gather(*asked)) < 5 * PROMISE
    assert backend.stats.searches == 100
    await backend.aclose()
