"""How long an answer is good: the policy, and what it says of an entry. Pure; all times are seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import exp, inf
from typing import Any, Literal

from asynccache.directives import seconds
from asynccache.errors import ConfigError
from asynccache.model import Entry

Random = Callable[[], float]
"""A number from 0 up to, and not including, 1; every one as likely."""

Life = Literal["fresh", "early", "revalidate", "if-error", "over"]
"""Where an entry is in its life: fresh; fresh, but to be refreshed now; to be served while it is
refreshed; to be served only when the upstream fails; not to be served."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """What becomes of answers towards the end of their ttl, and after it (RFC 5861).

    stale_while_revalidate: for so long after its end an answer is still served, and refreshed behind it. A soft
                    purge is such an end, too.
    stale_if_error: for so long it is served when the upstream fails by an outage.
    early_refresh:  beta of XFetch, 0 for off: a fresh answer is refreshed before its end with a probability
                    that grows towards it, so that a popular one is never missed. 1 is optimal in theory,
                    more refreshes earlier. A. Vattani, F. Chierichetti, K. Lowenstein, "Optimal Probabilistic
                    Cache Stampede Prevention", VLDB 2015, doi 10.14778/2757807.2757813.
    jitter:         share of its ttl, from 0 to 1, by which an answer's life is at most shortened at random, so
                    that answers stored together do not end together.

    Raises ConfigError for a value that is none of these.
    """

    stale_while_revalidate: float = 0
    stale_if_error: float = 0
    early_refresh: float = 0
    jitter: float = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, seconds(getattr(self, field.name), field.name))
        if self.jitter > 1:
            raise ConfigError(f"jitter={self.jitter!r}: a share of the ttl is wanted, from 0 to 1")

    @property
    def grace(self) -> float:
        """How long after its end an answer may be of use."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    def ends(self, now: float, ttl: float | None, random: Random) -> tuple[float | None, float | None]:
        """(fresh_until, expires) of an answer that is stored now."""
        if ttl is None:
            return None, None
        end = now + (ttl * (1 - self.jitter * random()) if self.jitter else ttl)
        if not self.grace:
            return None, end
        hard = end + self.grace
        return end, hard if hard < inf else None

    def judge(self, entry: Entry, now: float, random: Random) -> Life:
        """Where the entry is in its life now. Its hard end holds whatever the policy says."""
        end = entry.expires if entry.fresh_until is None else entry.fresh_until
        if end is None:
            return "fresh"
        if now < end:
            return "early" if self.early_refresh and self._is_early(entry, end - now, random) else "fresh"
        if entry.expires is not None and entry.expires <= now:
            return "over"
        if now - end < self.stale_while_revalidate:
            return "revalidate"
        return "if-error" if now - end < self.stale_if_error else "over"

    def _is_early(self, entry: Entry, left: float, random: Random) -> bool:
        """XFetch: `now - duration * beta * log(U) >= end` for a random U, solved for U."""
        scale = _duration(entry) * self.early_refresh
        return scale > 0 and random() < exp(-left / scale)


def cut_short(entry: Entry, end: float) -> Entry:
    """The entry as one that was fresh until `end`, unless its own end was earlier. Its hard end stays."""
    own = entry.expires if entry.fresh_until is None else entry.fresh_until
    return entry if end >= (inf if own is None else own) else replace(entry, fresh_until=end)


def _duration(entry: Entry) -> float:
    """How long the call took that brought the answer; 0.0 when the entry does not say."""
    duration: Any = entry.meta.get("duration")
    return duration if isinstance(duration, int | float) and 0 <= duration < inf else 0.0


_OUTAGES = frozenset({408, 429})
_NAMES = ("Timeout", "Connection", "NetworkError", "RemoteProtocolError")


def is_outage(error: BaseException) -> bool:
    """Whether the upstream failed for reasons of its own, so that an older answer is better than none.

    The error's HTTP status decides, where it has one: 408, 429 and 5xx are outages, 400 or 401 are not, nor
    is 409. Otherwise it is a timeout or an error of the connection, by type or, since SDKs derive theirs
    from nothing common, by the name of one of its classes (`APIConnectionError`, `ReadTimeout`, …).
    """
    status = _http_status(error)
    if status is not None:
        return status in _OUTAGES or status >= 500
    if isinstance(error, OSError):
        return error.filename is None  # with one it is about a file
    return any(part in kind.__name__ for kind in type(error).__mro__ for part in _NAMES)


def _http_status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and 100 <= value <= 599:
                return value
    return None
