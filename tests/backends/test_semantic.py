from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asynccache.backends.disk import DiskBackend
from asynccache.backends.semantic import SemanticMemoryBackend
from asynccache.testing import BackendContract
from tests.semantic.standins import Threshold, WordEmbedder


class TestInMemory(BackendContract):
    @pytest.fixture
    def make_backend(self) -> Callable[[], SemanticMemoryBackend]:
        return lambda: SemanticMemoryBackend(embedder=WordEmbedder(), policy=Threshold())


class TestOnDisk(BackendContract):
    durable = True

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], SemanticMemoryBackend]:
        return lambda: SemanticMemoryBackend(
            store=DiskBackend(tmp_path / "answers"),
            path=tmp_path / "vectors",
            embedder=WordEmbedder(),
            policy=Threshold(),
        )
