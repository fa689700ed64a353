"""One upstream call per key, however many callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from asynccache.model import CacheStatus, Completion, Request, Response
from asynccache.protocols import Handler

LookAgain = Callable[[Request], Awaitable[Response | None]]


class Coalesce:
    """Callers of one key share a flight: a task that belongs to none of them.

    A caller that is cancelled leaves alone; when the last one has left, the flight is cancelled. If
    it fails, all of them get its exception. Every caller but the one who began the flight decodes
    an answer of its own.

    Streams, and calls that may not read or not write, fly alone.

    look_again: a caller whose look-up found nothing may come here just after the flight that
    stored the answer has landed. So a new flight looks once more before it calls the upstream: what
    a landed flight stored is there by then, since a flight lands after its write.
    """

    def __init__(self, look_again: LookAgain) -> None:
        self._look_again = look_again
        self._flights: dict[str, _Flight] = {}

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        directives = request.directives
        if request.bypass or directives.no_cache or directives.no_store or request.kind == "stream":
            return await call_next(request)
        digest = request.key.digest
        flight = self._flights.get(digest)
        if flight is None or flight.loop is not asyncio.get_running_loop():
            flight = self._flights[digest] = _Flight(self._fly(request, call_next))
            flight.task.add_done_callback(lambda _: self._land(digest, flight))
            return await self._wait(digest, flight)
        response = await self._wait(digest, flight)
        if not isinstance(response, Completion) or response.entry is None:
            return await call_next(request)  # an answer that cannot be copied: each pays for its own
        entry = response.entry
        status = CacheStatus("coalesced", key=digest, entry=entry, now=entry.created, stored=response.status.stored)
        return Completion(status, request.target.answers.decode(entry), entry)

    async def _fly(self, request: Request, call_next: Handler) -> Response:
        return await self._look_again(request) or await call_next(request)

    async def _wait(self, digest: str, flight: _Flight) -> Response:
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.waiters == 1 and not flight.task.done():
                # The last one leaves. From here on a newcomer begins a flight of its own, and we stay
                # until this one has cleaned up, as we would have without a cache in between.
                self._land(digest, flight)
                flight.task.cancel()
                await asyncio.wait((flight.task,))
            raise
        finally:
            flight.waiters -= 1

    def _land(self, digest: str, flight: _Flight) -> None:
        if self._flights.get(digest) is flight:
            del self._flights[digest]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # so that asyncio does not report it as never retrieved when all have left


class _Flight:
    """An upstream call under way, and how many wait for it."""

    __slots__ = ("loop", "task", "waiters")

    def __init__(self, call: Coroutine[Any, Any, Response]) -> None:
        self.task = asyncio.create_task(call)
        self.loop = self.task.get_loop()
        self.waiters = 0
