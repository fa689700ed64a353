"""Vectors in this process's memory.

A partition is scanned. Where it is not small, first by one bit a number, its sign: what has the most signs in common
is scored with the vectors themselves. For 100,000 vectors that takes as long as an HNSW graph does, finds more (a graph
loses itself among vectors that have little to do with each other), and costs nothing when one is added. A very large
partition has a graph all the same (Malkov and Yashunin, 2016), of usearch, over one byte a number, scored again
likewise. Of the libraries with wheels for all Pythons, usearch is the one that frees what is removed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from math import inf
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, TypeVar
from weakref import WeakValueDictionary
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
MAGIC = b"ACV\x02"

_ROWS = 8192  # of a block at most
_FIRST_ROWS = 8
_AT_ONCE = 256  # rows that are scanned on the event loop: sooner done than a thread is woken
_PLAINLY = 2048  # rows that are scanned by their vectors alone
_SAME_SIGNS = 256  # rows that are scored after a scan by signs, at least: those order close ones wrongly
_SAMPLED = 4  # one row in so many tells how alike they are
_MOVED = 16  # places of a block with many gaps that are looked at whenever a row goes
_CONNECTIVITY = 16
_EFFORT_TO_ADD = 128
_EFFORT_TO_SEARCH = 128
_RESCORED = 32  # after a search of a graph, at least: a byte a number orders close ones wrongly
_CHUNK = 32  # vectors that are put into a graph before others get their turn
_SECTION = 512  # vectors of a part of the file: JSON lets no other thread run
_MOST = 2**30  # bytes of one: else it is none
_CRC = Struct("<I")
_SIZES = Struct("<III")
_GONE = -inf  # the end of a row that was removed


class MemoryIndex:
    """Keeps vectors in memory, and, if told so, in a file.

    path:        a file that they are written to, whole, every `save_every` seconds in which something has changed
                 and on closing, and read from at the first use. One that cannot be read is as good as none. It is one
                 process's own.
    max_vectors: beyond it the oldest leave.
    scan_limit:  a partition with more vectors has a graph.

    Raises ConfigError for an option that makes no sense. May be used from several event loops and threads.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        save_every: float = 60.0,
        max_vectors: int = 100_000,
        scan_limit: int = 200_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in {"max_vectors": max_vectors, "scan_limit": scan_limit}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r}: a whole number, 1 or more, is wanted")
        if isinstance(save_every, bool) or not isinstance(save_every, int | float) or not save_every > 0:
            raise ConfigError(f"save_every={save_every!r}: a number of seconds greater than 0 is wanted")
        self._path = None if path is None else Path(path)
        self._save_every = save_every
        self._max = max_vectors
        self._scan_limit = scan_limit
        self._monotonic = monotonic
        # Held while rows change, and never for longer than that takes: the event loop waits for it. Only the one
        # thread touches graphs.
        self._lock = Lock()
        self._partitions: dict[str, _Partition] = {}
        # Digest → where, as one number, the oldest first. Numbers and texts alone for each row: of anything else the
        # garbage collector would look at every one, and for 100,000 rows stop the process for a tenth of a second.
        self._rows: dict[str, int] = {}
        self._blocks: WeakValueDictionary[int, _Block] = WeakValueDictionary()
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
        if partition.graph is None and partition.used <= _AT_ONCE:
            return self._view(partition).scan(vector, count, now)
        return await self._in_thread(self._search, partition, vector, count, now)

    async def add(self, question: Question, vector: Vector) -> Sequence[str]:
        """As `Index.add`. Raises as `search` does."""
        await self._ready()
        self._check_size(vector)
        # A lone surrogate is no text for the file; then the question is as good as none.
        question = question._replace(text=question.text.encode("utf-8", "replace").decode())
        with self._lock:
            self._size = vector.size
            self._release(question.digest)
            partition = self._append(question, vector)
            left = []
            while len(self._rows) > self._max:
                left.append(next(iter(self._rows)))
                self._release(left[-1])
            self._changed = True
            due = self._path is not None and self._monotonic() - self._saved >= self._save_every
            grows = partition.live > self._scan_limit and not partition.growing
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
        self._forget()

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

    def _forget(self) -> None:
        with self._lock:
            self._partitions.clear()
            self._rows.clear()
            self._size = 0

    def _append(self, question: Question, vector: Vector) -> _Partition:
        partition = self._partitions.get(question.scope)
        if partition is None:
            partition = self._partitions[question.scope] = _Partition(question.scope)
        self._keep(question.digest, *partition.append(question, vector))
        return partition

    def _keep(self, digest: str, block: _Block, place: int) -> None:
        self._blocks[block.number] = block
        self._rows[digest] = block.number * _ROWS + place

    def _at(self, row: int) -> tuple[_Block, int]:
        number, place = divmod(row, _ROWS)
        return self._blocks[number], place

    def _release(self, digest: str) -> None:
        row = self._rows.pop(digest, None)
        if row is None:
            return
        self._changed = True
        block, place = self._at(row)
        partition = block.partition
        partition.release(block, place)
        if not partition.live:
            del self._partitions[partition.scope]
        for moved, block, place in partition.close_gaps(_MOVED):
            self._keep(moved, block, place)  # in the place in the order that it has

    # -- in the thread --------------------------------------------------------------------------------

    def _view(self, partition: _Partition) -> _View:
        with self._lock:
            return partition.view()

    def _search(self, partition: _Partition, vector: Vector, count: int, now: float) -> list[Candidate]:
        wanted = max(_RESCORED, 4 * count)
        while (graph := partition.graph) is not None and wanted < len(graph):
            partition.prune()
            rows = graph.search(vector, wanted).keys.tolist()
            view, indexed = self._view(partition), partition.indexed
            near = view.score(rows, vector, count, now)
            if len(near) == count:
                tail = view.scan(vector, count, now, start=indexed)
                return sorted([*near, *tail], key=lambda one: -one.similarity)[:count]
            wanted *= 4  # expired ones must not hide those that live
        return self._view(partition).scan(vector, count, now)

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
                chunk = [(block.question(place), block.vectors[place]) for block, place in map(self._at, rows)]
            yield from chunk

    def _grow(self, partition: _Partition) -> None:
        """Put what has gathered into the graph, a chunk at a time: others wait for this thread too."""
        try:
            partition.index(_CHUNK, self._lock)
        finally:
            with self._lock:
                partition.growing = partition.indexed < partition.rows and partition.live > 0 and not self._closed
                again = partition.growing
        if again:
            try:
                self._submit(self._grow, partition)
            except (BackendClosed, RuntimeError):  # the pool is being shut down
                pass

    # -- the file -------------------------------------------------------------------------------------

    def _save(self) -> None:
        """In the place of the old file: magic, then sections. Each has the CRC-32 of the rest of it, how many vectors
        it has and of how many numbers, the length of its head, its head (the questions, as JSON), and the vectors."""
        assert self._path is not None
        try:
            self._changed = False
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
            with fresh.open("wb") as file:
                file.write(MAGIC)
                rows = self._all()
                while section := list(islice(rows, _SECTION)):
                    head = orjson.dumps([tuple(question) for question, _ in section])
                    sizes = _SIZES.pack(len(section), self._size, len(head))
                    rest = b"".join([sizes, head, *(vector.tobytes() for _, vector in section)])
                    file.write(_CRC.pack(crc32(rest)) + rest)
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
            with self._path.open("rb") as file:
                for questions, vectors in _sections(file):
                    with self._lock:
                        self._size = vectors.shape[1]
                        for question, vector in zip(questions, vectors, strict=True):
                            self._append(question, vector)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._forget()
            raise BackendUnavailable(f"{self._path}: {error.strerror}", backend=NAME) from error
        except ValueError as error:
            logger.warning("the vectors in %s cannot be read, and are made anew: %s", self._path, error)
            self._forget()
        with self._lock:
            while len(self._rows) > self._max:
                self._release(next(iter(self._rows)))
            for partition in self._partitions.values():
                if partition.live > self._scan_limit:
                    partition.growing = True
                    self._submit(self._grow, partition)
            self._loaded = True


def _sections(file: BinaryIO) -> Iterator[tuple[list[Question], Any]]:
    """Raises ValueError for what `_save` has not written so."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("no file of vectors of this version")
    while start := file.read(_CRC.size + _SIZES.size):
        if len(start) < _CRC.size + _SIZES.size:
            raise ValueError("torn")
        count, size, length = _SIZES.unpack_from(start, _CRC.size)
        rest = file.read(min(length + count * size * 4, _MOST))
        if crc32(rest, crc32(start[_CRC.size :])) != _CRC.unpack_from(start)[0]:
            raise ValueError("torn")
        questions = [Question(*fields) for fields in orjson.loads(rest[:length])]
        yield questions, np.frombuffer(rest, np.float32, offset=length).reshape(count, size)


class _Block:
    """Rows of a partition, which never grows: the next block does. A row is written once.

    number:    of this block among all that there ever were.
    first:     the number of its first row: rows of a partition are numbered, without an end.
    used:      rows so far. alive: those of them that were not removed.
    digests:   None for a row that was removed.
    codes:     of each row the signs, 64 in a word; the words of one row are in one column.
    ends:      when the rows expire. soonest: no later than the first of them.
    passed:    rows before this one have been moved to another block.
    """

    _numbers = count()

    def __init__(self, partition: _Partition, first: int, rows: int, size: int) -> None:
        self.partition = partition
        self.number = next(self._numbers)
        self.first = first
        self.used = 0
        self.alive = 0
        self.passed = 0
        self.digests: list[str | None] = []
        self.texts: list[str] = []
        self.vectors: Any = np.empty((rows, size), np.float32)
        self.codes: Any = np.empty((-(-size // 64), rows), np.uint64)
        self.created: Any = np.empty(rows)
        self.ends: Any = np.full(rows, _GONE)
        self.soonest = inf

    @property
    def full(self) -> bool:
        return self.used == len(self.vectors)

    @property
    def sparse(self) -> bool:
        return self.full and 2 * self.alive < self.used

    def append(self, question: Question, vector: Vector) -> int:
        place = self.used
        self.vectors[place] = vector
        self.codes[:, place] = _signs(vector)
        self.created[place] = question.created
        end = inf if question.expires is None else question.expires
        self.ends[place] = end
        self.soonest = min(self.soonest, end)
        self.digests.append(question.digest)
        self.texts.append(question.text)
        self.alive += 1
        self.used += 1  # last: who scans goes by it
        return place

    def release(self, place: int) -> None:
        self.digests[place] = None
        self.texts[place] = ""
        self.ends[place] = self.soonest = _GONE
        self.alive -= 1

    def question(self, place: int) -> Question:
        digest, end = self.digests[place], float(self.ends[place])
        assert digest is not None
        created = float(self.created[place])
        return Question(self.partition.scope, digest, self.texts[place], created, None if end == inf else end)


class _Partition:
    """The vectors of one scope, in blocks of which each is as large as all before it, so that none is ever copied.

    used:    rows in its blocks. live: those of them that were not removed.
    rows:    rows that were ever appended: the number of the next one.
    indexed: rows before this one are in the graph, if they live.
    growing: rows are being put into the graph.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.blocks: list[_Block] = []
        self.used = 0
        self.live = 0
        self.rows = 0
        self.indexed = 0
        self.growing = False
        self.graph: Graph | None = None
        self._sparse: deque[_Block] = deque()  # full once, and more than half of their rows gone
        self._removed: list[int] = []  # rows that are still in the graph

    def append(self, question: Question, vector: Vector) -> tuple[_Block, int]:
        if not self.blocks or self.blocks[-1].full:
            rows = min(_ROWS, max(_FIRST_ROWS, self.live))
            self.blocks.append(_Block(self, self.rows, rows, vector.size))
        block = self.blocks[-1]
        self.used += 1
        self.live += 1
        self.rows += 1
        return block, block.append(question, vector)

    def release(self, block: _Block, place: int) -> None:
        block.release(place)
        self.live -= 1
        if block.first + place < self.indexed:
            self._removed.append(block.first + place)
        if not block.alive and block.full:
            self.blocks.remove(block)
            self.used -= block.used
            if block in self._sparse:
                self._sparse.remove(block)
        elif block.sparse and block not in self._sparse:
            self._sparse.append(block)

    def close_gaps(self, count: int) -> Iterator[tuple[str, _Block, int]]:
        """Move rows of blocks that are mostly gaps to the end, so that those blocks go: each digest, and where it is
        now. So many places are looked at. Who scans just then may miss one that moves."""
        for _ in range(count):
            if not self._sparse:
                return
            block = self._sparse[0]
            place, digest = block.passed, block.digests[block.passed]
            block.passed += 1
            if digest is not None:
                yield digest, *self.append(block.question(place), block.vectors[place])
                self.release(block, place)

    def view(self) -> _View:
        return _View([(block, block.used) for block in self.blocks])

    def index(self, count: int, lock: Lock) -> None:
        """Put at most so many rows more into the graph."""
        self.prune()
        with lock:
            start, end = self.indexed, min(self.indexed + count, self.rows)
            found = [
                (block.first + place, block, place)
                for block in self.blocks
                if block.first < end and block.first + block.used > start
                for place in range(max(start - block.first, 0), min(end - block.first, block.used))
                if block.digests[place] is not None
            ]
            vectors = [block.vectors[place] for _, block, place in found]
        if found:
            if self.graph is None:
                self.graph = Graph(
                    ndim=vectors[0].size,
                    metric="cos",
                    dtype="i8",
                    connectivity=_CONNECTIVITY,
                    expansion_add=_EFFORT_TO_ADD,
                    expansion_search=_EFFORT_TO_SEARCH,
                )
            self.graph.add(np.array([row for row, _, _ in found], np.uint64), np.stack(vectors), threads=1)
        with lock:
            self.indexed = end
            self._removed += [row for row, block, place in found if block.digests[place] is None]

    def prune(self) -> None:
        """Take out of the graph what was removed."""
        while self._removed and self.graph is not None:
            self.graph.remove(self._removed.pop())


class _View(NamedTuple):
    """The rows of a partition at one moment. It is read without a lock: rows are never written again."""

    blocks: list[tuple[_Block, int]]

    def scan(self, vector: Vector, count: int, now: float, start: int = 0) -> list[Candidate]:
        """The nearest of the rows from this number on."""
        parts = [
            (block, np.arange(max(start - block.first, 0), used))
            for block, used in self.blocks
            if block.first + used > start
        ]
        if sum(len(places) for _, places in parts) > _PLAINLY:
            parts = _alike(parts, _signs(vector), max(_SAME_SIGNS, 4 * count), now)
        return _nearest(parts, vector, count, now)

    def score(self, rows: Iterable[int], vector: Vector, count: int, now: float) -> list[Candidate]:
        """The nearest of the rows with these numbers, as far as they are still there."""
        firsts = [block.first for block, _ in self.blocks]
        places: list[list[int]] = [[] for _ in firsts]
        for row in rows:
            at = bisect_right(firsts, row) - 1
            if at >= 0 and row - firsts[at] < self.blocks[at][1]:
                places[at].append(row - firsts[at])
        parts = [(block, np.array(some)) for (block, _), some in zip(self.blocks, places, strict=True) if some]
        return _nearest(parts, vector, count, now)


_Parts = list[tuple[_Block, Any]]  # blocks, and which of their rows


def _alike(parts: _Parts, signs: Any, count: int, now: float) -> _Parts:
    """Of these rows about `count`, whose signs are the most alike."""
    far = 64 * len(signs) + 1
    found = []
    for block, places in parts:
        some = slice(int(places[0]), int(places[-1]) + 1)  # those of a scan have no gaps
        apart = np.bitwise_count(block.codes[:, some] ^ signs[:, None]).sum(0, dtype=np.uint16)
        if block.soonest <= now:
            apart[block.ends[some] <= now] = far
        found.append(apart)
    apart = np.concatenate(found)
    sampled = np.bincount(apart[::_SAMPLED], minlength=far)[:far]
    limit = np.searchsorted(np.cumsum(sampled), count / _SAMPLED)
    rows = np.flatnonzero(apart <= min(int(limit), far - 1))
    if len(rows) > 2 * count:  # many that are equally far away
        rows = np.sort(rows[np.argpartition(apart[rows], count)[:count]])
    ends = np.cumsum([len(some) for some in found])
    cut = np.split(rows, np.searchsorted(rows, ends[:-1]))
    return [
        (block, places[some - before])
        for (block, places), some, before in zip(parts, cut, [0, *ends[:-1].tolist()], strict=True)
        if len(some)
    ]


def _nearest(parts: _Parts, vector: Vector, count: int, now: float) -> list[Candidate]:
    """The nearest of these rows that are there and have not expired."""
    found: list[tuple[float, int, int]] = []
    for number, (block, places) in enumerate(parts):
        scores = np.vecdot(block.vectors[places], vector)  # `@` would wake other threads, and wait for them
        scores[block.ends[places] <= now] = -inf
        best = np.argpartition(scores, -count)[-count:] if count < len(scores) else range(len(scores))
        found += [(float(scores[at]), number, int(places[at])) for at in best if scores[at] > -inf]
    found.sort(reverse=True)
    candidates = []
    for score, number, place in found[:count]:
        block = parts[number][0]
        text, digest = block.texts[place], block.digests[place]
        if digest is not None:  # else it was removed meanwhile
            candidates.append(Candidate(digest, text, min(score, 1.0), float(block.created[place])))
    return candidates


def _signs(vector: Vector) -> Any:
    """A bit for each number, in whole words."""
    bits = np.zeros(-(-vector.size // 64) * 8, np.uint8)
    bits[: -(-vector.size // 8)] = np.packbits(vector > 0)
    return bits.view(np.uint64)
