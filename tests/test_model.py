"""A great many generated operations on two caches over one store, against a simple model.

What must hold of every answer, whatever happened before:
  it was made for the one who gets it: no answer crosses a tenant, a namespace or a question
  it was asked for after every invalidation of its tags by the same process, and after every one by the other
  process that is longer ago than the stated bound
  it is a hit only before its ttl is over and its tags are purged, and stale only as long after that as allowed
  a deleted one is gone
And where nothing fails and nobody is in the way: what should be there is there.

ASYNCCACHE_MODEL_OPERATIONS is the number of operations, over all worlds.
"""

from __future__ import annotations

import asyncio
import os
from bisect import insort
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

import pytest

from asynccache import Cache, NotCached, status
from asynccache.backends.memory import MemoryBackend
from asynccache.errors import BackendError, BackendTimeout, BackendUnavailable
from asynccache.model import CacheKey, Entry, Request, Response
from asynccache.protocols import AsyncCacheBackend
from asynccache.testing import FakeClock

OPERATIONS = int(os.environ.get("ASYNCCACHE_MODEL_OPERATIONS", "60000"))
SEED = int(os.environ.get("ASYNCCACHE_MODEL_SEED", "1"))

BOUND = 1.0  # seconds an invalidation by another process may go unnoticed
SWR, SIE = 4.0, 12.0
PLACES = [(namespace, tenant) for namespace in ("", "n") for tenant in (None, "t", "u")]
TTLS = (None, 8.0, 40.0)
TAGS: tuple[tuple[str, ...], ...] = ((), ("a",), ("b",), ("a", "b"))
HOOKED = "h"  # a tag that only a hook knows, of every fifth question
MAX_AGE = 3.0
CONTROLS: tuple[dict[str, Any], ...] = (
    {"no-cache": True},
    {"no-store": True},
    {"only-if-cached": True},
    {"s-maxage": MAX_AGE},
)

Place = tuple[str, str | None]
Scope = tuple[str, str | None, str | None]  # namespace, tenant and tag; None: all of them
Call = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class WorldKind:
    """What the caches stand on.

    workers: callers at the same time. capacity: entries that the store has room for. adds: whether it can `add`.
    turns:   share of operations of the store in which others run. failing: share of those that fail.
    places, questions: how many are asked. ends: share of operations that invalidate or purge.
    """

    workers: int = 1
    capacity: int | None = None
    adds: bool = True
    turns: float = 0.0
    failing: float = 0.0
    hooks: bool = False
    places: int = len(PLACES)
    questions: int = 12
    ends: float = 0.03

    @property
    def exact(self) -> bool:
        return self.workers == 1 and self.capacity is None and not self.failing


WORLDS = {
    "alone": WorldKind(hooks=True),
    "together": WorldKind(workers=8, turns=0.5, hooks=True),
    "without add": WorldKind(workers=8, turns=0.5, adds=False),
    "crowded": WorldKind(workers=4, turns=0.2, capacity=40),
    "failing": WorldKind(workers=8, turns=0.5, failing=0.05),
    "in dispute": WorldKind(workers=8, turns=0.6, failing=0.08, places=2, questions=4, ends=0.2),
}


@dataclass(frozen=True, slots=True)
class Birth:
    """When the upstream was asked for an answer (a place in the order of events, and a time), and by whom."""

    at: int
    time: float
    end: float
    process: int


@dataclass(frozen=True, slots=True, order=True)
class End:
    """An invalidation: when it began and was done in the order of events, when it was done, and by whom."""

    begun: int
    done: int
    time: float
    process: int
    soft: bool

    def is_known(self, process: int, asked: int, time: float) -> bool:
        """Whether a process must act upon it that is asked at this moment."""
        return self.done < asked and (self.process == process or self.time + BOUND < time)


async def others_run(random: Callable[[], float], chance: float) -> None:
    """For some turns of the event loop, each as likely as the next to be the last."""
    for _ in range(1_000):
        if random() >= chance:
            return
        await asyncio.sleep(0)


class Backend:
    """A store far away: others run while it works, and some of what it is asked fails: before it is done, after
    it, or so that it is done much later."""

    def __init__(self, kind: WorldKind, random: Random, clock: FakeClock) -> None:
        self.inner = MemoryBackend(capacity=kind.capacity, clock=clock)
        self.kind = kind
        self.random = random.random
        self.late: list[tuple[CacheKey, Entry]] = []

    async def get(self, key: CacheKey, /) -> Entry | None:
        await self._before()
        entry = await self.inner.get(key)
        await self._after()
        return entry

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        # Only the numbers of tags, which have no tags: a late answer could not be told from a new one.
        if not entry.tags and self.random() < self.kind.failing / 2:
            self.late.append((key, entry))
            raise BackendTimeout("no answer")
        await self._before()
        await self.inner.set(key, entry)
        await self._after()

    async def delete(self, key: CacheKey, /) -> bool:
        await self._before()
        found = await self.inner.delete(key)
        await self._after()
        return found

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _before(self) -> None:
        if self.late and self.random() < 0.1:
            await self.inner.set(*self.late.pop())
        await self._after()

    async def _after(self) -> None:
        await others_run(self.random, self.kind.turns)
        if self.random() < self.kind.failing:
            raise BackendUnavailable("gone")


class AddingBackend(Backend):
    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        await self._before()
        added = await self.inner.get(key) is None
        if added:
            await self.inner.set(key, entry)
        await self._after()
        return added


class World:
    """Two caches, as two processes have them, over one store; what is done to them, and what they must answer."""

    def __init__(self, kind: WorldKind, seed: int) -> None:
        self.kind = kind
        self.random = Random(seed)
        self.clock = FakeClock()
        backend = self._backend()
        hooks = [self._tag] if kind.hooks else []
        options = {"stale_while_revalidate": SWR, "stale_if_error": SIE, "post_hooks": hooks, "clock": self.clock}
        self.caches = [Cache(backend, **options) for _ in range(2)]  # type: ignore[arg-type]
        self.handles = [
            [cache.bind(namespace=ns or None, tenant=tenant) for ns, tenant in PLACES] for cache in self.caches
        ]
        self.calls = [[self._call(process, place) for place in range(kind.places)] for process in range(2)]
        self.order = 0  # of events
        self.births: list[Birth] = []
        self.ends: dict[Scope, list[End]] = {}
        self.returned: dict[int, int] = {}  # number of an answer → when the call that asked for it was over
        self.deleted: dict[tuple[int, int], tuple[int, int]] = {}
        self.outage = False
        self.refreshing: set[tuple[int, int]] = set()
        self.stored: dict[tuple[int, int], int] = {}
        self.scopes = {
            (place, question): self._scopes(place, question)
            for place in range(kind.places)
            for question in range(kind.questions)
        }
        self.counts: Counter[str] = Counter()
        self.workers: set[asyncio.Task[Any]] = set()

    def _backend(self) -> AsyncCacheBackend:
        if self.kind.exact:
            return MemoryBackend(clock=self.clock)
        return (AddingBackend if self.kind.adds else Backend)(self.kind, self.random, self.clock)

    def _call(self, process: int, place: int) -> Call:
        async def ask(question: int) -> dict[str, Any]:
            return await self._upstream(process, place, question)

        # One name: only the tenant and the namespace keep them apart.
        return self.handles[process][place].wrap(ask, name="ask")

    @staticmethod
    async def _tag(response: Response, request: Request) -> None:
        if request.params["question"] % 5 == 0:
            response.tag(HOOKED)

    def _scopes(self, place: int, question: int) -> tuple[Scope, ...]:
        namespace, tenant = PLACES[place]
        hooked = (HOOKED,) if self.kind.hooks and question % 5 == 0 else ()
        names = (None, *TAGS[question % len(TAGS)], *hooked)
        tenants = (None,) if tenant is None else (None, tenant)
        return tuple((namespace, who, name) for who in tenants for name in names)

    def _next(self) -> int:
        self.order += 1
        return self.order

    # -- the upstream ---------------------------------------------------------------------------------

    async def _upstream(self, process: int, place: int, question: int) -> dict[str, Any]:
        birth, born = self._next(), self.clock()
        chance = self.random.random()
        if chance < 0.02:  # in the middle of a call
            self.clock.advance(0.002)
            await self.invalidate()
        elif chance < 0.1:
            self.clock.advance(chance * 20)
        if self.kind.workers > 1:
            await others_run(self.random.random, 0.99 if chance > 0.97 else 0.6)  # a few take long
        if self.outage and chance > 0.2:
            raise TimeoutError
        ttl = TTLS[question % len(TTLS)]
        self.births.append(Birth(birth, born, inf if ttl is None else self.clock() + ttl, process))
        return {"place": list(PLACES[place]), "question": question, "number": len(self.births) - 1}

    # -- operations -----------------------------------------------------------------------------------

    async def run(self, operations: int) -> None:
        self.workers = asyncio.all_tasks()
        random = self.random.random
        for _ in range(operations):
            self.clock.advance(0.001 + random() * 0.05)
            chance = random()
            if chance < self.kind.ends:
                await self.invalidate()
            elif chance < 0.97:
                await self.ask()
            elif chance < 0.985:
                await self.delete()
            elif chance < 0.992:
                self.clock.advance(random() * 10)
            else:
                self.outage = random() < 0.3

    def _somebody(self) -> tuple[int, int, int]:
        """A process, a place and a question; some questions are more popular than others."""
        random = self.random.random
        kind = self.kind
        return int(random() * 2), int(random() * kind.places), int(random() * random() * kind.questions)

    async def ask(self) -> None:
        random = self.random.random
        process, place, question = self._somebody()
        control: dict[str, Any] = {"ttl": TTLS[question % len(TTLS)], "tags": TAGS[question % len(TAGS)]}
        chance = random()
        if chance < 0.06:
            control.update(CONTROLS[int(chance / 0.06 * len(CONTROLS))])
        asked, time, made = self._next(), self.clock(), len(self.births)
        try:
            answer = await self.calls[process][place](question, cache=control)
        except (NotCached, TimeoutError) as error:
            self.counts[type(error).__name__] += 1
            return
        said, number, birth = status(answer), answer["number"], self.births[answer["number"]]
        what = f"{said} of {answer}, {birth}; asked at {asked}, {time} by {process} for {PLACES[place]} {control}"
        self.counts[said.outcome] += 1
        assert (answer["place"], answer["question"]) == (list(PLACES[place]), question), what
        if said.outcome == "miss":
            assert number >= made, what
            self.returned[number] = self._next()
            if self.kind.exact:
                self._check_that_nothing_was_lost(process, place, question, time, control, what)
                if said.stored:
                    self.stored[place, question] = number
            return
        assert "no-cache" not in control, what
        if "s-maxage" in control and said.outcome != "coalesced":
            assert time - birth.time < MAX_AGE, what
        self._check_ends(self.scopes[place, question], birth, said, process, asked, time, what)
        begun, done = self.deleted.get((place, question), (0, inf))
        assert not self.returned.get(number, inf) < begun < done < asked, what
        if said.outcome == "stale":
            self.refreshing.add((place, question))
            if random() < 0.5:
                await self.settle()

    def _check_ends(
        self, scopes: tuple[Scope, ...], birth: Birth, said: Any, process: int, asked: int, time: float, what: str
    ) -> None:
        """The answer was neither invalidated nor too old; if it was purged, it says that it is stale, and is so
        for no longer than it may be."""
        end = inf if said.outcome == "coalesced" else birth.end
        for scope in scopes:
            for event in reversed(self.ends.get(scope, ())):
                if event.begun < birth.at:
                    break
                if event.is_known(process, asked, time):
                    assert event.soft, (event, scope, what)
                    end = min(end, event.time)
        if said.outcome == "stale":
            limit = SIE if "error" in said.reason else SWR
            assert time - end < limit or end == inf, (end, what)
        else:
            assert time < end, (end, what)

    def _check_that_nothing_was_lost(
        self, process: int, place: int, question: int, time: float, control: dict[str, Any], what: str
    ) -> None:
        number = self.stored.get((place, question))
        if number is None or (place, question) in self.refreshing or not control.keys() <= {"ttl", "tags", "no-store"}:
            return
        birth = self.births[number]
        fresh = time < birth.end
        for scope in self.scopes[place, question]:
            for event in reversed(self.ends.get(scope, ())):
                others = event.process != birth.process and event.time >= birth.time - BOUND
                fresh = fresh and not (event.begun > birth.at or others)
                if event.time < min(birth.time, time) - BOUND:
                    break
                if event.process != process and event.time >= time - BOUND:
                    fresh = False
        self.counts["rightly missed"] += 1
        assert not fresh, ("lost", birth, what)

    async def invalidate(self) -> None:
        random = self.random.random
        process, place, _ = self._somebody()
        soft, tag = random() < 0.6, (None, "a", "b", HOOKED)[int(random() * 4)]
        begun = self._next()
        reach = self.handles[process][place]
        try:
            await (reach.clear(soft=soft) if tag is None else reach.invalidate(tag, soft=soft))
        except BackendError:
            self.counts["not invalidated"] += 1
            return
        namespace, tenant = PLACES[place]
        self.counts["purged" if soft else "invalidated"] += 1
        insort(
            self.ends.setdefault((namespace, tenant, tag), []),
            End(begun, self._next(), self.clock(), process, soft),
        )

    async def delete(self) -> None:
        process, place, question = self._somebody()
        if self.kind.exact:
            await self.settle()
        begun = self._next()
        handle = self.handles[process][place]
        try:
            await handle.delete(handle.get_cache_key(self.calls[process][place], question=question))
        except BackendError:
            return
        self.counts["deleted"] += 1
        self.deleted[place, question] = begun, self._next()
        self.stored.pop((place, question), None)

    async def settle(self) -> None:
        """Let the refreshes end, where nobody else is at work."""
        if self.kind.workers == 1:
            while others := asyncio.all_tasks() - self.workers:
                await asyncio.wait(others)
            for key in self.refreshing:
                self.stored.pop(key, None)
            self.refreshing.clear()


@pytest.mark.parametrize("name", WORLDS)
def test_model(name: str) -> None:
    """Whatever is done to two caches over one store, no answer is served that must not be, and none is lost."""
    kind = WORLDS[name]
    world = World(kind, SEED)

    async def main() -> None:
        each = OPERATIONS // len(WORLDS) // kind.workers
        async with asyncio.TaskGroup() as workers:
            for _ in range(kind.workers):
                workers.create_task(world.run(each))
        for cache in world.caches:
            await cache.aclose()

    asyncio.run(main())
    counts = world.counts
    # It was not by never caching anything that it held.
    assert min(counts[what] for what in ("hit", "stale", "miss", "purged", "invalidated", "deleted")) > 0
    assert counts["hit"] > counts["miss"] / 2, counts
