"""Two tiers: a near one that answers at once, over a far one that others share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from threading import Lock

from asynccache.background import cancel
from asynccache.errors import BackendClosed, BackendError, ConfigError
from asynccache.guard import guarded
from asynccache.loops import PerLoop
from asynccache.model import CacheKey, Entry, Neighbour
from asynccache.protocols import AsyncCacheBackend, Changes, Clock, Leases, SupportsLeave, SupportsPing, Told

NAME = "dual"
logger = logging.getLogger("asynccache")

_TRUSTED = 1_000_000  # keys in the near tier that may be known to be good


@dataclass(slots=True)
class DualStats:
    """Counters since the backend was made. They only go up."""

    l1_hits: int = 0
    l2_hits: int = 0
    misses: int = 0
    l1_errors: int = 0
    """Failures of the near tier: the far one was asked in its place."""
    told: int = 0
    """Changes by other processes that were heard of."""


class DualBackend:
    """Keeps entries in two tiers. `l1` is near (memory, disk), `l2` is far and shared (Redis, an object store).

    l1, l2:    any backends; each may be a `DualBackend` itself. They are closed with this one. A remote one gets a
               guard with its own time budget. `l1` belongs to this object alone: no other may write there.
    max_stale: seconds an entry may be read from `l1` before `l2` is asked again: so long, at most, is a change
               by another process not seen. Where `l2` tells of changes (Redis does) it is seen at once, and this
               bounds what happens when the news is lost. In a `DualBackend` over another the two bounds add up.
    clock:     tells when that time is over, and whether an entry in `l1` has had its life.

    An entry that is found in `l2` is put into `l1` as it is: its times are absolute, so it has there what is left
    of its life. Writing and deleting reach both tiers before they return; when `l2` fails the error is raised,
    and `l1` has the entry all the same. A failure of `l1` is counted, and `l2` asked.

    What is in `l1` counts only if this object put it there and has heard nothing since. So nothing must be cleared
    when the news of changes was cut off: it is enough to trust nothing any more.

    May be used from several event loops and threads at once, if both tiers may.
    """

    def __init__(
        self,
        l1: AsyncCacheBackend,
        l2: AsyncCacheBackend,
        *,
        max_stale: float = 60.0,
        clock: Clock = time.time,
    ) -> None:
        if isinstance(max_stale, bool) or not isinstance(max_stale, int | float) or not max_stale > 0:
            raise ConfigError(f"max_stale={max_stale!r}: seconds are wanted, more than 0")
        if l1 is l2:
            raise ConfigError("l1 and l2 are the same backend: two are wanted")
        self.l1 = guarded(l1, "l1")
        self.l2 = guarded(l2, "l2")
        self.max_stale = max_stale
        self.stats = DualStats()
        self._clock = clock
        self._near = self.l1.get
        self._closed = False
        self._lock = Lock()  # of the two that follow
        # Digest → since when what `l1` has is what `l2` had. The oldest is in front.
        self._trusted: OrderedDict[str, float] = OrderedDict()
        # Digest → those who may be about to fill `l1` under it.
        self._fills: dict[str, set[_Fill]] = {}
        self._above: list[Told] = []  # who is told what was heard here
        self._listeners: PerLoop[_Listener] = PerLoop(self._listener, _Listener.aclose)

    def __repr__(self) -> str:
        return f"DualBackend({self.l1!r}, {self.l2!r})"

    async def get(self, key: CacheKey, /) -> Entry | None:
        since = self._trusted.get(key.digest)
        if since is None:
            return await self._read(key)
        now = self._clock()
        if 0 <= now - since < self.max_stale:  # a clock that was set back says nothing
            try:
                entry = await self._near(key)
                # One that is over may have been renewed by others.
                if entry is not None and not _is_over(entry, now):
                    self.stats.l1_hits += 1
                    return entry
            except BackendError as error:
                self._l1_failed(error)
        # Evicted, over, or too old to be believed: it is to be filled again.
        with self._lock:
            if self._trusted.get(key.digest) == since:
                del self._trusted[key.digest]
        return await self._read(key)

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        self._listen()
        with self._may_fill(key, writes=True) as fill:
            near = await self._fill(key, entry)
            failure: BackendError | None = None
            try:
                await self.l2.set(key, entry)
            except BackendError as error:  # raised below: the answer is good all the same, and `l1` has it
                failure = error
            if near:
                self._trust(fill)
        if failure is not None:
            raise failure

    async def delete(self, key: CacheKey, /) -> bool:
        self._listen()
        since = self._trusted.get(key.digest)
        self._changed(key.digest)
        near = False
        try:
            try:
                near = await self.l1.delete(key)
            except BackendError as error:  # it is not read any more
                self._l1_failed(error)
            far = await self.l2.delete(key)
        finally:
            self._changed(key.digest)  # for those who have read `l2` meanwhile; also when it is not known what it did
        return far or (near and since is not None and 0 <= self._clock() - since < self.max_stale)

    async def ping(self) -> None:
        """Ask both tiers. Raises BackendError."""
        self._check_open()
        for tier in (self.l1, self.l2):
            if isinstance(tier, SupportsPing):
                await tier.ping()

    @property
    def far(self) -> AsyncCacheBackend:
        """The tier that is the truth: the farthest. Epochs are read there only."""
        far: AsyncCacheBackend = getattr(self.l2, "far", self.l2)
        return far

    @property
    def leases(self) -> Leases | None:
        leases: Leases | None = getattr(self.l2, "leases", None)
        return leases

    @property
    def changes(self) -> Changes | None:
        """Those of `l2`, each told when it has been heeded here: so a tier above cannot be filled with what this one
        is about to forget."""
        return None if self._news() is None else _Heeded(self)

    async def leave(self) -> None:
        await self._listeners.leave()
        for tier in (self.l1, self.l2):
            if isinstance(tier, SupportsLeave):
                await tier.leave()

    async def aclose(self) -> None:
        """Close both tiers."""
        self._closed = True
        try:
            await self._listeners.aclose()
        finally:
            try:
                await self.l1.aclose()
            finally:
                await self.l2.aclose()

    # -- filling the near tier ------------------------------------------------------------------------

    async def _read(self, key: CacheKey) -> Entry | None:
        """Read `l2`, and fill `l1` with what is found.

        The key may be changed meanwhile, and this is what happens:
          before `l2` is read             what is read is the new entry, or none
          after it, until `l1` is filled  `l1` is not filled
          while `l1` is filled            it has the old entry, which is not trusted; nor is, until that is done,
                                          what anybody else puts there
          after that                      the trust is taken back
        For a change by another process, "after" is when it is heard of. While this one writes, nobody who reads
        fills `l1`. Of several who read at the same time, one fills it.
        """
        self._listen()
        with self._may_fill(key, writes=False) as fill:
            entry = await self.l2.get(key)
            if entry is None:
                self.stats.misses += 1
                return None
            self.stats.l2_hits += 1
            if isinstance(entry, Neighbour):
                return entry  # another key's: it may be over before that is known here
            if not _is_over(entry, self._clock()) and self._begin(fill) and await self._fill(key, entry):
                self._trust(fill)
            return entry

    async def _fill(self, key: CacheKey, entry: Entry) -> bool:
        try:
            await self.l1.set(key, entry)
        except BackendError as error:  # too large for it, or it is full: `l2` has it
            self._l1_failed(error)
            return False
        return True

    @contextmanager
    def _may_fill(self, key: CacheKey, *, writes: bool) -> Iterator[_Fill]:
        """For as long as somebody may fill `l1`: a write, or a read from before it asks `l2` on."""
        fill = _Fill(key.digest, self._clock(), writes)
        with self._lock:
            others = self._fills.setdefault(fill.digest, set())
            fill.sure = not any(other.writes or (writes and other.fills) for other in others)
            if writes:
                self._distrust(fill.digest)
            others.add(fill)
        try:
            yield fill
        finally:
            with self._lock:
                others.discard(fill)
                if not others:
                    del self._fills[fill.digest]

    def _begin(self, fill: _Fill) -> bool:
        """Whether one who has read `l2` is to fill `l1`."""
        with self._lock:
            others = self._fills[fill.digest]
            fill.fills = fill.sure and fill.digest not in self._trusted and not any(other.fills for other in others)
            return fill.fills

    def _trust(self, fill: _Fill) -> None:
        """From now on, what was put into `l1`; unless it may be something else than what `l2` has."""
        trusted, now = self._trusted, self._clock()
        with self._lock:
            if not fill.sure:
                return
            trusted[fill.digest] = fill.since
            while len(trusted) > _TRUSTED or next(iter(trusted.values())) + self.max_stale <= now:
                trusted.popitem(last=False)
                if not trusted:
                    return

    def _changed(self, digest: str) -> None:
        with self._lock:
            self._distrust(digest)

    def _distrust(self, digest: str) -> None:
        self._trusted.pop(digest, None)
        for fill in self._fills.get(digest, ()):
            fill.sure = False

    def _l1_failed(self, error: BackendError) -> None:
        logger.debug("the near tier failed: %s", error)
        self.stats.l1_errors += 1

    # -- changes by others ----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosed("used after aclose()", backend=NAME)

    def _news(self) -> Changes | None:
        news: Changes | None = getattr(self.l2, "changes", None)
        return news

    def _listen(self) -> _Listener:
        self._check_open()
        return self._listeners.here()

    def _listener(self) -> _Listener:
        return _Listener(self._news(), self._told)

    def _told(self, digest: str | None) -> None:
        if digest is not None:
            self.stats.told += 1
            self._changed(digest)
        else:
            with self._lock:
                self._trusted.clear()
                for fills in self._fills.values():
                    for fill in fills:
                        fill.sure = False
        for told in tuple(self._above):
            told(digest)


@dataclass(slots=True, eq=False)
class _Fill:
    """Somebody who may fill the near tier.

    since: what it puts there is what the far tier had, or got, at this time or later.
    fills: whether it is doing so.
    sure:  whether nobody has changed that since, and nobody else puts something there at the same time.
    """

    digest: str
    since: float
    writes: bool
    fills: bool = False
    sure: bool = True

    def __post_init__(self) -> None:
        self.fills = self.writes


class _Listener:
    """Hears of changes for as long as it lives, on one event loop.

    hears: whether the news has begun to come.
    """

    def __init__(self, news: Changes | None, told: Told) -> None:
        self._told = told
        self.hears = False
        self._task = None if news is None else asyncio.create_task(self._hear(news), name="asynccache-changes")

    async def aclose(self) -> None:
        if self._task is not None:
            await cancel(self._task)

    async def _hear(self, news: Changes) -> None:
        try:
            async with news.listen(self._tell):
                await asyncio.get_running_loop().create_future()  # until it is cancelled
        except Exception as error:  # of a backend that breaks its law: nobody else is there to say so
            logger.error("there is no news of changes: the backend broke its law", exc_info=error)
        finally:
            self._tell(None)  # from here on nothing is heard

    def _tell(self, digest: str | None) -> None:
        self.hears = True
        self._told(digest)


class _Heeded:
    """The changes that a `DualBackend` has heard of."""

    def __init__(self, dual: DualBackend) -> None:
        self._dual = dual

    @asynccontextmanager
    async def listen(self, told: Told, /) -> AsyncIterator[None]:
        listener = self._dual._listen()
        self._dual._above.append(told)
        try:
            if listener.hears:
                told(None)
            yield
        finally:
            self._dual._above.remove(told)


def _is_over(entry: Entry, now: float) -> bool:
    end = entry.expires if entry.fresh_until is None else entry.fresh_until
    return end is not None and end <= now


BACKEND = DualBackend
