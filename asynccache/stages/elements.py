"""Calls about several things at a time, answered thing by thing: embeddings of a list of texts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from asynccache.batches import Batch, Whole
from asynccache.model import CacheStatus, Completion, Outcome, Request, Response
from asynccache.pipeline import compose
from asynccache.protocols import Handler, Parts, Split, Stage
from asynccache.stats import Stats
from asynccache.streams import close

_Found = tuple[CacheStatus, Any]
_TURN = 50  # look-ups, after which others have a right to the event loop


class Elements:
    """Takes a call about several things apart, and stands before the look-up of all others.

    Each thing is looked up, coalesced and stored as if it had been asked for alone, so that lists which overlap
    share their entries and what is under way. Only what is missing goes to the upstream, in one call. Things
    that are equal are asked for once. When one of them fails, the call fails with its error.

    A reply that has not one answer for each thing is passed on and not stored. A function whose replies have
    another shape altogether has its lists kept whole from then on.

    lookup: the stage for calls about one thing.
    each:   the stages for one thing of several, up to its look-up; they count no calls, since it is none.
    stats:  counts the call, once.
    at_once: whether look-ups wait for something: then all are begun at the same time, so that a backend that gathers
             reads can; else one after another, for as long as none of them has to wait, which saves the tasks.
    """

    def __init__(self, lookup: Stage, each: Sequence[Stage], *, stats: Stats, at_once: bool) -> None:
        self._lookup = lookup
        self._each = tuple(each)
        self._stats = stats
        self._at_once = at_once
        self._kept_whole: set[bytes] = set()

    # A plain function, as in BuildKey.
    def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        parts = request.target.call_type.parts
        if parts is not None and not request.bypass and request.target.head not in self._kept_whole:
            split = parts.split(request.params)
            if split is not None:
                return self._answer(request, call_next, parts, split)
        return self._lookup(request, call_next)

    async def retire(self) -> None:
        """Give up what goes on behind answers on this event loop."""
        for stage in (self._lookup, *self._each):
            if (act := getattr(stage, "retire", None)) is not None:
                await act()

    async def _answer(self, request: Request, call_next: Handler, parts: Parts, split: Split) -> Response:
        outcome: Outcome = "miss"
        try:
            response = await self._united(request, call_next, parts, split)
            outcome = response.status.outcome
            return response
        finally:
            self._stats.count_end(outcome)

    async def _united(self, request: Request, call_next: Handler, parts: Parts, split: Split) -> Response:
        found = await self._look_up(request, call_next, parts, split)
        status = ElementsStatus([found[place][0] for place in split.places])
        values = [value for _, value in found]
        whole = next((value for value in values if isinstance(value, Whole)), None)
        if whole is None:
            try:
                latest = next((place for place, (how, _) in enumerate(found) if how.outcome == "miss"), 0)
                return Completion(status, parts.unite(values, split.places, latest))
            except TypeError:  # answers to calls about one thing, of a function with a shape of its own
                self._kept_whole.add(request.target.head)
            except ValueError:
                pass
        elif not whole.known:
            self._kept_whole.add(request.target.head)
        if whole is not None and whole.requests == len(split.places):
            return Completion(CacheStatus("miss", status.reason), whole.value)
        # What came is not the answer to this call: it was about a part of it.
        unkept = Request(request.params, replace(request.directives, no_store=True), request.target)
        unkept.key = request.key
        response = await call_next(unkept)
        response.status.reason = status.reason
        return response

    async def _look_up(self, request: Request, call_next: Handler, parts: Parts, split: Split) -> list[_Found]:
        batch = Batch(request, parts)
        target = replace(request.target, call=batch)
        answer = compose(self._each, call_next)
        found: list[Any] = [None] * len(split.things)
        batch.expect(len(found))

        async def look_up(place: int) -> None:
            # All but its answer goes as soon as that is there, so that a thousand do not keep the collector busy.
            alone = Request(parts.alone(request.params, split.things[place]), request.directives, target)
            batch.begin(alone, place)
            try:
                response = await answer(alone)
            except BaseException:
                batch.given_up(alone)
                raise
            batch.done(alone)
            found[place] = response.status, await _value(response)

        if len(found) == 1:
            await look_up(0)
        else:
            await self._all(look_up, deque(range(len(found))))
        return found

    async def _all(self, look_up: Callable[[int], Coroutine[Any, Any, None]], waiting: deque[int]) -> None:
        """All of them. At the first failure the others are given up; if this is given up, all are."""

        async def some() -> None:
            for _ in range(_TURN):
                if waiting:
                    await look_up(waiting.popleft())

        failure: BaseException | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                while waiting and not self._at_once:
                    tasks.append(group.create_task(some()))
                    await asyncio.sleep(0)  # in which it is done, unless one of them has to wait
                    if not tasks[-1].done():
                        break
                while waiting:
                    tasks.append(group.create_task(look_up(waiting.popleft())))
        except BaseExceptionGroup as failures:
            failure = failures.exceptions[0]
        if failure is not None:
            raise failure
        if any(task.cancelled() for task in tasks):
            raise asyncio.CancelledError  # the upstream has cancelled itself


async def _value(response: Response) -> Any:
    if isinstance(response, Completion):
        return response.value
    await close(response.chunks)  # nobody has asked for a stream
    return Whole(None, 0, False)


class ElementsStatus(CacheStatus):
    """The status of an answer that was put together.

    outcome:  "hit" when all parts were; "miss" when one of them had to be asked for; else the least of them.
    reason:   how many came from the cache, such as "partial: 3 of 5", if some but not all did.
    key:      "": the list has no entry of its own, but for a list of one thing.
    age, ttl: of the oldest part, and of the one that ends first.
    elements: the status of each part, in the order of the things in the call.
    """

    def __init__(self, elements: Sequence[CacheStatus]) -> None:
        self.elements = tuple(elements)
        outcomes = [status.outcome for status in elements]
        least = max(elements, key=lambda status: _RANK[status.outcome])
        found = sum(_RANK[outcome] < _RANK["miss"] for outcome in outcomes)
        if _RANK[least.outcome] == _RANK["coalesced"]:
            found = sum(_RANK[outcome] < _RANK["coalesced"] for outcome in outcomes)
        partial = 0 < found < len(outcomes) and _RANK[least.outcome] >= _RANK["coalesced"]
        key = elements[0].key if len(elements) == 1 else ""
        tier = next((status.tier for status in elements if status.tier), "")
        super().__init__(least.outcome, f"partial: {found} of {len(outcomes)}" if partial else least.reason, tier, key)

    @property
    def age(self) -> float:
        return max(status.age for status in self.elements)

    @property
    def ttl(self) -> float | None:
        if not self.stored:
            return None
        return min((status.ttl for status in self.elements if status.ttl is not None), default=None)

    @property
    def stored(self) -> bool:
        return all(status.stored for status in self.elements)

    @stored.setter
    def stored(self, _: bool) -> None:
        """Each part knows for itself."""


_RANK: dict[Outcome, int] = {"hit": 0, "semantic": 0, "stale": 1, "coalesced": 2, "miss": 3, "bypass": 3}


class _Shared:
    """A counter that is another's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, stats: Any, owner: type) -> Any:
        return self if stats is None else getattr(stats.shared, self._name)

    def __set__(self, stats: Any, value: int) -> None:
        setattr(stats.shared, self._name, value)


class ElementStats(Stats):
    """Counters for look-ups that are no calls: how they end is nobody's business, what fails counts with all else."""

    corrupt: Any = _Shared()
    read_errors: Any = _Shared()
    refreshes: Any = _Shared()
    refresh_errors: Any = _Shared()

    def __init__(self, shared: Stats) -> None:
        self.shared = shared
        own = [name for name, value in vars(ElementStats).items() if isinstance(value, _Shared)]
        super().__init__(**{name: getattr(shared, name) for name in own})
