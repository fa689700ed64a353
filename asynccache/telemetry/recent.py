"""What has happened lately, in memory that is bounded: for a page to look at.

    recent = Recent()
    cache = Cache(observers=[recent], stages=recent.stages)
    recent.report()

Nothing of a prompt is kept: of the arguments only the names of their fields, and hashes under a key that this process
made up, which nobody can try guesses on. Unless `prompts` is set.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import Lock
from typing import Any

from asynccache.explanation import leaves
from asynccache.key_builders import material_of
from asynccache.keys import Source, build_key
from asynccache.model import Request, Response
from asynccache.protocols import Clock, Handler, Stage
from asynccache.telemetry.observation import Observation
from asynccache.telemetry.prices import PICODOLLARS, Prices
from asynccache.telemetry.usage import Usage

logger = logging.getLogger("asynccache")

_STEP = 5
_STEPS = 60
_TIMES = 2048
_TIERS = 8
_ENTRIES = 1000
_TENANTS = 100
_MISSES = 30
_TRACES = 128
_LEAVES = 256
_SHOWN = 12
_BEST = 10
_SHORT = 12
_PATH = 120
_EXCERPT = 160
_REST = "…"
_CREDENTIAL = "credential:"
_UPSTREAM, _COALESCED = "upstream", "coalesced"
_OPEN = frozenset({"model", "cache.tenant", "cache.namespace"})
"""Fields that are told as they are: the rest of a report says them too."""
_SECRET = "cache.endpoint"
"""Where a call goes may have in it what the configuration sends there: told as a hash, whatever else is."""


@dataclass(slots=True)
class _Popular:
    """An entry that was asked for again."""

    key: str
    call_type: str
    model: str
    provider: str
    answered: str
    last: float
    usage: Usage | None = None
    hits: int = 0

    @property
    def weight(self) -> int:
        return self.hits * (1 + (0 if self.usage is None else self.usage.input + 4 * self.usage.output))


@dataclass(frozen=True, slots=True)
class _Trace:
    """The arguments of a call that went to the upstream: for each field a hash of what was there.

    number: goes up. text, shown: of the prompt and the fields themselves, where prompts are kept.
    """

    number: int
    key: str
    call_type: str
    at: float
    fields: dict[str, str]
    text: str
    shown: dict[str, str]


@dataclass(slots=True)
class _Miss:
    seen: Observation
    why: dict[str, Any] | None = None
    explained: bool = False


@dataclass(slots=True)
class _Step:
    """The calls of some seconds."""

    number: int
    saved: int = 0
    asked: int = 0
    bypassed: int = 0


@dataclass(slots=True)
class _Lately:
    step: _Step = field(default_factory=lambda: _Step(-1))
    steps: deque[_Step] = field(default_factory=lambda: deque(maxlen=_STEPS))
    seconds: dict[str, deque[float]] = field(default_factory=dict)
    popular: dict[str, _Popular] = field(default_factory=dict)
    misses: deque[_Miss] = field(default_factory=lambda: deque(maxlen=_MISSES))
    tenants: dict[str, None] = field(default_factory=dict)


class Recent:
    """An observer, and a stage that sees what goes to the upstream.

    prices:  what the most valuable entries are sorted by; None: by their tokens.
    prompts: whether the beginnings of prompts and of fields are kept, and told.
    clock:   returns seconds since the epoch.
    """

    def __init__(self, *, prices: Prices | None = None, prompts: bool = False, clock: Clock = time.time) -> None:
        self.prompts = prompts
        self._prices = prices
        self._clock = clock
        self._lock = Lock()  # observers may be told on any thread
        self._lately = _Lately()
        self._traces: deque[_Trace] = deque(maxlen=_TRACES)
        self._number = 0
        self._secret = secrets.token_bytes(32)
        self._began = clock()

    def show_prompts(self, prompts: bool) -> None:
        """Keep and tell them from now on, or no more: then those that were kept are forgotten."""
        with self._lock:
            if self.prompts and not prompts:
                self._traces.clear()
            self.prompts = prompts

    # -- being told -----------------------------------------------------------------------------------

    def observe(self, seen: Observation, /) -> None:
        outcome, key = seen.outcome, seen.key
        with self._lock:
            lately = self._lately
            step = lately.step
            # What ends late counts as of now: an order of seconds is good enough here.
            if (number := (seen.began + seen.seconds) // _STEP) > step.number:
                step = self._begin(int(number))
            if outcome == "miss":
                step.asked += 1
                lately.misses.append(_Miss(seen))
            elif outcome == "bypass":
                step.bypassed += 1
            else:
                step.saved += 1
                if key:
                    found = lately.popular.get(key) or self._new(seen)
                    found.hits += 1
                    found.last = seen.began
                    if seen.usage is not None:
                        found.usage = seen.usage
            if not seen.error:
                tier = seen.tier or (_COALESCED if outcome == _COALESCED else _UPSTREAM)
                (lately.seconds.get(tier) or self._times(tier)).append(seen.seconds)
            self._met(seen.tenant)

    def hits_like(self, first: Observation, /) -> Callable[[float, float], None]:
        """`observe`, with what is the same for all of them done once."""
        key, tier, usage, lately, lock = first.key, first.tier, first.usage, self._lately, self._lock
        with lock:
            self._met(first.tenant)

        def note(began: float, seconds: float) -> None:
            with lock:
                step = lately.step
                if (number := (began + seconds) // _STEP) > step.number:
                    step = self._begin(int(number))
                step.saved += 1
                found = lately.popular.get(key) or self._new(first)
                found.hits += 1
                found.last = began
                if usage is not None:
                    found.usage = usage
                (lately.seconds.get(tier) or self._times(tier)).append(seconds)

        return note

    def stages(self, default: list[Stage]) -> Sequence[Stage]:
        """For `Cache(stages=…)`: the default ones, and this one around that which measures upstream calls."""
        return [*default[:-1], self.trace, *default[-1:]]

    def trace(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        """The stage. Runs for calls of the upstream alone, and never fails one."""
        if not request.bypass and request.digest:
            try:
                self._keep(request)
            except Exception as error:  # arguments of any kind, and builders of anybody's: it is not explained then
                logger.debug("a call will not be explained: %s", type(error).__name__)
        return call_next(request)

    def _keep(self, request: Request) -> None:
        key, source = request.key, request.key.source
        build = source.build if isinstance(source, Source) else build_key
        tree = material_of(build, key, source[0] if source else request.params, request.target)
        namespace, tenant = key.border
        said = {"namespace": namespace, "tenant": tenant, "endpoint": request.target.endpoint}
        found = list(leaves({**tree, "cache": {name: value for name, value in said.items() if value}}))
        if len(found) > _LEAVES:
            found = [*found[: _LEAVES - 1], (_REST, "\n".join(f"{path}={value}" for path, value in found))]
        with self._lock:
            self._number += 1
            trace = _Trace(
                self._number,
                key.digest,
                request.target.call_type.name,
                self._clock(),
                {path: self._hash(value) for path, value in found},
                key.text[:_EXCERPT] if self.prompts else "",
                {path: self._excerpt(value) for path, value in found if self._tells(path)},
            )
            self._traces.append(trace)

    def _tells(self, path: str) -> bool:
        return path in _OPEN or (self.prompts and path not in (_SECRET, _REST))

    def _excerpt(self, value: str) -> str:
        """Its beginning; with its hash, by which two that begin alike are told apart."""
        return value if len(value) <= _EXCERPT else f"{value[:_EXCERPT]}… ({self._hash(value)})"

    def _hash(self, value: str) -> str:
        return blake2b(value.encode(errors="surrogatepass"), digest_size=4, key=self._secret).hexdigest()

    def _met(self, tenant: str | None) -> None:
        tenants = self._lately.tenants
        if tenant is not None and tenant not in tenants and len(tenants) < _TENANTS:
            tenants[tenant] = None

    def _begin(self, number: int) -> _Step:
        step = self._lately.step = _Step(number)
        self._lately.steps.append(step)
        return step

    def _times(self, tier: str) -> deque[float]:
        """Where its times go; of what comes when there are as many as there may be, nowhere."""
        times = self._lately.seconds
        if tier not in times and len(times) >= _TIERS:
            return deque(maxlen=0)
        return times.setdefault(tier, deque(maxlen=_TIMES))

    def _new(self, seen: Observation) -> _Popular:
        popular = self._lately.popular
        if len(popular) >= _ENTRIES:
            best = sorted(popular.values(), key=lambda each: each.weight, reverse=True)[: _ENTRIES // 2]
            popular = self._lately.popular = {each.key: each for each in best}
        found = _Popular(seen.key, seen.call_type, seen.model, seen.provider, seen.answered, seen.began)
        popular[seen.key] = found
        return found

    # -- telling --------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """All of it, JSON-able. Seconds, and dollars; what is not known is None."""
        with self._lock:
            now = self._clock()
            lately = self._lately
            return {
                "seconds": _STEP * _STEPS,
                "live": self._live(lately, now),
                "latency": {tier: _percentiles(times) for tier, times in lately.seconds.items()},
                "entries": self._best(lately, now),
                "misses": [self._missed(miss, now) for miss in reversed(lately.misses)],
                "tenants": sorted({_name(tenant) for tenant in lately.tenants}),
                "prompts": self.prompts,
            }

    def _live(self, lately: _Lately, now: float) -> dict[str, Any]:
        last = int(now // _STEP)
        known = {step.number: step for step in lately.steps if last - _STEPS < step.number <= last}
        saved = sum(step.saved for step in known.values())
        asked = sum(step.asked for step in known.values())
        shown = [known.get(number, _Step(number)) for number in range(last - _STEPS + 1, last + 1)]
        elapsed = min(_STEP * _STEPS, max(1.0, now - self._began))
        bypassed = sum(step.bypassed for step in known.values())
        return {
            "hit_ratio": saved / (saved + asked) if saved + asked else None,
            "calls": saved + asked + bypassed,
            "saved": saved,
            "missed": asked,
            "bypassed": bypassed,
            "calls_per_second": (saved + asked + bypassed) / elapsed,
            "step_seconds": _STEP,
            "steps": [[step.saved, step.asked] for step in shown],
        }

    def _best(self, lately: _Lately, now: float) -> list[dict[str, Any]]:
        texts = {trace.key: trace.text for trace in self._traces} if self.prompts else {}
        found = []
        for entry in lately.popular.values():
            saved = self._worth(entry)
            shown = {
                "key": entry.key[:_SHORT],
                "call_type": entry.call_type,
                "model": entry.model,
                "hits": entry.hits,
                "tokens": None if entry.usage is None else entry.usage.input + entry.usage.output,
                "saved": saved,
                "seconds_ago": max(0.0, now - entry.last),
                **({"text": texts[entry.key]} if texts.get(entry.key) else {}),
            }
            found.append((saved or 0.0, entry.weight, shown))
        found.sort(key=lambda each: each[:2], reverse=True)
        return [shown for _, _, shown in found[:_BEST]]

    def _worth(self, entry: _Popular) -> float | None:
        if self._prices is None or entry.usage is None:
            return None
        cost = self._prices.cost(entry.usage, entry.model, provider=entry.provider, answered=entry.answered)
        return None if cost is None else entry.hits * cost.total / PICODOLLARS

    def _missed(self, miss: _Miss, now: float) -> dict[str, Any]:
        seen = miss.seen
        mine = self._trace_of(seen)
        if not miss.explained:
            miss.why = None if mine is None else self._why(mine)
            miss.explained = True
        return {
            "key": seen.key[:_SHORT],
            "call_type": seen.call_type,
            "model": seen.model,
            "reason": seen.reason,
            "error": seen.error,
            "stored": seen.stored,
            "seconds": seen.seconds,
            "seconds_ago": max(0.0, now - seen.began),
            "tenant": None if seen.tenant is None else _name(seen.tenant),
            "why": miss.why,
            **({"text": mine.text} if mine is not None and mine.text else {}),
        }

    def _trace_of(self, seen: Observation) -> _Trace | None:
        mine = [trace for trace in self._traces if trace.key == seen.key]
        return next((trace for trace in mine if trace.at >= seen.began), mine[-1] if mine else None)

    def _why(self, mine: _Trace) -> dict[str, Any] | None:
        """The earlier call that has most in common with this one, and what has not; None when none has anything."""
        before = [t for t in self._traces if t.number < mine.number and t.call_type == mine.call_type]
        own = mine.fields.items()
        best, most = None, 0.0
        for trace in before:
            common = len(own & trace.fields.items())
            share = common / (len(own) + len(trace.fields) - common)
            if share >= most and share > 0:  # of equals the latest
                best, most = trace, share
        if best is None:
            return None
        paths = [p for p in dict.fromkeys([*best.fields, *mine.fields]) if best.fields.get(p) != mine.fields.get(p)]
        return {
            "key": best.key[:_SHORT],
            "seconds_before": max(0.0, mine.at - best.at),
            "shared": most,
            "differences": [
                {"path": path[:_PATH], "before": _told(best, path), "now": _told(mine, path)} for path in paths[:_SHOWN]
            ],
            "more": max(0, len(paths) - _SHOWN),
        }


def _told(trace: _Trace, path: str) -> str | None:
    """What is there: itself, where it may be told; else its hash; None: nothing."""
    return trace.shown.get(path) or trace.fields.get(path)


def _percentiles(times: deque[float]) -> dict[str, Any]:
    ordered = sorted(times)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"calls": len(ordered), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99)}


def _name(tenant: str) -> str:
    """As it is shown: of a credential's stand-in its beginning."""
    before, mark, rest = tenant.partition(_CREDENTIAL)
    return f"{before}{mark}{rest[:8]}" if mark else tenant
