"""Models that compute, off the event loop."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from asynccache.errors import EmbeddingError


class InThread(ABC):
    """An embedder that computes in a thread of its own, one batch after another: a model uses all cores by itself.

    The model is loaded there, at the first use. A forked child loads its own.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._closed = False

    async def __call__(self, texts: Sequence[str], /) -> Sequence[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread(), self._encode, list(texts))

    @abstractmethod
    def _encode(self, texts: list[str]) -> Sequence[Any]:
        """One vector for each. Runs in the thread."""

    def _thread(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise EmbeddingError("used after aclose()")
            if self._pool is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="asynccache-embedder")
            return self._pool

    async def aclose(self) -> None:
        """Wait for the batch that is being computed. What comes after it is not."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
