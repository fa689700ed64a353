"""Answers in pieces: recording them, replaying them, handing them out. No policy.

A recorded stream is its chunks as JSON, one a line: JSON has no raw line breaks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from asynccache.errors import StreamError
from asynccache.model import CacheStatus

T = TypeVar("T")


def join(chunks: list[bytes]) -> bytes:
    """Recorded chunks as the body of an entry."""
    return b"\n".join(chunks)


def split(body: bytes) -> list[bytes]:
    """The body of an entry as recorded chunks."""
    return body.split(b"\n") if body else []


class Recorder(Generic[T]):
    """Passes a stream on and keeps its chunks; `done` gets them after a clean end, and only then.

    A consumer that breaks off, an upstream that raises, a cancellation: nothing is handed on, and
    `aborted` is called once with the reason. A chunk that cannot be encoded, or that makes the recording
    larger than `limit` bytes, ends the recording and not the stream.
    """

    def __init__(
        self,
        source: AsyncIterator[T],
        encode: Callable[[T], bytes],
        done: Callable[[list[bytes]], Awaitable[None]],
        aborted: Callable[[str], None],
        *,
        limit: float = inf,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._source = source
        self.encode = encode
        self._done = done
        self._aborted = aborted
        self._room = limit
        self.tape: list[bytes] | None = []
        """All chunks so far; None when nothing is recorded any more."""
        self.gaps: list[int] = []
        """Milliseconds between each chunk and the one before it (the first: since the stream began)."""
        self._clock = clock
        self._last = clock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            chunk = await self._source.__anext__()
        except StopAsyncIteration:
            tape, self.tape = self.tape, None
            if tape is not None:
                await self._done(tape)
            raise
        except BaseException:
            self._stop("aborted")
            raise
        if self.tape is not None:
            self._record(self.tape, chunk)
        return chunk

    async def aclose(self) -> None:
        """Stop listening and close the source. Closing twice is fine."""
        self._stop("aborted")
        await close(self._source)

    def __del__(self) -> None:
        self._stop("aborted")  # dropped by a consumer who broke off and did not close it

    def _record(self, tape: list[bytes], chunk: T) -> None:
        try:
            data = self.encode(chunk)
        except Exception:  # a chunk may be any object at all: then it is passed on, not recorded
            self._stop("answer-type")
            return
        self._room -= len(data) + 1
        if self._room < 0:
            self._stop("too-large")
            return
        now = self._clock()
        self.gaps.append(round((now - self._last) * 1000))
        self._last = now
        tape.append(data)

    def _stop(self, reason: str) -> None:
        if self.tape is not None:
            self.tape = None
            self._aborted(reason)


class Replay(Generic[T]):
    """Gives recorded chunks again, decoding each as it is asked for."""

    def __init__(self, chunks: list[bytes], decode: Callable[[bytes], T]) -> None:
        self._chunks = iter(chunks)
        self._decode = decode

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for chunk in self._chunks:
            return self._decode(chunk)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._chunks = iter(())


class Owner(Protocol):
    """Whoever runs a broadcast, and knows whether anybody is left to run it for."""

    def wanted(self) -> bool:
        """Whether to go on."""
        ...

    def left(self) -> None:
        """A reader has left before the end."""
        ...

    async def gone(self) -> None:
        """When it is given up because nobody is left: wait until the source is closed."""
        ...


class Broadcast(Generic[T]):
    """A stream under way, for any number of readers, who may come while it runs.

    The first reader gets the very chunks. Each later one reads the recording, at once as far as it goes,
    and decodes copies of its own. A reader is but a place in the recording: a slow one stalls nobody, one
    that leaves disturbs nobody, and a thousand keep no more bytes than one.

    When the recording ends because it grew too large, nobody can join any more. From there on only what
    some reader has yet to read is kept, and the source goes at the pace of the fastest reader, as it
    would have for that one alone. Who is more than `limit` bytes behind it all gets a StreamError.
    """

    def __init__(self, source: Recorder[T], *, limit: float, owner: Owner) -> None:
        self._source = source
        self._limit = limit
        self.owner = owner
        self._log: list[bytes] = [] if source.tape is None else source.tape  # the recorder's own list
        self._cut = 0  # how many chunks were taken off the front of the log
        self.sent = 0
        self._bytes = 0
        self._seats: dict[_Seat[T], None] = {}
        self._first: _Seat[T] | None = None
        self._resume: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.trace: TracebackType | None = None
        """Where that was raised. Each raise of it starts from there, or it would grow with every reader."""
        self.ended = False
        self.whole = source.tape is not None
        """Whether one who comes now can have all of it."""

    @property
    def readers(self) -> int:
        return len(self._seats)

    def first_reader(self) -> Reader[T]:
        """The chunks as the source gives them. To be asked for before `pump` runs."""
        self._first = _Seat(self, None)
        return self._reader(self._first)

    def join(self, decode: Callable[[bytes], T]) -> Reader[T]:
        """Copies of all chunks from the first on, and then what ended the stream. Only while `whole`."""
        return self._reader(_Seat(self, decode))

    def _reader(self, seat: _Seat[T]) -> Reader[T]:
        if not self.ended:
            self._seats[seat] = None
        return Reader(seat)

    async def pump(self) -> None:
        """Run the source for all readers, and close it. What it raises, they all raise, and so does this."""
        try:
            async for chunk in self._source:
                self._hand_out(chunk)
                await asyncio.sleep(0)  # a source that never waits must not keep its readers waiting
                while not self.whole and self._seats and all(seat.at < self.sent for seat in self._seats):
                    self._resume = asyncio.get_running_loop().create_future()
                    await self._resume
                if not self.owner.wanted():
                    self.end(StreamError("given up when nobody was left to read it"))
                    return
            self.end(None)
        except BaseException as error:  # whatever it is, the readers must hear of it
            self.end(error)
            raise
        finally:
            await close(self._source)

    def end(self, error: BaseException | None) -> None:
        """Nothing more will come: readers get this after the chunks. Only the first call counts."""
        if self.ended:
            return
        self.ended, self._error = True, error
        self.trace = None if error is None else error.__traceback__
        seats, self._seats = self._seats, {}
        for seat in seats:
            seat.wake()

    def outcome(self, seat: _Seat[T]) -> BaseException:
        """What this reader gets at the end."""
        if self._error is None:
            return StopAsyncIteration()
        if isinstance(self._error, asyncio.CancelledError) and seat is not self._first:
            # The upstream cancelled itself. The one whose call it is learns that as it would alone; the
            # others were not cancelled, and must not look as if they had been.
            error = StreamError("the stream was shared, and its call was cancelled")
            error.__cause__ = self._error
            return error
        return self._error

    def _hand_out(self, chunk: T) -> None:
        if self._source.tape is None:
            self.whole = False
            self._log.append(self._copy(chunk))
        self.sent += 1
        self._bytes += len(self._log[-1])
        if self._first in self._seats:
            self._first.chunks.append(chunk)
        for seat in self._seats:
            seat.wake()
        if not self.whole and self._seats:
            self._forget()

    def _copy(self, chunk: T) -> bytes:
        """Of a chunk that is not recorded, for those who need one."""
        copied = [seat for seat in self._seats if seat.decode is not None]
        if copied:
            try:
                return self._source.encode(chunk)
            except Exception:  # as in the recorder
                for seat in copied:
                    self._drop(seat, "a chunk of it cannot be copied")
        return b""

    def _forget(self) -> None:
        """Drop who is too far behind, and then the chunks that everybody has read."""
        fastest = max(seat.at for seat in self._seats)
        for seat in tuple(self._seats):
            if seat.at < fastest and self._bytes - seat.bytes > self._limit:
                self._drop(seat, f"this reader is more than {self._limit} bytes behind")
        read = min(seat.at for seat in self._seats)
        del self._log[: read - self._cut]
        self._cut = read

    def _drop(self, seat: _Seat[T], why: str) -> None:
        del self._seats[seat]
        seat.stop(StreamError(f"the stream was shared, and cannot be followed any more: {why}"))

    def leave(self, seat: _Seat[T]) -> None:
        if seat in self._seats:
            del self._seats[seat]
            self._go_on()
            self.owner.left()

    def take(self, seat: _Seat[T]) -> T:
        """The next chunk for this reader. Only when there is one."""
        data = self._log[seat.at - self._cut]
        seat.at += 1
        seat.bytes += len(data)
        if self._resume is not None and seat.at == self.sent:
            self._go_on()
        if seat.decode is None:
            return seat.chunks.popleft()
        try:
            return seat.decode(data)
        except Exception as error:  # the types of this reader's caller may be others than the first one's
            seat.leave()
            raise StreamError("the stream was shared, and a chunk of it does not fit this caller's types") from error

    def _go_on(self) -> None:
        resume, self._resume = self._resume, None
        if resume is not None and not resume.done():
            resume.set_result(None)


class _Seat(Generic[T]):
    """One reader's place in a broadcast.

    decode: None for the first reader, whose unread chunks wait in `chunks`.
    at, bytes: how many chunks it has read, and their size.
    over: what it gets from now on, whatever comes; None while it may read on.
    """

    __slots__ = ("at", "broadcast", "bytes", "chunks", "decode", "over", "waiting")

    def __init__(self, broadcast: Broadcast[T], decode: Callable[[bytes], T] | None) -> None:
        self.broadcast = broadcast
        self.decode = decode
        self.chunks: deque[T] = deque()
        self.at = 0
        self.bytes = 0
        self.over: BaseException | None = None
        self.waiting: asyncio.Future[None] | None = None

    def stop(self, error: BaseException) -> None:
        self.over = error
        self.chunks.clear()
        self.wake()

    def wake(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def leave(self) -> None:
        if self.over is None:
            self.stop(StreamError("this stream was left before its end"))
            self.broadcast.leave(self)


class Reader(Generic[T]):
    """One reader's view of a broadcast. It leaves when it is closed, dropped, or cancelled while it waits.

    One who goes on reading after that gets a StreamError: an end would make what was read look whole.
    """

    def __init__(self, seat: _Seat[T]) -> None:
        self._seat = seat
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        seat, broadcast = self._seat, self._seat.broadcast
        while seat.over is None:
            if seat.at < broadcast.sent:
                return broadcast.take(seat)
            if broadcast.ended:
                seat.over = broadcast.outcome(seat)
                break
            if seat.waiting is not None:
                raise RuntimeError("another task waits for the next chunk of this very stream")
            seat.waiting = self._loop.create_future()
            try:
                await seat.waiting
            except asyncio.CancelledError:
                await self.aclose()  # as an async generator would be closed: nobody may come back to close it
                raise
            finally:
                seat.waiting = None
        raise seat.over.with_traceback(broadcast.trace)

    async def aclose(self) -> None:
        """Leave. The last one to leave waits until the source is closed. Closing twice is fine."""
        self._seat.leave()
        await self._seat.broadcast.owner.gone()

    def __del__(self) -> None:
        seat = self._seat
        if seat.over is None and not seat.broadcast.ended:
            try:
                # Whoever drops it may be a garbage collector on any thread.
                self._loop.call_soon_threadsafe(seat.leave)
            except RuntimeError:
                pass  # the loop is closed, and all that ran on it has ended


class Iterated(Generic[T]):
    """The chunks of an iterable that is no iterator. Closing them closes the iterable too."""

    def __init__(self, iterable: AsyncIterable[T]) -> None:
        self._iterable = iterable
        self._chunks = aiter(iterable)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self._chunks.__anext__()

    async def aclose(self) -> None:
        await close(self._chunks)
        await close(self._iterable)


class AnswerStream(Generic[T]):
    """What a caller gets for a stream when the wrapped callable has no stream type of its own."""

    def __init__(self, chunks: AsyncIterator[T], status: CacheStatus, source: Any = None) -> None:
        self._chunks = chunks
        self._source = source
        self._asynccache_status = status

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T]:
        return self._chunks.__anext__()  # no coroutine around it: among thousands of readers that would be felt

    async def aclose(self) -> None:
        """Stop reading. What the upstream opened is closed when nobody else reads it."""
        await close(self._chunks)

    def close(self) -> asyncio.Future[None]:
        """The same, for those who know it by this name, awaited or not."""
        return asyncio.ensure_future(self.aclose())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __getattr__(self, name: str) -> Any:
        # Whatever else the upstream's stream offers; a replay has nothing behind it.
        if name.startswith("__") or self.__dict__.get("_source") is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._source, name)


async def close(stream: Any) -> None:
    """Close a stream by whichever name it has for that."""
    for name in ("aclose", "close"):
        if callable(closing := getattr(stream, name, None)):
            result = closing()
            if hasattr(result, "__await__"):
                await result
            return
