"""What has happened, as plain integers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Stats:
    """Counters since the cache was made. They only go up.

    Every finished call is one of `hits + stale + coalesced + misses + bypassed`.
    """

    hits: int = 0
    """Calls answered from an entry."""
    semantic_hits: int = 0
    """Those of them whose entry was stored for another wording."""
    stale: int = 0
    """Calls answered from an entry that was no longer fresh."""
    coalesced: int = 0
    """Calls answered by an upstream call that another caller had under way."""
    misses: int = 0
    """Calls that the cache could not answer, those that failed or were cancelled included, whoever failed them:
    the upstream, a remembered error, or `only-if-cached`."""
    bypassed: int = 0
    """Calls the cache kept out of."""
    bypass_reasons: Counter[str] = field(default_factory=Counter)
    """The same by reason: `default-off`, `no-cache, no-store`, `call-type`, `unkeyable`, `raw-response`,
    `name` (another function has it), `hook` (one raised before the cache was asked)."""
    upstream_calls: int = 0
    """Calls of the wrapped function that were begun."""
    upstream_errors: int = 0
    """Those that raised."""
    stored: int = 0
    """Entries written."""
    rejected: int = 0
    """Answers that were not written because of what they are."""
    reject_reasons: Counter[str] = field(default_factory=Counter)
    """The same by reason: `error`, `empty`, `length`, `content_filter`, `refusal`, `tool-arguments`,
    `unfinished`, `aborted`, `unreadable`, `answer-type`, `ttl`, `changed` (the arguments, after the
    key was built), `invalidated` (while the call was under way), `veto`, or a hook's own word."""
    read_errors: int = 0
    """Look-ups that a backend failed (each became a miss), corrupt entries aside."""
    corrupt: int = 0
    """Look-ups that found bytes which are not a whole entry, or not an answer (each became a miss)."""
    dropped: int = 0
    """Entries dropped from a full write-behind queue. They were counted as stored when they were queued."""
    write_errors: int = 0
    """Entries that a backend failed to write."""
    lease_waits: int = 0
    """Flights that waited for another process' call."""
    lease_errors: int = 0
    """Leases that a backend failed to take, renew or release: then each process calls for itself."""
    hook_errors: int = 0
    """Hooks that raised."""
    refreshes: int = 0
    """Refreshes begun behind an answer; they are no calls."""
    refresh_errors: int = 0
    """Those whose upstream call failed."""
    negative_hits: int = 0
    """Errors raised from memory: upstream calls that were not made."""

    @property
    def calls(self) -> int:
        """Calls that are finished."""
        return self.hits + self.stale + self.coalesced + self.misses + self.bypassed

    @property
    def hit_ratio(self) -> float:
        """The share of finished calls, bypassed ones aside, that needed no upstream call; 0.0 before the first."""
        asked = self.calls - self.bypassed
        return (self.hits + self.stale + self.coalesced) / asked if asked else 0.0

    def count_end(self, outcome: str) -> None:
        """Count a call that was not answered by the first look-up."""
        if outcome in ("hit", "semantic"):
            self.hits += 1
            self.semantic_hits += outcome == "semantic"
        elif outcome == "stale":
            self.stale += 1
        elif outcome == "coalesced":
            self.coalesced += 1
        else:
            self.misses += 1

    def count_bypass(self, reason: str) -> None:
        self.bypassed += 1
        self.bypass_reasons[reason.partition(":")[0]] += 1

    def count_rejection(self, reason: str) -> None:
        self.rejected += 1
        self.reject_reasons[reason] += 1

    def as_dict(self) -> dict[str, Any]:
        """All counters, JSON-able."""
        # asdict would make Counters of pairs of the Counters.
        reasons = {name: dict(getattr(self, name)) for name in ("bypass_reasons", "reject_reasons")}
        return {"calls": self.calls, "hit_ratio": self.hit_ratio, **asdict(self), **reasons}
