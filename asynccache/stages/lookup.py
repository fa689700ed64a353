"""Read the backend, judge freshness, short-circuit. Reading fails open here and nowhere else."""

from __future__ import annotations

import logging

from asynccache.epochs import Epochs
from asynccache.errors import BackendError, CorruptEntry
from asynccache.model import CacheStatus, Completion, CompletionStream, Entry, Request, Response
from asynccache.protocols import AsyncCacheBackend, Clock, Handler
from asynccache.stats import Stats
from asynccache.streams import Replay, split

logger = logging.getLogger("asynccache")


class Lookup:
    """Answers from the backend what it can, and counts how every call ended."""

    def __init__(self, backend: AsyncCacheBackend, *, tier: str, epochs: Epochs, stats: Stats, clock: Clock) -> None:
        self._get = backend.get
        self._tier = tier
        self._epochs = epochs
        self._stats = stats
        self._clock = clock

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        if request.bypass:
            self._stats.count_bypass(request.bypass)
            return await call_next(request)
        if request.directives.no_cache:
            return await self._miss(request, call_next, "no-cache")
        # The body of `find`, spelled out: its frame alone would cost a hit as much as a layer.
        try:
            entry = await self._get(request.key)
            reason: str | None = "absent"
            if entry is not None:
                now = self._clock()
                reason = self._unfit(entry, request, now)
                if reason is None:
                    reason = await self._epochs.check(entry.tags, now)
                if not reason:
                    response = self._answer(entry, request, now)
                    self._stats.hits += 1
                    return response
        except Exception as error:  # also of a backend that breaks its law: it must not break the call
            reason = self._failed(error)
        except BaseException:  # cancelled
            self._stats.misses += 1
            raise
        return await self._miss(request, call_next, reason or "")

    async def find(self, request: Request) -> Response | None:
        """What the backend can answer now; None when it cannot. Counts nothing: the look-up that missed
        has counted, or the next one will."""
        try:
            entry = await self._get(request.key)
            if entry is None:
                return None
            now = self._clock()
            if self._unfit(entry, request, now) or await self._epochs.check(entry.tags, now):
                return None
            return self._answer(entry, request, now)
        except Exception:  # as above
            return None

    async def _miss(self, request: Request, call_next: Handler, reason: str) -> Response:
        outcome = "miss"
        try:
            response = await call_next(request)
            outcome = response.status.outcome
            if outcome == "miss":
                response.status.reason = reason
            return response
        finally:
            self._stats.count_end(outcome)

    def _unfit(self, entry: Entry, request: Request, now: float) -> str | None:
        """Why the entry may not be served; "" when it may; None when the epochs must be read first."""
        end = entry.expires if entry.fresh_until is None else entry.fresh_until
        if end is not None and end <= now:
            return "expired"
        max_age = request.directives.max_age
        if max_age is not None and now - entry.created >= max_age:
            return "max-age"
        if (entry.kind == "stream") is not bool(request.params.get("stream")):
            return "other-kind"
        return self._epochs.judge(entry.tags, now)

    def _answer(self, entry: Entry, request: Request, now: float) -> Response:
        """The entry as an answer of this caller's own. Raises ValueError when it cannot be decoded."""
        answers = request.target.answers
        status = CacheStatus("hit", "", self._tier, request.key.digest, entry, now, True)
        if entry.kind == "stream":
            return CompletionStream(status, Replay(split(entry.body), answers.decode_chunk))
        return Completion(status, answers.decode(entry), entry)

    def _failed(self, error: Exception) -> str:
        """Count it, and say it in a word. A ValueError is a body that the caller's types refuse."""
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
