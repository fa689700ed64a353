"""Lets a test decide when calls go on, without sleeping."""

from __future__ import annotations

import asyncio


class Turnstile:
    """Counts who comes to it, and holds them back while it is shut. It starts open.

    All of it belongs to one event loop; it takes the one that it is first waited on in.
    """

    def __init__(self) -> None:
        self.arrived = 0
        self._open = asyncio.Event()
        self._open.set()
        self._expected: list[tuple[int, asyncio.Future[None]]] = []

    def hold(self) -> None:
        """Shut it: whoever comes to `passage` from now on waits."""
        self._open.clear()

    def release(self) -> None:
        """Open it: whoever waits goes on."""
        self._open.set()

    def arrive(self) -> int:
        """Count one more arrival, and return its number, from 1."""
        self.arrived += 1
        for number, reached in self._expected:
            if number <= self.arrived and not reached.done():
                reached.set_result(None)
        self._expected = [(number, reached) for number, reached in self._expected if not reached.done()]
        return self.arrived

    async def passage(self) -> None:
        """Return at once while it is open; else wait until it is."""
        if not self._open.is_set():
            await self._open.wait()

    async def reached(self, number: int) -> None:
        """Wait until so many have arrived since the beginning."""
        if self.arrived < number:
            reached = asyncio.get_running_loop().create_future()
            self._expected.append((number, reached))
            await reached
