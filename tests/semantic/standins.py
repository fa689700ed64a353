"""An embedder whose vectors a test can foresee, and a policy that decides by them alone."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from asynccache.model import CacheKey
from asynccache.semantic.decisions import Candidate, Decision

SIZE = 64


def key(text: str, *, scope: str = "scope", digest: str | None = None) -> CacheKey:
    """The key of a question."""
    name = digest or f"{scope} {text}"
    return CacheKey(hashlib.sha256(name.encode()).hexdigest(), (hashlib.sha256(scope.encode()).hexdigest(), text))


class WordEmbedder:
    """The sum of a random vector for each word: texts are as close as they share words. Counts what it is asked."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        """While it is there and not set, embeddings do not end."""

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch]

    async def __call__(self, texts: Sequence[str], /) -> list[Any]:
        self.batches.append(list(texts))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> Any:
        words = re.findall(r"\w+", text.lower()) or [""]
        return np.sum([_random(word) for word in words], axis=0)


def _random(word: str) -> Any:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


class Threshold:
    """The nearest, if it is near enough."""

    candidates = 5

    def __init__(self, least: float = 0.8, explore: Collection[str] = ()) -> None:
        self.least = least
        self.explore = explore
        self.labels: list[tuple[str, str, bool, bool]] = []

    def decide(self, query: str, candidates: Sequence[Candidate], /) -> Decision:
        best = max(candidates, key=lambda one: one.similarity, default=None)
        if best is None or best.similarity < self.least:
            return Decision(None, "threshold", 0.0 if best is None else best.similarity, False, ())
        return Decision(best, "threshold", best.similarity, query in self.explore, ("near enough",))

    def learn(
        self, query: str, candidate: Candidate, equal: bool, /, *, explored: bool, digest: str | None = None
    ) -> None:
        self.labels.append((query, candidate.text, equal, explored))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what tasks and threads bring about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (it gives no event)
            await asyncio.sleep(0)
