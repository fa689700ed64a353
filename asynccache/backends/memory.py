"""Entries in this process's memory, bounded in bytes.

Which entry goes when space is needed is decided by S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak, "FIFO
queues are all you need for cache eviction", SOSP 2023): a small queue on probation, a main queue
with second chances, and a memory of what failed its probation lately. A read only marks the entry,
so a hit takes no lock and moves nothing. Over all workloads of `python -m benchmarks.eviction` it has
more hits than LRU, LFU and SIEVE and as many as W-TinyLFU: more of them than that when popularity
shifts, fewer when more keys than fit are asked for in a loop.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import inf
from threading import Lock
from typing import Any, NoReturn

from asynccache.errors import BackendClosed, ConfigError, EntryTooLarge
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Clock, Size

NAME = "memory"

# Bytes one entry takes in the tables of a backend that has filled up. A dict doubles as it grows, so
# these are means, not extremes.
_TABLES = 290  # node 80, index 35, queue 85, ghost 90
_EXPIRY = 40  # its slot in the heap, and the number of its place there

_PROBATION = 10  # one part in ten of the bytes belongs to the small queue, as in the paper
_MOST_READS = 3  # as in the paper: two bits
_PATIENCE = 64  # marked entries one `set` may pass over: bounds the time it holds the event loop
_SHARED_NAME = 64  # JSON decoders share names up to this length between the dicts they make


class _Node:
    """A resident entry and its key, what it costs, its reads since the last sweep, and its place in
    the expiry heap.

    It does not point to its queue: without a cycle, what is evicted or let go is freed at once.
    """

    __slots__ = ("cost", "digest", "entry", "expires", "place", "reads")

    def __init__(self, digest: str, entry: Entry, cost: int, reads: int) -> None:
        self.digest = digest
        self.entry = entry
        self.cost = cost
        self.reads = reads
        self.expires = inf if entry.expires is None else entry.expires
        self.place = -1


class _Queue:
    """Nodes, oldest first, and the bytes they take together."""

    __slots__ = ("bytes", "nodes")

    def __init__(self) -> None:
        self.nodes: OrderedDict[str, _Node] = OrderedDict()
        self.bytes = 0

    def push(self, node: _Node) -> None:
        self.nodes[node.digest] = node
        self.bytes += node.cost

    def pop(self) -> _Node:
        _, node = self.nodes.popitem(last=False)
        self.bytes -= node.cost
        return node

    def remove(self, node: _Node) -> bool:
        if self.nodes.pop(node.digest, None) is None:
            return False
        self.bytes -= node.cost
        return True


class _Expiries:
    """Nodes that will expire, the first to do so in front: a binary heap that knows the place of each
    node, so that one in the middle can leave in O(log n).

    `heapq` cannot do that. It would leave stale items behind, and the pass that has to clear them away
    held the event loop for 80 ms at 50,000 entries.
    """

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[_Node] = []

    def first(self) -> _Node | None:
        return self._heap[0] if self._heap else None

    def add(self, node: _Node) -> None:
        if node.expires < inf:
            self._heap.append(node)
            self._rise(node, len(self._heap) - 1)

    def remove(self, node: _Node) -> None:
        place = node.place
        if place < 0:
            return
        node.place = -1
        last = self._heap.pop()
        if last is not node:
            self._sink(last, place)
            self._rise(last, last.place)

    def _rise(self, node: _Node, place: int) -> None:
        heap = self._heap
        while place > 0 and node.expires < heap[(place - 1) // 2].expires:
            heap[place] = heap[(place - 1) // 2]
            heap[place].place = place
            place = (place - 1) // 2
        heap[place] = node
        node.place = place

    def _sink(self, node: _Node, place: int) -> None:
        heap = self._heap
        while (child := 2 * place + 1) < len(heap):
            if child + 1 < len(heap) and heap[child + 1].expires < heap[child].expires:
                child += 1
            if node.expires <= heap[child].expires:
                break
            heap[place] = heap[child]
            heap[place].place = place
            place = child
        heap[place] = node
        node.place = place


class _Ghosts:
    """The hashes of what failed its probation lately: the last half to whole `limit` of them.

    Two generations in the place of the paper's queue: the hit ratios are the same, the memory is less.
    """

    __slots__ = ("_new", "_old")

    def __init__(self) -> None:
        self._new: set[int] = set()
        self._old: set[int] = set()

    def add(self, digest: str, limit: int) -> None:
        if len(self._new) * 2 >= limit:
            self._old, self._new = self._new, set()
        self._new.add(hash(digest))

    def __contains__(self, digest: str) -> bool:
        return hash(digest) in self._new or hash(digest) in self._old


class MemoryBackend:
    """Keeps entries in memory; the one backend whose hit costs no I/O and no copy.

    max_bytes: bytes all entries may take together, counting what an entry really costs: body, key,
               tags, meta and the tables around them.
    capacity:  the number of entries there may be; None: as many as fit.
    clock:     tells which entries have expired, asked only when space is needed.

    Raises ConfigError for an option that makes no sense. Both bounds hold after every call. When
    space is needed, expired entries go first, then the least useful; entries of kind "epoch" go only
    when nothing else is left. What was set last is there: it is never the one to go. Setting a key
    again takes the place of the old entry and evicts nobody unless it needs more bytes.

    May be used from several event loops and threads at once.
    """

    evictions: int
    """How many entries were dropped to make room before they had expired."""

    def __init__(
        self, *, max_bytes: int = 256 * 1024 * 1024, capacity: int | None = None, clock: Clock = time.time
    ) -> None:
        self.max_bytes = _positive("max_bytes", max_bytes, "a whole number of bytes (10 MB is 10_000_000)")
        self.capacity = None if capacity is None else _positive("capacity", capacity, "a whole number of entries")
        self.evictions = 0
        self._clock = clock
        self._lock = Lock()
        self._closed = False
        self._nodes: dict[str, _Node] = {}
        # After closing this is a function that raises, so that a hit need not ask.
        self._find: Callable[[str], _Node | None] = self._nodes.get
        self._clear()

    def _clear(self) -> None:
        self._nodes.clear()
        self._small = _Queue()
        self._main = _Queue()
        self._epochs = _Queue()
        self._ghosts = _Ghosts()
        self._expiries = _Expiries()

    def __repr__(self) -> str:
        return f"MemoryBackend({len(self._nodes)} entries, {self._bytes()} of {self.max_bytes} bytes)"

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry under this key, expired or not; None when there is none. Raises BackendClosed."""
        node = self._find(key.digest)
        if node is None:
            return None
        # Unlocked: two threads may lose a mark to each other, which no one will ever notice.
        if node.reads < _MOST_READS:
            node.reads += 1
        return node.entry

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Keep the entry in the place of any other.

        Raises EntryTooLarge, and keeps what was there, when it alone is over `max_bytes`; BackendClosed.
        """
        digest = key.digest
        cost = _cost(digest, entry)
        if cost > self.max_bytes:
            raise EntryTooLarge(f"an entry of {cost} bytes where max_bytes is {self.max_bytes}", backend=NAME)
        with self._lock:
            self._check_open()
            old = self._nodes.get(digest)
            node = _Node(digest, entry, cost, 0 if old is None else old.reads)
            queue = self._queue_for(node, old)
            self._make_room(cost)
            queue.push(node)
            self._expiries.add(node)
            self._nodes[digest] = node

    async def delete(self, key: CacheKey, /) -> bool:
        """Take the entry away and free its memory. True when there was one. Raises BackendClosed."""
        with self._lock:
            self._check_open()
            node = self._nodes.pop(key.digest, None)
            if node is None:
                return False
            self._release(node)
            return True

    async def ping(self) -> None:
        """Raises BackendClosed after `aclose()`; nothing else can go wrong here."""
        self._check_open()

    async def size(self) -> Size:
        """The entries held, epochs and expired ones among them, and the bytes they take."""
        with self._lock:
            return Size(self._count(), self._bytes())

    async def aclose(self) -> None:
        """Free all memory. Closing twice is fine."""
        with self._lock:
            self._closed = True
            self._find = _refuse
            self._clear()

    def _check_open(self) -> None:
        if self._closed:
            _refuse()

    def _count(self) -> int:
        return len(self._small.nodes) + len(self._main.nodes) + len(self._epochs.nodes)

    def _bytes(self) -> int:
        return self._small.bytes + self._main.bytes + self._epochs.bytes

    def _queue_for(self, node: _Node, old: _Node | None) -> _Queue:
        """Where the node belongs: where the one was that it replaces, which takes no space any more.

        The old one stays in the index, though: other threads find it until they find the new one.
        """
        was = None if old is None else self._release(old)
        if node.entry.kind == "epoch":
            return self._epochs
        return self._main if was is self._main or node.digest in self._ghosts else self._small

    def _release(self, node: _Node) -> _Queue:
        """Take the node out of the heap and out of its queue; which queue it was."""
        self._expiries.remove(node)
        for queue in (self._main, self._small):
            if queue.remove(node):
                return queue
        self._epochs.remove(node)
        return self._epochs

    def _make_room(self, cost: int) -> None:
        if self._fits(cost):
            return
        now = self._clock()
        while (first := self._expiries.first()) and first.expires <= now and not self._fits(cost):
            self._release(first)
            del self._nodes[first.digest]
        patience = _PATIENCE
        while not self._fits(cost):
            if not self._sweep(keep_marked=patience > 0):
                patience -= 1

    def _fits(self, cost: int) -> bool:
        if self.capacity is not None and self._count() >= self.capacity:
            return False
        return self._bytes() + cost <= self.max_bytes

    def _sweep(self, *, keep_marked: bool) -> bool:
        """Take the oldest entry of the queue that is due. Evict it, or move it to the end of the main
        queue when it was read and `keep_marked`. True when it was evicted."""
        queue = self._due()
        node = queue.pop()
        if node.reads and keep_marked and queue is not self._epochs:
            node.reads = 0 if queue is self._small else node.reads - 1
            self._main.push(node)
            return False
        self._expiries.remove(node)
        del self._nodes[node.digest]
        self.evictions += 1
        if queue is self._small:
            self._ghosts.add(node.digest, len(self._nodes))
        return True

    def _due(self) -> _Queue:
        if self._small.nodes and self._small.bytes * _PROBATION >= self._small.bytes + self._main.bytes:
            return self._small
        return self._main if self._main.nodes else self._epochs


def _positive(name: str, value: object, unit: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be {unit}, 1 or more, not {value!r}")
    return value


def _refuse(_digest: str = "") -> NoReturn:
    raise BackendClosed("used after aclose()", backend=NAME)


def _cost(digest: str, entry: Entry) -> int:
    """Bytes that keeping this entry takes, as `tracemalloc` would see them."""
    own = sys.getsizeof(digest) + sys.getsizeof(entry) + sys.getsizeof(entry.body)
    times = sys.getsizeof(entry.created) + sys.getsizeof(entry.fresh_until) + sys.getsizeof(entry.expires)
    tables = _TABLES if entry.expires is None else _TABLES + _EXPIRY
    return tables + own + times + _deep_size(entry.tags) + _deep_size(entry.meta)


def _deep_size(value: Any) -> int:
    """Bytes of a JSON-able value and all it holds. A loop: data may be nested deeper than the stack."""
    total = 0
    rest = [value]
    while rest:
        item = rest.pop()
        total += sys.getsizeof(item)
        if isinstance(item, (list, tuple)):
            rest += item
        elif isinstance(item, Mapping):
            rest += item.values()
            rest += [name for name in item if len(name) > _SHARED_NAME]
    return total


BACKEND = MemoryBackend
