"""The ledger: tokens and money, spent and saved, in sum and by model, tag, tenant and day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import orjson

from asynccache.errors import ConfigError
from asynccache.telemetry.lines import Lines
from asynccache.telemetry.observation import NOTHING, Observation, UpstreamCall, Usage
from asynccache.telemetry.prices import FREE, PICODOLLARS, QUARTER, Cost, Prices, Rates, dollars
from asynccache.telemetry.sums import SMALL, Sum, saved_by

OTHER = "other"
"""The label of all that came when there were as many labels as there may be."""

_MONEY = ("spent", "saved", "cache_saved", "cache_spent", "embeddings_spent")
_UNFOLDED = 256
_LABEL = 128


@dataclass(slots=True)
class Account:
    """Sums. Money is in picodollars: see `dollars`. Each call is one of hits, stale, coalesced, misses and bypassed."""

    calls: int = 0
    hits: int = 0
    stale: int = 0
    coalesced: int = 0
    misses: int = 0
    bypassed: int = 0
    failed: int = 0
    """Calls that ended with an error, or were left; they are among the others."""
    upstream_calls: int = 0
    upstream_errors: int = 0
    input: int = 0
    """Tokens that were paid for, as are the next three."""
    output: int = 0
    cached_read: int = 0
    """Of the input: what came from the provider's cache."""
    cached_write: int = 0
    saved_input: int = 0
    """Tokens that were not paid for, because the answer or a part of it was there."""
    saved_output: int = 0
    spent: int = 0
    """On upstream calls: what the provider charges."""
    saved: int = 0
    """What the answers that were there would have cost."""
    cache_saved: int = 0
    """By the provider's cache: what `spent` would have been more, had nothing come from there."""
    cache_spent: int = 0
    """On the provider's cache: what `spent` would have been less, had nothing been put there."""
    embeddings_spent: int = 0
    """Of `spent`: embeddings."""
    unknown_spent: int = 0
    """Upstream calls whose cost nobody knows, which is in no sum."""
    unknown_saved: int = 0
    """Answers that were there, and nobody knows what they would have cost."""

    def add(self, other: Account) -> None:
        for name in _FIELDS:
            if amount := getattr(other, name):
                setattr(self, name, getattr(self, name) + amount)

    @property
    def hit_ratio(self) -> float:
        """The share of calls, bypassed ones aside, that needed no upstream call of their own; 0.0 without any."""
        asked = self.calls - self.bypassed
        return (self.hits + self.stale + self.coalesced) / asked if asked else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: money in dollars, as texts, since they are exact."""
        found = asdict(self)
        return found | {name: _text(found[name]) for name in _MONEY}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Account:
        """What `as_dict` made. Raises ValueError for anything else."""
        known = {name: said[name] for name in _FIELDS if name in said}
        money = {name: _picodollars(known[name]) for name in _MONEY if name in known}
        if any(isinstance(value, bool) or not isinstance(value, int) for value in {**known, **money}.values()):
            raise ValueError("an account has whole numbers")
        return cls(**{**known, **money})


_FIELDS = tuple(each.name for each in fields(Account))


@dataclass(slots=True)
class Report:
    """What a ledger has counted. A call with several tags is in the account of each, so those do not add up.

    since, until: of the first and the last call, in seconds since the epoch; None: there was none.
    days:         by UTC date.
    unwritten:    calls that could not be written to the ledger's file, or read from it.
    """

    total: Account = field(default_factory=Account)
    models: dict[str, Account] = field(default_factory=dict)
    tags: dict[str, Account] = field(default_factory=dict)
    tenants: dict[str, Account] = field(default_factory=dict)
    days: dict[str, Account] = field(default_factory=dict)
    since: float | None = None
    until: float | None = None
    unwritten: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; see `Account.as_dict`."""
        tables = {name: {k: a.as_dict() for k, a in getattr(self, name).items()} for name in _TABLES}
        facts = {"since": self.since, "until": self.until, "unwritten": self.unwritten}
        return {**facts, "hit_ratio": self.total.hit_ratio, "total": self.total.as_dict(), **tables}

    @classmethod
    def from_dict(cls, said: Any) -> Report:
        """What `as_dict` made. Raises ValueError for anything else."""
        try:
            report = cls(Account.from_dict(said["total"]), unwritten=int(said.get("unwritten", 0)))
            for table in _TABLES:
                accounts = getattr(report, table)
                accounts.update((str(label), Account.from_dict(a)) for label, a in said.get(table, {}).items())
            since, until = said.get("since"), said.get("until")
            report.since = None if since is None else float(since)
            report.until = None if until is None else float(until)
            return report
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no report of a ledger: {error!r}") from error


_TABLES = ("models", "tags", "tenants", "days")


class Ledger:
    """An observer that keeps accounts.

    prices:     what tokens cost; None: those of the price library (the extra asynccache[prices]).
    path:       a file to which every call is appended as a line of JSON, by a thread of the ledger's own, so that
                nobody waits for it; `asynccache report FILE` reads it. None: none.
    max_labels: how many models there may be in the report, and as many tags, tenants and days; the rest is `OTHER`.
    max_waiting: how many lines may wait to be written; beyond that they are left out, and counted.

    What was spent is counted upstream call by upstream call, so it is what the provider counts, whoever has waited for
    the answer. May be used by several caches, on several event loops and threads at once.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        *,
        path: str | PathLike[str] | None = None,
        max_labels: int = 1_000,
        max_waiting: int = 100_000,
    ) -> None:
        for name, value in (("max_labels", max_labels), ("max_waiting", max_waiting)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r}: an int above 0 is wanted")
        self._prices = Prices() if prices is None else prices
        self._books = _Books(max_labels)
        self._lock = Lock()
        self._sums: dict[_Kind, Sum] = {}
        self._lines = None if path is None else Lines(Path(path), self._line, max_waiting)

    def observe(self, seen: Observation, /) -> None:
        self._counting(seen)(seen.began, seen.seconds)
        if self._lines is not None:
            self._lines.put(seen)

    def hits_like(self, first: Observation, /) -> Callable[[float, float], None] | None:
        return self._counting(first) if self._lines is None else None

    def _counting(self, seen: Observation) -> Callable[[float, float], None]:
        """Counts calls like this one."""
        found = saved_by(seen)
        unknown, saved = found is None, found or NOTHING
        what = (seen.outcome, seen.model, seen.answered, seen.provider, seen.call_type, seen.tenant, seen.tags)
        failed, size = seen.error != "", 0 if saved[0] <= SMALL else saved[0]

        def count(began: float, seconds: float) -> None:  # noqa: ARG001 (what takes how long is no money)
            self._count((*what, failed, began // QUARTER, size), began, saved, unknown)

        return count

    def observe_upstream(self, made: UpstreamCall, /) -> None:
        usage = NOTHING if made.usage is None else made.usage
        kind = (
            "",
            made.model,
            made.answered,
            made.provider,
            made.call_type,
            made.tenant,
            made.tags,
            made.error != "",
            made.began // QUARTER,
            0 if usage[0] <= SMALL else usage[0],
        )
        self._count(kind, made.began, usage, made.usage is None)
        if self._lines is not None:
            self._lines.put(made)

    def report(self) -> Report:
        """What was counted so far. It is the caller's own: it does not change any more."""
        with self._lock:
            self._fold()
            return self._books.report(0 if self._lines is None else self._lines.lost)

    async def drain(self) -> None:
        """Wait until all lines are in the file."""
        if self._lines is not None:
            await asyncio.to_thread(self._lines.flush)

    async def aclose(self) -> None:
        """The same, and close the file. A call that is observed later opens it again."""
        if self._lines is not None:
            await asyncio.to_thread(self._lines.close)

    def _count(self, kind: _Kind, began: float, usage: Usage, unknown: bool) -> None:
        with self._lock:
            found = self._sums.get(kind)
            if found is None:
                if len(self._sums) >= _UNFOLDED:
                    self._fold()
                found = self._sums[kind] = Sum(began)
            found.add(began, usage, unknown)

    def _fold(self) -> None:
        """Put what was counted into the books. All of a kind have the same rates, so a sum costs what its parts do."""
        sums, self._sums = self._sums, {}
        for kind, sum_ in sums.items():
            self._books.book(_labels(kind, sum_), _account(kind, sum_, self._cost(kind, sum_)))
            self._books.saw(sum_.since, sum_.until)

    def _cost(self, kind: _Kind, sum_: Sum) -> Cost | None:
        _, model, answered, provider, *_, size = kind
        return sum_.cost(self._prices, model, provider=provider, answered=answered, size=size)

    def _line(self, told: Observation | UpstreamCall) -> bytes:
        """For the file; in the writer's thread."""
        line: dict[str, Any] = {"kind": "call" if isinstance(told, Observation) else "upstream", **_facts(told)}
        rates = self._prices.rates(told.model, provider=told.provider, answered=told.answered, at=told.began)
        usage = told.usage
        if isinstance(told, Observation):
            usage = saved_by(told)
            line |= {"paid": told.paid and told.paid.as_dict()}
        cost = _cost_of(rates, usage)
        line["usd"] = None if cost is None else _text(cost.total)
        if isinstance(told, UpstreamCall) and cost is not None and (cost.cache_saved or cost.cache_spent):
            line |= {"cache_saved_usd": _text(cost.cache_saved), "cache_spent_usd": _text(cost.cache_spent)}
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def read_report(path: str | PathLike[str], *, max_labels: int = 1_000) -> Report:
    """The report of all calls in a file that a `Ledger(path=…)` has written, at the prices of those days. Lines that
    cannot be read, such as one that was cut off by a crash, are counted as `unwritten`. Raises OSError."""
    books = _Books(max_labels)
    lost = 0
    with Path(path).open("rb") as lines:
        for line in lines:
            try:
                _read_line(books, orjson.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):  # any line may be damaged
                lost += 1
    return books.report(lost)


_COUNTED = {
    "hit": "hits",
    "semantic": "hits",
    "stale": "stale",
    "coalesced": "coalesced",
    "miss": "misses",
    "bypass": "bypassed",
}

# Outcome ("" of an upstream call), model, model that answered, provider, call type, tenant, tags, whether it failed,
# quarter of an hour, and the input where rates may depend on it, else 0.
_Kind = tuple[str, str, str, str, str, str | None, tuple[str, ...], bool, float, int]


class _Labels(NamedTuple):
    """Whose account something belongs to."""

    model: str
    tenant: str | None
    tags: Iterable[str]
    day: str


def _labels(kind: _Kind, sum_: Sum) -> _Labels:
    return _Labels(kind[1] or kind[2], kind[5], kind[6], _day(sum_.since))


def _account(kind: _Kind, sum_: Sum, cost: Cost | None) -> Account:
    outcome, call_type, failed = kind[0], kind[4], kind[7]
    unknown = sum_.unknown + (sum_.priced if cost is None else 0)
    cost = cost or FREE
    if not outcome:
        return Account(
            upstream_calls=sum_.calls,
            upstream_errors=sum_.calls if failed else 0,
            input=sum_.input,
            output=sum_.output,
            cached_read=sum_.cached_read,
            cached_write=sum_.cached_write,
            spent=cost.total,
            cache_saved=cost.cache_saved,
            cache_spent=cost.cache_spent,
            embeddings_spent=cost.total if call_type == "embedding" else 0,
            unknown_spent=unknown,
        )
    account = Account(
        calls=sum_.calls,
        failed=sum_.calls if failed else 0,
        saved_input=sum_.input,
        saved_output=sum_.output,
        saved=cost.total,
        unknown_saved=unknown,
    )
    setattr(account, _COUNTED[outcome], sum_.calls)
    return account


class _Books:
    """Accounts by their labels."""

    def __init__(self, max_labels: int) -> None:
        self._max = max_labels
        self._kept = Report()

    def book(self, labels: _Labels, amounts: Account) -> None:
        report = self._kept
        report.total.add(amounts)
        self._at(report.models, labels.model or "(none)").add(amounts)
        self._at(report.days, labels.day).add(amounts)
        if labels.tenant is not None:
            self._at(report.tenants, labels.tenant).add(amounts)
        for account in {id(a): a for a in (self._at(report.tags, tag) for tag in labels.tags)}.values():
            account.add(amounts)

    def saw(self, since: float, until: float) -> None:
        kept = self._kept
        kept.since = since if kept.since is None else min(kept.since, since)
        kept.until = until if kept.until is None else max(kept.until, until)

    def report(self, unwritten: int) -> Report:
        kept = self._kept
        tables = {name: {k: _copy(a) for k, a in getattr(kept, name).items()} for name in _TABLES}
        return Report(_copy(kept.total), **tables, since=kept.since, until=kept.until, unwritten=unwritten)

    def _at(self, accounts: dict[str, Account], label: str) -> Account:
        label = label[:_LABEL]
        found = accounts.get(label)
        if found is None:
            if len(accounts) >= self._max:
                label = OTHER
            found = accounts.setdefault(label, Account())
        return found


def _facts(told: Observation | UpstreamCall) -> dict[str, Any]:
    facts = {each.name: getattr(told, each.name) for each in fields(told)}
    if "key" in facts:
        facts["key"] = facts["key"][:12]
    return facts | {"usage": told.usage and told.usage.as_dict(), "paid": None}


def _cost_of(rates: Rates | None, usage: Usage | None) -> Cost | None:
    if usage is None or usage == NOTHING:
        return None if usage is None else FREE
    return None if rates is None else rates.cost(usage)


def _read_line(books: _Books, said: Mapping[str, Any]) -> None:
    began, usd = float(said["began"]), said["usd"]
    labels = _Labels(said["model"] or said["answered"], said["tenant"], said["tags"], _day(began))
    usage = Usage() if said["usage"] is None else Usage(**said["usage"])
    cost = Cost(*(_picodollars(said.get(n) or "0") for n in ("usd", "cache_saved_usd", "cache_spent_usd")))
    sum_ = Sum(began)
    sum_.calls = 1
    outcome = "" if said["kind"] == "upstream" else said["outcome"]
    if outcome:
        usage = usage.minus(Usage(**said["paid"])) if said["paid"] is not None else Usage()
        _COUNTED[outcome]
    sum_.unknown = int(usd is None)
    sum_.input, sum_.output, sum_.cached_read, sum_.cached_write, *_ = usage
    kind = (outcome, "", "", "", said["call_type"], None, (), said["error"] != "", 0.0, 0)
    books.book(labels, _account(kind, sum_, cost))
    books.saw(began, began)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _copy(account: Account) -> Account:
    return Account(*(getattr(account, name) for name in _FIELDS))


def _text(picodollars: int) -> str:
    """Dollars, exactly, without an exponent."""
    text = f"{dollars(picodollars):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _picodollars(text: Any) -> int:
    try:
        value = Decimal(text) * PICODOLLARS
    except (InvalidOperation, TypeError) as error:
        raise ValueError(f"{text!r} is no amount of dollars") from error
    if value != value.to_integral_value():
        raise ValueError(f"{text!r} has parts of a picodollar")
    return int(value)
