"""Any command, for what is built on a Redis server beside entries: indexes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from asynccache.backends._redis_batches import Drivers
from asynccache.backends._redis_lines import Failures, Line, Pool, pack
from asynccache.errors import BackendClosed
from asynccache.loops import PerLoop

Argument = bytes | str | int | float


class Commands:
    """Asks one server. What gathers in one turn of an event loop travels in one pipeline.

    Commands of one call to `ask` are done in their order; those of several calls in any. They are not repeated.
    May be used from several event loops.
    """

    def __init__(self, pool: Callable[[], Pool], failures: Failures, lines: int, max_batch: int) -> None:
        self._failures = failures
        self._closed = False
        self._loops = PerLoop(lambda: _OfLoop(pool(), failures, lines, max_batch), _OfLoop.close)

    async def ask(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """The replies; those that are errors are among them, as the driver's exceptions. Raises BackendError when
        there are none."""
        if self._closed:
            raise BackendClosed("used after aclose()", backend=self._failures.backend)
        packed = b"".join([pack(*[_bytes(argument) for argument in command]) for command in commands])
        replies: list[Any] = await self._loops.here().send(packed, len(commands))
        return replies

    def failure(self, error: Exception) -> Exception:
        """A reply that is an error, as a BackendError."""
        return self._failures.of(error)

    async def leave(self) -> None:
        await self._loops.leave()

    async def aclose(self) -> None:
        self._closed = True
        await self._loops.aclose()


class _OfLoop:
    def __init__(self, pool: Pool, failures: Failures, lines: int, max_batch: int) -> None:
        self._pool = pool
        self._failures = failures
        self._max_batch = max_batch
        self._lines = [Line(pool, failures.patience) for _ in range(lines)]
        self._queue: deque[tuple[bytes, int, asyncio.Future[list[Any]]]] = deque()
        self._drivers = Drivers()
        self._waking = 0  # drivers that were started and have taken nothing yet

    def send(self, packed: bytes, replies: int) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._queue.append((packed, replies, future))
        if len(self._queue) > self._waking * self._max_batch and self._lines:
            self._waking += 1
            self._drivers.start(self._drive(self._lines.pop()))
        return future

    async def _drive(self, line: Line) -> None:
        self._waking -= 1
        try:
            while self._queue:
                taken = [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))]
                await self._answer(line, [one for one in taken if not one[2].done()])
        finally:
            self._lines.append(line)

    async def _answer(self, line: Line, batch: list[tuple[bytes, int, asyncio.Future[list[Any]]]]) -> None:
        if not batch:
            return
        failure: BaseException = BackendClosed("closed while it was under way")
        answers: list[Any] | None = None
        try:
            answers = await line.exchange(b"".join([one[0] for one in batch]), sum(one[1] for one in batch))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever a driver makes of what it was sent, it belongs to those who wait
            failure = error
        finally:
            at = 0
            for _, replies, future in batch:
                if not future.done():
                    if answers is None:
                        future.set_exception(self._failures.of(failure))
                    else:
                        future.set_result(answers[at : at + replies])
                at += replies

    async def close(self) -> None:
        await self._drivers.finish(self._failures.patience)
        for _, _, future in self._queue:
            if not future.done():
                future.set_exception(self._failures.of(BackendClosed("closed before it was sent")))
        self._queue.clear()
        for line in self._lines:
            await line.close()
        await self._pool.close()


def _bytes(argument: Argument) -> bytes:
    if isinstance(argument, bytes):
        return argument
    return (argument if isinstance(argument, str) else repr(argument)).encode("utf-8", "surrogatepass")
