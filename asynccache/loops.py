"""Connections belong to an event loop: one set of them for each."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

_PATIENCE = 2.0  # seconds that another loop has to close what belongs to it


class PerLoop(Generic[T]):
    """One T for each event loop that asks, made there when it first does.

    make:  called on that loop.
    close: run on that loop; it raises nothing.

    What belongs to a loop that was closed is dropped: nothing can be awaited on it any more. A forked child has its
    parent's connections open, and must neither use nor close them: closing would take them out of the selector, which
    it shares with its parent. So they are kept, untouched. The child's loops are new ones, since asyncio's cannot be
    shared.

    There is no lock, which a fork could leave locked for ever: only a loop's own thread puts something in under it.

    Asking asyncio which loop is running costs a system call before Python 3.12. There a loop is told by its thread's
    hook for async generators: when it starts it sets that to a method of its own, made anew each time, so as long as
    it is the one of last time the loop is. A hook that somebody else has set says nothing; nor does any where
    nest_asyncio runs loops in one another.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._made: dict[asyncio.AbstractEventLoop, T] = {}
        self._latest: tuple[object, T | None] = None, None  # the hook, and what was made for its loop
        self._parents: list[dict[asyncio.AbstractEventLoop, T]] = []
        self._pid = os.getpid()

    if sys.version_info >= (3, 12):

        def here(self) -> T:
            """The running loop's. Raises what `make` raises."""
            return self._of(asyncio.get_running_loop())

    else:

        def here(self) -> T:
            """The running loop's. Raises what `make` raises."""
            hook = sys.get_asyncgen_hooks().firstiter
            latest, made = self._latest
            if hook is not latest or made is None:
                loop = asyncio.get_running_loop()
                made = self._of(loop)
                tells = getattr(hook, "__self__", None) is loop and not hasattr(asyncio, "_nest_patched")
                self._latest = (hook, made) if tells else (None, None)
            return made

    def _of(self, loop: asyncio.AbstractEventLoop) -> T:
        made = self._made.get(loop)
        if made is None:
            self._forget_the_dead()
            made = self._made[loop] = self._make()
        return made

    async def leave(self) -> None:
        """Close the running loop's, if there is one."""
        self._forget_the_dead()
        self._latest = None, None
        made = self._made.pop(asyncio.get_running_loop(), None)
        if made is not None:
            await self._close(made)

    async def aclose(self) -> None:
        """Close all of them, each on its own loop. Dropped are those of a loop that does not run, or that stops or
        is blocked meanwhile: it has 2 s."""
        await self.leave()
        for loop in list(self._made):
            if loop.is_running():
                await self._leave_there(loop)
            self._made.pop(loop, None)
        self._latest = None, None

    async def _leave_there(self, loop: asyncio.AbstractEventLoop) -> None:
        left: Future[None] = Future()
        tasks: list[asyncio.Task[None]] = []  # the loop itself would not keep it

        def leave() -> None:
            tasks.append(loop.create_task(self.leave()))
            tasks[0].add_done_callback(lambda _: left.set_result(None))

        try:
            loop.call_soon_threadsafe(leave)
        except RuntimeError:
            return  # it was closed meanwhile
        await asyncio.wait((asyncio.wrap_future(left),), timeout=_PATIENCE)

    def _forget_the_dead(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._parents.append(self._made)
            self._made = {}
        for loop in [loop for loop in list(self._made) if loop.is_closed()]:
            self._made.pop(loop, None)
