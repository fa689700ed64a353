"""Tokens of many calls in one sum, so that their price need not be asked call by call."""

from __future__ import annotations

from asynccache.telemetry.observation import NOTHING, Observation, Usage
from asynccache.telemetry.prices import FREE, Cost, Prices

SMALL = 16_000
"""Tokens of input, up to which no model has another rate for larger calls. Larger calls are summed up apart."""

_THERE = ("hit", "stale", "semantic", "coalesced")


class Sum:
    """Calls of one kind, and their tokens. What is unknown is in no number of tokens.

    priced: calls whose tokens are in the sum. since, until: of the first and the last, in seconds since the epoch.
    """

    __slots__ = (
        *("cached_audio", "cached_read", "cached_write", "cached_write_1h", "calls", "input", "input_audio"),
        *("output", "output_audio", "priced", "since", "unknown", "until"),
    )

    def __init__(self, began: float) -> None:
        self.since = self.until = began
        self.calls = self.priced = self.unknown = 0
        self.input = self.output = self.cached_read = self.cached_write = self.cached_write_1h = 0
        self.input_audio = self.output_audio = self.cached_audio = 0

    def add(self, began: float, usage: Usage, unknown: bool) -> None:
        self.calls += 1
        if began > self.until:
            self.until = began
        elif began < self.since:
            self.since = began
        if unknown:
            self.unknown += 1
        elif usage is not NOTHING:
            read, written, cached, put, hour, heard, spoken, again = usage
            self.priced += 1
            self.input += read
            self.output += written
            if cached or put:
                self.cached_read += cached
                self.cached_write += put
                self.cached_write_1h += hour
            if heard or spoken:
                self.input_audio += heard
                self.output_audio += spoken
                self.cached_audio += again

    @property
    def usage(self) -> Usage:
        return Usage(*(getattr(self, name) for name in Usage._fields))

    def cost(self, prices: Prices, model: str, *, provider: str, answered: str, size: int) -> Cost | None:
        """What they cost in sum, if all began in the same quarter of an hour; None: nobody knows.

        size: the input of each, if it is not `SMALL`, else 0.
        """
        if not self.priced:
            return FREE
        rates = prices.rates(model, provider=provider, answered=answered, at=self.since)
        return None if rates is None else rates.cost(self.usage, calls=self.priced, size=size)


def saved_by(seen: Observation) -> Usage | None:
    """What the part of the answer that was there would have taken; None: there was one, and nobody knows."""
    if seen.usage is None or seen.paid is None:
        return None if seen.outcome in _THERE else NOTHING
    saved = seen.usage.minus(seen.paid)
    return NOTHING if saved == NOTHING else saved
