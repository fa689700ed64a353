"""Tags and clearing: every tag has a number, its epoch, kept in the backend as an entry.

An answer remembers the numbers of its day, and is over when one of them has moved on: invalidating
is O(1) on every backend. A namespace is cleared by the same means: each answer carries a tag that
stands for its namespace, and another for its tenant.

A tag whose number is gone (evicted, or the store was wiped) counts as moved on, so losing one can
end answers early but never bring one back.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from hashlib import sha256

import orjson

from asynccache.model import CacheKey, Directives, Entry
from asynccache.protocols import AsyncCacheBackend, Clock

_KNOWN = 100_000
Numbers = tuple[tuple[str, int], ...]


def scopes(directives: Directives) -> tuple[str, ...]:
    """The tags that stand for all answers of the namespace, and for all of its tenant's."""
    return _names(directives, None)


def tags(directives: Directives, names: Iterable[str]) -> tuple[str, ...]:
    """The full names of a call's tags. A tenant's tag has two: one that only the tenant's own handle
    reaches, and one that a handle without a tenant reaches too."""
    return tuple(full for name in names for full in _names(directives, name))


def widest(directives: Directives, name: str | None) -> str:
    """The tag to bump for all that this handle covers."""
    return _full(directives.namespace, directives.tenant, name)


def _names(directives: Directives, name: str | None) -> tuple[str, ...]:
    everybody = _full(directives.namespace, None, name)
    if directives.tenant is None:
        return (everybody,)
    return everybody, _full(directives.namespace, directives.tenant, name)


def _full(namespace: str, tenant: str | None, name: str | None) -> str:
    return orjson.dumps([namespace, tenant, name]).decode()


class Epochs:
    """The numbers of tags, as the backend has them.

    A number that was read is believed for `max_age` seconds: that long may an answer outlive its
    invalidation by another process. Within one process it ends at once.
    """

    def __init__(self, backend: AsyncCacheBackend, *, clock: Clock, max_age: float = 1.0) -> None:
        self._backend = backend
        self._clock = clock
        self._max_age = max_age
        self._known: dict[str, tuple[int, float]] = {}

    def judge(self, numbers: Numbers, now: float) -> str | None:
        """ "" when every tag still has its number, "invalidated" when one has moved on; None when one
        must be read first (see `check`)."""
        known = self._known
        for tag, number in numbers:
            try:
                current, believed_until = known[tag]
            except KeyError:
                return None
            if believed_until < now:
                return None
            if current != number:
                return "invalidated"
        return ""

    async def check(self, numbers: Numbers, now: float) -> str:
        """The same, reading what must be read. Raises BackendError when that fails."""
        for tag, number in numbers:
            if await self._current(tag, now) != number:
                return "invalidated"
        return ""

    async def read(self, names: Iterable[str]) -> Numbers:
        """The numbers to store beside a new answer; a tag that has none gets one.

        Raises BackendError. Two processes may give a new tag two numbers: the later one stays, and
        an answer stored with the other is over before it was used.
        """
        now = self._clock()
        return tuple([(tag, await self._current(tag, now) or await self.bump(tag)) for tag in names])

    async def bump(self, tag: str) -> int:
        """Give the tag a number it never had: all answers that carry an older one are over.

        Numbers grow with the clock (its milliseconds, above 20 random bits: 63 bits in all), so two
        processes that bump at the same moment both end what was stored before. Raises BackendError.
        """
        now = self._clock()
        number = (int(now * 1000) << 20) | random.getrandbits(20)
        known = self._known.get(tag, (0, now))[0]
        number = max(number, known + 1)
        await self._backend.set(_key(tag), Entry(str(number).encode(), "epoch", now))
        self._remember(tag, number, now)
        return number

    async def _current(self, tag: str, now: float) -> int:
        before = self._known.get(tag)
        if before is not None:
            if before[1] >= now:
                return before[0]
            # While this task reads, others go on with the old number instead of reading as well.
            self._remember(tag, before[0], now)
        entry = await self._backend.get(_key(tag))
        number = int(entry.body) if entry is not None and entry.kind == "epoch" else 0
        latest = self._known.get(tag)
        if latest is not None and latest[0] != (before[0] if before else 0):
            return latest[0]  # bumped here while we read: what we read may be the number before
        self._remember(tag, number, now)
        return number

    def _remember(self, tag: str, number: int, now: float) -> None:
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[tag] = (number, now + self._max_age)


def _key(tag: str) -> CacheKey:
    return CacheKey(sha256(b"asynccache/epoch\0" + tag.encode()).hexdigest())
