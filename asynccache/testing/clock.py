"""A clock that a test sets."""

from __future__ import annotations


class FakeClock:
    """Tells the time that it was given: seconds since the epoch. It stands still until it is advanced."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Go forward; backward when negative, as real clocks do when they are corrected."""
        self.now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self.now})"
