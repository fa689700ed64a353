from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

import pytest

from asynccache.backends.memory import MemoryBackend
from asynccache.backends.qdrant_semantic import QdrantSemanticBackend
from asynccache.testing import BackendContract
from tests.semantic.standins import Threshold, WordEmbedder
from tests.servers.qdrant import QdrantServer


class TestServer(BackendContract):
    durable = shared = True

    @pytest.fixture
    def make_backend(self, qdrant_server: QdrantServer) -> Callable[[], QdrantSemanticBackend]:
        name = f"test-{token_hex(8)}"
        return lambda: QdrantSemanticBackend(
            qdrant_server.url, collection_name=name, embedder=WordEmbedder(), policy=Threshold(), timeout=30.0
        )


class TestInMemory(BackendContract):
    @pytest.fixture
    def make_backend(self) -> Callable[[], QdrantSemanticBackend]:
        return lambda: QdrantSemanticBackend(path=":memory:", embedder=WordEmbedder(), policy=Threshold(), timeout=30.0)


class TestInFolder(BackendContract):
    durable = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], QdrantSemanticBackend]:
        first = tmp_path / "0"

        def make() -> QdrantSemanticBackend:
            # One folder is one client's: the next one opens it when that is closed.
            return QdrantSemanticBackend(path=str(first), embedder=WordEmbedder(), policy=Threshold(), timeout=30.0)

        return make


class TestAnswersElsewhere(BackendContract):
    @pytest.fixture
    def make_backend(self, qdrant_server: QdrantServer) -> Callable[[], QdrantSemanticBackend]:
        name = f"test-{token_hex(8)}"
        return lambda: QdrantSemanticBackend(
            qdrant_server.url,
            collection_name=name,
            store=MemoryBackend(),
            embedder=WordEmbedder(),
            policy=Threshold(),
            timeout=30.0,
        )
