"""Read the backend, judge freshness, short-circuit. Reading fails open here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from random import random as _random
from typing import Any, NamedTuple, Self

from asynccache.background import Hedged, Refreshes, Refreshing, cancel, complete, give_up
from asynccache.epochs import Epochs
from asynccache.errors import BackendError, CorruptEntry, NotCached
from asynccache.freshness import Freshness, Life, Random, cut_short, is_outage
from asynccache.model import (
    CacheKey,
    CacheStatus,
    Completion,
    CompletionStream,
    Entry,
    Neighbour,
    Outcome,
    Request,
    Response,
)
from asynccache.pace import Pace, check_pace
from asynccache.protocols import AsyncCacheBackend, Clock, Handler
from asynccache.replay import OtherKind, stream_of, value_of
from asynccache.stats import Stats
from asynccache.streams import close

logger = logging.getLogger("asynccache")


class Found(NamedTuple):
    """What a look-up brought: an answer, or why there is none; and the entry, when it answers, or may
    answer should the upstream fail."""

    response: Response | None
    reason: str = ""
    entry: Entry | None = None


class Lookup:
    """Answers from the backend what it can, and counts how every call ended.

    freshness: what may be served when it is no longer fresh, and what is refreshed behind an answer.
    pace:      how fast a recorded stream comes again.
    max_refreshes: refreshes under way at the same time; beyond them, what is stale is served all the same.
    """

    def __init__(
        self,
        backend: AsyncCacheBackend,
        *,
        tier: str,
        epochs: Epochs,
        stats: Stats,
        clock: Clock,
        freshness: Freshness = Freshness(),  # noqa: B008 (immutable)
        max_refreshes: int = 64,
        pace: Pace = "instant",
        random: Random = _random,
    ) -> None:
        self._get = backend.get
        self._tier = tier
        self._epochs = epochs
        self._stats = stats
        self._clock = clock
        self._freshness = freshness
        self._grace = freshness.grace > 0
        self._early = freshness.early_refresh > 0
        self._random = random
        self._pace = check_pace(pace)
        self._refreshes = Refreshes(max_refreshes, stats)

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        if request.bypass:
            return await self._pass(request, call_next)
        if request.directives.no_cache:
            return await self._miss(request, call_next, "no-cache")
        # The body of `_search`, spelled out for a hit: its frame alone would cost as much as a layer.
        try:
            entry = await self._get(request.key)
            found = _ABSENT
            if entry.__class__ is Neighbour:
                found = await self._nearest(entry, request)
            elif entry is not None:
                now = self._clock()
                reason = self._unfit(entry, request, now)
                if reason is None:
                    reason = await self._epochs.check(entry.tags, now)
                if not reason:
                    response = self._answer(entry, request, now)
                    if self._early:
                        self._refresh_early(entry, request, call_next, now)
                    self._stats.hits += 1
                    return response
                found = await self._outlived(entry, request, now, reason)
        except Exception as error:  # also of a backend that breaks its law: it must not break the call
            found = Found(None, self._failed(error))
        except BaseException:  # cancelled
            self._stats.misses += 1
            raise
        return await self._deliver(found, request, call_next)

    async def find(self, request: Request) -> Response | None:
        """What the backend can answer now, fresh; None when it cannot. Counts nothing: the look-up that
        missed has counted, or the next one will."""
        try:
            if request.find(Hedged) is not None:
                return None
            # By identity alone: what is near was looked for, and decided on, by the look-up that missed.
            key = request.key
            entry = await self._get(CacheKey(key.digest, source=key.source))
            if entry is None:
                return None
            now = self._clock()
            if self._unfit(entry, request, now) or await self._epochs.check(entry.tags, now):
                return None
            refreshing = request.find(Refreshing)
            if refreshing is not None and entry.created <= refreshing.entry.created:
                return None
            return self._answer(entry, request, now)
        except Exception:  # as above
            return None

    async def retire(self) -> None:
        """Give up the refreshes of this event loop."""
        await self._refreshes.aclose()

    async def _search(self, request: Request) -> Found:
        """What the backend has for this request. Raises nothing; counts only failures."""
        try:
            entry = await self._get(request.key)
            if entry is None:
                return _ABSENT
            if isinstance(entry, Neighbour):
                return await self._nearest(entry, request)
            now = self._clock()
            reason = self._unfit(entry, request, now)
            if reason is None:
                reason = await self._epochs.check(entry.tags, now)
            if reason:
                return await self._outlived(entry, request, now, reason)
            return Found(self._answer(entry, request, now), "", entry)
        except Exception as error:  # as above
            return Found(None, self._failed(error))

    async def _nearest(self, found: Neighbour, request: Request) -> Found:
        """The nearest of those that mean the same and may be served: one that may not must not hide the others.
        What is stale is served to those only who ask in its own words."""
        entry: Neighbour | None = found
        reason: str | None = ""
        while entry is not None:
            now = self._clock()
            reason = self._unfit(entry, request, now)
            if reason is None:
                reason = await self._epochs.check(entry.tags, now)
            if not reason:
                return Found(self._answer(entry, request, now, "semantic"))
            over = reason == "invalidated" or (entry.expires is not None and entry.expires <= now)
            entry = None if entry.next is None else await entry.next(over)
        return Found(None, reason or "absent")

    async def _outlived(self, entry: Entry, request: Request, now: float, reason: str) -> Found:
        """What an entry that is not fit may still be good for."""
        if not self._grace or reason not in ("expired", "purged"):
            return Found(None, reason)
        entry = cut_short(entry, await self._epochs.ended(entry.tags, now))
        life = self._life(entry, request, now)
        if life == "over":
            return Found(None, reason)
        if life == "if-error":
            return Found(None, reason, entry)
        return Found(self._answer(entry, request, now, "stale", "stale-while-revalidate"), "", entry)

    async def _deliver(self, found: Found, request: Request, call_next: Handler) -> Response:
        response, reason, entry = found
        if response is None:
            return await self._miss(request, call_next, reason, entry)
        if entry is not None:
            if response.status.outcome == "stale":
                self._refreshes.begin(entry, request, call_next)
            elif self._early:
                self._refresh_early(entry, request, call_next, response.status.now)
        self._stats.count_end(response.status.outcome)
        return response

    def _refresh_early(self, entry: Entry, request: Request, call_next: Handler, now: float) -> None:
        if self._freshness.judge(entry, now, self._random) == "early":
            self._refreshes.begin(entry, request, call_next)

    async def _pass(self, request: Request, call_next: Handler) -> Response:
        self._stats.count_bypass(request.bypass)
        if request.directives.only_if_cached:
            raise NotCached(request.bypass)
        return await call_next(request)

    async def _miss(self, request: Request, call_next: Handler, reason: str, spare: Entry | None = None) -> Response:
        outcome = "miss"
        try:
            if request.directives.only_if_cached:
                raise NotCached(reason)
            response = await (call_next(request) if spare is None else self._call(request, call_next, spare))
            outcome = response.status.outcome
            if outcome == "miss":
                response.status.reason = reason
            return response
        finally:
            self._stats.count_end(outcome)

    async def _call(self, request: Request, call_next: Handler, spare: Entry) -> Response:
        """The upstream's answer; the spare entry's, when an outage prevents that."""
        try:
            response = await call_next(request)
            if isinstance(response, CompletionStream):
                response.chunks = await _begun(response.chunks)
            return response
        except Exception as error:  # what it is decides; any other is raised again
            stale = await self._fall_back(spare, request, error) if is_outage(error) else None
            if stale is None:
                raise
            return stale

    async def _fall_back(self, entry: Entry, request: Request, error: Exception) -> Response | None:
        now = self._clock()
        try:
            # Once more: the call may have taken long, and the entry may have been invalidated meanwhile.
            entry = cut_short(entry, await self._epochs.ended(entry.tags, now))
            if self._life(entry, request, now) == "over":
                return None
            return self._answer(entry, request, now, "stale", f"stale-if-error: {type(error).__name__}")
        except Exception as failure:  # then the caller gets the upstream's error, not this one
            self._failed(failure)
            return None

    def _life(self, entry: Entry, request: Request, now: float) -> Life:
        """Where the entry is in its life, for a call that may want no older one."""
        max_age = request.directives.max_age
        if max_age is not None and now - entry.created >= max_age:
            return "over"
        return self._freshness.judge(entry, now, self._random)

    def _unfit(self, entry: Entry, request: Request, now: float) -> str | None:
        """Why the entry may not be served; "" when it may; None when the epochs must be read first."""
        end = entry.expires if entry.fresh_until is None else entry.fresh_until
        if end is not None and end <= now:
            return "expired"
        max_age = request.directives.max_age
        if max_age is not None and now - entry.created >= max_age:
            return "max-age"
        return self._epochs.judge(entry.tags, now)

    def _answer(
        self, entry: Entry, request: Request, now: float, outcome: Outcome = "hit", reason: str = ""
    ) -> Response:
        """The entry as an answer of this caller's own. Raises ValueError when it cannot be decoded."""
        status = CacheStatus(outcome, reason, self._tier, request.key.digest, entry, now, True)
        if request.params.get("stream"):
            return CompletionStream(status, stream_of(entry, request, self._pace))
        if entry.kind == "stream":
            return Completion(status, value_of(entry, request), entry)
        return Completion(status, request.target.answers.decode(entry), entry)

    def _failed(self, error: Exception) -> str:
        """Count it, and say it in a word. A ValueError is a body that the caller's types refuse."""
        if isinstance(error, OtherKind):
            return "other-kind"
        if isinstance(error, CorruptEntry | ValueError):
            logger.debug("corrupt entry: %s", error)
            self._stats.corrupt += 1
            return "corrupt"
        if isinstance(error, BackendError):
            logger.debug("look-up failed: %s", error)
        else:
            logger.error("the backend broke its law: it raised what is no BackendError", exc_info=error)
        self._stats.read_errors += 1
        return "backend-error"


class HedgedLookup(Lookup):
    """A look-up that waits no longer than `hedge_after` seconds before the upstream is called as well.

    The first to bring an answer wins, and the other is cancelled. A look-up that finds nothing leaves the
    call running; a call that fails leaves the look-up its chance.
    """

    def __init__(self, backend: AsyncCacheBackend, *, hedge_after: float, **options: Any) -> None:
        super().__init__(backend, **options)
        self._hedge_after = hedge_after

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        if request.bypass or request.directives.no_cache or request.directives.only_if_cached:
            return await super().__call__(request, call_next)
        search = asyncio.create_task(self._search(request))
        try:
            await asyncio.wait((search,), timeout=self._hedge_after)
        except BaseException:  # cancelled
            self._stats.misses += 1
            await cancel(search)
            raise
        if search.done():
            return await self._deliver(_result(search), request, call_next)
        return await self._race(search, request, call_next)

    async def _race(self, search: asyncio.Task[Found], request: Request, call_next: Handler) -> Response:
        request.attach(Hedged())
        call = asyncio.create_task(complete(call_next(request)))
        try:
            found = await _first(search, call)
            await cancel(search)
            if found.response is not None:
                await give_up(call)
        except BaseException:  # cancelled
            self._stats.misses += 1
            try:
                await cancel(search)
            finally:
                await give_up(call)
            raise
        if found.response is None:
            return await self._miss(request, lambda _: call, found.reason, found.entry)
        return await self._deliver(found, request, call_next)


_ABSENT = Found(None, "absent")
_HEDGED = Found(None, "hedged")


async def _first(search: asyncio.Task[Found], call: asyncio.Task[Response]) -> Found:
    """What the look-up found, if that is what the caller gets; else why the call answers."""
    await asyncio.wait((search, call), return_when=asyncio.FIRST_COMPLETED)
    if not search.done() and (call.cancelled() or call.exception() is not None):
        await asyncio.wait((search,))
    answered = call.done() and not call.cancelled() and call.exception() is None
    if answered or not search.done():
        return _HEDGED
    return _result(search)


def _result(search: asyncio.Task[Found]) -> Found:
    return Found(None, "backend-error") if search.cancelled() else search.result()


async def _begun(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The same stream, once its first chunk has come. Raises an outage that comes in its place."""
    try:
        return _Begun(chunks, [await chunks.__anext__()])
    except StopAsyncIteration:
        return _Begun(chunks, [])
    except Exception as error:  # an outage is to be answered here; all else belongs to the stream's reader
        if is_outage(error):
            await close(chunks)
            raise
        return _Begun(chunks, [], error)
    except BaseException:
        await close(chunks)
        raise


class _Begun:
    """A stream whose first chunk, or first error, was read ahead."""

    def __init__(self, chunks: AsyncIterator[Any], first: list[Any], error: Exception | None = None) -> None:
        self._chunks = chunks
        self._first = first
        self._error = error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._first:
            return self._first.pop()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return await self._chunks.__anext__()

    async def aclose(self) -> None:
        self._first.clear()
        await close(self._chunks)
