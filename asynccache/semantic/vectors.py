"""Vectors: float32, of length 1, so that their dot product is their cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from asynccache.errors import ConfigError, EmbeddingError

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise ConfigError(f"the semantic backends need the extra asynccache[semantic]: {error}") from error

Vector: TypeAlias = NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into vectors: an `async def` of this shape."""

    async def __call__(self, texts: Sequence[str], /) -> Sequence[Any]:
        """One vector for each text, in their order: numbers, all vectors equally many. May raise anything."""
        ...


def unit(values: Any) -> Vector:
    """The vector with length 1. Raises EmbeddingError for what is no list of finite numbers, or has no direction."""
    try:
        vector = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(f"the embedder gave no vector: {error}") from error
    if vector.ndim != 1 or not vector.size:
        raise EmbeddingError(f"the embedder gave no vector, but something of the shape {vector.shape}")
    length = float(np.linalg.norm(vector))
    if not 0 < length < np.inf:
        raise EmbeddingError("the embedder gave a vector without a direction")
    return np.ascontiguousarray(vector / np.float32(length))
