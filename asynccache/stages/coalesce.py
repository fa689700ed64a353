"""One upstream call per key, however many callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from asynccache.model import CacheStatus, Completion, Request, Response
from asynccache.protocols import Handler

LookAgain = Callable[[Request], Awaitable[Response | None]]
Outdated = Callable[[Request], bool]
_Place = tuple[asyncio.AbstractEventLoop, str]


class Coalesce:
    """Callers of one key share a flight: a task that belongs to none of them.

    A caller that is cancelled leaves alone; when the last one has left, the flight is cancelled. If
    it fails, all of them get its exception. Every caller but the one who began the flight decodes
    an answer of its own.

    Streams, and calls that may not read or not write, fly alone. So do callers on different event loops.

    look_again: a caller whose look-up found nothing may come here just after the flight that
    stored the answer has landed. So a new flight looks once more before it calls the upstream: what
    a landed flight stored is there by then, since a flight lands after its write.

    outdated: whether what the flight of this request brings was invalidated after it had begun. Who
    comes later does not join it.
    """

    def __init__(self, look_again: LookAgain, outdated: Outdated) -> None:
        self._look_again = look_again
        self._outdated = outdated
        self._flights: dict[_Place, _Flight] = {}

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        directives = request.directives
        if request.bypass or directives.no_cache or directives.no_store or request.kind == "stream":
            return await call_next(request)
        place = asyncio.get_running_loop(), request.key.digest
        while (flight := self._flights.get(place)) and not flight.task.done() and not self._outdated(flight.request):
            await self._wait(place, flight)
            if not flight.task.cancelled():
                return await self._share(flight.task.result(), request, call_next)
            # The upstream gave up by itself. That is for the one who called it; this caller tries anew.
        flight = self._flights[place] = _Flight(request, self._fly(request, call_next))
        flight.task.add_done_callback(lambda _: self._land(place, flight))
        await self._wait(place, flight)
        return flight.task.result()

    async def _fly(self, request: Request, call_next: Handler) -> Response:
        return await self._look_again(request) or await call_next(request)

    async def _wait(self, place: _Place, flight: _Flight) -> None:
        """Until it is done. Raises only the caller's own cancellation."""
        flight.waiters += 1
        try:
            await asyncio.wait((flight.task,))
        except asyncio.CancelledError:
            if flight.waiters == 1:
                # The last one leaves. From here on a newcomer begins a flight of its own, and we stay
                # until this one has cleaned up, as we would have without a cache in between.
                self._land(place, flight)
                await _cancel(flight.task)
            raise
        finally:
            flight.waiters -= 1

    async def _share(self, response: Response, request: Request, call_next: Handler) -> Response:
        """For one who joined: what the flight brought, as an answer of its own."""
        if response.status.outcome == "hit":  # then it is not for the flight to say whether it is good enough
            return await self._look_again(request) or await call_next(request)
        if isinstance(response, Completion) and (entry := response.entry) is not None:
            try:
                value = request.target.answers.decode(entry)
            except Exception:  # the other's types are not ours
                return await call_next(request)
            stored = response.status.stored
            status = CacheStatus("coalesced", key=request.digest, entry=entry, now=entry.created, stored=stored)
            return Completion(status, value, entry)
        return await call_next(request)  # an answer that cannot be copied: each pays for its own

    def _land(self, place: _Place, flight: _Flight) -> None:
        if self._flights.get(place) is flight:
            del self._flights[place]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # so that asyncio does not report it as never retrieved when all have left


class _Flight:
    """An upstream call under way, the request that began it, and how many wait for it."""

    __slots__ = ("request", "task", "waiters")

    def __init__(self, request: Request, call: Coroutine[Any, Any, Response]) -> None:
        self.request = request
        self.task = asyncio.create_task(call)
        self.waiters = 0


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel it, and wait until it is done. Who is cancelled meanwhile passes that on as well."""
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            pass  # the caller is about to raise the first one
