"""A cache beside calls that somebody else makes: its pipeline in two halves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from asynccache.errors import BackendError, NotCached
from asynccache.model import CacheKey, CacheStatus, Completion, Directives, Request, Response, Target
from asynccache.pipeline import compose
from asynccache.protocols import Clock, Handler, Parts, Split, Stage
from asynccache.stages.build_key import BuildKey
from asynccache.stages.coalesce import Coalesce
from asynccache.stages.elements import Elements, ElementsStatus
from asynccache.stages.lookup import Lookup
from asynccache.stages.negative import Negative
from asynccache.stages.observe import Observe
from asynccache.stages.store import Began
from asynccache.stats import Stats

logger = logging.getLogger("asynccache")


class CacheAside:
    """A cache for a framework that makes its calls itself, and only asks before and tells afterwards.
    `Cache.aside()` makes one; adapters are written with it.

        request = aside.request(target, {"model": …, "messages": …})
        began = aside.now()
        found = await aside.read(request)
        if found is None:
            answer = …                                   # the framework's call
            await aside.write(request, answer, began)

    Keys, entries, hooks and admission are those of a call that is wrapped with the same target, whose `call` is never
    called. Neither half ever fails a call: what goes wrong in it, in hooks and stages as well, is logged, and counts
    in `read_errors` or `write_errors`. Only cancellation gets through.

    Reading is the whole pipeline under `only-if-cached`. Writing is the pipeline without what would answer in the
    place of a call (looking up, coalescing, remembered errors), around an upstream that has the answer at hand. So it
    is with stages of the user's own: one that stands before the look-up runs in both halves, one after it when an
    answer is written. What they find beneath them is the entry, or NotCached, in the one half; the answer in the other.
    Pre-hooks run in both halves, post-hooks on what is read, and on what is written before it is.

    A call about several things, such as embeddings of a list of texts, is answered when there is an answer about each,
    and each is kept by itself.

    Stats: a reading counts as a call that ended (`hits`, `stale`, `misses` or `bypassed`), a writing in `stored`, or in
    `rejected`. So it is with observers: they are told of a call when it is read, and of what the framework's own has
    cost when that is written, text by text; how long it took, the cache does not know.

    Identical calls at the same time are each made, since the cache does not see them. What is served stale is not
    refreshed behind it.
    """

    def __init__(
        self,
        stages: Iterable[Stage],
        *,
        directives: Callable[[Mapping[str, Any] | None], Directives],
        key: Callable[[Mapping[str, Any], Target, Directives], CacheKey],
        supports: Callable[[Target], bool],
        as_sync: Callable[..., Callable[..., Any]],
        stats: Stats,
        clock: Clock,
    ) -> None:
        stages = list(stages)
        self._reading = compose(_keeping(stages), _absent)
        self._writing = compose(_keeping(_without_answers(stages, stats)), _given)
        self._directives = directives
        self._key = key
        self._supports = supports
        self._as_sync = as_sync
        self._stats = stats
        self._clock = clock

    def now(self) -> float:
        """Seconds since the epoch, by the cache's clock."""
        return self._clock()

    def request(self, target: Target, params: Mapping[str, Any], control: Mapping[str, Any] | None = None) -> Request:
        """A call of the framework's, as the cache sees it.

        control: what a call of its own says to the cache, as in `cache={…}`. Raises ConfigError, as a wrapped call
        does, for one that is wrong; to keep the cache out of the call, set `request.bypass` to the reason.
        """
        request = Request(dict(params), self._directives(control), target)
        if not self._supports(target):
            request.bypass = "call-type"
        return request

    def key(self, request: Request) -> CacheKey:
        """The key under which the answer is kept, unless hooks change the arguments: they do not run. One about
        several things is kept under the keys of calls about each, and never under this one. Raises ConfigError as
        `Cache.get_cache_key` does."""
        return self._key(request.params, request.target, request.directives)

    async def read(self, request: Request) -> Response | None:
        """What is kept for this call; None when there is nothing, or it is not to be read. The value is the caller's
        own, and `target.answers` carries its status.

        Afterwards the request has its key. One that it was given before (`request.key = CacheKey(…)`) stays.
        """
        asked = _own(request, only_if_cached=True)
        try:
            return await self._reading(asked)
        except NotCached:
            return None
        except Exception as error:  # a cache that fails must not fail the call
            self._stats.read_errors += 1
            _log(error)
            return None
        finally:
            if asked.digest:
                request.key = asked.key

    async def write(self, request: Request, value: Any, began: float | None = None) -> bool:
        """Keep what the call was answered, as the framework got it. True when it was stored.

        request: the one that was read, where there still is one: then the answer is kept under the key that was looked
                 up, and not at all if the arguments have changed since. Else another of the same call.
        began:   when the call began, or a moment before, by `now()`: what was invalidated since then is not stored.
                 None: nobody knows, and an answer may outlive an invalidation that it was under way for.
        """
        given = _own(request, only_if_cached=False)
        given.attach(_Answer(value))
        if began is not None:
            given.attach(Began(began))
        try:
            return (await self._writing(given)).status.stored
        except Exception as error:  # as above
            self._stats.write_errors += 1
            _log(error)
            return False

    def as_sync(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """An async function around `read` or `write` as one that blocks, for sync frameworks. On the cache's own
        thread, where a hook may call what the framework caches, it does nothing and returns None."""
        return self._as_sync(_nothing, function)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a call was answered."""

    value: Any


class _KeepKey:
    """BuildKey, for requests of which some come with a key."""

    def __init__(self, build: BuildKey) -> None:
        self._build = build

    def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        if request.bypass or not request.digest:
            return self._build(request, call_next)
        if request.target.keep_out is not None:
            request.bypass = request.target.keep_out(request.params)
        for part in request.key.source:
            if isinstance(part, Directives):  # of the tenant that the key builder found
                request.directives = replace(request.directives, namespace=part.namespace, tenant=part.tenant)
        return call_next(request)


class _Divide:
    """In the place of Elements: writes an answer about several things as one about each. Of those that are equal, the
    first counts. An answer that has not one part for each is not stored."""

    def __init__(self, build: Iterable[BuildKey], stats: Stats) -> None:
        self._build = tuple(build)
        self._stats = stats

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        parts = request.target.call_type.parts
        split = None if parts is None or request.bypass else parts.split(request.params)
        if parts is None or split is None:
            return await call_next(request)
        answer = request.find(_Answer)
        assert answer is not None
        try:
            pieces = _pieces(answer.value, request.params, parts, split)
        except (TypeError, ValueError) as error:
            logger.debug("not stored: %s", error)
            self._stats.count_rejection("answer-type")
            return Completion(CacheStatus("miss", key=request.digest), answer.value)
        each = compose(self._build, call_next)
        began, writes = request.find(Began), []
        for thing, piece in zip(split.things, pieces, strict=True):
            alone = Request(parts.alone(request.params, thing), request.directives, request.target)
            alone.attach(_Answer(piece))
            if began is not None:
                alone.attach(began)
            writes.append(each(alone))
        # One that fails is no reason to keep none of the others.
        done = await asyncio.gather(*writes, return_exceptions=True)
        statuses = []
        for response in done:
            if isinstance(response, BaseException):
                raise response
            statuses.append(response.status)
        return Completion(ElementsStatus(statuses), answer.value)


def _pieces(value: Any, params: Mapping[str, Any], parts: Parts, split: Split) -> list[Any]:
    """What a call about each of the things would have been answered."""
    alone = [parts.alone(params, thing) for thing in split.things]
    divided = parts.divide(value, [alone[place] for place in split.places])
    return [divided[split.places.index(place)] for place in range(len(alone))]


def _keeping(stages: Iterable[Stage]) -> Iterator[Stage]:
    for stage in stages:
        yield _KeepKey(stage) if isinstance(stage, BuildKey) else stage


def _without_answers(stages: list[Stage], stats: Stats) -> Iterator[Stage]:
    """Those around an upstream that has the answer at hand: nothing is to answer in its place, nor to tell of a call
    that the reading has told of."""
    for stage in stages:
        if isinstance(stage, Elements):
            yield _Divide([build for build in stages if isinstance(build, BuildKey)], stats)
        elif not isinstance(stage, Lookup | Negative | Coalesce | Observe):
            yield stage


def _own(request: Request, *, only_if_cached: bool) -> Request:
    """The same call, for one half: what happens to it there is not to be seen in the other."""
    own = Request(dict(request.params), replace(request.directives, only_if_cached=only_if_cached), request.target)
    own.bypass = request.bypass
    if request.digest:
        own.key = request.key
    return own


async def _given(request: Request) -> Response:
    """In the upstream's place: the answer that the framework has got."""
    answer = request.find(_Answer)
    assert answer is not None
    status = CacheStatus("bypass" if request.bypass else "miss", request.bypass, key=request.digest)
    return Completion(status, answer.value)


async def _absent(request: Request) -> Response:
    raise NotCached(request.bypass or "absent")


def _log(error: Exception) -> None:
    if isinstance(error, BackendError):
        logger.debug("the call goes on without its cache: %s", error)
    else:
        logger.error("the call goes on without its cache", exc_info=error)


def _nothing(*_: Any, **__: Any) -> None:
    """Where the cache cannot be waited for."""
