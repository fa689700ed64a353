"""Calls about one thing each, gathered into one call about all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from asynccache.background import cancel
from asynccache.model import CacheStatus, Completion, Request, Response
from asynccache.protocols import Handler, Parts
from asynccache.streams import close

_LINGER = 0.01


class Batch:
    """One caller's calls about one thing each, on their way to the upstream. It stands as the `call` of their target.

    Those that get as far as the upstream travel together, as soon as no other is coming: each of them has
    arrived, has its answer, or waits for what somebody else does. One that comes after all (that somebody has
    failed) makes another call, with all that come with it.

    What was begun for this caller others may wait for too: a call goes on for as long as anybody does.

    patience: seconds for which those that have arrived wait for one that is held up where nobody tells us,
    such as in a stage of the user's own.
    """

    def __init__(self, request: Request, parts: Parts, *, patience: float = 0.1) -> None:
        self._request = request
        self._parts = parts
        self._patience = patience
        self._coming = 0  # how many may still arrive
        self._places: dict[Request, int] = {}  # of those that were begun, and are not done
        self._resting: set[Request] = set()  # those of them that do not count as coming
        self._arrived: list[_Asker] = []
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, **params: Any) -> Any:
        """Never comes to pass: `Upstream` asks for what is in the request."""
        raise NotImplementedError("a batch is asked, not called")

    def expect(self, number: int) -> None:
        """So many are coming."""
        self._coming = number

    def begin(self, request: Request, place: int) -> None:
        """One of those that were expected sets out; place: where it stands among them."""
        self._places[request] = place

    def done(self, request: Request) -> None:
        """This one has its answer."""
        if self._forget(request) and not self._coming:
            self._send()

    def given_up(self, request: Request) -> None:
        """Nobody waits for this one's answer any more, and so, most likely, for that of no other of this caller."""
        if self._forget(request) and not self._coming and self._arrived:
            self._wait(_LINGER)

    @contextmanager
    def without(self, request: Request) -> Iterator[None]:
        """While this one waits for what somebody else does, the others do not wait for it."""
        rests = self._rest(request)
        try:
            yield
        finally:
            if rests and request in self._resting:  # and not done meanwhile
                self._resting.remove(request)
                self._coming += 1

    async def ask(self, request: Request, call: Handler) -> Response:
        """This one's own answer, from a call about all that have arrived; a `Whole` if that cannot be divided.
        Raises what the call raises."""
        asker = _Asker(request, call)
        self._arrived.append(asker)
        self._rest(request)
        if asker.together is None:
            # One that was not expected is a refresh behind an answer: nobody knows how many more there are.
            self._wait(self._patience if self._coming else _LINGER)
        try:
            return await asker.answer
        except asyncio.CancelledError:
            await self._leave(asker)
            raise

    def _rest(self, request: Request) -> bool:
        """Whether it was coming, and now is not."""
        if request not in self._places or request in self._resting:
            return False
        self._resting.add(request)
        self._coming -= 1
        if not self._coming:
            self._send()
        return True

    def _forget(self, request: Request) -> bool:
        """Whether it was coming still."""
        del self._places[request]
        if request in self._resting:
            self._resting.remove(request)
            return False
        self._coming -= 1
        return True

    def _wait(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._send)

    async def _leave(self, asker: _Asker) -> None:
        if asker in self._arrived:
            self._arrived.remove(asker)
        if asker.together is not None:
            await asker.together.left()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        arrived, self._arrived = self._arrived, []
        if arrived:
            arrived.sort(key=lambda asker: self._places.get(asker.request, inf))
            _Together(self._request, self._parts, arrived)


class Whole:
    """An answer about several things that cannot be divided. It is nobody's answer, and is not to be stored.

    known: whether it has the shape of its kind at all, so that only its parts were not those asked for.
    """

    def __init__(self, value: Any, requests: int, known: bool) -> None:
        self.value = value
        self.requests = requests
        self.known = known


class _Asker:
    """Who waits for one thing's answer."""

    def __init__(self, request: Request, call: Handler) -> None:
        self.request = request
        self.call = call
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.together: _Together | None = None


class _Together:
    """One call about what several ask for. It ends when nobody waits for it any more."""

    def __init__(self, request: Request, parts: Parts, askers: list[_Asker]) -> None:
        self._parts = parts
        self._askers = askers
        for asker in askers:
            asker.together = self
        alone = [asker.request.params for asker in askers]
        together = Request(parts.join(request.params, alone), request.directives, request.target)
        self._task = asyncio.create_task(self._run(together, alone, askers[0].call))

    async def left(self) -> None:
        """One has left. The last one waits until the call has cleaned up."""
        if all(asker.answer.done() for asker in self._askers):
            await cancel(self._task)

    async def _run(self, request: Request, alone: list[dict[str, Any]], call: Handler) -> None:
        try:
            answers = await self._divided(await call(request), alone)
        except asyncio.CancelledError:  # by us, when nobody waits; or the upstream has cancelled itself
            self._each(lambda asker: asker.answer.cancel())
            raise
        except BaseException as error:  # whatever it is, those who wait must hear of it
            failure = error
            self._each(lambda asker: asker.answer.set_exception(failure))
            if not isinstance(error, Exception):
                raise
        else:
            for asker, answer in zip(self._askers, answers, strict=True):
                if not asker.answer.done():
                    asker.answer.set_result(_response(asker.request, answer))

    def _each(self, tell: Any) -> None:
        for asker in self._askers:
            if not asker.answer.done():
                tell(asker)

    async def _divided(self, response: Response, alone: list[dict[str, Any]]) -> list[Any]:
        value, known = None, False
        if isinstance(response, Completion):
            value = response.value
            try:
                return self._parts.divide(value, alone)
            except Exception as error:  # an answer may be any object at all
                known = isinstance(error, ValueError)
        else:
            await close(response.chunks)
        return [Whole(value, len(alone), known)] * len(alone)


def _response(request: Request, answer: Any) -> Completion:
    response = Completion(CacheStatus("miss", key=request.digest), answer)
    response.hooked = isinstance(answer, Whole)  # hooks are for answers
    return response


@contextmanager
def beside_batch(request: Request) -> Iterator[None]:
    """While this request waits for what somebody else does, a batch that it is part of goes without it."""
    batch = request.target.call
    if isinstance(batch, Batch):
        with batch.without(request):
            yield
    else:
        yield
