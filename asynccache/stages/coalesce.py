"""One upstream call per key, however many callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal

from asynccache.background import Hedged
from asynccache.batches import beside_batch
from asynccache.errors import AsyncCacheError, ConfigError, StreamError
from asynccache.leases import Lead, Leadership
from asynccache.model import CacheStatus, Completion, CompletionStream, Kind, Request, Response
from asynccache.protocols import Handler
from asynccache.streams import Broadcast, Reader, Recorder, close

LookAgain = Callable[[Request], Awaitable[Response | None]]
Outdated = Callable[[Request], Awaitable[bool]]
OnAbandon = Literal["cancel", "finish"]
_Place = tuple[asyncio.AbstractEventLoop, str, Kind]


class Coalesce:
    """Callers of one key share a flight: a task that belongs to none of them.

    A caller that is cancelled leaves alone. If the flight fails, all of them get its exception. Every
    caller but the one who began it decodes an answer of its own. Who asks for a stream under way gets what
    has come so far at once, and then follows it live.

    Calls that may not read or not write fly alone. So do callers on different event loops, and streams
    apart from whole answers.

    look_again: a caller whose look-up found nothing may come here just after the flight that
    stored the answer has landed. So a new flight looks once more before it calls the upstream: what
    a landed flight stored is there by then, since a flight lands after its write.

    outdated: whether what the flight of this request brings was invalidated after it had begun. Who
    comes later does not join it.

    on_abandon: what becomes of a flight when its last caller has left: "cancel" closes the upstream's
    connection, "finish" lets it fill the cache, for as long as it can.

    max_bytes: how far behind its stream a reader may be that cannot have it from the recording.

    leadership: how flights of several processes agree on which of them calls; None: each does. One that waited
    for another process looks again when that is done. A stream under way in another process cannot be followed
    live: it is waited for until it is stored.
    """

    def __init__(
        self,
        look_again: LookAgain,
        outdated: Outdated,
        *,
        on_abandon: OnAbandon = "cancel",
        max_bytes: float = 16 * 2**20,
        leadership: Leadership | None = None,
    ) -> None:
        if on_abandon not in ("cancel", "finish"):
            raise ConfigError(f"on_abandon={on_abandon!r}: it is 'cancel' or 'finish'")
        self._look_again = look_again
        self._outdated = outdated
        self._finish = on_abandon == "finish"
        self._max_bytes = max_bytes
        self._leadership = leadership
        self._flights: dict[_Place, _Flight] = {}
        self._under_way: set[_Flight] = set()  # those too that nobody can join any more

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        directives = request.directives
        if request.bypass or directives.no_cache or directives.no_store:
            return await call_next(request)
        place = asyncio.get_running_loop(), request.key.digest, request.kind
        while (flight := self._flights.get(place)) and flight.joinable:
            outdated = await self._outdated(flight.request)
            if self._flights.get(place) is not flight or not flight.joinable:
                continue  # it has landed meanwhile, or another one has begun
            if outdated:
                flight.let_go()  # nobody is to wait for what it brings, in whatever process
                break
            response = await self._follow(flight, request, call_next)
            if response is not None:
                return response
        return await self._lead(place, request, call_next)

    async def aclose(self) -> None:
        """End the flights of this event loop, and wait until they have cleaned up. Who still waits for one
        gets an error."""
        loop = asyncio.get_running_loop()
        flights = [flight for flight in tuple(self._under_way) if flight.task.get_loop() is loop]
        for flight in flights:
            flight.hang_up()
        for flight in flights:
            await flight.gone()
        await self.drain()

    async def drain(self) -> None:
        """Wait until the leases of what has landed are released."""
        if self._leadership is not None:
            await self._leadership.drain()

    async def _lead(self, place: _Place, request: Request, call_next: Handler) -> Response:
        flight = self._flights[place] = _Flight(request, self._finish, self._max_bytes)
        async with flight.aboard():
            flight.task = asyncio.create_task(self._fly(flight, request, call_next))
            self._under_way.add(flight)
            flight.task.add_done_callback(lambda _: self._land(place, flight))
            try:
                await flight.opened()
            except asyncio.CancelledError:
                await flight.drop_first()
                raise
            return flight.take_first()

    async def _follow(self, flight: _Flight, request: Request, call_next: Handler) -> Response | None:
        """For one who joined: an answer of its own. None when it had better try anew."""
        async with flight.aboard():
            with beside_batch(request):
                await flight.opened()
            if isinstance(flight.error, asyncio.CancelledError):
                return None  # the upstream gave up by itself: that is for the one who called it
            response = flight.result()
            if isinstance(response, Completion) and response.refusal == "invalidated":
                return None  # it may have been over before this caller came: by a tag that only a hook knew
            if flight.found:  # then it is not for the flight to say whether it is good enough
                return await self._find(request, flight)
            status = CacheStatus("coalesced", key=request.digest, stored=response.status.stored)
            if flight.broadcast is not None:
                if not flight.broadcast.whole:
                    return None  # it has grown too large since
                return CompletionStream(status, flight.broadcast.join(request.target.answers.decode_chunk))
            if isinstance(response, Completion) and (entry := response.entry) is not None:
                try:
                    value = request.target.answers.decode(entry)
                except Exception:  # the other's types are not ours
                    return await call_next(request)
                status.entry, status.now = entry, entry.created
                return Completion(status, value, entry)
        return await call_next(request)  # an answer that cannot be copied: each pays for its own

    async def _fly(self, flight: _Flight, request: Request, call_next: Handler) -> None:
        stored = False
        try:
            if self._leadership is not None and request.find(Hedged) is None:
                flight.lead = await self._leadership.take(request.key, lambda: beside_batch(request))
            found = await self._find(request, flight)
            flight.found = found is not None
            response = found or await call_next(request)
            await flight.arrive(response)
            stored = response.status.stored
        except BaseException as error:  # whatever it is, the callers must hear of it
            flight.fail(error)
            raise
        finally:
            flight.let_go(stored)

    async def _find(self, request: Request, flight: _Flight) -> Response | None:
        """What is stored by now: another process' answer, if that was waited for."""
        found = await self._look_again(request)
        if found is not None and flight.lead is not None and flight.lead.waited:
            found.status.outcome = "coalesced"
        return found

    def _land(self, place: _Place, flight: _Flight) -> None:
        self._under_way.discard(flight)
        flight.land()
        if self._flights.get(place) is flight:
            del self._flights[place]
        if not flight.task.cancelled():
            flight.task.exception()  # so that asyncio does not report it as never retrieved when all have left


class _Flight:
    """An upstream call under way, and who waits for it. The `Owner` of its broadcast.

    It is joinable until it has brought a whole answer, or while its stream can be had from the first chunk
    on. It is wanted while somebody is aboard, that is, waits for it or has not yet taken what it brought,
    or reads its stream; under "finish" also while what it brings may still be stored. When it is not
    wanted any more it is given up, once: its task is cancelled.

    A caller may be cancelled at any point, and this is what happens to the one who began it:
      before the answer is there    it leaves; no first reader is made when a stream arrives
      it is there, but not taken    its reader leaves as if it had been taken, or the stream that
                                    nobody shares is closed
      taken                         it has the reader, which leaves when closed, cancelled or dropped
    One who joined has a reader only when it has taken it, so for it there are only the first and the last.
    """

    task: asyncio.Task[None]

    def __init__(self, request: Request, finish: bool, max_bytes: float) -> None:
        self.request = request
        self.broadcast: Broadcast[Any] | None = None
        self.error: BaseException | None = None
        self.found = False
        self.lead: Lead | None = None
        self._response: Response | None = None
        self._trace: TracebackType | None = None
        self._finish = finish
        self._max_bytes = max_bytes
        self.waiters = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._open = False
        self._first: CompletionStream | None = None
        self._first_left = False
        self._given_up = False

    # -- for callers ----------------------------------------------------------------------------------

    @property
    def joinable(self) -> bool:
        if self._given_up:
            return False
        return self.broadcast.whole and not self.broadcast.ended if self.broadcast else not self._open

    @asynccontextmanager
    async def aboard(self) -> AsyncIterator[None]:
        """For as long as somebody waits or chooses. The last one to leave waits until all is cleaned up."""
        self.waiters += 1
        try:
            yield
        finally:
            self.waiters -= 1
            self.left()
            await self.gone()

    async def opened(self) -> None:
        """Until there is an answer, or a stream has begun. Raises only the caller's own cancellation."""
        while not self._open:
            # One for each: who is cancelled cancels what it waits for.
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def result(self) -> Response:
        if self.error is not None:
            raise self.error.with_traceback(self._trace)  # else each raise would make it longer
        assert self._response is not None
        return self._response

    def take_first(self) -> Response:
        """The answer for the one who began it. Nothing else refers to its stream, so that it can be told
        when that is dropped."""
        response = self.result()
        first, self._first = self._first, None
        return first or response

    async def drop_first(self) -> None:
        """The one who began it leaves before it could take its answer."""
        self._first_left = True
        if self._first is not None:
            await close(self._first.chunks)
            self._first = None
        elif self.broadcast is None and isinstance(self._response, CompletionStream):
            await close(self._response.chunks)

    # -- for the task ---------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Unless it has brought an answer: what comes after that is told to the readers of its stream."""
        if self._response is None:
            self.error = self.error or error
            self._trace = self.error.__traceback__
            self._set_open()

    async def arrive(self, response: Response) -> None:
        """Hand the answer over; run a stream to its end."""
        chunks = response.chunks if isinstance(response, CompletionStream) else None
        if self._given_up:  # and the upstream would not be cancelled
            await close(chunks)
            return
        self._response = response
        if isinstance(response, CompletionStream) and isinstance(chunks, Recorder) and chunks.tape is not None:
            self.broadcast = Broadcast(chunks, limit=self._max_bytes, owner=self)
            if not self._first_left:
                self._first = _First(response, self.broadcast.first_reader())
        self._set_open()
        if self.broadcast is not None:
            await self.broadcast.pump()
        elif self._first_left:
            await close(chunks)

    def let_go(self, stored: bool = False) -> None:
        """Other processes need not wait for it any more: is there an entry to be read now?"""
        if self.lead is not None:
            self.lead.release(stored)

    def land(self) -> None:
        """It is over. What it brought is freed at once, and not when the garbage collector finds the circle."""
        if not self.waiters:
            self.broadcast = None

    def hang_up(self) -> None:
        """The cache is closed."""
        if self.broadcast is not None:
            self.broadcast.end(StreamError("the cache was closed while this stream was read"))
        elif not self._open:
            self.fail(AsyncCacheError("the cache was closed while the call was under way"))
        self._give_up()

    # -- for the broadcast ----------------------------------------------------------------------------

    def wanted(self) -> bool:
        if self._given_up:
            return False
        if self.waiters or (self.broadcast is not None and self.broadcast.readers):
            return True
        return self._finish and (self.broadcast is None or self.broadcast.whole)

    def left(self) -> None:
        over = self._open if self.broadcast is None else self.broadcast.ended
        if not over and not self.wanted():
            self._give_up()

    async def gone(self) -> None:
        """Wait until it is done, if it was given up. Who is cancelled meanwhile passes that on to it."""
        interrupted: asyncio.CancelledError | None = None
        while self._given_up and not self.task.done() and self.task is not asyncio.current_task():
            try:
                await asyncio.wait((self.task,))
            except asyncio.CancelledError as error:
                interrupted = error
                self.task.cancel()
        if interrupted is not None:
            raise interrupted

    def _give_up(self) -> None:
        if not self._given_up:
            self._given_up = True
            self.task.cancel()

    def _set_open(self) -> None:
        self._open = True
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class _First(CompletionStream):
    """The stream as the one who began the flight gets it: what is said of it is said of what is stored."""

    def __init__(self, whole: CompletionStream, reader: Reader[Any]) -> None:
        super().__init__(whole.status, reader, whole.source)
        self.hooked = whole.hooked
        self._whole = whole

    def tag(self, *tags: str) -> None:
        self._whole.tag(*tags)

    def note(self, **facts: Any) -> None:
        self._whole.note(**facts)

    def veto(self, reason: str = "veto") -> None:
        self._whole.veto(reason)
