"""Models of sentence-transformers, which runs them with torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asynccache.errors import ConfigError
from asynccache.semantic.embedders._threads import InThread

try:
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    raise ConfigError(
        f"'sentence-transformers:…' needs the extra asynccache[sentence-transformers]: {error}"
    ) from error


class SentenceTransformersEmbedder(InThread):
    """Embeds with the model of this name or folder, which the first call loads, and downloads when it has to."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._model: Any = None

    def _encode(self, texts: list[str]) -> Sequence[Any]:
        if self._model is None:
            self._model = SentenceTransformer(self._name)
        return list(self._model.encode(texts, convert_to_numpy=True, show_progress_bar=False))


EMBEDDER = SentenceTransformersEmbedder
