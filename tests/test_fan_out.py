"""The laws of live fan-out: a stream under way belongs to nobody, and everybody gets all of it or is told."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from asynccache import AsyncCacheError, Cache, status
from asynccache.backends.memory import MemoryBackend
from asynccache.errors import ConfigError, StreamError
from asynccache.model import CompletionStream, Request, Response
from asynccache.protocols import Handler, Stage
from asynccache.stages.coalesce import Coalesce
from asynccache.streams import AnswerStream, Recorder
from asynccache.testing import FakeUpstream, FaultyBackend
from asynccache.testing.provider import SimulatedProvider

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}
Chunks = list[dict[str, int]]


def numbered(count: int) -> Chunks:
    return [{"n": n} for n in range(count)]


class Tap:
    """An upstream whose stream gives what it is told to. `calls` are its streams, each as a tap of its own."""

    def __init__(self) -> None:
        self.calls: list[Tap] = []
        self.closed = 0
        self.asked = 0
        self._items: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, prompt: str, stream: bool = False) -> Tap:
        self.calls.append(Tap())
        return self.calls[-1]

    def give(self, *chunks: Any) -> None:
        for chunk in chunks:
            self._items.put_nowait(chunk)

    def end(self, error: BaseException | None = None) -> None:
        self._items.put_nowait(error or StopAsyncIteration())

    def __aiter__(self) -> Tap:
        return self

    async def __anext__(self) -> Any:
        self.asked += 1
        item = await self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def aclose(self) -> None:
        self.closed += 1


class Shared:
    """A cache whose flights can be looked at, around a tap."""

    def __init__(self, *, limit: float | None = None, backend: Any = None, **options: Any) -> None:
        self.tap = Tap()
        self._limit = limit
        self._options = {key: options.pop(key) for key in ("on_abandon",) if key in options}
        self.cache = Cache(backend, stages=self._stages, **options)
        self._call = self.cache.wrap(self.tap)

    def _stages(self, default: list[Stage]) -> list[Stage]:
        place = next(i for i, stage in enumerate(default) if isinstance(stage, Coalesce))
        old = default[place]
        assert isinstance(old, Coalesce)
        if self._limit is not None:
            self._options["max_bytes"] = self._limit
        self.coalesce = Coalesce(old._look_again, old._outdated, **self._options)
        return [*default[:place], self.coalesce, self._limited, *default[place + 1 :]]

    async def _limited(self, request: Request, call_next: Handler) -> Response:
        """Recordings of no more than `limit` bytes."""
        response = await call_next(request)
        if self._limit is not None and isinstance(response, CompletionStream):
            assert isinstance(response.chunks, Recorder)
            response.chunks._room = self._limit
        return response

    async def open(self) -> Any:
        return await self._call("why?", stream=True)

    @property
    def source(self) -> Tap:
        return self.tap.calls[-1]

    async def nothing_is_left(self) -> None:
        await turns()
        assert not others()
        assert not self.coalesce._flights
        assert not self.coalesce._under_way


async def turns(count: int = 20) -> None:
    """Let all that can run now run."""
    for _ in range(count):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    """All tasks but the test's own."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it returns, if it does not have to wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("it waits")


async def rest(stream: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


# -- ten thousand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaving", [0, 5_000])
async def test_ten_thousand_readers_of_one_stream(leaving: int) -> None:
    """Ten thousand callers share one stream. Half of them are cancelled at random moments: the rest have all of it."""
    shared, dice = Shared(), random.Random(leaving)

    async def caller() -> Chunks:
        return await rest(await shared.open())

    callers = [asyncio.create_task(caller()) for _ in range(10_000)]
    victims = dice.sample(callers, leaving)
    moments = [dice.randrange(30) for _ in victims]
    for moment in range(30):
        for victim, when in zip(victims, moments, strict=True):
            if when == moment:
                victim.cancel()
        if moment >= 5 and moment % 5 == 0:
            shared.source.give({"n": moment // 5 - 1})
        await turns(1)
    shared.source.give({"n": 5})
    shared.source.end()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    whole = numbered(6)
    assert sum(answer == whole for answer in answers) == 10_000 - leaving
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == leaving
    assert len(shared.tap.calls) == 1
    assert shared.source.closed
    assert await rest(await shared.open()) == whole
    await shared.nothing_is_left()


async def test_ten_thousand_callers_of_one_answer() -> None:
    """Ten thousand callers share one answer. Half of them are cancelled at random moments: the rest have it."""
    upstream, shared, dice = FakeUpstream(), Shared(), random.Random(1)
    call = shared.cache.wrap(upstream)
    upstream.hold()
    callers = [asyncio.create_task(call(**ASK)) for _ in range(10_000)]
    victims = dice.sample(callers, 5_000)
    for start in range(0, 5_000, 500):
        for victim in victims[start : start + 500]:
            victim.cancel()
        await turns(1)
        if start == 2_000:
            await upstream.reached(1)
        if start == 4_000:
            upstream.release()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    texts = {answer["choices"][0]["message"]["content"] for answer in answers if isinstance(answer, dict)}
    assert len(texts) == 1
    assert sum(isinstance(answer, dict) for answer in answers) >= 5_000
    assert all(isinstance(answer, dict) for answer, task in zip(answers, callers, strict=True) if not task.cancelled())
    assert (upstream.calls, upstream.cancelled) == (1, 0)
    await shared.nothing_is_left()


# -- leaving --------------------------------------------------------------------------------------------------------


async def close_it(stream: Any) -> None:
    for n in range(3):
        assert await anext(stream) == {"n": n}
    await stream.aclose()


async def close_it_by_another_name(stream: Any) -> None:
    for n in range(3):
        assert await anext(stream) == {"n": n}
    stream.close()


async def leave_its_block(stream: Any) -> None:
    async with stream:
        async for chunk in stream:
            if chunk == {"n": 2}:
                break


async def just_break(stream: Any) -> None:
    async for chunk in stream:
        if chunk == {"n": 2}:
            break


async def raise_in_the_body(stream: Any) -> None:
    try:
        async for chunk in stream:
            if chunk == {"n": 2}:
                raise LookupError("in the body")
    except LookupError:
        pass


async def cancelled_while_waiting(stream: Any) -> None:
    task = asyncio.create_task(rest(stream))
    del stream
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def timed_out(stream: Any) -> None:
    async def read() -> None:
        async with asyncio.timeout(None) as scope:
            asyncio.get_running_loop().call_soon(scope.reschedule, asyncio.get_running_loop().time())
            await rest(stream)

    with pytest.raises(TimeoutError):
        await read()


LEAVING = [
    close_it,
    close_it_by_another_name,
    leave_its_block,
    just_break,
    raise_in_the_body,
    cancelled_while_waiting,
    timed_out,
]


@pytest.mark.parametrize("leave", LEAVING)
async def test_the_only_reader_breaks_off(leave: Callable[[Any], Any]) -> None:
    """However its only reader leaves a stream after three chunks: the upstream is closed, nothing is stored, and the
    next caller gets a call of its own from the first chunk on."""
    shared = Shared()
    stream = await shared.open()
    shared.source.give(*numbered(3))
    await turns()
    streams = [stream]
    del stream
    await leave(streams.pop())
    gc.collect()
    await turns()
    assert shared.source.closed == 1
    assert (shared.cache.stats.stored, shared.cache.stats.reject_reasons) == (0, {"aborted": 1})
    again = await shared.open()
    shared.source.give(*numbered(5))
    shared.source.end()
    assert await rest(again) == numbered(5)
    assert len(shared.tap.calls) == 2
    await shared.nothing_is_left()


@pytest.mark.parametrize("who", ["first", "follower"])
@pytest.mark.parametrize("leave", LEAVING)
async def test_one_of_two_readers_breaks_off(leave: Callable[[Any], Any], who: str) -> None:
    """However one reader leaves, the other goes on, and what is stored is whole."""
    shared = Shared()
    streams = [await shared.open(), await shared.open()]
    shared.source.give(*numbered(3))
    await turns()
    await leave(streams.pop(0 if who == "first" else 1))
    gc.collect()
    await turns()
    assert not shared.source.closed
    shared.source.give({"n": 3})
    shared.source.end()
    assert await rest(streams[0]) == numbered(4)
    assert await rest(await shared.open()) == numbered(4)
    assert (len(shared.tap.calls), shared.cache.stats.stored) == (1, 1)
    await shared.nothing_is_left()


async def test_leaving_a_stream_that_its_upstream_would_close_too() -> None:
    """A first reader that closes its stream leaves a generator alone that others are waiting for."""
    upstream, cache = FakeUpstream(), Cache()
    call = cache.wrap(upstream)
    one, two = await call(**ASK, stream=True), await call(**ASK, stream=True)
    first = [await anext(two)]
    upstream.hold()
    await turns()
    await one.aclose()
    upstream.release()
    first += await rest(two)
    assert first[-1]["choices"][0]["finish_reason"] == "stop"
    assert (upstream.calls, upstream.cancelled, cache.stats.stored) == (1, 0, 1)


async def test_the_last_one_to_leave_waits_until_the_source_is_closed() -> None:
    """Under "cancel", `aclose`, and the CancelledError of a reader, come after the upstream was closed."""
    for way in ("close", "cancel"):
        log: list[str] = []
        cleaning, cleaned = asyncio.Event(), asyncio.Event()

        async def chunks() -> AsyncIterator[dict[str, int]]:
            try:
                yield {"n": 0}
                await asyncio.Event().wait()
            finally:
                cleaning.set()  # noqa: B023
                await cleaned.wait()  # noqa: B023
                log.append("closed")  # noqa: B023

        async def call(prompt: str, stream: bool = False) -> Any:
            return chunks()

        async def read() -> None:
            stream = await wrapped("why?", stream=True)  # noqa: B023
            await anext(stream)
            try:
                if way == "close":  # noqa: B023
                    await stream.aclose()
                else:
                    await anext(stream)
            finally:
                log.append("left")  # noqa: B023

        wrapped = Cache().wrap(call)
        reader = asyncio.create_task(read())
        await turns()
        if way == "cancel":
            reader.cancel()
        await cleaning.wait()
        await turns()
        assert not log
        cleaned.set()
        await asyncio.wait((reader,))
        assert log == ["closed", "left"]
        assert not others()


async def test_a_reader_cancelled_twice_passes_it_on() -> None:
    """A reader that is cancelled again while the source is being closed cancels that too, and nothing is left."""
    shared = Shared()
    never = asyncio.Event()

    class Stubborn(Tap):
        async def aclose(self) -> None:
            await never.wait()

    async def call(prompt: str, stream: bool = False) -> Any:
        return Stubborn()

    stream = await shared.cache.wrap(call)("why?", stream=True)
    reader = asyncio.create_task(rest(stream))
    await turns()
    reader.cancel()
    await turns()
    assert not reader.done()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await shared.nothing_is_left()


async def test_a_stream_that_was_left_does_not_look_whole() -> None:
    """Who goes on reading after a cancelled `anext`, or after `aclose`, gets an error and not an end."""
    shared = Shared()
    one, two = await shared.open(), await shared.open()
    shared.source.give({"n": 0})
    assert await anext(one) == {"n": 0}
    waiting = asyncio.create_task(anext(one))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await two.aclose()
    for stream in (one, two):
        for _ in range(2):
            with pytest.raises(StreamError, match="left before its end"):
                await anext(stream)
        await stream.aclose()
    await shared.nothing_is_left()


async def test_a_stream_that_was_read_stays_at_its_end() -> None:
    """After the end there is nothing more, closed or not; after an error, that very error."""
    shared = Shared()
    for error in (None, ConnectionError("reset")):
        streams = [await shared.open(), await shared.open()]
        shared.source.end(error)
        for stream in streams:
            for _ in range(3):
                with pytest.raises(ConnectionError if error else StopAsyncIteration) as raised:
                    await anext(stream)
                await stream.aclose()
            assert error is None or raised.value is error
    trace, frames = error.__traceback__ if error else None, 0
    while trace is not None:
        trace, frames = trace.tb_next, frames + 1
    assert frames < 10


async def test_closing_a_stream_that_another_task_reads() -> None:
    """A task that waits for a chunk of a stream which another task closes is told, and does not wait for ever."""
    shared = Shared()
    stream = await shared.open()
    reader = asyncio.create_task(rest(stream))
    await turns()
    with pytest.raises(RuntimeError, match="another task"):
        await anext(stream)
    await stream.aclose()
    with pytest.raises(StreamError):
        await reader
    assert shared.source.closed == 1
    await shared.nothing_is_left()


@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("followers", [0, 2])
async def test_the_first_caller_is_cancelled_about_when_the_stream_opens(moment: int, followers: int) -> None:
    """Before the stream opens, in that very turn, or after it: the followers get everything; without any, the
    upstream is closed."""
    opening = asyncio.Event()
    shared = Shared()

    async def call(prompt: str, stream: bool = False) -> Any:
        await opening.wait()
        return await shared.tap(prompt)

    wrapped = shared.cache.wrap(call)

    async def caller() -> Chunks:
        return await rest(await wrapped("why?", stream=True))

    first, *rest_of_them = [asyncio.create_task(caller()) for _ in range(1 + followers)]
    await turns()
    opening.set()
    await turns(moment)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await turns()
    if followers:
        shared.source.give(*numbered(4))
        shared.source.end()
        assert await asyncio.gather(*rest_of_them) == [numbered(4)] * 2
        assert len(shared.tap.calls) == 1
    assert all(source.closed == 1 for source in shared.tap.calls)
    await shared.nothing_is_left()


async def test_a_reader_dropped_on_another_thread() -> None:
    """A stream that a garbage collector drops on whatever thread is left, and its source closed, on the loop's."""
    shared = Shared()
    streams = [await shared.open()]
    dropper = threading.Thread(target=streams.clear)
    dropper.start()
    dropper.join()
    await turns()
    assert shared.source.closed == 1
    await shared.nothing_is_left()


def test_a_reader_dropped_after_its_loop() -> None:
    """A stream that outlives its event loop is dropped in silence."""
    kept = []

    async def main() -> None:
        kept.append(await Shared().open())
        await turns()

    asyncio.run(main())
    kept.clear()
    gc.collect()


# -- following ------------------------------------------------------------------------------------------------------


async def test_a_late_reader_has_at_once_what_has_come() -> None:
    """One who joins a stream under way reads all that has come so far without waiting for anything, then follows."""
    shared = Shared()
    one = await shared.open()
    shared.source.give(*numbered(3))
    await turns()
    two = await shared.open()
    asked = shared.source.asked
    assert [at_once(anext(two)) for _ in range(3)] == numbered(3)
    assert shared.source.asked == asked
    shared.source.give({"n": 3})
    shared.source.end()
    assert await rest(two) == [{"n": 3}]
    assert await rest(one) == numbered(4)


async def test_a_slow_reader_stalls_nobody() -> None:
    """Readers that do not read do not keep the others from all of it, and have it whenever they like."""
    shared = Shared()
    slow = [await shared.open(), await shared.open()]
    fast = await shared.open()
    shared.source.give(*numbered(1_000))
    shared.source.end()
    assert await rest(fast) == numbered(1_000)
    await shared.nothing_is_left()
    assert [await rest(stream) for stream in slow] == [numbered(1_000)] * 2


async def test_chunks_are_each_readers_own() -> None:
    """What one reader does to a chunk no other sees."""
    shared = Shared()
    streams = [await shared.open() for _ in range(3)]
    shared.source.give({"n": 0})
    shared.source.end()
    for stream in streams:
        chunk = await anext(stream)
        assert chunk == {"n": 0}
        chunk.clear()


async def test_a_source_that_never_waits() -> None:
    """Readers of a source that never suspends follow it chunk by chunk, and so do those who come meanwhile."""
    shared = Shared()

    async def chunks() -> AsyncIterator[dict[str, int]]:
        for n in range(100):
            yield {"n": n}

    async def call(prompt: str, stream: bool = False) -> Any:
        return chunks()

    wrapped = shared.cache.wrap(call)
    one = await wrapped("why?", stream=True)
    seen = [await anext(one)]
    two = await wrapped("why?", stream=True)
    assert status(two).outcome == "coalesced"
    seen += await rest(one)
    assert seen == await rest(two) == numbered(100)
    await shared.nothing_is_left()


async def test_a_caller_who_comes_while_the_stream_is_written() -> None:
    """A stream that has ended is shared until it is stored, so that nobody pays for it again meanwhile."""
    faulty = FaultyBackend(MemoryBackend())
    shared = Shared(backend=faulty)
    one = await shared.open()
    sets = faulty.calls("set")
    faulty.hold("set")
    shared.source.give(*numbered(2))
    shared.source.end()
    reader = asyncio.create_task(rest(one))
    await faulty.reached("set", sets + 1)
    late = await shared.open()
    assert status(late).outcome == "coalesced"
    assert at_once(anext(late)) == {"n": 0}
    faulty.release("set")
    assert await rest(late) == [{"n": 1}]
    assert await reader == numbered(2)
    assert (len(shared.tap.calls), shared.cache.stats.stored) == (1, 1)
    await shared.nothing_is_left()


async def test_followers_with_other_types() -> None:
    """A follower whose types the chunks do not fit is told so; the others go on."""

    class Other(BaseModel):
        unheard_of: int

    shared = Shared()

    async def as_model(prompt: str, stream: bool = False) -> Other:
        raise AssertionError("it follows")

    name = shared.cache.get_cache_key(shared._call, prompt="why?")
    other = shared.cache.wrap(as_model, name=f"{Tap.__module__}.Tap", call_type="function", returns=Other)
    assert shared.cache.get_cache_key(other, prompt="why?") == name
    one = await shared.open()
    two: Any = await other("why?", stream=True)
    shared.source.give({"n": 0})
    with pytest.raises(StreamError, match="types"):
        await anext(two)
    shared.source.end()
    assert await rest(one) == numbered(1)
    await shared.nothing_is_left()


async def test_streams_on_several_loops() -> None:
    """Each event loop has its own flights, and closing a cache on one leaves those of the others."""
    shared = Shared()
    stream = await shared.open()
    source = shared.source

    async def elsewhere() -> Chunks:
        other = await shared.open()
        shared.source.give(*numbered(2))
        shared.source.end()
        answer = await rest(other)
        await shared.coalesce.aclose()
        return answer

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == numbered(2)
    source.give({"n": 0})
    source.end()
    assert await rest(stream) == numbered(1)
    await shared.nothing_is_left()


# -- memory ---------------------------------------------------------------------------------------------------------


async def test_a_stream_that_is_too_large_goes_on_unrecorded() -> None:
    """Beyond the limit nothing is recorded, who reads goes on to the end, and newcomers share a call of their own."""
    shared = Shared(limit=100)
    one, two = await shared.open(), await shared.open()
    source = shared.source
    readers = [asyncio.create_task(rest(stream)) for stream in (one, two)]
    source.give(*numbered(50))
    await turns(200)
    assert shared.cache.stats.reject_reasons == {"too-large": 1}
    three, four = await shared.open(), await shared.open()
    assert [status(stream).outcome for stream in (three, four)] == ["miss", "coalesced"]
    source.end()
    assert await asyncio.gather(*readers) == [numbered(50)] * 2
    assert shared.cache.stats.stored == 0
    shared.source.give({"n": 0})
    shared.source.end()
    assert [await rest(three), await rest(four)] == [numbered(1)] * 2
    assert len(shared.tap.calls) == 2
    await shared.nothing_is_left()


async def test_a_sole_slow_reader_makes_the_source_wait() -> None:
    """Beyond the limit the source of a single reader is asked for a chunk when that reader wants one."""
    shared = Shared(limit=100)
    stream = await shared.open()
    shared.source.give(*numbered(500))
    shared.source.end()
    await turns(200)
    ahead = shared.source.asked
    assert ahead < 20
    for n in range(ahead):
        assert await anext(stream) == {"n": n}
    await turns()
    assert shared.source.asked == ahead + 1
    assert await rest(stream) == numbered(500)[ahead:]
    await shared.nothing_is_left()


async def test_a_reader_that_lags_more_than_the_limit() -> None:
    """Beyond the limit, a reader that is too far behind is told so, and what is kept stays small."""
    shared = Shared(limit=100)
    slow, fast = await shared.open(), await shared.open()
    shared.source.give(*numbered(500))
    shared.source.end()
    (flight,) = shared.coalesce._under_way
    longest, seen = 0, 0
    async for chunk in fast:
        assert chunk == {"n": seen}
        seen += 1
        if flight.broadcast is not None:
            longest = max(longest, len(flight.broadcast._log))
    assert (seen, longest < 40) == (500, True)
    with pytest.raises(StreamError, match="behind"):
        await rest(slow)
    await shared.nothing_is_left()


async def test_equally_slow_readers_beyond_the_limit() -> None:
    """Readers that keep pace with each other lose nothing, however slow they are: the source waits for them."""
    shared = Shared(limit=100)
    streams = [await shared.open() for _ in range(3)]
    shared.source.give(*numbered(200))
    shared.source.end()
    for n in range(200):
        await turns(3)
        assert [await anext(stream) for stream in streams] == [{"n": n}] * 3
    assert [await rest(stream) for stream in streams] == [[]] * 3


async def test_leaving_while_the_source_waits() -> None:
    """A sole reader that leaves while the source waits for it closes that; one of two lets the other go on."""
    shared = Shared(limit=50)
    stream = await shared.open()
    source = shared.source
    source.give(*numbered(50))
    await turns(50)
    await stream.aclose()
    assert source.closed == 1
    streams = [await shared.open(), await shared.open()]
    source = shared.source
    source.give(*numbered(50))
    source.end()
    await turns(50)
    await streams[0].aclose()
    assert await rest(streams[1]) == numbered(50)
    await shared.nothing_is_left()


async def test_a_chunk_that_cannot_be_copied() -> None:
    """A chunk that has no bytes reaches the first reader; the others are told, and nobody new joins."""
    shared = Shared()
    one, two = await shared.open(), await shared.open()
    source = shared.source
    thing = object()
    source.give({"n": 0}, thing, {"n": 1})
    source.end()
    assert await rest(one) == [{"n": 0}, thing, {"n": 1}]
    with pytest.raises(StreamError, match="copied"):
        await rest(two)
    assert shared.cache.stats.reject_reasons == {"answer-type": 1}
    await shared.nothing_is_left()


# -- abandoned ------------------------------------------------------------------------------------------------------


def test_on_abandon_is_one_of_two() -> None:
    """Anything but "cancel" and "finish" is refused."""
    with pytest.raises(ConfigError, match="on_abandon"):
        Shared(on_abandon="forget")


@pytest.mark.parametrize("leave", LEAVING)
async def test_an_abandoned_stream_may_finish(leave: Callable[[Any], Any]) -> None:
    """Under "finish" a stream that everybody left goes on, can be joined, fills the cache, and leaves no task."""
    shared = Shared(on_abandon="finish")
    streams = [await shared.open()]
    shared.source.give(*numbered(3))
    await turns()
    await leave(streams.pop())
    gc.collect()
    await turns()
    shared.source.give({"n": 3})
    await turns()
    late = await shared.open()
    assert [at_once(anext(late)) for _ in range(4)] == numbered(4)
    await late.aclose()
    source = shared.source
    source.end()
    await shared.nothing_is_left()
    assert source.closed == 1
    assert await rest(await shared.open()) == numbered(4)
    assert (len(shared.tap.calls), shared.cache.stats.stored) == (1, 1)


async def test_an_abandoned_answer_may_finish() -> None:
    """Under "finish" an answer that everybody left is stored all the same."""
    shared, upstream = Shared(on_abandon="finish"), FakeUpstream()
    call = shared.cache.wrap(upstream)
    for stream in (False, True):
        upstream.hold()
        ask = {**ASK, "seed": int(stream), "stream": stream}
        caller = asyncio.create_task(call(**ask))
        await upstream.reached(1 + stream)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        upstream.release()
        await turns(200)
        assert status(await call(**ask)).outcome == "hit"
    assert upstream.calls == 2
    await shared.nothing_is_left()


async def test_nothing_finishes_that_cannot_be_stored() -> None:
    """Under "finish" an abandoned stream is closed when it grows beyond what may be stored."""
    shared = Shared(on_abandon="finish", limit=100)
    await (await shared.open()).aclose()
    shared.source.give(*numbered(5))
    await turns()
    (flight,) = shared.coalesce._under_way
    assert flight.joinable
    shared.source.give(*numbered(50))
    await turns(50)
    assert shared.source.closed == 1
    assert shared.cache.stats.reject_reasons == {"too-large": 1}
    await shared.nothing_is_left()


async def test_an_upstream_that_will_not_be_cancelled() -> None:
    """What an upstream brings though it was cancelled is closed, whether it brings a stream or another chunk."""
    tap = Tap()

    async def stubborn(prompt: str, stream: bool = False) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return tap

    caller = asyncio.create_task(Cache().wrap(stubborn)("why?", stream=True))
    await turns()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (tap.closed, tap.asked) == (1, 0)

    class Unstoppable(Tap):
        async def __anext__(self) -> Any:
            try:
                return await super().__anext__()
            except asyncio.CancelledError:
                return {"n": 0}

    async def unstoppable(prompt: str, stream: bool = False) -> Any:
        return source

    source = Unstoppable()
    opened = await Cache().wrap(unstoppable)("why?", stream=True)
    await turns()
    await opened.aclose()
    assert (source.closed, source.asked) == (1, 1)
    assert not others()


@pytest.mark.parametrize("on_abandon", ["cancel", "finish"])
async def test_closing_the_cache(on_abandon: str) -> None:
    """Closing ends all flights, those that finish for nobody included; who waits or reads gets an error, neither an
    end nor a cancellation; afterwards nothing is left."""
    shared, upstream = Shared(on_abandon=on_abandon), FakeUpstream()
    upstream.hold()
    call = shared.cache.wrap(upstream)
    waiting = [asyncio.create_task(call(**ASK)) for _ in range(3)]
    streams = [await shared.open(), await shared.open()]
    source = shared.source
    source.give({"n": 0})
    reading = asyncio.create_task(rest(streams[0]))
    abandoned = asyncio.create_task(call(**ASK, seed=1))
    await turns()
    abandoned.cancel()
    await turns()
    await shared.coalesce.aclose()
    assert source.closed == 1
    for caller in waiting:
        with pytest.raises(AsyncCacheError, match="closed"):
            await caller
    with pytest.raises(StreamError, match="closed"):
        await reading
    assert await anext(streams[1]) == {"n": 0}
    with pytest.raises(StreamError, match="closed"):
        await anext(streams[1])
    assert (upstream.cancelled, upstream.calls) == (2, 2)
    await shared.coalesce.aclose()
    await shared.nothing_is_left()
    upstream.release()
    assert status(await call(**ASK)).outcome == "miss"


async def test_closing_the_cache_does_not_disturb_the_cleaning_up() -> None:
    """A flight that cleans up after its last caller is waited for by `aclose`, and not cancelled once more."""
    shared = Shared()
    cleaned = asyncio.Event()

    async def slow(prompt: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
            log.append("cleaned")
        return prompt

    log: list[str] = []
    caller = asyncio.create_task(shared.cache.wrap(slow)("why?"))
    await turns()
    caller.cancel()
    await turns()
    closing = asyncio.create_task(shared.coalesce.aclose())
    await turns()
    assert not closing.done()
    cleaned.set()
    await closing
    assert log == ["cleaned"]
    with pytest.raises(asyncio.CancelledError):
        await caller
    await shared.nothing_is_left()


async def test_a_closing_that_is_cancelled() -> None:
    """`aclose` under a timeout that ends passes that on to what still cleans up, and ends."""
    shared = Shared()

    async def stubborn(prompt: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()
        return prompt

    caller = asyncio.create_task(shared.cache.wrap(stubborn)("why?"))
    await turns()
    closing = asyncio.create_task(shared.coalesce.aclose())
    await turns()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(AsyncCacheError):
        await caller
    await shared.nothing_is_left()


# -- failing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [0, 1, 5])
async def test_an_error_of_the_upstream_reaches_all_readers(chunks: int) -> None:
    """Before the first chunk, in the middle or at the end: every reader has what came before it, and that very error;
    nothing is stored, and the next caller begins anew."""
    shared = Shared()
    error = ConnectionError("reset")

    async def caller() -> list[Any]:
        seen: list[Any] = []
        try:
            async for chunk in await shared.open():
                seen.append(chunk)
        except ConnectionError as raised:
            return [*seen, raised]
        return [*seen, None]

    callers = [asyncio.create_task(caller()) for _ in range(10)]
    await turns()
    shared.source.give(*numbered(chunks))
    shared.source.end(error)
    assert await asyncio.gather(*callers) == [[*numbered(chunks), error]] * 10
    assert len(shared.tap.calls) == 1
    assert shared.source.closed == 1
    assert shared.cache.stats.stored == 0
    await shared.nothing_is_left()
    again = await shared.open()
    assert status(again).outcome == "miss"
    await again.aclose()


async def test_a_stream_that_fails_or_ends_in_the_turn_in_which_it_opens() -> None:
    """Who waited for a stream that is over at once gets its end or its error, and makes no call of its own."""
    for error in (None, ConnectionError("reset")):
        shared = Shared()
        opening = asyncio.Event()

        async def call(prompt: str, stream: bool = False) -> Any:
            await opening.wait()  # noqa: B023
            source = await shared.tap(prompt)  # noqa: B023
            source.end(error)  # noqa: B023
            return source

        async def caller() -> Any:
            return await rest(await wrapped("why?", stream=True))  # noqa: B023

        wrapped = shared.cache.wrap(call)
        callers = [asyncio.create_task(caller()) for _ in range(5)]
        await turns()
        opening.set()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert answers == [error or []] * 5
        assert len(shared.tap.calls) == 1
        await shared.nothing_is_left()


async def test_an_upstream_that_cancels_itself_in_the_middle() -> None:
    """A CancelledError of the upstream's own goes to the one whose call it is; to the others the stream is broken."""
    shared = Shared()
    one, two = await shared.open(), await shared.open()
    shared.source.give({"n": 0})
    shared.source.end(asyncio.CancelledError())
    assert [await anext(one), await anext(two)] == [{"n": 0}] * 2
    with pytest.raises(asyncio.CancelledError):
        await anext(one)
    with pytest.raises(StreamError, match="cancelled"):
        await anext(two)
    assert shared.cache.stats.stored == 0
    await shared.nothing_is_left()


async def test_a_newcomer_does_not_join_a_dying_stream() -> None:
    """Who comes while an abandoned stream is being closed begins one anew."""
    shared = Shared()
    closing = asyncio.Event()

    class Slow(Tap):
        async def aclose(self) -> None:
            await closing.wait()

    calls: list[Tap] = []

    async def call(prompt: str, stream: bool = False) -> Any:
        calls.append(Slow())
        return calls[-1]

    wrapped = shared.cache.wrap(call)
    one = await wrapped("why?", stream=True)
    leaving = asyncio.create_task(one.aclose())
    await turns()
    two = await wrapped("why?", stream=True)
    assert (len(calls), status(two).outcome) == (2, "miss")
    closing.set()
    await leaving
    calls[1].give({"n": 0})
    calls[1].end()
    assert await rest(two) == numbered(1)
    await shared.nothing_is_left()


async def test_an_invalidation_while_a_stream_is_under_way() -> None:
    """Who comes after it does not join; who was there reads on; the outdated stream is not stored."""
    shared = Shared()
    one = await shared.open()
    old = shared.source
    old.give({"n": 0})
    await turns()
    await shared.cache.clear()
    two = await shared.open()
    new = shared.source
    assert (new is not old, status(two).outcome) == (True, "miss")
    three = await shared.open()
    assert status(three).outcome == "coalesced"
    old.end()
    assert await rest(one) == numbered(1)
    assert shared.cache.stats.reject_reasons == {"invalidated": 1}
    new.give(*numbered(2))
    new.end()
    assert [await rest(two), await rest(three)] == [numbered(2)] * 2
    assert await rest(await shared.open()) == numbered(2)
    await shared.nothing_is_left()


# -- what is around -------------------------------------------------------------------------------------------------


async def test_post_hooks_run_once_for_each_caller() -> None:
    """A post-cache hook runs once for each caller of a stream; what it says of the first one counts for the entry."""
    seen: list[str] = []

    async def hook(response: Response, request: Request) -> None:
        seen.append(response.status.outcome)
        response.tag("doc")

    shared = Shared(post_hooks=[hook])
    streams = [await shared.open() for _ in range(3)]
    assert seen == ["miss", "coalesced", "coalesced"]
    shared.source.give({"n": 0})
    shared.source.end()
    assert [await rest(stream) for stream in streams] == [numbered(1)] * 3
    assert status(await shared.open()).outcome == "hit"
    assert len(seen) == 4
    await shared.cache.invalidate("doc")
    again = await shared.open()
    assert status(again).reason == "invalidated"
    await again.aclose()


async def test_a_hook_that_raises_for_a_follower() -> None:
    """A follower whose hook raises leaves the flight, and nobody else notices."""

    async def hook(response: Response, request: Request) -> None:
        if response.status.outcome == "coalesced":
            raise ValueError("not for you")

    shared = Shared(post_hooks=[hook])
    one = await shared.open()
    with pytest.raises(ValueError, match="not for you"):
        await shared.open()
    (flight,) = shared.coalesce._under_way
    assert flight.broadcast is not None
    assert flight.broadcast.readers == 1
    shared.source.give({"n": 0})
    shared.source.end()
    assert await rest(one) == numbered(1)


async def test_what_a_stage_outside_says_of_a_stream() -> None:
    """A stage around the flights may tag and veto the first caller's stream, and that counts."""

    async def outside(request: Request, call_next: Handler) -> Response:
        response = await call_next(request)
        response.tag("doc")
        response.veto("private")
        return response

    tap = Tap()
    cache = Cache(stages=lambda default: [outside, *default])
    stream: Any = await cache.wrap(tap)("why?", stream=True)
    tap.calls[0].give({"n": 0})
    tap.calls[0].end()
    assert await rest(stream) == numbered(1)
    assert cache.stats.reject_reasons == {"private": 1}


async def test_a_stream_that_cannot_be_recorded_is_its_callers_own() -> None:
    """A stream that nobody asked for is handed over as it is: nothing reads ahead, and closing it closes it."""
    shared = Shared()
    streams = await asyncio.gather(shared._call("why?"), shared._call("why?"))
    await turns()
    assert [tap.asked for tap in shared.tap.calls] == [0, 0]
    for stream, tap in zip(streams, shared.tap.calls, strict=True):
        assert isinstance(stream, AnswerStream)
        await stream.aclose()
        assert tap.closed == 1
    await shared.nothing_is_left()


# -- SDK clients ----------------------------------------------------------------------------------------------------


async def test_sdk_streams_are_shared() -> None:
    """Callers of one AsyncOpenAI stream share it: closing one, leaving its block, or a stream helper disturbs none."""
    async with SimulatedProvider() as provider, AsyncOpenAI(api_key="k", base_url=provider.base_url) as plain:
        client = Cache().wrap(plain)
        whole = await plain.chat.completions.create(**ASK, stream=True)
        expected = [chunk.choices for chunk in await rest(whole)]
        provider.hold()
        opening = [asyncio.create_task(client.chat.completions.create(**ASK, stream=True)) for _ in range(4)]
        helper = client.chat.completions.stream(**ASK)
        entering = asyncio.create_task(helper.__aenter__())
        await provider.reached(2)
        provider.release()
        streams = [await task for task in opening]
        provider.hold()
        helped = await entering
        provider.release()
        assert [status(stream).outcome for stream in streams] == ["miss", *["coalesced"] * 3]
        assert {type(await anext(stream)) for stream in streams} == {ChatCompletionChunk}
        await streams[0].close()
        async with streams[1]:
            pass
        await streams[2].response.aclose()
        with pytest.raises(StreamError):
            await anext(aiter(streams[0]))
        assert [chunk.choices for chunk in await rest(streams[3])] == expected[1:]
        final = await helped.get_final_completion()
        assert final.choices[0].finish_reason == "stop"
        await helper.__aexit__(None, None, None)
        assert provider.calls["/v1/chat/completions"] == 2


async def test_a_stream_helper_may_be_the_first() -> None:
    """When a stream helper that began a stream is left, its followers have all of it; the last one to go closes it."""
    async with SimulatedProvider() as provider, AsyncOpenAI(api_key="k", base_url=provider.base_url) as plain:
        cache = Cache()
        client = cache.wrap(plain)
        provider.abort_next(after=3, error={"message": "never read", "type": "server_error"})
        for following in (False, True):
            async with client.chat.completions.stream(**ASK) as stream:
                response = stream._response
                provider.hold()
                if following:
                    follower = await client.chat.completions.create(**ASK, stream=True)
                    assert status(follower).outcome == "coalesced"
            assert response.is_closed is not following
            provider.release()
        chunks = await rest(follower)
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert (cache.stats.stored, cache.stats.coalesced) == (1, 1)
    await turns()
    assert not others()
