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
from threading import Lock

import orjson

from asynccache.errors import CorruptEntry
from asynccache.model import CacheKey, Directives, Entry, Kind
from asynccache.protocols import AsyncCacheBackend, Clock

_KNOWN = 100_000
Numbers = tuple[tuple[str, int], ...]
_Known = tuple[int, float, float]  # a number, when it was read, until when nobody need read it again


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
    invalidation by another process. Within one process it ends at once. In the second half of that
    time one caller reads the number again, while the others go on with the old one.
    """

    def __init__(self, backend: AsyncCacheBackend, *, clock: Clock, max_age: float = 1.0) -> None:
        self._backend = backend
        self._clock = clock
        self._max_age = max_age
        self._lock = Lock()
        self._known: dict[str, _Known] = {}

    def judge(self, numbers: Numbers, now: float) -> str | None:
        """ "" when every tag still has its number, "invalidated" when one has moved on; None when one
        must be read first (see `check`)."""
        known = self._known
        for tag, number in numbers:
            try:
                current, since, until = known[tag]
            except KeyError:
                return None
            if not since <= now <= until:
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

    def moved(self, numbers: Numbers) -> bool:
        """Whether one of these tags has moved on, as far as this process has heard. Reads nothing."""
        return any(tag in self._known and self._known[tag][0] != number for tag, number in numbers)

    def heard(self, names: Iterable[str]) -> Numbers:
        """The numbers of those tags that this process has heard of, however long ago. Reads nothing."""
        return tuple([(tag, self._known[tag][0]) for tag in names if tag in self._known])

    async def read(self, names: Iterable[str]) -> Numbers:
        """The numbers to store beside a new answer; a tag that has none gets one.

        Raises BackendError. Two processes may give a new tag two numbers: the later one stays, and
        an answer stored with the other is over before it was used.
        """
        now = self._clock()
        return tuple([(tag, await self._current(tag, now) or await self._give(tag, 0)) for tag in names])

    async def bump(self, tag: str) -> int:
        """Give the tag a number it never had: all answers that carry another are over. Raises BackendError."""
        return await self._give(tag, 1)

    async def _give(self, tag: str, invalidates: int) -> int:
        """The number is new because of its milliseconds and 19 random bits; the last bit says whether it
        invalidates what was before, or is the tag's first."""
        now = self._clock()
        number = (int(now * 1000) << 20) | (random.getrandbits(19) << 1) | invalidates
        if number in (0, self._known.get(tag, (0,))[0]):
            number += 2
        # Known before it is written: others who find the tag without a number take this one, too.
        with self._lock:
            mine = self._learn(tag, number, now)
        try:
            await self._backend.set(_key(tag), Entry(str(number).encode(), _kind(tag), now))
        except BaseException:
            with self._lock:
                if self._known.get(tag) is mine:
                    del self._known[tag]
            raise
        # And once more: meanwhile the number before may have been read.
        with self._lock:
            self._learn(tag, number, now)
        return number

    async def _current(self, tag: str, now: float) -> int:
        before = self._known.get(tag)
        if before is not None:
            number, since, until = before
            if since <= now <= until:
                return number
            limit = since + self._max_age
            if since <= now <= limit:
                before = self._known[tag] = (number, since, limit)  # while this task reads, others go on
        number = await self._stored(tag)
        with self._lock:
            latest = self._known.get(tag)
            if latest is not None and latest is not before:
                return latest[0]  # learned while we read: what we read may be the number before
            self._learn(tag, number, now)
        return number

    async def _stored(self, tag: str) -> int:
        """The number in the backend; 0 when there is none that can be read."""
        try:
            entry = await self._backend.get(_key(tag))
        except CorruptEntry:
            return 0
        if entry is None or not entry.body.isdigit():
            return 0
        return int(entry.body)

    def _learn(self, tag: str, number: int, now: float) -> _Known:
        if len(self._known) >= _KNOWN:
            self._known.clear()
        known = self._known[tag] = (number, now, now + self._max_age / 2)
        return known


def invalidated_since(numbers: Numbers, when: float) -> bool:
    """Whether one of these is the mark of an invalidation later than this."""
    return any(number & 1 and number >> 20 > int(when * 1000) for _, number in numbers)


def _kind(tag: str) -> Kind:
    """What a whole namespace hangs on is kept before all else. The rest, one for each tag and tenant ever
    named, is as dear as the answers that carry it: losing it ends those, and keeping it for ever would
    in the end leave no room for answers."""
    return "epoch" if tag.endswith(",null,null]") else "completion"


def _key(tag: str) -> CacheKey:
    return CacheKey(sha256(b"asynccache/epoch\0" + tag.encode()).hexdigest())
