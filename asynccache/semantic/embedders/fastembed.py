"""Models of fastembed, which runs them with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asynccache.errors import ConfigError
from asynccache.semantic.embedders._threads import InThread

try:
    from fastembed import TextEmbedding
except ImportError as error:
    raise ConfigError(f"'fastembed:…' needs the extra asynccache[fastembed]: {error}") from error


class FastEmbedder(InThread):
    """Embeds with the fastembed model of this name, which the first call loads, and downloads when it has to."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._model: Any = None

    def _encode(self, texts: list[str]) -> Sequence[Any]:
        if self._model is None:
            self._model = TextEmbedding(self._name)
        return list(self._model.embed(texts))


EMBEDDER = FastEmbedder
