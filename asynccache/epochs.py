"""Tags and clearing: every tag has a number, its epoch, kept in the backend as an entry.

An answer remembers the numbers of its day, and is over when one of them has moved on: invalidating
is O(1) on every backend. A namespace is cleared by the same means: each answer carries a tag that
stands for its namespace, and another for its tenant.

A tag whose number is gone (evicted, or the store was wiped) counts as moved on, so losing one can
end answers early but never bring one back.

A soft purge gives a new number, too, and writes those before it behind it: answers that carry one of
these are stale since then, and not over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import sha256
from math import inf
from threading import Lock
from typing import NamedTuple

import orjson

from asynccache.errors import CorruptEntry
from asynccache.model import CacheKey, Directives, Entry, Kind
from asynccache.protocols import AsyncCacheBackend, Clock

_KNOWN = 100_000
_PURGED = 8  # so many numbers before a tag's own may be softly good
_DIGITS = 20  # of a number; the store can say anything

Numbers = tuple[tuple[str, int], ...]
_UNUSABLE = 0  # stands for the number of a tag that is being invalidated just now


class _Past(NamedTuple):
    """The numbers before a tag's own that are only purged, and since when, the latest first. They count for as
    long as the tag's mark has the number `mark` (see `Epochs.bump`)."""

    mark: int
    purged: Mapping[int, float]


_OVER = _Past(_UNUSABLE, {})
# A number (None when there is none, or none yet), when it was read, until when nobody need read it again.
_Known = tuple[int | None, float, float]
_UNKNOWN: _Known = (None, inf, inf)  # nobody believes it; but it is not what it was before


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

    backend: the one that is the truth, if it has nearer tiers. Where it can `add` (see `SupportsAdd`), processes
    that name a new tag at the same time agree on its number.
    """

    def __init__(self, backend: AsyncCacheBackend, *, clock: Clock, max_age: float = 1.0) -> None:
        self._backend = backend
        self._add: Callable[[CacheKey, Entry], Awaitable[bool]] | None = getattr(backend, "add", None)
        self._clock = clock
        self.max_age = max_age
        self._lock = Lock()
        self._known: dict[str, _Known] = {}
        self._past: dict[str, _Past] = {}  # of those known tags that were purged softly
        self._moving: dict[str, int] = {}  # tag → how many bumps of it are being written
        self._crossed: set[str] = set()  # those of which several have been at the same time
        self._giving: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Future[int]] = {}

    # -- what becomes of answers ----------------------------------------------------------------------

    def judge(self, numbers: Numbers, now: float) -> str | None:
        """ "" when every tag still has its number, "invalidated" when one has moved on; None when something must
        be read first (see `check`)."""
        known = self._known
        for tag, number in numbers:
            try:
                current, since, until = known[tag]
            except KeyError:
                return None
            if not since <= now <= until:
                return None
            if current != number:
                return None if tag in self._past else "invalidated"
        return ""

    async def check(self, numbers: Numbers, now: float) -> str:
        """The same, reading what must be read; "purged" when tags have moved on, but all of them softly. Raises
        BackendError."""
        end = await self.ended(numbers, now)
        return "" if end == inf else "invalidated" if end == -inf else "purged"

    async def ended(self, numbers: Numbers, now: float) -> float:
        """When the first of these tags was softly purged; inf: none was; -inf: one was invalidated for good. Never
        later than now, nor later than what was said before. Raises BackendError."""
        end = inf
        for tag, number in numbers:
            current, past = await self._current(tag, now)
            if current == number:
                continue
            purged = past.purged.get(number)
            if purged is None or (await self._current(_mark(tag), now))[0] != past.mark:
                return -inf
            end = min(end, purged, now)
        return end

    def moved(self, numbers: Numbers) -> bool:
        """Whether one of these tags has moved on, softly or not, as far as this process has heard. Reads nothing."""
        known = self._known
        return any(number == _UNUSABLE or (tag in known and known[tag][0] != number) for tag, number in numbers)

    def heard(self, names: Iterable[str]) -> Numbers:
        """The numbers of those tags that this process has heard of, however long ago; one that `moved` refuses where
        a bump of its own is under way, or has ended badly. Reads nothing."""
        heard = []
        for tag in names:
            known = self._known.get(tag)
            number = _UNUSABLE if known is _UNKNOWN or tag in self._moving else known and known[0]
            if number is not None:
                heard.append((tag, number))
        return tuple(heard)

    # -- numbers --------------------------------------------------------------------------------------

    async def read(self, names: Iterable[str]) -> Numbers:
        """The numbers to store beside a new answer; a tag that has none gets one.

        Raises BackendError. A tag that is being invalidated just now has a number that `moved` refuses.
        """
        now = self._clock()
        return tuple([(tag, await self._usable(tag, now)) for tag in names])

    async def bump(self, tag: str, *, soft: bool = False) -> int:
        """Give the tag a number it never had: all answers that carry another are over. Raises BackendError; then
        the tag may have it, or may still get it.

        soft: answers that carry the number before, or one of the few before that, are purged instead, unless they
        were over already.

        A soft purge reads the number N, then writes "M mark N". Another process that invalidates the tag in between
        writes H, which that overwrites: N would be good again. The mark prevents it. It is a tag of its own whose
        number is there before a soft purge reads N, and is taken away at the end of every hard bump. It never gets
        the same number again, and N counts only while it has the one that the purge found. So, whatever the order:
          H is written before N is read    N is H, and what was before it is over
          H is written after M             M and N are over
          in between                       the mark was there before H, and is gone when the bump ends: N is over
        Two soft purges at once: one M stays. What carries the other is over before it was used, N is purged.
        """
        now = self._clock()
        past = await self._purging(tag, now) if soft else _OVER
        number = self._new(tag, now, 1)
        await self._move(tag, number, past)
        if not soft:
            await self._move(_mark(tag), None, _OVER)
        return number

    async def _purging(self, tag: str, now: float) -> _Past:
        """What will be before the number that comes next."""
        mark, _ = await self._stored(_mark(tag))
        if mark is None:
            mark = await self._first(_mark(tag))
        number, past = await self._stored(tag)
        if number is None:
            return _OVER
        before = list(past.purged.items()) if past.mark == mark else []
        return _Past(mark, dict([(number, now), *before][:_PURGED]))

    def _new(self, tag: str, now: float, invalidates: int) -> int:
        """The number is new because of its milliseconds and 19 random bits; the last bit says whether it
        invalidates what was before, or is the tag's first."""
        number = (int(now * 1000) << 20) | (random.getrandbits(19) << 1) | invalidates
        known = self._known.get(tag)
        return number + 2 if number == _UNUSABLE or (known is not None and known[0] == number) else number

    async def _move(self, tag: str, number: int | None, past: _Past) -> None:
        """Write the number that ends the one before; None takes that away.

        What it ends is over at once, in this process. But no call may have the new number before it is written:
        it may come to the backend late, after the bump of another process that ends what the call brings, and
        would bring that back.
        """
        now = self._clock()
        with self._lock:
            under_way = self._moving[tag] = self._moving.get(tag, 0) + 1
            if under_way > 1:
                self._crossed.add(tag)
            self._learn(tag, None, past, now)
        written = False
        try:
            if number is None:
                await self._backend.delete(_key(tag))
            else:
                await self._backend.set(_key(tag), _entry(tag, number, past, now))
            written = True
        finally:
            with self._lock:
                self._settle(tag, number, past, now, written)

    def _settle(self, tag: str, number: int | None, past: _Past, now: float, written: bool) -> None:
        """A bump of this process is over. It leaves its number, unless that was not written, or it crossed another
        bump: which of the two came later only the backend knows, and another process may have used the earlier."""
        left = self._moving.pop(tag) - 1
        if left:
            self._moving[tag] = left
        elif written and tag not in self._crossed:
            self._learn(tag, number, past, now)
        else:
            self._crossed.discard(tag)
            self._known[tag] = _UNKNOWN
            self._past.pop(tag, None)

    async def _usable(self, tag: str, now: float) -> int:
        number = (await self._current(tag, now))[0]
        if number is not None:
            return number
        return _UNUSABLE if tag in self._moving else await self._first(tag)

    async def _first(self, tag: str) -> int:
        """Its number, which must be given. One call of an event loop does it for all that ask meanwhile; if it is
        cancelled another one does."""
        loop = asyncio.get_running_loop()
        while (giving := self._giving.get((loop, tag))) is not None:
            await asyncio.wait((giving,))  # which does not cancel it when this caller is cancelled
            if not giving.cancelled():
                return giving.result()
        giving = self._giving[loop, tag] = loop.create_future()
        try:
            number = await self._give(tag)
        except Exception as error:  # they all get what it is
            giving.set_exception(error)
            giving.exception()  # so that asyncio does not report it when nobody else has asked
            raise
        else:
            giving.set_result(number)
            return number
        finally:
            del self._giving[loop, tag]
            giving.cancel()  # unless it is done

    async def _give(self, tag: str) -> int:
        """Give the tag its first number.

        Two processes, A and B, may both find that it has none:
          both add                 one is refused, and reads the other's: no answer is lost
          A bumps it, B adds       B is refused, and reads a number that says that it invalidates
          what is there cannot be read as a number   both are refused, and both set
          without `add` both set   the later one stays, and an answer with the other is over before it was used
          A bumps it, B sets       as above; but that there was an invalidation is lost on those calls under way
                                   that read the tag when they end (see `invalidated_since`)
        """
        now = self._clock()
        before = self._known.get(tag)
        number = self._new(tag, now, 0)
        there, past = await self._put_first(tag, number, _entry(tag, number, _OVER, now))
        with self._lock:
            latest = self._known.get(tag)
            if tag in self._moving:
                return _UNUSABLE
            if latest is before or latest is None:
                self._learn(tag, there, past, now)
                return there
            return latest[0] or there

    async def _put_first(self, tag: str, number: int, entry: Entry) -> tuple[int, _Past]:
        if self._add is not None:
            if await self._add(_key(tag), entry):
                return number, _OVER
            there, past = await self._stored(tag)
            if there is not None:
                return there, past
        await self._backend.set(_key(tag), entry)
        return number, _OVER

    # -- what is known --------------------------------------------------------------------------------

    async def _current(self, tag: str, now: float) -> tuple[int | None, _Past]:
        """The tag's number and what was before it, as of `max_age` seconds before `now` or later.

        While it is read another may learn something of it, and this is what counts:
          a bump of this process is under way when this one asks     what that ends is over: nothing is read
          it was begun meanwhile, or a number is being given         what this one has read; it is not remembered
          it was learned by a reading or a bump that began later     that
          by a reading that began earlier, and took longer           what this one has read
          the same, but this one has found no number                 that one has given it
        """
        giving = asyncio.get_running_loop(), tag
        with self._lock:
            before = self._known.get(tag)
            past = self._past.get(tag, _OVER)
            if tag in self._moving:
                return None, past
            if before is not None:
                number, since, until = before
                if since <= now <= until:
                    return number, past
                limit = since + self.max_age
                if since <= now <= limit:
                    before = self._known[tag] = (number, since, limit)  # while this task reads, others go on
        begun = self._clock()  # which may be long after `now`
        there, past = await self._stored(tag)
        with self._lock:
            latest = self._known.get(tag)
            forgotten = latest is not before and (latest is None or latest is _UNKNOWN)
            if forgotten or tag in self._moving or (there is None and giving in self._giving):
                return there, past
            if latest is not None and latest is not before:
                number, since, _ = latest
                if since >= begun or (there is None and now <= since + self.max_age):
                    return number, self._past.get(tag, _OVER)
            self._learn(tag, there, past, begun)
            return there, self._past.get(tag, _OVER)

    async def _stored(self, tag: str) -> tuple[int | None, _Past]:
        """The number in the backend, and what was before it; None when there is none that can be read."""
        try:
            entry = await self._backend.get(_key(tag))
        except CorruptEntry:
            return None, _OVER
        return (None, _OVER) if entry is None else _parse(entry.body)

    def _learn(self, tag: str, number: int | None, past: _Past, now: float) -> None:
        if len(self._known) >= _KNOWN:
            self._known.clear()
            self._past.clear()
        self._known[tag] = number, now, now + self.max_age / 2
        if past.purged:
            # Clocks of processes may disagree, and this one's may be set back: that prolongs no stale answer's life.
            seen = self._past.get(tag, _OVER).purged
            purged = {old: min(at, now, seen.get(old, inf)) for old, at in past.purged.items()}
            self._past[tag] = _Past(past.mark, purged)
        else:
            self._past.pop(tag, None)


def invalidated_since(numbers: Numbers, when: float) -> bool:
    """Whether one of these is the sign of an invalidation, or a soft purge, in a later millisecond than this. The
    clocks of processes are taken to agree."""
    return any(number & 1 and number >> 20 > int(when * 1000) for _, number in numbers)


def _entry(tag: str, number: int, past: _Past, now: float) -> Entry:
    """ "number", or "number mark old old …", the latest first. An old number was purged when the one that follows
    it was given, which that says."""
    numbers = [number, past.mark, *past.purged] if past.purged else [number]
    return Entry(" ".join(map(str, numbers)).encode(), _kind(tag), now)


def _parse(body: bytes) -> tuple[int | None, _Past]:
    words = body.split(b" ", _PURGED + 2)
    if not all(word.isdigit() and len(word) <= _DIGITS for word in words):
        return None, _OVER
    number, *rest = map(int, words)
    if number == _UNUSABLE:
        return None, _OVER
    mark, *old = rest or [_UNUSABLE]
    return number, _Past(mark, {one: (after >> 20) / 1000 for one, after in zip(old, [number, *old], strict=False)})


def _mark(tag: str) -> str:
    """The name of the tag whose number says whether those before this tag's own still count."""
    return f"mark of {tag}"


def _kind(tag: str) -> Kind:
    """What a whole namespace hangs on is kept before all else. The rest, one for each tag and tenant ever
    named, is as dear as the answers that carry it: losing it ends those, and keeping it for ever would
    in the end leave no room for answers."""
    return "epoch" if tag.endswith(",null,null]") else "completion"


def _key(tag: str) -> CacheKey:
    return CacheKey(sha256(b"asynccache/epoch\0" + tag.encode()).hexdigest())
