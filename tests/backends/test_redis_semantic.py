from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex

import pytest

from asynccache.backends.redis_semantic import RedisSemanticBackend
from asynccache.testing import BackendContract
from tests.semantic.standins import Threshold, WordEmbedder
from tests.servers.redis import SearchRedisServer, VectorRedisServer


@pytest.fixture
def prefix() -> str:
    """Parts the entries of this test from those of the others on the same server."""
    return f"test {token_hex(8)}:"


class TestSearch(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_search: SearchRedisServer, prefix: str) -> Callable[[], RedisSemanticBackend]:
        return lambda: RedisSemanticBackend(
            redis_search.url, key_prefix=prefix, embedder=WordEmbedder(), policy=Threshold(), engine="search"
        )


class TestSets(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, redis_vectors: VectorRedisServer, prefix: str) -> Callable[[], RedisSemanticBackend]:
        return lambda: RedisSemanticBackend(
            redis_vectors.url, key_prefix=prefix, embedder=WordEmbedder(), policy=Threshold(), engine="sets"
        )
