"""The laws of answers in pieces: recorded at a clean end only, replayed chunk by chunk, always closed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asynccache import Cache, status
from asynccache.backends.memory import MemoryBackend
from asynccache.model import Request, Response
from asynccache.streams import Iterated, Recorder, Replay, close, join, split
from asynccache.testing import FakeUpstream, FaultyBackend

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}], "stream": True}


class Source:
    """A stream that can say whether it was closed."""

    def __init__(self, count: int = 5, error: BaseException | None = None) -> None:
        self._left = [{"n": i} for i in range(count)]
        self._error = error
        self.closed = 0
        self.headers = {"x": "y"}

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> dict[str, int]:
        if self._left:
            return self._left.pop(0)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


def streaming(source: Source) -> Any:
    async def call(prompt: str, stream: bool = False) -> Any:
        return source

    return call


async def test_a_stream_is_replayed_chunk_by_chunk() -> None:
    """A stream that ended cleanly is given again with the same chunks, for no upstream call, any number of times."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)
    first = [chunk async for chunk in await call(**ASK)]
    for _ in range(2):
        again = await call(**ASK)
        assert [chunk async for chunk in again] == first
        assert status(again).outcome == "hit"
    assert (upstream.calls, cache.stats.stored, cache.stats.hits) == (1, 1, 2)


async def test_chunks_of_a_replay_are_each_callers_own() -> None:
    """What one consumer does to a chunk no other sees, nor does the cache."""
    call = Cache().wrap(FakeUpstream())
    first = []
    async for chunk in await call(**ASK):
        first.append(repr(chunk))
        chunk.clear()
    async for chunk in await call(**ASK):
        chunk.clear()
    assert [repr(chunk) async for chunk in await call(**ASK)] == first


async def test_a_recorded_stream_is_assembled_for_a_whole_call() -> None:
    """Who does not ask for a stream gets a whole answer, made of the chunks."""
    upstream = FakeUpstream()
    call = Cache().wrap(upstream)
    chunks = [chunk async for chunk in await call(**ASK)]
    whole = await call(**{**ASK, "stream": False})
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert (status(whole).outcome, whole["choices"][0]["finish_reason"]) == ("hit", "stop")
    assert whole["choices"][0]["message"]["content"] == said
    assert upstream.calls == 1


async def test_a_consumer_that_breaks_off_and_closes() -> None:
    """Nothing is stored when a consumer closes the stream after three chunks; its source is closed; it is counted."""
    source = Source()
    cache = Cache()
    async with await cache.wrap(streaming(source))("why?", stream=True) as stream:
        for n in range(3):
            assert await anext(stream) == {"n": n}
    assert source.closed
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"aborted": 1})
    await stream.aclose()
    assert cache.stats.rejected == 1


async def test_a_consumer_that_just_walks_away() -> None:
    """A stream that is dropped halfway stores nothing, is counted, and its generator is closed."""
    upstream = FakeUpstream()
    cache = Cache()
    async for _ in await cache.wrap(upstream)(**ASK):
        upstream.hold()
        break
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"aborted": 1})
    assert upstream.cancelled == 1


async def test_a_consumer_that_is_cancelled() -> None:
    """A stream whose consumer is cancelled between two chunks stores nothing, and its upstream ends."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)
    begun = asyncio.Event()

    async def consume() -> None:
        async for _ in await call(**ASK):
            begun.set()
            upstream.hold()

    consumer = asyncio.create_task(consume())
    await begun.wait()
    await asyncio.sleep(0)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert (upstream.cancelled, cache.stats.stored, cache.stats.reject_reasons) == (1, 0, {"aborted": 1})


async def test_a_stream_that_fails_in_the_middle() -> None:
    """An upstream's error in mid-stream reaches the consumer as it is; nothing is stored."""
    error = ConnectionError("reset")
    upstream = FakeUpstream()
    upstream.fail(error, after=3)
    cache = Cache()
    call = cache.wrap(upstream)
    seen = []

    async def consume() -> None:
        async for chunk in await call(**ASK):
            seen.append(chunk)

    with pytest.raises(ConnectionError) as raised:
        await consume()
    assert raised.value is error
    assert len(seen) == 3
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"aborted": 1})
    assert len([chunk async for chunk in await call(**ASK)]) > 3


async def test_a_stream_whose_backend_fails_at_the_end() -> None:
    """A backend that cannot write does not spoil the end of a stream."""
    faulty = FaultyBackend(MemoryBackend())
    cache = Cache(faulty)
    call = cache.wrap(FakeUpstream())
    stream = await call(**ASK)
    faulty.fail(RuntimeError("no backend error"), "set")
    assert [chunk async for chunk in stream]
    assert (cache.stats.write_errors, cache.stats.stored) == (1, 0)


async def test_a_consumer_cancelled_during_the_write() -> None:
    """A stream that has ended cleanly is written though its consumer is cancelled meanwhile."""
    faulty = FaultyBackend(MemoryBackend())
    cache = Cache(faulty)
    call = cache.wrap(FakeUpstream())
    stream = await call(**ASK)
    sets = faulty.calls("set")
    faulty.hold("set")

    async def consume() -> None:
        async for _ in stream:
            pass

    consumer = asyncio.create_task(consume())
    await faulty.reached("set", sets + 1)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    faulty.release()
    await cache.drain()
    assert cache.stats.stored == 1
    assert cache.stats.rejected == 0


async def test_a_chunk_that_cannot_be_written() -> None:
    """A chunk that is not JSON ends the recording and not the stream; counted once."""

    async def chunks() -> AsyncIterator[Any]:
        yield {"n": 1}
        yield object()
        yield object()

    async def call(prompt: str, stream: bool = False) -> Any:
        return chunks()

    cache = Cache()
    assert len([chunk async for chunk in await cache.wrap(call)("why?", stream=True)]) == 3
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"answer-type": 1})


async def test_a_stream_that_was_not_asked_for() -> None:
    """A function that streams without an argument `stream` is passed on and not stored: its answers could not be
    told from whole ones."""
    cache = Cache()
    call = cache.wrap(streaming(Source(2)))
    assert [chunk async for chunk in await call("why?")] == [{"n": 0}, {"n": 1}]
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"answer-type": 1})


async def test_streams_of_one_key_share_a_call() -> None:
    """Who asks for a stream under way gets what has come so far at once, and then follows."""
    upstream = FakeUpstream()
    cache = Cache()
    call = cache.wrap(upstream)
    one = await call(**ASK)
    first = [await anext(one)]
    two = await call(**ASK)
    second = [chunk async for chunk in two]
    first += [chunk async for chunk in one]
    assert upstream.calls == 1
    assert first == second
    assert (status(one).outcome, status(two).outcome) == ("miss", "coalesced")
    assert [chunk async for chunk in await call(**ASK)] == first
    assert (cache.stats.hits, cache.stats.stored) == (1, 1)


async def test_a_hook_that_raises_closes_the_stream() -> None:
    """A stream that its caller never gets, because a hook raised, is closed."""

    async def hook(response: Response, request: Request) -> None:
        raise ValueError("no")

    for control in ({}, {"no-cache": True, "no-store": True}):
        source = Source()
        cache = Cache(post_hooks=[hook])
        with pytest.raises(ValueError, match="no"):
            await cache.wrap(streaming(source))("why?", stream=True, cache=control)
        assert source.closed
        assert cache.stats.stored == 0


async def test_a_hook_may_tag_and_veto_a_stream() -> None:
    """Tags and vetoes of a hook hold for what is stored at the end of a stream."""

    async def tag(response: Response, request: Request) -> None:
        response.tag("doc")

    async def veto(response: Response, request: Request) -> None:
        response.veto("private")

    upstream = FakeUpstream()
    cache = Cache(post_hooks=[tag])
    call = cache.wrap(upstream)
    for outcome in ("miss", "hit"):
        stream = await call(**ASK)
        assert status(stream).outcome == outcome
        [chunk async for chunk in stream]
    await cache.invalidate("doc")
    assert status(await call(**ASK)).reason == "invalidated"
    cache = Cache(post_hooks=[veto])
    [chunk async for chunk in await cache.wrap(upstream)(**ASK)]
    assert cache.stats.reject_reasons == {"private": 1}


async def test_what_the_source_offers_is_offered() -> None:
    """Other attributes of the upstream's stream are reached through the answer; a replay has none of them."""
    call = Cache().wrap(streaming(Source()))
    stream = await call("why?", stream=True)
    assert stream.headers == {"x": "y"}
    [chunk async for chunk in stream]
    with pytest.raises(AttributeError):
        (await call("why?", stream=True)).headers  # noqa: B018


async def test_an_iterable_that_is_no_iterator() -> None:
    """A stream that only has `__aiter__` is iterated, recorded and closed as any other."""
    closed = []

    class Iterable:
        async def __aiter__(self) -> AsyncIterator[dict[str, int]]:
            yield {"n": 1}
            yield {"n": 2}

        async def close(self) -> None:
            closed.append(True)

    async def call(prompt: str, stream: bool = False) -> Any:
        return Iterable()

    wrapped = Cache().wrap(call)
    async with await wrapped("why?", stream=True) as stream:
        assert [chunk async for chunk in stream] == [{"n": 1}, {"n": 2}]
    assert closed
    async with await wrapped("why?", stream=True) as stream:
        assert [chunk async for chunk in stream] == [{"n": 1}, {"n": 2}]


async def test_recording() -> None:
    """The recorder hands on all chunks after a clean end, once, and nothing after any other."""
    kept: list[list[bytes]] = []
    reasons: list[str] = []

    async def done(chunks: list[bytes]) -> None:
        kept.append(chunks)

    recorder = Recorder(Source(2), lambda chunk: str(chunk["n"]).encode(), done, reasons.append)
    assert len([chunk async for chunk in recorder]) == 2
    with pytest.raises(StopAsyncIteration):
        await anext(recorder)
    await recorder.aclose()
    assert (kept, reasons) == ([[b"0", b"1"]], [])


async def test_replaying() -> None:
    """A replay gives what was recorded, and nothing more once it was closed."""
    assert split(join([])) == []
    assert split(join([b"1", b"2"])) == [b"1", b"2"]
    replay = Replay([b"1", b"2", b"3"], int)
    assert await anext(replay) == 1
    await replay.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(replay)


async def test_closing_by_whichever_name() -> None:
    """A stream is closed by `aclose` or `close`, async or not; one that has neither needs none."""
    log: list[str] = []

    class Sync:
        def close(self) -> None:
            log.append("close")

    await close(Sync())
    await close(object())
    await close(None)
    source = Source()
    await Iterated(source).aclose()
    assert log == ["close"]
    assert source.closed
