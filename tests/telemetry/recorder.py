"""An observer that keeps what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asynccache.telemetry.observation import Observation, UpstreamCall


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self.made: list[UpstreamCall] = []

    def observe(self, seen: Observation, /) -> None:
        self.seen.append(seen)

    def observe_upstream(self, made: UpstreamCall, /) -> None:
        self.made.append(made)

    @property
    def outcomes(self) -> list[str]:
        return [seen.outcome for seen in self.seen]


async def until(happened: Callable[[], object]) -> None:
    """Wait for what other tasks of this loop bring about."""
    async with asyncio.timeout(60):
        while not happened():  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(0)
