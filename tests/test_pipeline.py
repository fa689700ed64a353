"""The laws of composing stages, and of writes that outlive their callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from asynccache import Cache, status
from asynccache.errors import OrderError
from asynccache.model import CacheStatus, Completion, Request, Response
from asynccache.pipeline import Writes, compose
from asynccache.protocols import Handler, Stage
from asynccache.testing import FakeUpstream

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


async def test_stages_run_outermost_first() -> None:
    """The first stage of the list sees the request first and the response last."""
    log: list[str] = []

    def named(name: str) -> Stage:
        async def stage(request: Request, call_next: Handler, /) -> Response:
            log.append(f"{name} in")
            response = await call_next(request)
            log.append(f"{name} out")
            return response

        return stage

    async def innermost(request: Request) -> Response:
        log.append("upstream")
        return Completion(CacheStatus("miss"), None)

    handler = compose([named("a"), named("b")], innermost)
    await handler(None)  # type: ignore[arg-type]
    assert log == ["a in", "b in", "upstream", "b out", "a out"]


async def test_a_stage_may_answer_by_itself() -> None:
    """A stage that does not call the next one is the end of the chain."""
    own = Completion(CacheStatus("hit"), "own")

    async def stage(request: Request, call_next: Handler, /) -> Response:
        return own

    async def innermost(request: Request) -> Response:
        raise AssertionError("not reached")

    assert await compose([stage], innermost)(None) is own  # type: ignore[arg-type]


async def test_a_stage_of_ones_own_between_the_others() -> None:
    """`stages` decides which stages there are; an object with an async `__call__` is one."""
    seen: list[str] = []

    class Spy:
        def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
            seen.append(request.key.digest)
            return call_next(request)

    cache = Cache(stages=lambda default: [*default[:-1], Spy(), default[-1]])
    answer = await cache.wrap(FakeUpstream())(**ASK)
    assert seen == [status(answer).key]


async def test_no_stage_at_all() -> None:
    """A pipeline without stages is the call itself."""
    cache = Cache(stages=lambda _: [])
    answer = await cache.wrap(FakeUpstream())(**ASK)
    assert (status(answer).outcome, status(answer).key) == ("miss", "")


async def test_a_key_that_is_not_there_yet() -> None:
    """A stage before BuildKey that reads the key gets an OrderError that says where to stand."""

    async def early(request: Request, call_next: Handler, /) -> Response:
        assert request.digest == ""
        request.key  # noqa: B018
        return await call_next(request)

    call = Cache(stages=lambda default: [early, *default]).wrap(FakeUpstream())
    with pytest.raises(OrderError, match="after BuildKey"):
        await call(**ASK)


async def test_stages_leave_values_for_each_other() -> None:
    """What one stage attaches another finds, under its type; what nobody attached is None."""

    class Note:
        pass

    note = Note()

    async def outer(request: Request, call_next: Handler, /) -> Response:
        assert request.find(Note) is None
        request.attach(note)
        return await call_next(request)

    async def inner(request: Request, call_next: Handler, /) -> Response:
        assert request.find(Note) is note
        return await call_next(request)

    await Cache(stages=lambda default: [outer, *default, inner]).wrap(FakeUpstream())(**ASK)


async def test_other_params_after_the_key() -> None:
    """A stage after BuildKey may send the upstream other arguments; the answer is kept under those asked for."""
    upstream = FakeUpstream()

    async def route(request: Request, call_next: Handler, /) -> Response:
        request.params = {**request.params, "model": "routed"}
        return await call_next(request)

    cache = Cache(stages=lambda default: [*default[:-1], route, default[-1]])
    call = cache.wrap(upstream)
    first, second = await call(**ASK), await call(**ASK)
    assert [status(first).outcome, status(second).outcome] == ["miss", "hit"]
    entry = status(second).entry
    assert entry is not None
    assert entry.meta["model"] == "routed"
    assert status(second).key == cache.get_cache_key(**ASK)


async def test_a_write_is_done_though_its_caller_is_cancelled() -> None:
    """A write goes on when the one who waits for it is cancelled, and `drain` waits for it."""
    writes, go, done = Writes(), asyncio.Event(), asyncio.Event()

    async def write() -> None:
        await go.wait()
        done.set()

    caller = asyncio.create_task(writes.run(write()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    draining = asyncio.create_task(writes.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    go.set()
    await draining
    assert done.is_set()


async def test_drain_of_nothing() -> None:
    """When no write is under way, `drain` returns at once."""
    await Writes().drain()
