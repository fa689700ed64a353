"""Eviction policies to compare with: each bounded by the sum of the sizes it was given.

They keep keys only and do no more than their policy asks, so that they can be read beside the papers.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import cachebox
from theine import Cache as TheineCache


class Policy(Protocol):
    """What the benchmark drives. `size` is in the unit of the bound: entries or bytes."""

    def get(self, key: str) -> bool: ...

    def set(self, key: str, size: int) -> None: ...


class Node:
    """A resident key: its size, and how often it was read since the policy last looked."""

    __slots__ = ("freq", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.freq = 0


class Fifo:
    """A queue of keys, oldest first, that knows the sum of their sizes."""

    __slots__ = ("nodes", "used")

    def __init__(self) -> None:
        self.nodes: OrderedDict[str, Node] = OrderedDict()
        self.used = 0

    def push(self, key: str, node: Node) -> None:
        self.nodes[key] = node
        self.used += node.size

    def pop(self) -> tuple[str, Node]:
        key, node = self.nodes.popitem(last=False)
        self.used -= node.size
        return key, node


class Lru:
    """Least recently used."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queue = Fifo()

    def get(self, key: str) -> bool:
        if key not in self.queue.nodes:
            return False
        self.queue.nodes.move_to_end(key)
        return True

    def set(self, key: str, size: int) -> None:
        while self.queue.nodes and self.queue.used + size > self.limit:
            self.queue.pop()
        self.queue.push(key, Node(size))


class Sieve:
    """SIEVE (Zhang et al., NSDI'24).

    The queue is kept in two halves, split where the hand stands: what the hand has still to reach,
    and what it has passed and kept. That is the same order without a linked list.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.index: dict[str, Node] = {}
        self.ahead = Fifo()
        self.passed = Fifo()

    @property
    def used(self) -> int:
        return self.ahead.used + self.passed.used

    def get(self, key: str) -> bool:
        node = self.index.get(key)
        if node is None:
            return False
        node.freq = 1
        return True

    def set(self, key: str, size: int) -> None:
        while self.index and self.used + size > self.limit:
            self.evict()
        self.push(key, Node(size))

    def push(self, key: str, node: Node) -> None:
        self.index[key] = node
        self.ahead.push(key, node)

    def evict(self) -> None:
        while True:
            if not self.ahead.nodes:
                self.ahead, self.passed = self.passed, self.ahead
            key, node = self.ahead.pop()
            if not node.freq:
                del self.index[key]
                return
            node.freq = 0
            self.passed.push(key, node)


class S3Fifo:
    """S3-FIFO (Yang et al., SOSP'23): a small queue on probation, a main queue with second chances,
    and a ghost queue of keys that failed their probation.

    small:  share of the limit given to the small queue.
    moves:  reads that carry a key from the small queue to the main one (two in the paper).
    sieve:  the main queue is a SIEVE in the place of a FIFO with reinsertion.
    """

    def __init__(self, limit: int, *, small: float = 0.1, moves: int = 2, sieve: bool = False) -> None:
        self.limit = limit
        self.share = small * limit
        self.moves = moves
        self.most = max(1, moves) if sieve else 3
        self.sieve = sieve
        self.index: dict[str, Node] = {}
        self.small = Fifo()
        self.main = Fifo()
        self.passed = Fifo()
        self.ghost = Fifo()

    @property
    def main_used(self) -> int:
        return self.main.used + self.passed.used

    def get(self, key: str) -> bool:
        node = self.index.get(key)
        if node is None:
            return False
        if node.freq < self.most:
            node.freq += 1
        return True

    def set(self, key: str, size: int) -> None:
        while self.index and self.small.used + self.main_used + size > self.limit:
            self.evict()
        node = self.index[key] = Node(size)
        if key in self.ghost.nodes:
            self.ghost.used -= self.ghost.nodes.pop(key).size
            self.main.push(key, node)
        else:
            self.small.push(key, node)

    def evict(self) -> None:
        if self.small.nodes and (self.small.used >= self.share or not self.main_used):
            self.evict_small()
        else:
            self.evict_main()

    def evict_small(self) -> None:
        key, node = self.small.pop()
        if node.freq >= self.moves:
            node.freq = 0
            self.main.push(key, node)
            return
        del self.index[key]
        self.ghost.push(key, node)
        while self.ghost.used > self.limit - self.share:
            self.ghost.pop()

    def evict_main(self) -> None:
        while True:
            if not self.main.nodes:
                self.main, self.passed = self.passed, self.main
            key, node = self.main.pop()
            if not node.freq:
                del self.index[key]
                return
            node.freq = 0 if self.sieve else node.freq - 1
            (self.passed if self.sieve else self.main).push(key, node)


class Theine:
    """W-TinyLFU (Einziger et al., TOS'17) as theine keeps it. It is bounded by a number of entries
    only: for a bound in bytes the caller translates it, with the mean size of an entry."""

    def __init__(self, limit: int) -> None:
        self.cache: TheineCache[str, bool] = TheineCache(limit)

    def get(self, key: str) -> bool:
        return bool(self.cache.get(key)[1])

    def set(self, key: str, size: int) -> None:
        del size
        self.cache.set(key, True)


class CacheboxLfu:
    """Least frequently used as cachebox keeps it, weighed by size."""

    def __init__(self, limit: int) -> None:
        self.cache: cachebox.LFUCache[str, int] = cachebox.LFUCache(limit, getsizeof=lambda _, size: size)

    def get(self, key: str) -> bool:
        return self.cache.get(key) is not None

    def set(self, key: str, size: int) -> None:
        self.cache.insert(key, size)
