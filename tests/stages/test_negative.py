"""The laws of negative caching: an error that would only come again is raised without a call, for a while."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Mapping
from typing import Any

import pytest

from asynccache import Cache
from asynccache.errors import ConfigError
from asynccache.model import Request
from asynccache.stages.negative import Negative
from asynccache.stats import Stats
from asynccache.testing import FakeClock, FakeUpstream

ASK: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


class TooLongError(Exception):
    """Like an SDK's: its constructor wants more than its args hold."""

    def __init__(self, message: str, *, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


def setup(**options: Any) -> tuple[Cache, FakeClock, FakeUpstream, Any]:
    clock, upstream = FakeClock(), FakeUpstream()
    cache = Cache(negative_ttl=5, negative_errors=(TooLongError,), clock=clock, **options)
    return cache, clock, upstream, cache.wrap(upstream)


async def refused(call: Any, **more: Any) -> TooLongError:
    with pytest.raises(TooLongError, match="too long") as caught:
        await call(**ASK, **more)
    return caught.value


async def test_an_error_is_raised_again_without_a_call() -> None:
    """For `negative_ttl` seconds the same call has the same error: type, text and attributes; then it is made again."""
    cache, clock, upstream, call = setup()
    upstream.fail(TooLongError("too long", status_code=400), times=2)
    for _ in range(3):
        assert (await refused(call)).status_code == 400
        clock.advance(2)
    assert (upstream.calls, cache.stats.negative_hits, cache.stats.misses) == (1, 2, 3)
    await refused(call)
    assert (upstream.calls, cache.stats.calls) == (2, 4)


async def test_other_errors_and_other_calls_are_not_concerned() -> None:
    """Only the named errors are remembered, each for its key alone."""
    _, _, upstream, call = setup()
    upstream.fail(ValueError(), times=2)
    for _ in range(2):
        with pytest.raises(ValueError):
            await call(**ASK)
    upstream.fail(TooLongError("too long", status_code=400))
    await refused(call)
    await call(**ASK, seed=1)
    assert upstream.calls == 4


async def test_a_no_cache_call_is_made_and_its_success_ends_the_error() -> None:
    """`no-cache` is not answered from memory, and a success makes the error forgotten."""
    cache, _, upstream, call = setup()
    upstream.fail(TooLongError("too long", status_code=400), times=2)
    await refused(call)
    await refused(call, cache={"no-cache": True})
    await call(**ASK, cache={"no-cache": True, "ttl": 0})
    await call(**ASK)
    assert (upstream.calls, cache.stats.negative_hits) == (4, 0)


async def test_a_no_store_call_is_not_remembered() -> None:
    """`no-store` leaves nothing behind, no error either."""
    _, _, upstream, call = setup()
    upstream.fail(TooLongError("too long", status_code=400))
    await refused(call, cache={"no-store": True})
    await call(**ASK)
    assert upstream.calls == 2


async def test_callers_who_share_a_failure_count_once_each() -> None:
    """Those who waited for the failing call are misses; only who comes later is a negative hit."""
    cache, _, upstream, call = setup()
    upstream.fail(TooLongError("too long", status_code=400))
    found = await asyncio.gather(*[call(**ASK) for _ in range(3)], return_exceptions=True)
    assert all(isinstance(error, TooLongError) for error in found)
    await refused(call)
    assert (upstream.calls, cache.stats.negative_hits, cache.stats.misses, cache.stats.calls) == (1, 1, 4, 4)


async def test_it_stands_only_where_it_is_wanted() -> None:
    """Without the options there is no such stage; with names of errors, as in a file, there is."""
    seen: list[list[str]] = []

    def look(stages: list[Any]) -> list[Any]:
        seen.append([type(stage).__name__ for stage in stages])
        return stages

    Cache(stages=look)
    Cache(stages=look, negative_ttl=1, negative_errors=["builtins:ValueError"])
    assert seen == [
        ["BuildKey", "Elements", "Coalesce", "Store"],
        ["BuildKey", "Elements", "Negative", "Coalesce", "Store"],
    ]
    with pytest.raises(ConfigError):
        Negative(0, (ValueError,), stats=Stats(), clock=FakeClock())


async def test_memory_is_bounded_and_holds_no_frames() -> None:
    """At most `limit` errors are kept, the oldest goes first; what the failing call had in its hands is let go."""
    stats = Stats()
    negative = Negative(60, (KeyError,), stats=stats, clock=FakeClock(), limit=2)

    class Held:
        pass

    held: list[weakref.ref[Held]] = []

    async def failing(_: Request) -> Any:
        local = Held()
        held.append(weakref.ref(local))
        raise KeyError("gone")

    cache = Cache(stages=lambda stages: [*stages[:2], negative])
    call = cache.wrap(FakeUpstream())

    async def one(seed: int) -> None:
        request = Request({**ASK, "seed": seed}, cache._defaults, call.__asynccache_targets__[0])  # type: ignore[attr-defined]
        from asynccache.keys import build_key

        request.key = build_key(request.params, request.target, request.directives)
        with pytest.raises(KeyError, match="gone"):
            await negative(request, failing)

    for seed in (1, 2, 3, 1, 3):
        await one(seed)
    gc.collect()
    assert (len(held), stats.negative_hits) == (4, 1)
    assert [ref() for ref in held] == [None] * 4
