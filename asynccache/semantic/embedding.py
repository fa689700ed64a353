"""One embedding for each text, however many ask for it, in as few calls of the embedder as there can be."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from asynccache.background import cancel
from asynccache.errors import BackendClosed, ConfigError, EmbeddingError
from asynccache.loops import PerLoop
from asynccache.semantic.vectors import Embedder, Vector, unit

logger = logging.getLogger("asynccache")


@dataclass(slots=True)
class EmbeddingStats:
    """Counters since the service was made. They only go up."""

    calls: int = 0
    """Calls of the embedder."""
    texts: int = 0
    """Texts in them."""
    remembered: int = 0
    """Texts whose vector was known already."""
    joined: int = 0
    """Texts that another caller had asked for and whose vector was still to come."""
    timeouts: int = 0
    """Callers who did not get their vector before their deadline."""
    errors: int = 0
    """Calls of the embedder that failed."""


class Embedding:
    """Makes vectors by an embedder, and remembers them.

    embedder:  gets all texts that have gathered in one turn of the event loop, or while `concurrent` calls were
               under way, in one call. Equal texts are in it once.
    deadline:  seconds that `__call__` waits. The embedding goes on behind it, so that its vector is there for
               whoever asks next: the one who stores the answer.
    memo:      vectors that are remembered at most, the ones least recently used go first.
    max_batch: texts in one call at most.

    May be used from several event loops: each has calls of its own, and the memo is common to them.
    When the embedder begins to fail, and when it is back, that is logged, once each.
    Raises ConfigError for an option that makes no sense.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        deadline: float = 0.2,
        memo: int = 10_000,
        max_batch: int = 64,
        concurrent: int = 4,
    ) -> None:
        if not callable(embedder):
            raise ConfigError(f"embedder={embedder!r}: an async callable that takes a list of texts is wanted")
        if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not deadline > 0:
            raise ConfigError(f"embedding_deadline={deadline!r}: a number of seconds greater than 0 is wanted")
        for name, value in {"embedding_memo": memo, "max_batch": max_batch, "concurrent": concurrent}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r}: a whole number, 1 or more, is wanted")
        self.deadline = deadline
        self.stats = EmbeddingStats()
        self.max_batch = max_batch
        self.concurrent = concurrent
        self._embedder = embedder
        self._limit = memo
        self._memo: OrderedDict[str, Vector] = OrderedDict()
        self._lock = Lock()
        self._size = 0
        self._fails = False
        self._closed = False
        self._batches = PerLoop(lambda: _Batches(self), _Batches.aclose)

    @property
    def size(self) -> int:
        """How many numbers a vector has; 0 before the first is known."""
        return self._size

    def known(self, text: str) -> Vector | None:
        """The vector of this text, if it is remembered."""
        with self._lock:
            vector = self._memo.get(text)
            if vector is not None:
                self._memo.move_to_end(text)
            return vector

    async def __call__(self, text: str) -> Vector:
        """The vector of this text. Raises EmbeddingError when the embedder fails, or takes longer than the deadline;
        BackendClosed."""
        if self._closed:
            raise BackendClosed("used after aclose()")
        vector = self.known(text)
        if vector is not None:
            self.stats.remembered += 1
            return vector
        waiting = self._batches.here().ask(text)
        # Not awaited itself: it is everybody's, and goes on when one who waits has to leave.
        await asyncio.wait((waiting,), timeout=self.deadline)
        if not waiting.done():
            self.stats.timeouts += 1
            raise EmbeddingError(f"no embedding within {self.deadline:g} s")
        if waiting.cancelled():
            raise BackendClosed("closed while it was under way")
        if (error := waiting.exception()) is not None:
            # A new one for each caller: they raise it, which writes their tracebacks into it.
            raise EmbeddingError(str(error)) from (error.__cause__ or error)
        return waiting.result()

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Call the embedder. Raises EmbeddingError, whatever it raises."""
        self.stats.calls += 1
        self.stats.texts += len(texts)
        try:
            try:
                given = list(await self._embedder(texts))
            except EmbeddingError:
                raise
            except Exception as error:  # the embedder is anybody's: its errors belong to those who wait
                raise EmbeddingError(f"the embedder failed: {error or type(error).__name__}") from error
            vectors = self._checked(texts, given)
        except EmbeddingError as error:
            self.stats.errors += 1
            self._has_failed(error)
            raise
        if self._fails:
            self._fails = False
            logger.warning("questions can be embedded again")
        return vectors

    def _has_failed(self, error: EmbeddingError) -> None:
        """Calls are answered as if nothing like them had been asked: nobody would notice."""
        if not self._fails:
            self._fails = True
            logger.warning("no question is recognised in other words until it can be embedded again: %.300s", error)

    def _checked(self, texts: Sequence[str], given: list[object]) -> list[Vector]:
        if len(given) != len(texts):
            raise EmbeddingError(f"the embedder gave {len(given)} vectors for {len(texts)} texts")
        vectors = [unit(values) for values in given]
        with self._lock:
            for text, vector in zip(texts, vectors, strict=True):
                if self._size not in (0, vector.size):
                    raise EmbeddingError(f"the embedder gave {vector.size} numbers, where it had given {self._size}")
                self._size = vector.size
                self._memo[text] = vector
            while len(self._memo) > self._limit:
                self._memo.popitem(last=False)
        return vectors

    async def leave(self) -> None:
        """End what is under way on the running loop."""
        await self._batches.leave()

    async def aclose(self) -> None:
        """End what is under way, and refuse from then on."""
        self._closed = True
        await self._batches.aclose()


class _Batches:
    """The texts that are asked for on one event loop."""

    def __init__(self, embedding: Embedding) -> None:
        self._loop = asyncio.get_running_loop()
        self._embedding = embedding
        self._asked: dict[str, asyncio.Future[Vector]] = {}  # not sent yet
        self._sent: dict[str, asyncio.Future[Vector]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waking = 0  # tasks that were started and have taken nothing yet

    def ask(self, text: str) -> asyncio.Future[Vector]:
        future = self._asked.get(text) or self._sent.get(text)
        if future is not None:
            self._embedding.stats.joined += 1
            return future
        future = self._asked[text] = self._loop.create_future()
        future.add_done_callback(_looked_at)
        room = len(self._tasks) < self._embedding.concurrent
        if len(self._asked) > self._waking * self._embedding.max_batch and room:
            self._waking += 1
            # Not loop.create_task: one that is made eager begins at once, and would find a batch of one.
            task = asyncio.Task(self._work(), loop=self._loop, name="asynccache-embedding")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _work(self) -> None:
        self._waking -= 1
        while self._asked:
            texts = list(self._asked)[: self._embedding.max_batch]
            batch = {text: self._asked.pop(text) for text in texts}
            self._sent |= batch
            try:
                for future, vector in zip(batch.values(), await self._embedding.embed(texts), strict=True):
                    future.set_result(vector)
            except EmbeddingError as error:
                for future in batch.values():
                    future.set_exception(error)
            finally:
                for text, future in batch.items():
                    del self._sent[text]
                    future.cancel()  # does nothing unless the task was cancelled

    async def aclose(self) -> None:
        for task in list(self._tasks):
            await cancel(task)
        for future in self._asked.values():
            future.cancel()
        self._asked.clear()


def _looked_at(future: asyncio.Future[Vector]) -> None:
    """Those who wait get its error. When nobody does, the counter says enough."""
    if not future.cancelled():
        future.exception()
