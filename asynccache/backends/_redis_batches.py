"""What one event loop asks of one Redis server, a batch at a time.

Calls of one turn of the loop travel together: a task is started by the first of them, runs after all of them
and takes what has gathered. Nobody waits for others to come: a lone call is under way in the next turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from asynccache.backends._redis_lines import Failures, Line, Source, pack
from asynccache.errors import BackendClosed

logger = logging.getLogger("asynccache")

_FEW = 64
_SHARE = 8
_MOST_BYTES = 4 * 1024 * 1024  # of one pipeline of writes, unless a single one is larger: all of it has one deadline


class Drivers:
    """Tasks that work off a queue and end when it is empty."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        # Not loop.create_task: one that is made eager begins at once, and would find a batch of one.
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), name="asynccache-redis")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, patience: float) -> None:
        """Let them end by themselves for so many seconds, then cancel them."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


def _settle(future: asyncio.Future[Any], reply: Any, failures: Failures) -> None:
    if future.done():
        return  # cancelled meanwhile
    if isinstance(reply, BaseException):
        # A new one for each caller: they raise it, which writes their tracebacks into it.
        future.set_exception(failures.of(reply))
    else:
        future.set_result(reply)


class Reads:
    """Values by name. Equal names that gather are asked once.

    A batch is of 64 names, so that those of one are answered while the next is on its way; or of an eighth of all that
    wait, when that is more.

    lines: at most so many batches are under way at the same time. When all are, the next one grows.
    multi: many names are one MGET; otherwise a pipeline of GETs, for a server that refuses names of several slots.
    """

    def __init__(self, source: Source, failures: Failures, *, max_batch: int, lines: int, multi: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._failures = failures
        self._max_batch = max_batch
        self._few = min(_FEW, max_batch)
        self._multi = multi
        self._lines = [Line(source, failures.patience) for _ in range(lines)]
        self._asked: dict[bytes, list[asyncio.Future[bytes | None]]] = {}
        self._drivers = Drivers()
        self._waking = 0  # drivers that were started and have taken nothing yet

    def ask(self, name: bytes) -> asyncio.Future[bytes | None]:
        """The value under this name, read after this call. Cancelled before it was sent, it is not sent.

        Each caller has a future of its own, so that one who is cancelled takes nothing from the others.
        """
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        asked = self._asked
        if (waiting := asked.get(name)) is not None:
            waiting.append(future)
            return future
        asked[name] = [future]
        if len(asked) > self._waking * self._few and self._lines:
            self._waking += 1
            self._drivers.start(self._drive(self._lines.pop()))
        return future

    async def _drive(self, line: Line) -> None:
        self._waking -= 1
        try:
            while batch := self._take():
                await self._answer(line, batch)
        finally:
            self._lines.append(line)

    def _take(self) -> dict[bytes, list[asyncio.Future[bytes | None]]]:
        """The first of those asked for, without those nobody waits for any more."""
        asked = self._asked
        most = max(self._few, min(len(asked) // _SHARE, self._max_batch))
        if len(asked) <= most:
            self._asked = {}
            return {name: waiting for name, waiting in asked.items() if _waited_for(waiting)}
        batch = {}
        for name in list(asked):
            waiting = asked.pop(name)
            if _waited_for(waiting):
                batch[name] = waiting
                if len(batch) == most:
                    break
        return batch

    async def _answer(self, line: Line, batch: dict[bytes, list[asyncio.Future[bytes | None]]]) -> None:
        values: Iterable[Any]
        try:
            values = await self._values(line, list(batch))
        except asyncio.CancelledError:
            values = [BackendClosed("closed while it was under way")] * len(batch)
            raise
        except Exception as error:  # whatever a driver makes of what it was sent, it belongs to those who wait
            values = [error] * len(batch)
        finally:
            for waiting, value in zip(batch.values(), values, strict=True):
                if value is None or type(value) is bytes:
                    for future in waiting:
                        if not future.done():  # else cancelled meanwhile
                            future.set_result(value)
                else:
                    for future in waiting:
                        _settle(future, value, self._failures)

    async def _values(self, line: Line, names: list[bytes]) -> list[Any]:
        if len(names) == 1:
            values = await line.exchange(pack(b"GET", names[0]), 1)
        elif self._multi:
            [values] = await line.exchange(pack(b"MGET", *names), 1)
        else:
            values = await line.exchange(b"".join([pack(b"GET", name) for name in names]), len(names))
        if isinstance(values, Exception):
            raise values
        if not isinstance(values, list) or len(values) != len(names):
            await line.close()
            raise self._failures.unavailable(f"an answer that is none to MGET: {values!r:.100}")
        return values

    async def finish(self, patience: float) -> None:
        await self._drivers.finish(patience)
        for waiting in self._asked.values():
            for future in waiting:
                _settle(future, BackendClosed("closed before it was sent"), self._failures)
        self._asked = {}
        for line in self._lines:
            await line.close()


def _waited_for(waiting: list[asyncio.Future[bytes | None]]) -> bool:
    for future in waiting:
        if not future.done():
            return True
    return False


class _Command:
    __slots__ = ("changed", "future", "packed", "replies")

    def __init__(self, packed: bytes, replies: int, changed: bytes, future: asyncio.Future[Any]) -> None:
        self.packed = packed
        self.replies = replies
        self.changed = changed
        self.future = future


class Writes:
    """Commands that change something, done in the order of the calls: one pipeline is under way at a time.

    A call that is cancelled before its command was sent takes it back. One that was sent is under way: whatever
    comes after it in this queue comes after it on the server too.

    announce: makes a command that tells others of changed keys; it goes with the pipeline that changes them.
    """

    def __init__(
        self, source: Source, failures: Failures, *, max_batch: int, announce: Callable[[list[bytes]], bytes]
    ) -> None:
        self._failures = failures
        self._max_batch = max_batch
        self._announce = announce
        self._line = Line(source, failures.patience)
        self._queue: deque[_Command] = deque()
        self._drivers = Drivers()
        self._driving = False
        self._unheard = False

    def send(self, packed: bytes, *, changed: bytes = b"", replies: int = 1) -> asyncio.Future[Any]:
        """The reply to this command; the last one, when it is several.

        changed: the digest of the entry that it changes.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Command(packed, replies, changed, future))
        if not self._driving:
            self._driving = True
            self._drivers.start(self._drive())
        return future

    async def _drive(self) -> None:
        while commands := self._take():
            await self._answer(commands)
        self._driving = False

    def _take(self) -> list[_Command]:
        commands: list[_Command] = []
        size = 0
        while self._queue and len(commands) < self._max_batch and size < _MOST_BYTES:
            command = self._queue.popleft()
            if not command.future.done():
                commands.append(command)
                size += len(command.packed)
        return commands

    async def _answer(self, commands: list[_Command]) -> None:
        changed = list(dict.fromkeys(command.changed for command in commands if command.changed))
        packed = [command.packed for command in commands]
        if changed:
            packed.append(self._announce(changed))
        replies = sum(command.replies for command in commands)
        answers: list[Any]
        try:
            answers = await self._line.exchange(b"".join(packed), replies + bool(changed))
        except asyncio.CancelledError:
            answers = [BackendClosed("closed while it was under way")] * replies
            raise
        except Exception as error:  # whatever a driver makes of what it was sent, it belongs to those who wait
            answers = [error] * replies
        finally:
            at = 0
            for command in commands:
                at += command.replies
                _settle(command.future, answers[at - 1], self._failures)
        if len(answers) > replies and isinstance(answers[-1], Exception):
            self._not_announced(answers[-1])

    def _not_announced(self, error: Exception) -> None:
        if not self._unheard:
            self._unheard = True
            logger.warning("%s: others are not told of changes: %s", self._failures.backend, error)

    async def finish(self, patience: float) -> None:
        await self._drivers.finish(patience)
        for command in self._queue:
            _settle(command.future, BackendClosed("closed before it was sent"), self._failures)
        self._queue.clear()
        await self._line.close()


class Server:
    """One server, as one event loop deals with it."""

    def __init__(
        self,
        source: Source,
        failures: Failures,
        *,
        max_batch: int,
        connections: int,
        multi: bool,
        announce: Callable[[list[bytes]], bytes],
    ) -> None:
        self.source = source
        self._patience = failures.patience
        self._failures = failures
        self._reads = Reads(source, failures, max_batch=max_batch, lines=connections, multi=multi)
        self._writes = Writes(source, failures, max_batch=max_batch, announce=announce)
        self.read = self._reads.ask
        self.send = self._writes.send

    async def ping(self) -> None:
        """Raises BackendError unless the server answers as one that is well."""
        reply = await self.send(pack(b"PING"))
        if reply != b"PONG":
            raise self._failures.unavailable(f"an answer that is none to PING: {reply!r:.100}")

    async def close(self) -> None:
        """Let what is under way end, for as long as one exchange may take; then end it. Close the connections."""
        await asyncio.gather(self._reads.finish(self._patience), self._writes.finish(self._patience))
        await self.source.close()
