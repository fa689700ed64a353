"""Connections belong to an event loop: one set of them for each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One T for each event loop that asks, made there when it first does.

    make:  called on that loop.
    close: run on that loop; it raises nothing.

    What belongs to a loop that was closed is dropped: nothing can be awaited on it any more. So is, in a forked
    child, what its parent made.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._lock = Lock()
        self._made: dict[asyncio.AbstractEventLoop, T] = {}
        self._pid = os.getpid()

    def here(self) -> T:
        """The running loop's. Raises what `make` raises."""
        loop = asyncio.get_running_loop()
        if (made := self._made.get(loop)) is not None and self._pid == os.getpid():
            return made
        with self._lock:
            self._forget_the_dead()
            made = self._made[loop] = self._make()
            return made

    async def leave(self) -> None:
        """Close the running loop's, if there is one."""
        made = self._take(asyncio.get_running_loop())
        if made is not None:
            await self._close(made)

    async def aclose(self) -> None:
        """Close all of them, each on its own loop. Those of loops that stand still are dropped."""
        await self.leave()
        for loop in list(self._made):
            if loop.is_running() and self._pid == os.getpid():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.leave(), loop))
            else:
                self._take(loop)

    def _take(self, loop: asyncio.AbstractEventLoop) -> T | None:
        with self._lock:
            self._forget_the_dead()
            return self._made.pop(loop, None)

    def _forget_the_dead(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._made.clear()
        for loop in [loop for loop in self._made if loop.is_closed()]:
            del self._made[loop]
