"""What a cache would have done with calls that were made: hits, money and time, without calling anybody.

    log = read_log("traffic.jsonl")
    found = await simulate(log.calls, scenarios(ttls=[3600, None], keys=["exact", "normalized"]), prices=Prices())

Keys are made by the cache's own builders, entries weigh what they weigh in memory, and what goes when space is needed
is decided by the memory backend itself, at the times of the log. So it agrees with a real replay. Simulated are plain
hits, and calls that wait for the same one under way; not what is served stale, hooks, or answers by meaning.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from statistics import median
from typing import Any, Literal, NamedTuple, Protocol, get_args

import orjson

from asynccache import key_builders
from asynccache.backends.memory import MemoryBackend
from asynccache.call_types import CALL_TYPES
from asynccache.directives import seconds
from asynccache.epochs import Epochs, Numbers, scopes
from asynccache.errors import ConfigError, EntryTooLarge
from asynccache.freshness import Freshness
from asynccache.key_builders import KeyBuilding
from asynccache.keys import AsyncKeyBuilder, build_key
from asynccache.material import Unkeyable
from asynccache.model import CacheKey, Directives, Entry, Target
from asynccache.protocols import Verdict
from asynccache.targets import function_target
from asynccache.telemetry.prices import Prices, dollars
from asynccache.telemetry.vendors import vendor
from asynccache.traffic_log import LoggedCall

__all__ = ["Eviction", "KeyRule", "Outcome", "Scenario", "Simulation", "key_rule", "scenarios", "simulate"]

Eviction = Literal["s3-fifo", "lru"]
"""Who goes when space is needed: as the memory backend decides, or the least recently used."""

_BYTES_PER_TOKEN = 5  # of an answer as JSON that the log did not keep
_FRAME = 400  # bytes around its text
_UNBOUNDED = 1 << 60


@dataclass(frozen=True, slots=True)
class KeyRule:
    """How keys are built, under a name. builder: as `Cache(key_builder=…)` takes it."""

    name: str
    builder: KeyBuilding = None


EXACT = KeyRule("exact")


def key_rule(text: str) -> KeyRule:
    """A rule from its name: "exact", "normalized", "ignore:user,metadata", "per_tenant", "package.module:function", or
    several with a + between them. Raises ConfigError."""
    parts: list[Any] = []
    for name in filter(None, (part.strip() for part in text.split("+"))):
        ready, colon, arguments = name.partition(":")
        if name != EXACT.name:
            parts.append({ready: arguments.split(",")} if colon and ready in key_builders.READY else name)
    key_builders.resolve(parts)
    return KeyRule(text, parts or None)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One cache. ttl: seconds; None: no end. max_bytes: of memory; None: as much as there is to keep."""

    policy: Eviction = "s3-fifo"
    ttl: float | None = None
    max_bytes: int | None = None
    keys: KeyRule = EXACT

    def __post_init__(self) -> None:
        if self.policy not in get_args(Eviction):
            raise ConfigError(f"policy={self.policy!r}: known are {', '.join(get_args(Eviction))}")
        if self.ttl is not None:
            seconds(self.ttl, "ttl")
        if self.max_bytes is not None and (isinstance(self.max_bytes, bool) or self.max_bytes < 1):
            raise ConfigError(f"max_bytes={self.max_bytes!r}: a number of bytes above 0 is wanted")


def scenarios(
    *,
    policies: Sequence[Eviction] = ("s3-fifo",),
    ttls: Sequence[float | None] = (None,),
    sizes: Sequence[int | None] = (None,),
    keys: Sequence[KeyRule] = (EXACT,),
) -> list[Scenario]:
    """All that these make together. Without a bound nothing has to go, and one policy is like the other."""
    return [
        Scenario(policy, ttl, size, rule)
        for rule, ttl, size, policy in itertools.product(keys, ttls, sizes, policies)
        if size is not None or policy == policies[0]
    ]


@dataclass(slots=True)
class Outcome:
    """What one cache would have done.

    calls:     of the log. Each is one of hits, coalesced, misses and bypassed.
    coalesced: would have waited for the same call under way.
    bypassed:  have no key: the cache keeps out of them.
    refused:   of the misses: their answers are not to be kept (cut short, refused, failed, …).
    usd, usd_saved: what the misses and the bypassed cost, and what the others would have cost, as far as it is known.
    unpriced:  calls of which nobody knows what they cost; they are in neither sum.
    seconds_saved: that callers would not have waited; a hit counts as taking no time.
    untimed:   hits whose call took nobody knows how long.
    evictions: how many entries went before their end, for want of space.
    peak_bytes: the most that was held at a time.
    """

    scenario: Scenario
    calls: int = 0
    hits: int = 0
    coalesced: int = 0
    misses: int = 0
    bypassed: int = 0
    refused: int = 0
    usd: float = 0.0
    usd_saved: float = 0.0
    unpriced: int = 0
    seconds_saved: float = 0.0
    untimed: int = 0
    evictions: int = 0
    peak_bytes: int = 0

    @property
    def hit_ratio(self) -> float:
        """The share of calls, bypassed ones aside, that needed no call of their own; 0.0 without any."""
        asked = self.calls - self.bypassed
        return (self.hits + self.coalesced) / asked if asked else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        said = asdict(self)
        scenario = said.pop("scenario")
        return {**scenario, "keys": self.scenario.keys.name, "hit_ratio": self.hit_ratio, **said}


@dataclass(slots=True)
class Simulation:
    """What was asked for, and for the first of it, how the hit ratio depends on the size of the memory."""

    outcomes: list[Outcome] = field(default_factory=list)
    curve: list[Outcome] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: [each.as_dict() for each in getattr(self, name)] for name in ("outcomes", "curve")}


async def simulate(
    calls: Sequence[LoggedCall],
    wanted: Sequence[Scenario] = (Scenario(),),
    *,
    prices: Prices | None = None,
    directives: Directives | None = None,
    curve: int = 0,
) -> Simulation:
    """What each of these caches would have done with these calls, in the order in which they began.

    prices:     what tokens cost, where the log does not say what a call did; None: then nobody knows.
    directives: namespace, tags and the like of the cache; a call's own tenant counts more.
    curve:      so many sizes, each half as much again as the one before, up to what all entries take together.

    Calls nobody and waits for nothing; 100,000 calls take some seconds for each scenario. A log without times is one
    call after another. Raises ConfigError for a key rule that cannot be built.
    """
    asked = directives or Directives()
    typical = _typical(calls)
    ordered = _timed(calls, typical)
    prepared: dict[str, list[_Step]] = {}
    found = Simulation()

    async def run(scenario: Scenario) -> Outcome:
        rule = scenario.keys
        if rule.name not in prepared:
            prepared[rule.name] = await _prepare(ordered, rule, asked, prices, typical)
        return await _Run(scenario, prepared[rule.name]).outcome()

    for scenario in wanted:
        found.outcomes.append(await run(scenario))
    if curve > 0 and wanted:
        whole = await run(replace(wanted[0], max_bytes=None))
        for size in _sizes(whole.peak_bytes, curve):
            found.curve.append(await run(replace(wanted[0], max_bytes=size)))
    return found


def _sizes(most: int, count: int) -> list[int]:
    return sorted({max(1, int(most / 1.5**step)) for step in range(count)} if most else set())


# -- the log, once for each key rule ----------------------------------------------------------------


class _Piece(NamedTuple):
    """What is kept by itself: the answer, or of an embedding of several texts the one of one text."""

    digest: str
    entry: Entry | None  # as kept, but for its times; None: it is not to be kept
    share: float  # of the call


class _Step(NamedTuple):
    """One call of the log."""

    at: float
    seconds: float | None  # that the call would take; None: nobody knows
    pieces: tuple[_Piece, ...]  # none: it has no key
    usd: float | None
    tags: tuple[str, ...]


class _Typical(NamedTuple):
    """The median time of calls that no cache has answered, by model, and of all."""

    models: dict[str, float]
    overall: float | None

    def of(self, call: LoggedCall) -> float | None:
        if call.seconds is not None and not call.cached:
            return call.seconds
        return self.models.get(call.model, self.overall)


def _typical(calls: Iterable[LoggedCall]) -> _Typical:
    told: dict[str, list[float]] = {}
    for call in calls:
        if call.seconds is not None and not call.cached:
            told.setdefault(call.model, []).append(call.seconds)
    everything = [each for times in told.values() for each in times]
    return _Typical({model: median(times) for model, times in told.items()}, median(everything) if everything else None)


def _timed(calls: Iterable[LoggedCall], typical: _Typical) -> list[tuple[float, LoggedCall]]:
    """The calls with their times, in their order. Where the log does not say when a call began, it began when the one
    before it in the log had ended."""
    timed, end = [], 0.0
    for call in calls:
        began = end if call.began is None else call.began
        timed.append((began, call))
        end = began + (typical.of(call) or 0.0)
    return sorted(timed, key=lambda pair: pair[0])


async def _prepare(
    calls: Sequence[tuple[float, LoggedCall]],
    rule: KeyRule,
    asked: Directives,
    prices: Prices | None,
    typical: _Typical,
) -> list[_Step]:
    build = key_builders.resolve(rule.builder) or build_key
    steps = []
    for at, call in calls:
        wanted = asked if call.tenant is None else replace(asked, tenant=call.tenant)
        pieces, tags = await _pieces(call, build, wanted, typical.of(call) or 0.0)
        steps.append(_Step(at, typical.of(call), pieces, _usd(call, prices), tags))
    return steps


async def _pieces(
    call: LoggedCall, build: AsyncKeyBuilder, wanted: Directives, took: float
) -> tuple[tuple[_Piece, ...], tuple[str, ...]]:
    target = _TARGETS[call.call_type]
    if target.keep_out is not None and target.keep_out(call.params):
        return (), ()
    parts = target.call_type.parts
    split = None if parts is None else parts.split(call.params)
    alone: list[dict[str, Any]] = [dict(call.params)]
    if parts is not None and split is not None:
        alone = [parts.alone(call.params, thing) for thing in split.things]
    found = []
    try:
        for params in alone:
            made = build(params, target, wanted, files=False)
            key = made if isinstance(made, CacheKey) else await made
            found.append(key)
    except (Unkeyable, OSError):
        return (), ()
    entry = _entry(call, target, took, len(alone))
    namespace, tenant = found[0].border
    tags = scopes(replace(wanted, namespace=namespace, tenant=tenant))
    return tuple(_Piece(key.digest, entry, 1 / len(found)) for key in found), tags


def _entry(call: LoggedCall, target: Target, took: float, pieces: int) -> Entry | None:
    """The answer as an entry; None when the cache would not keep it."""
    if call.failed:
        return None
    if call.answer is None:
        size = _FRAME + (call.usage.output * _BYTES_PER_TOKEN if call.usage else 0)
        return Entry(bytes(size // pieces), "completion", 0.0, meta={"duration": took})
    try:
        verdict: Verdict = target.call_type.judge(call.answer)
    except Exception:  # a log may have any shape: what cannot be read is not kept, as in the cache
        return None
    if verdict.refusal:
        return None
    body = orjson.dumps(call.answer)
    meta = {**verdict.facts, "duration": took}
    return Entry(body if pieces == 1 else body[: len(body) // pieces], "completion", 0.0, meta=meta)


def _usd(call: LoggedCall, prices: Prices | None) -> float | None:
    if call.usd is not None and not call.cached:
        return call.usd
    if prices is None or call.usage is None:
        return None
    provider = call.provider or vendor("", call.model)
    answered = call.answer.get("model") if isinstance(call.answer, dict) else None
    cost = prices.cost(
        call.usage,
        call.model,
        provider=provider,
        answered=answered if isinstance(answered, str) else "",
        at=call.began,
    )
    return None if cost is None else float(dollars(cost.total))


async def _nobody(**_: Any) -> Any:
    raise AssertionError("a simulation calls nobody")


_TARGETS = {name: function_target(_nobody, _nobody, call_type=known) for name, known in CALL_TYPES.items()}


# -- one cache --------------------------------------------------------------------------------------


class _Memory(Protocol):
    """Entries, bounded in bytes."""

    evictions: int

    async def get(self, key: CacheKey, /) -> Entry | None: ...

    async def set(self, key: CacheKey, entry: Entry, /) -> None: ...

    async def delete(self, key: CacheKey, /) -> bool: ...

    async def held(self) -> int: ...


class _S3Fifo(MemoryBackend):
    """The memory backend itself."""

    async def held(self) -> int:
        return (await self.size()).bytes


class _Lru:
    """Least recently used; what an entry costs is what it costs in the memory backend, and epochs stay, as there."""

    def __init__(self, max_bytes: int) -> None:
        self.evictions = 0
        self._max_bytes = max_bytes
        self._used = 0
        self._entries: OrderedDict[str, tuple[Entry, int]] = OrderedDict()
        self._epochs: dict[str, Entry] = {}

    async def get(self, key: CacheKey, /) -> Entry | None:
        found = self._entries.get(key.digest)
        if found is None:
            return self._epochs.get(key.digest)
        self._entries.move_to_end(key.digest)
        return found[0]

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        cost = await _cost(key, entry)
        await self.delete(key)
        while self._used + cost > self._max_bytes:
            if not self._entries:
                raise EntryTooLarge(f"no room for an entry of {cost} bytes in {self._max_bytes}", backend="lru")
            _, (_, freed) = self._entries.popitem(last=False)
            self._used -= freed
            self.evictions += 1
        self._used += cost
        if entry.kind == "epoch":
            self._epochs[key.digest] = entry
        else:
            self._entries[key.digest] = entry, cost

    async def delete(self, key: CacheKey, /) -> bool:
        found = self._entries.pop(key.digest, None)
        self._used -= found[1] if found else 0
        return found is not None

    async def held(self) -> int:
        return self._used


async def _cost(key: CacheKey, entry: Entry) -> int:
    scale = MemoryBackend(max_bytes=_UNBOUNDED)
    await scale.set(key, entry)
    return (await scale.size()).bytes


_FRESHNESS = Freshness()


class _Run:
    """Goes through the calls of the log, once. A call that misses is answered when its time has passed: until then the
    same call waits for it, and after that it is a hit."""

    def __init__(self, scenario: Scenario, steps: Sequence[_Step]) -> None:
        limit = _UNBOUNDED if scenario.max_bytes is None else scenario.max_bytes
        memories: dict[Eviction, Callable[[], _Memory]] = {
            "s3-fifo": lambda: _S3Fifo(max_bytes=limit, clock=lambda: self._now),
            "lru": lambda: _Lru(limit),
        }
        self._now = -inf
        self._steps = steps
        self._ttl = scenario.ttl
        self._memory = memories[scenario.policy]()
        self._epochs = Epochs(self._memory, clock=lambda: self._now)  # type: ignore[arg-type]
        self._landing: list[tuple[float, int, _Piece, float, Numbers | None]] = []
        self._flights: dict[str, float] = {}
        self._order = itertools.count()
        self._told = Outcome(scenario, calls=len(steps))

    async def outcome(self) -> Outcome:
        for step in self._steps:
            await self._land(step.at)
            self._now = step.at
            await self._take(step)
        await self._land(inf)
        self._told.evictions = self._memory.evictions
        return self._told

    async def _take(self, step: _Step) -> None:
        told = self._told
        if not step.pieces:
            told.bypassed += 1
            self._pay(step.usd, 1.0)
            return
        missing = [piece for piece in step.pieces if not await self._is_there(piece)]
        new = [piece for piece in missing if piece.digest not in self._flights]
        share = sum(piece.share for piece in new)
        self._pay(step.usd, share)
        if new:
            told.misses += 1
            told.refused += all(piece.entry is None for piece in new)
            await self._depart(step, new)
            return
        lands = max((self._flights[piece.digest] for piece in missing), default=step.at)
        if missing:
            told.coalesced += 1
        else:
            told.hits += 1
        if step.seconds is None:
            told.untimed += 1
        else:
            told.seconds_saved += step.seconds - (lands - step.at)

    async def _is_there(self, piece: _Piece) -> bool:
        entry = await self._memory.get(CacheKey(piece.digest))
        if entry is None or (entry.expires is not None and entry.expires <= self._now):
            return False
        over = self._epochs.judge(entry.tags, self._now)
        if over is None:
            over = await self._epochs.check(entry.tags, self._now)
        return not over

    def _pay(self, usd: float | None, share: float) -> None:
        if usd is None:
            self._told.unpriced += 1
            return
        self._told.usd += usd * share
        self._told.usd_saved += usd * (1 - share)

    async def _depart(self, step: _Step, pieces: Iterable[_Piece]) -> None:
        numbers: Numbers | None
        try:  # a namespace's first call gives it its epoch, which takes space, too, and may have to be given again
            numbers = await self._epochs.read(step.tags)
        except EntryTooLarge:
            numbers = None
        lands = step.at + (step.seconds or 0.0)
        for piece in pieces:
            self._flights[piece.digest] = lands
            heapq.heappush(self._landing, (lands, next(self._order), piece, step.at, numbers))
        if lands <= step.at:
            await self._land(step.at)

    async def _land(self, until: float) -> None:
        """Keep what calls have brought by then."""
        while self._landing and self._landing[0][0] <= until:
            lands, _, piece, began, numbers = heapq.heappop(self._landing)
            self._flights.pop(piece.digest, None)
            if piece.entry is None or self._ttl == 0 or numbers is None or self._epochs.moved(numbers):
                continue
            self._now = lands
            fresh_until, expires = _FRESHNESS.ends(lands, self._ttl, lambda: 0.0)
            entry = replace(piece.entry, created=began, fresh_until=fresh_until, expires=expires, tags=numbers)
            try:
                await self._memory.set(CacheKey(piece.digest), entry)
            except EntryTooLarge:
                continue
            self._told.peak_bytes = max(self._told.peak_bytes, await self._memory.held())
