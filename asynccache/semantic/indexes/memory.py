"""Vectors in this process's memory.

A small partition is scanned: exact, and done before a thread would have been woken. A large one has an HNSW graph
(Malkov and Yashunin, 2016) of usearch, over vectors of one byte a number; what it finds is scored again with the
vectors themselves. Of the libraries with wheels for all Pythons, usearch is the one that frees what is removed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import orjson

from asynccache.errors import BackendClosed, BackendUnavailable, ConfigError, EmbeddingError
from asynccache.semantic.decisions import Candidate
from asynccache.semantic.indexes import Question
from asynccache.semantic.vectors import Vector

try:
    import numpy as np
    from usearch.index import Index as Graph
except ImportError as error:
    raise ConfigError(f"the semantic backend needs the extra asynccache[semantic]: {error}") from error

T = TypeVar("T")
logger = logging.getLogger("asynccache")

NAME = "semantic"
MAGIC = b"ACV\x01"

_ROWS = 2048  # of a block: one is never copied once it has so many
_FIRST_ROWS = 8
_CONNECTIVITY = 16
_EFFORT_TO_ADD = 128
_EFFORT_TO_SEARCH = 96
_RESCORED = 32  # at least: a byte a number orders close ones wrongly
_CHUNK = 32  # vectors that are put into a graph before others get their turn
_GONE = -inf  # the end of a row that was removed


class MemoryIndex:
    """Keeps vectors in memory, and, if told so, in a file.

    path:        a file that they are written to, whole, every `save_every` seconds in which something has changed
                 and on closing, and read from at the first use. One that cannot be read is as good as none. It is one
                 process's own.
    max_vectors: beyond it the oldest leave.
    exact_limit: a partition with no more vectors is scanned.

    Raises ConfigError for an option that makes no sense. May be used from several event loops and threads.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        save_every: float = 60.0,
        max_vectors: int = 100_000,
        exact_limit: int = 2048,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in {"max_vectors": max_vectors, "exact_limit": exact_limit}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r}: a whole number, 1 or more, is wanted")
        if isinstance(save_every, bool) or not isinstance(save_every, int | float) or not save_every > 0:
            raise ConfigError(f"save_every={save_every!r}: a number of seconds greater than 0 is wanted")
        self._path = None if path is None else Path(path)
        self._save_every = save_every
        self._max = max_vectors
        self._exact_limit = exact_limit
        self._monotonic = monotonic
        # Held while rows change, and never for longer than that takes: the event loop waits for it. Only the one
        # thread touches graphs.
        self._lock = Lock()
        self._partitions: dict[str, _Partition] = {}
        self._rows: dict[str, tuple[_Partition, int]] = {}  # digest → where; the oldest first
        self._size = 0
        self._pool_lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._loaded = path is None
        self._changed = False
        self._saved = monotonic()
        self._saving = False
        self._closed = False

    def __repr__(self) -> str:
        return f"MemoryIndex({len(self._rows)} vectors in {len(self._partitions)} partitions)"

    def __len__(self) -> int:
        return len(self._rows)

    async def search(self, scope: str, vector: Vector, count: int, now: float) -> list[Candidate]:
        """As `Index.search`. Raises BackendClosed; EmbeddingError for a vector of another size than the others."""
        await self._ready()
        partition = self._partitions.get(scope)
        if partition is None:
            return []
        self._check_size(vector)
        if partition.graph is None and partition.used <= self._exact_limit:
            return self._view(partition).scan(0, vector, count, now)
        return await self._in_thread(self._search_graph, partition, vector, count, now)

    async def add(self, question: Question, vector: Vector) -> Sequence[str]:
        """As `Index.add`. Raises as `search` does."""
        await self._ready()
        self._check_size(vector)
        with self._lock:
            self._size = vector.size
            self._release(question.digest)
            partition = self._partitions.get(question.scope)
            if partition is None:
                partition = self._partitions[question.scope] = _Partition(question.scope)
            self._rows[question.digest] = partition, partition.append(question, vector)
            left = []
            while len(self._rows) > self._max:
                left.append(next(iter(self._rows)))
                self._release(left[-1])
            self._changed = True
            due = self._path is not None and self._monotonic() - self._saved >= self._save_every
            grows = partition.live > self._exact_limit and not partition.growing
            partition.growing = partition.growing or grows
        if grows:
            self._submit(self._grow, partition)
        if due and not self._saving:
            self._saving = True
            self._submit(self._save)
        return left

    async def remove(self, digest: str, scope: str = "") -> None:  # noqa: ARG002 (it knows the scope)
        await self._ready()
        with self._lock:
            self._release(digest)

    async def older(self, than: float, count: int) -> list[tuple[str, str]]:
        await self._ready()
        return await self._in_thread(self._older, than, count)

    async def ping(self) -> None:
        await self._ready()

    async def leave(self) -> None:
        """Nothing here belongs to an event loop."""

    async def aclose(self) -> None:
        """Write the file, if there is one, and free the memory."""
        if self._closed:
            return
        if self._path is not None and self._loaded and self._changed:
            await self._in_thread(self._save)
        self._closed = True
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        with self._lock:
            self._partitions.clear()
            self._rows.clear()

    # -- threads --------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        if self._closed:
            raise BackendClosed("used after aclose()", backend=NAME)
        if not self._loaded:
            await self._in_thread(self._load)

    def _submit(self, function: Callable[..., T], *args: Any) -> Any:
        with self._pool_lock:
            if self._closed:
                raise BackendClosed("used after aclose()", backend=NAME)
            if self._pool is None or self._pid != os.getpid():  # a fork does not copy threads
                self._pid = os.getpid()
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="asynccache-index")
            return self._pool.submit(function, *args)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        # Shielded: cancelled, it would leave a load or a save half begun in the queue.
        waiting = asyncio.wrap_future(self._submit(function, *args))
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            result: T = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if waiting.cancelled():
                raise BackendClosed("closed while it was under way", backend=NAME) from None
            raise
        return result

    # -- rows -----------------------------------------------------------------------------------------

    def _check_size(self, vector: Vector) -> None:
        if self._size not in (0, vector.size):
            raise EmbeddingError(f"a vector of {vector.size} numbers among those of {self._size}", backend=NAME)

    def _release(self, digest: str) -> None:
        partition, row = self._rows.pop(digest, (None, 0))
        if partition is None:
            return
        self._changed = True
        partition.release(row)
        if not partition.live:
            del self._partitions[partition.scope]
        elif partition.graph is None and not partition.growing and partition.used > 2 * partition.live + _FIRST_ROWS:
            for digest, row in partition.compact():
                self._rows[digest] = partition, row  # in the place in the order that it has

    # -- in the thread --------------------------------------------------------------------------------

    def _view(self, partition: _Partition) -> _View:
        with self._lock:
            return partition.view()

    def _search_graph(self, partition: _Partition, vector: Vector, count: int, now: float) -> list[Candidate]:
        wanted = max(_RESCORED, 4 * count)
        while (graph := partition.graph) is not None and wanted < len(graph):
            partition.prune()
            rows = graph.search(vector, wanted).keys.tolist()
            view, indexed = self._view(partition), partition.indexed
            near = view.score(rows, vector, now)[:count]
            if len(near) == count:
                tail = view.scan(indexed, vector, count, now)
                return sorted([*near, *tail], key=lambda one: -one.similarity)[:count]
            wanted *= 4  # expired ones must not hide those that live
        return self._view(partition).scan(0, vector, count, now)

    def _older(self, than: float, count: int) -> list[tuple[str, str]]:
        old = ((one.digest, one.scope) for one, _ in self._all() if one.created < than)
        return list(islice(old, count))

    def _all(self) -> Iterator[tuple[Question, Vector]]:
        """What is there, a few under one lock."""
        with self._lock:
            digests = list(self._rows)
        for start in range(0, len(digests), _CHUNK):
            with self._lock:
                rows = [self._rows[digest] for digest in digests[start : start + _CHUNK] if digest in self._rows]
                chunk = [(partition.questions[row], partition.vector(row)) for partition, row in rows]
            yield from chunk

    def _grow(self, partition: _Partition) -> None:
        """Put what has gathered into the graph, a chunk at a time: others wait for this thread too."""
        try:
            partition.index(_CHUNK, self._lock)
        finally:
            with self._lock:
                partition.growing = partition.indexed < partition.used and partition.live > 0 and not self._closed
                again = partition.growing
        if again:
            try:
                self._submit(self._grow, partition)
            except (BackendClosed, RuntimeError):  # the pool is being shut down
                pass

    # -- the file -------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Magic, CRC-32 of what follows, length of the head, head (JSON), vectors; in the place of the old file."""
        assert self._path is not None
        try:
            self._changed = False
            kept = list(self._all())
            head = orjson.dumps([self._size, [tuple(question) for question, _ in kept]])
            vectors = [vector.tobytes() for _, vector in kept]
            parts = [len(head).to_bytes(4, "little"), head, *vectors]
            checksum = 0
            for part in parts:
                checksum = crc32(part, checksum)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
            with fresh.open("wb") as file:
                file.writelines([MAGIC, checksum.to_bytes(4, "little"), *parts])
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            self._changed = True
            logger.warning("the vectors were not written to %s: %s", self._path, error)
        finally:
            self._saved = self._monotonic()
            self._saving = False

    def _load(self) -> None:
        if self._loaded:
            return  # another has, while this one waited
        assert self._path is not None
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            self._loaded = True
            return
        except OSError as error:
            raise BackendUnavailable(f"{self._path}: {error.strerror}", backend=NAME) from error
        try:
            if data[:4] != MAGIC or crc32(memoryview(data)[8:]) != int.from_bytes(data[4:8], "little"):
                raise ValueError("torn, or no file of vectors of this version")
            start = 12 + int.from_bytes(data[8:12], "little")
            size, questions = orjson.loads(data[12:start])
            vectors = np.frombuffer(data, np.float32, offset=start).reshape(len(questions), size or 1)
        except ValueError as error:
            logger.warning("the vectors in %s cannot be read, and are made anew: %s", self._path, error)
            self._loaded = True
            return
        with self._lock:
            self._size = size
            for fields, vector in zip(questions, vectors, strict=True):
                question = Question(*fields)
                partition = self._partitions.setdefault(question.scope, _Partition(question.scope))
                self._rows[question.digest] = partition, partition.append(question, vector)
            for partition in self._partitions.values():
                if partition.live > self._exact_limit:
                    partition.growing = True
                    self._submit(self._grow, partition)
            self._loaded = True


class _Partition:
    """The vectors of one scope. Rows are appended, and never written again until all of their block are gone.

    questions: by row; None for one that was removed.
    used:      rows that were ever appended. live: those that were not removed.
    indexed:   rows before this one are in the graph, if they live.
    growing:   rows are being put into the graph.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.questions: list[Any] = []
        self.live = 0
        self.indexed = 0
        self.growing = False
        self.graph: Graph | None = None
        self._blocks: list[Any] = []  # None: all of its rows are gone
        self._ends: list[Any] = []  # when the rows of a block expire
        self._alive: list[int] = []  # rows of a block that are not gone
        self._removed: list[int] = []  # rows that are still in the graph

    @property
    def used(self) -> int:
        return len(self.questions)

    def append(self, question: Question, vector: Vector) -> int:
        row = self.used
        block, place = divmod(row, _ROWS)
        if block == len(self._blocks):
            rows = _FIRST_ROWS if block == 0 else _ROWS
            self._blocks.append(np.empty((rows, vector.size), np.float32))
            self._ends.append(np.full(rows, _GONE))
            self._alive.append(0)
        elif self._blocks[block] is None:  # all gone, before it was full
            self._blocks[block] = np.empty((_ROWS, vector.size), np.float32)
            self._ends[block] = np.full(_ROWS, _GONE)
        elif place == len(self._blocks[block]):
            self._blocks[block] = np.concatenate([self._blocks[block], np.empty_like(self._blocks[block])])
            self._ends[block] = np.concatenate([self._ends[block], np.full(place, _GONE)])
        self._blocks[block][place] = vector
        self._ends[block][place] = inf if question.expires is None else question.expires
        self._alive[block] += 1
        self.questions.append(question)
        self.live += 1
        return row

    def release(self, row: int) -> None:
        block, place = divmod(row, _ROWS)
        self.questions[row] = None
        self._ends[block][place] = _GONE
        self.live -= 1
        self._alive[block] -= 1
        if row < self.indexed:
            self._removed.append(row)
        if not self._alive[block]:
            self._blocks[block] = self._ends[block] = None

    def compact(self) -> Iterator[tuple[str, int]]:
        """Close the gaps, where there is no graph: the new row of each digest."""
        kept = [(question, self.vector(row)) for row, question in enumerate(self.questions) if question is not None]
        self.__init__(self.scope)  # type: ignore[misc]
        for question, vector in kept:
            yield question.digest, self.append(question, vector)

    def vector(self, row: int) -> Vector:
        block, place = divmod(row, _ROWS)
        vector: Vector = self._blocks[block][place]
        return vector

    def view(self) -> _View:
        return _View(self.questions, list(self._blocks), list(self._ends), self.used)

    def index(self, count: int, lock: Lock) -> None:
        """Put at most so many rows more into the graph."""
        self.prune()
        with lock:
            rows = range(self.indexed, min(self.indexed + count, self.used))
            there = [row for row in rows if self.questions[row] is not None]
            vectors = [self.vector(row) for row in there]
        if there:
            if self.graph is None:
                self.graph = Graph(
                    ndim=vectors[0].size,
                    metric="cos",
                    dtype="i8",
                    connectivity=_CONNECTIVITY,
                    expansion_add=_EFFORT_TO_ADD,
                    expansion_search=_EFFORT_TO_SEARCH,
                )
            self.graph.add(np.array(there, np.uint64), np.stack(vectors), threads=1)
        with lock:
            self.indexed = rows.stop
            self._removed += [row for row in there if self.questions[row] is None]

    def prune(self) -> None:
        """Take out of the graph what was removed."""
        while self._removed and self.graph is not None:
            self.graph.remove(self._removed.pop())


class _View(NamedTuple):
    """The rows of a partition at one moment. It is read without a lock: rows are never written again."""

    questions: list[Any]
    blocks: list[Any]
    ends: list[Any]
    used: int

    def scan(self, start: int, vector: Vector, count: int, now: float) -> list[Candidate]:
        """The nearest of the rows from `start` on."""
        found: list[tuple[float, int]] = []
        for number in range(start // _ROWS, len(self.blocks)):
            block = self.blocks[number]
            if block is None:
                continue
            first = max(start - number * _ROWS, 0)
            last = min(self.used - number * _ROWS, len(block))
            scores = np.vecdot(block[first:last], vector)  # `@` would wake other threads, and wait for them
            scores[self.ends[number][first:last] <= now] = -inf
            best = np.argpartition(scores, -count)[-count:] if count < len(scores) else range(len(scores))
            found += [(float(scores[at]), number * _ROWS + first + int(at)) for at in best if scores[at] > -inf]
        found.sort(reverse=True)
        return self._candidates(found[:count])

    def score(self, rows: list[int], vector: Vector, now: float) -> list[Candidate]:
        """Those of these rows that are still there and have not expired, the nearest first."""
        places = [(row, *divmod(row, _ROWS)) for row in rows if row < self.used]
        alive = [at for at in places if self.blocks[at[1]] is not None and self.ends[at[1]][at[2]] > now]
        if not alive:
            return []
        scores = np.vecdot(np.stack([self.blocks[block][place] for _, block, place in alive]), vector)
        return self._candidates([(float(scores[at]), alive[at][0]) for at in np.argsort(-scores)])

    def _candidates(self, found: list[tuple[float, int]]) -> list[Candidate]:
        asked = [(self.questions[row], score) for score, row in found]
        # One that was removed meanwhile is none.
        return [
            Candidate(one.digest, one.text, min(score, 1.0), one.created) for one, score in asked if one is not None
        ]
