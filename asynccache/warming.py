"""Filling a cache before anybody asks: only what is missing or soon stale, within a budget.

warming = await cache.warm(requests, acompletion, max_usd=5, prices=Prices())
assert warming.complete, warming.failures
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import inf
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from asynccache.answers import status
from asynccache.epochs import Epochs
from asynccache.errors import ConfigError, CorruptEntry
from asynccache.model import CacheStatus, Completion, Neighbour, Request, Response
from asynccache.pipeline import compose
from asynccache.protocols import AsyncCacheBackend, Clock, Stage
from asynccache.stages.build_key import BuildKey
from asynccache.stages.observe import Observe
from asynccache.targets import is_async
from asynccache.telemetry.prices import PICODOLLARS, Prices, Rates, dollars
from asynccache.telemetry.usage import Usage, usage_of
from asynccache.telemetry.vendors import vendor

logger = logging.getLogger("asynccache")

Arguments = Mapping[str, Any]

_BYTES_PER_TOKEN = 3  # of JSON: fewer than in any common language, so that the estimate is not too low
_OUTPUT = 1_000  # tokens of an answer, while none has come and the request sets no limit
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


class Held(NamedTuple):
    """What a cache has for a request.

    state: "present"; "stale": there is one that is not fresh any more; "absent"; "uncacheable".
    ttl:   seconds that it stays fresh; None: no end, or not present.
    key:   tells requests apart; "" when nothing does.
    """

    state: Literal["present", "stale", "absent", "uncacheable"]
    ttl: float | None = None
    key: str = ""
    reason: str = ""


class Answered(NamedTuple):
    """How a call went. usage: what was paid for; None: nobody knows. model: who answered, as far as it says so."""

    stored: bool
    usage: Usage | None = None
    model: str = ""


class Shelf(Protocol):
    """Where answers are kept, and what brings them."""

    async def look(self, request: Arguments, /) -> Held:
        """Calls nobody. Raises BackendError when it cannot be known."""
        ...

    async def ask(self, request: Arguments, /, *, anew: bool) -> Answered:
        """Make the call, unless its answer has come meanwhile; even then, when it is wanted anew. Raises what the call
        raises."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that could not be warmed. number: which one, from 1."""

    number: int
    request: Arguments
    error: str


@dataclass(slots=True)
class Warming:
    """How far it has come. Each request that is done is one of the counts below, or in `failures`.

    asked:        how many requests there are.
    present:      were there, fresh enough.
    called:       were missing, and are there now.
    refreshed:    were stale, or soon would have been, and are there anew.
    repeated:     are the same as one before.
    unaffordable: were left out, since they might have cost more than was left.
    usd:          what the calls have cost, as far as it is known.
    unpriced:     calls of which nobody knows what they cost; they are not in `usd`.
    """

    asked: int = 0
    present: int = 0
    called: int = 0
    refreshed: int = 0
    repeated: int = 0
    unaffordable: int = 0
    failures: list[Failure] = field(default_factory=list)
    usd: Decimal = Decimal(0)
    unpriced: int = 0

    @property
    def done(self) -> int:
        counts = self.present + self.called + self.refreshed + self.repeated + self.unaffordable
        return counts + len(self.failures)

    @property
    def complete(self) -> bool:
        """Whether there is an answer to each request now."""
        return self.done == self.asked and not self.failures and not self.unaffordable

    def as_dict(self) -> dict[str, Any]:
        """JSON-able. Of the requests that failed only the number."""
        counts = ("asked", "present", "called", "refreshed", "repeated", "unaffordable", "unpriced")
        failures = [{"number": failure.number, "error": failure.error} for failure in self.failures]
        said = {name: getattr(self, name) for name in counts}
        return {**said, "usd": str(self.usd), "complete": self.complete, "failures": failures}


class Priced(NamedTuple):
    """Under which name the price list has a model."""

    model: str
    provider: str = ""


def priced_as(request: Arguments) -> Priced:
    """By the request's own model."""
    model = request.get("model")
    model = model if isinstance(model, str) else ""
    return Priced(model, vendor("", model))


class Budget:
    """Money for calls. A call is begun only when what was spent, and what those under way and this one may cost, is
    within the limit.

    What a call may cost is estimated: its input from its length, its output from its own limit of tokens, or else from
    the longest answer to come so far (1,000 tokens until there is one). An answer that is longer than that can take
    the sum above the limit, by what it costs more. A call that failed without a status code may have been charged: it
    counts as estimated, and so does one whose answer does not tell its tokens.

    limit:  dollars; None: no limit.
    assume: dollars, for a call whose price is not known; None: such a call is refused when there is a limit.
    named:  under which name a request's price is looked up.

    Raises ConfigError for a wrong amount.
    """

    def __init__(
        self,
        prices: Prices,
        *,
        limit: float | Decimal | None = None,
        assume: float | Decimal | None = None,
        named: Callable[[Arguments], Priced] = priced_as,
    ) -> None:
        self._prices = prices
        self._limit = None if limit is None else _picodollars(limit, "max_usd")
        self._assume = None if assume is None else _picodollars(assume, "assume_usd")
        self._named = named
        self._longest: dict[str, int] = {}
        self._reserved = 0
        self._charged = 0
        self._changed = asyncio.Condition()
        self.spent = 0
        """Picodollars that are known to have been spent."""

    def check(self, requests: Iterable[Arguments]) -> None:
        """Raise ConfigError when there is a limit, and a request whose price nobody knows."""
        if self._limit is None or self._assume is not None:
            return
        for named in dict.fromkeys(map(self._named, requests)):
            rates = self._rates(named)
            if rates is None or rates.input is None:
                what = repr(named.model) if named.model else "a request without a model"
                raise ConfigError(
                    f"max_usd: the price of {what} is not known: give its price, or with assume_usd what a call costs"
                )

    async def reserve(self, request: Arguments) -> int | None:
        """Set the money for a call apart, waiting for calls under way when they may leave enough. None when there is
        not enough; else what `settle` or `refund` is to be given."""
        amount = self._estimate(request)
        async with self._changed:
            if self._limit is not None:
                while self._charged + self._reserved + amount > self._limit:
                    if not self._reserved:
                        return None
                    await self._changed.wait()
            self._reserved += amount
        return amount

    async def settle(self, reserved: int, request: Arguments, answered: Answered) -> int | None:
        """The call was made. Returns what it has cost in picodollars; None when nobody knows."""
        named = self._named(request)
        cost = None
        if answered.usage is not None:
            self._longest[named.model] = max(self._longest.get(named.model, 0), answered.usage.output)
            found = self._prices.cost(answered.usage, named.model, provider=named.provider, answered=answered.model)
            cost = None if found is None else found.total
        await self._book(reserved, reserved if cost is None else cost)
        self.spent += cost or 0
        return cost

    async def refund(self, reserved: int, *, charged: bool) -> None:
        """There is no answer. charged: whether it may have been charged all the same."""
        await self._book(reserved, reserved if charged else 0)

    async def _book(self, reserved: int, charged: int) -> None:
        async with self._changed:
            self._reserved -= reserved
            self._charged += charged
            self._changed.notify_all()

    def _rates(self, named: Priced) -> Rates | None:
        return self._prices.rates(named.model, provider=named.provider)

    def _estimate(self, request: Arguments) -> int:
        named = self._named(request)
        rates = self._rates(named)
        if rates is None or rates.input is None:
            return self._assume or 0
        output = 0
        if rates.output is not None:
            limits = [value for name in _LIMITS if isinstance(value := request.get(name), int)]
            output = limits[0] if limits else self._longest.get(named.model, _OUTPUT)
        size = len(orjson.dumps(dict(request), default=repr, option=orjson.OPT_NON_STR_KEYS))
        cost = rates.cost(Usage(size // _BYTES_PER_TOKEN + 1, output))
        return (self._assume or 0) if cost is None else cost.total


def _picodollars(amount: float | Decimal, name: str) -> int:
    if isinstance(amount, bool) or not isinstance(amount, int | float | Decimal) or not 0 <= amount < inf:
        raise ConfigError(f"{name}={amount!r}: dollars are wanted (a number ≥ 0)")
    return int(Decimal(str(amount)) * PICODOLLARS)


class Warmer:
    """Goes through requests, several at a time, and calls what is missing.

    refresh_within: seconds; what ends within them is called anew.
    progress:       is told after each request.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        concurrency: int = 8,
        refresh_within: float = 0,
        budget: Budget | None = None,
        progress: Callable[[Warming], None] | None = None,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigError(f"concurrency={concurrency!r}: an int above 0 is wanted")
        self._shelf = shelf
        self._concurrency = concurrency
        self._refresh_within = refresh_within
        self._budget = budget
        self._progress = progress
        self._seen: set[str] = set()
        self.warming = Warming()
        """How far it has come: also when it was cancelled."""

    async def run(self, requests: Iterable[Arguments]) -> Warming:
        """Go through them all. Raises ConfigError, before the first call, for one without a price that needs it.

        When it is cancelled, what was answered is kept, and calls under way are given up.
        """
        wanted = list(requests)
        self.warming.asked = len(wanted)
        if self._budget is not None:
            self._budget.check(wanted)
        numbered = iter(list(enumerate(wanted, 1)))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(self._concurrency, len(wanted))):
                tasks.create_task(self._work(numbered))
        self.warming.failures.sort(key=lambda failure: failure.number)
        return self.warming

    async def _work(self, numbered: Iterator[tuple[int, Arguments]]) -> None:
        for number, request in numbered:
            try:
                await self._warm(request)
            except Exception as error:  # whatever the call raises, or the store: the others go on, and it is reported
                logger.debug("not warmed: request %s", number, exc_info=error)
                self.warming.failures.append(Failure(number, request, _words(error)))
            if self._progress is not None:
                self._progress(self.warming)
            await asyncio.sleep(0)  # what is there waits for nothing: let the others have their turn

    async def _warm(self, request: Arguments) -> None:
        held = await self._shelf.look(request)
        if held.state == "uncacheable":
            raise NotWarmed(f"the cache keeps out of it: {held.reason}")
        if held.key and held.key in self._seen:
            self.warming.repeated += 1
            return
        self._seen.add(held.key)
        if held.state == "present" and (held.ttl is None or held.ttl >= self._refresh_within):
            self.warming.present += 1
        elif not await self._call(request, anew=held.state != "absent"):
            self.warming.unaffordable += 1
        elif held.state == "absent":
            self.warming.called += 1
        else:
            self.warming.refreshed += 1

    async def _call(self, request: Arguments, *, anew: bool) -> bool:
        """False when there is no money for it. Raises what the call raises, and NotWarmed."""
        reserved = 0 if self._budget is None else await self._budget.reserve(request)
        if reserved is None:
            return False
        try:
            answered = await self._shelf.ask(request, anew=anew)
        except BaseException as error:
            if self._budget is not None:
                await self._budget.refund(reserved, charged=not isinstance(getattr(error, "status_code", None), int))
            raise
        cost = None if self._budget is None else await self._budget.settle(reserved, request, answered)
        if cost is None:
            self.warming.unpriced += 1
        else:
            self.warming.usd += dollars(cost)
        # What is written behind its caller is there a moment later.
        if not answered.stored and (await self._shelf.look(request)).state != "present":
            raise NotWarmed("the answer was not kept: it is cut short, refused or too large, or the store failed")
        return True


class NotWarmed(Exception):
    """Why there is no answer in the cache now."""


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, NotWarmed):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# -- a cache in this process ------------------------------------------------------------------------


class WrappedCall:
    """What a cache keeps of one wrapped function's answers.

    Looking runs the stages up to the key, hooks among them, and then asks the backend: no call is counted, and no
    observer told.

    read:  a call's arguments, as the cache sees them.
    drain: waits until writes behind callers are done.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        stages: Iterable[Stage],
        *,
        read: Callable[[Arguments], Request],
        backend: AsyncCacheBackend,
        epochs: Epochs,
        clock: Clock,
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        stages = list(stages)
        self._call = call
        self._is_async = is_async(call)
        self._read = read
        self._backend = backend
        self._epochs = epochs
        self._clock = clock
        self._drain = drain
        self._look = compose(_up_to_the_key(stages), self._there)
        self._look_alone = compose([stage for stage in stages if isinstance(stage, BuildKey)], self._there_alone)

    async def look(self, request: Arguments, /) -> Held:
        """Raises BackendError, and what hooks raise."""
        read = self._read(request)
        found: list[Held] = []
        read.attach(_Found(found))
        await self._look(read)
        return _together(found) if found else Held("uncacheable", reason="a stage before the key answers it")

    async def ask(self, request: Arguments, /, *, anew: bool) -> Answered:
        arguments = dict(request)
        if anew:
            arguments["cache"] = {**(arguments.get("cache") or {}), "no-cache": True}
        if self._is_async:
            answer = await self._call(**arguments)
        else:
            answer = await asyncio.to_thread(self._call, **arguments)
        await _consume(answer)
        try:
            told = status(answer)
        except TypeError:  # an answer that cannot carry one: whether it is kept, a look will tell
            await self._drain()
            return Answered(False)
        if told.outcome in ("hit", "semantic", "coalesced"):
            return Answered(told.stored, Usage())
        if told.outcome == "stale":  # it is refreshed behind us, which may fail; this tells
            return await self.ask(request, anew=True)
        if not told.stored:
            await self._drain()
        meta = {} if told.entry is None else told.entry.meta
        return Answered(told.stored, usage_of(meta.get("usage")), str(meta.get("model") or ""))

    async def _there(self, request: Request) -> Response:
        """In the upstream's place: what is kept for this request, or for each thing that it is about."""
        parts = request.target.call_type.parts
        split = None if parts is None or request.bypass else parts.split(request.params)
        if parts is None or split is None:
            return await self._there_alone(request)
        found = request.find(_Found)
        for thing in split.things:
            alone = Request(parts.alone(request.params, thing), request.directives, request.target)
            alone.attach(found)
            await self._look_alone(alone)
        return Completion(CacheStatus("miss"), None)

    async def _there_alone(self, request: Request) -> Response:
        found = request.find(_Found)
        assert found is not None
        found.held.append(await self._held(request))
        response = Completion(CacheStatus("miss"), None)
        response.hooked = True  # it is no answer that a hook could do anything with
        return response

    async def _held(self, request: Request) -> Held:
        if request.bypass:
            return Held("uncacheable", reason=request.bypass)
        if request.directives.no_store:
            return Held("uncacheable", reason="no-store")
        key = request.key.digest
        try:
            entry = await self._backend.get(request.key)
        except CorruptEntry:
            return Held("absent", key=key)
        if entry is None:
            return Held("absent", key=key)
        now, end = self._clock(), entry.expires if entry.fresh_until is None else entry.fresh_until
        if (end is not None and end <= now) or await self._epochs.check(entry.tags, now):
            # A neighbour that is over says nothing of an answer of this question's own.
            return Held("absent" if isinstance(entry, Neighbour) else "stale", key=key)
        return Held("present", None if end is None else end - now, key)


@dataclass(frozen=True, slots=True)
class _Found:
    """Attached to a request that is only looked for: what there is."""

    held: list[Held]


def _together(found: list[Held]) -> Held:
    """What there is of several things: what there is of the worst."""
    worst = min(found, key=lambda held: (_STATES.index(held.state), inf if held.ttl is None else held.ttl))
    return worst._replace(key=",".join(held.key for held in found)) if len(found) > 1 else worst


_STATES = ("uncacheable", "absent", "stale", "present")


def _up_to_the_key(stages: list[Stage]) -> Iterator[Stage]:
    for stage in stages:
        if not isinstance(stage, Observe):
            yield stage
        if isinstance(stage, BuildKey):
            return


async def _consume(answer: Any) -> None:
    """Read a stream to its end: only then is it kept."""
    if hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass
    elif hasattr(answer, "__next__"):
        await asyncio.to_thread(lambda: [None for _ in answer])
