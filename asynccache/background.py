"""Work beside the call: refreshes behind an answer, and tasks that are given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from asynccache.model import CacheKey, CompletionStream, Entry, Outgoing, Request, Response
from asynccache.protocols import Handler
from asynccache.stats import Stats
from asynccache.streams import close
from asynccache.sync import leave_caller

logger = logging.getLogger("asynccache")


@dataclass(frozen=True, slots=True)
class Refreshing:
    """Attached to a request that refreshes this entry: only a newer one will do for it."""

    entry: Entry


class Hedged:
    """Attached to a request whose look-up is still under way: no later stage may wait for the backend
    before the upstream is called."""


class Refreshes:
    """Refreshes of entries under way: at most one for each key, and `limit` of them."""

    def __init__(self, limit: int, stats: Stats) -> None:
        self._limit = limit
        self._stats = stats
        self._lock = Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, entry: Entry, request: Request, call_next: Handler) -> None:
        """Refresh what answered this request, unless that is being done, or there is no room, or the call
        could not store it or may not cost anything."""
        directives = request.directives
        if directives.no_store or directives.only_if_cached or directives.ttl == 0:
            return
        digest = request.key.digest
        with self._lock:
            if digest in self._tasks or len(self._tasks) >= self._limit:
                self._forget_dead_loops()
                if digest in self._tasks or len(self._tasks) >= self._limit:
                    return
            try:
                again = _own(request)
            except Exception as error:  # arguments may be any objects at all
                logger.debug("not refreshed: %r", error)
                return
            again.attach(Refreshing(entry))
            task = self._tasks[digest] = asyncio.create_task(self._refresh(again, call_next))
        task.add_done_callback(lambda task: self._done(digest, task))
        self._stats.refreshes += 1

    async def aclose(self) -> None:
        """Cancel those of this event loop, and wait until they have cleaned up."""
        loop = asyncio.get_running_loop()
        for task in list(self._tasks.values()):
            if task.get_loop() is loop:
                await cancel(task)

    async def _refresh(self, request: Request, call_next: Handler) -> None:
        leave_caller()  # who may not have taken his answer yet: a refresh on his thread would hold it up
        try:
            response = await call_next(request)
            if isinstance(response, CompletionStream):
                await _drain(response)
        except Exception as error:  # nobody asked for it, so nobody is told
            logger.debug("refresh failed: %r", error)
            self._stats.refresh_errors += 1

    def _done(self, digest: str, task: asyncio.Task[None]) -> None:
        with self._lock:
            if self._tasks.get(digest) is task:
                del self._tasks[digest]

    def _forget_dead_loops(self) -> None:
        for digest, task in list(self._tasks.items()):
            if task.get_loop().is_closed():
                del self._tasks[digest]


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel it, and wait until it is done. Cancelled itself meanwhile, it raises that afterwards."""
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


async def give_up(call: asyncio.Task[Response]) -> None:
    """The same for a call whose answer nobody wants any more."""
    try:
        await cancel(call)
    finally:
        if not call.cancelled() and call.exception() is None and isinstance(call.result(), CompletionStream):
            await close(call.result().chunks)  # type: ignore[union-attr]


async def complete(awaitable: Awaitable[Response]) -> Response:
    """Any awaitable as a coroutine, which a task can be made of."""
    return await awaitable


async def _drain(response: CompletionStream) -> None:
    """Read a stream to its end: it is recorded then."""
    try:
        async for _ in response.chunks:
            pass
    finally:
        await close(response.chunks)


def _own(request: Request) -> Request:
    """The same request with arguments of its own: its caller, who is answered and goes on, is free to
    append to his messages while the upstream reads ours."""
    key = request.key
    params: dict[str, Any] = _copy(request.params)
    source = key.source
    if source:
        read = params if source[0] is request.params else _copy(source[0])
        source = (read, *source[1:])
    again = Request(params, request.directives, request.target)
    again.key = CacheKey(key.digest, (key.scope, key.text), source)
    if (outgoing := request.find(Outgoing)) is not None:
        again.attach(outgoing)
    return again


def _copy(value: Any) -> Any:
    """Containers anew, all else as it is: Store builds the key once more, and sees what changed in it."""
    kind = type(value)
    if kind is dict:
        return {name: _copy(part) for name, part in value.items()}
    if kind is list or kind is tuple:
        return kind([_copy(part) for part in value])
    return value
