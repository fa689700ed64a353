"""The laws of admission: what may not be stored is not, each under its reason, and what is stored says who answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from asynccache import Cache, status
from asynccache.testing import FakeClock, FakeUpstream
from asynccache.testing.upstream import Answer, ToolCall

ASK: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}

REFUSED = {
    "empty": Answer(""),
    "length": Answer("cut o", finish_reason="length"),
    "content_filter": Answer("…", finish_reason="content_filter"),
    "refusal": Answer(refusal="I cannot help with that."),
    "tool-arguments": Answer(finish_reason="tool_calls", tool_calls=(ToolCall("f", '{"a": '),)),
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_may_not_be_stored(reason: str, stream: bool) -> None:
    """An answer that is empty, cut off, filtered, refused or broken is handed on, never stored, and counted."""
    upstream = FakeUpstream(REFUSED[reason])
    cache = Cache()
    call = cache.wrap(upstream)
    for _ in range(2):
        answer = await call(**ASK, stream=stream)
        if stream:
            assert [chunk async for chunk in answer]
        assert (status(answer).outcome, status(answer).stored) == ("miss", False)
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {reason: 2})


async def test_tool_calls_that_are_whole() -> None:
    """An answer whose tool calls have valid JSON is stored."""
    call = Cache().wrap(FakeUpstream(Answer(finish_reason="tool_calls", tool_calls=(ToolCall("f", '{"a": 1}'),))))
    assert [status(await call(**ASK)).outcome for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("answer", [{"choices": 7}, {"choices": [7]}, {"choices": [{"message": 7}]}])
async def test_an_answer_of_unheard_of_shape(answer: dict[str, Any]) -> None:
    """An answer that the rules cannot read is handed on and not stored."""
    cache = Cache()
    assert await cache.wrap(FakeUpstream(answer))(**ASK) == answer
    assert (cache.stats.stored, cache.stats.rejected) == (0, 1)


async def test_an_error_in_the_place_of_an_answer() -> None:
    """An answer that reports an error is not stored."""
    cache = Cache()
    await cache.wrap(FakeUpstream({"choices": [], "error": {"message": "overloaded"}}))(**ASK)
    assert (cache.stats.stored, cache.stats.reject_reasons) == (0, {"error": 1})


async def test_an_entry_says_who_answered_and_how_long_it_took() -> None:
    """An answer is kept under the model asked for, from when it began, and remembers the model that gave it."""
    clock = FakeClock()
    upstream = FakeUpstream()

    async def slow(model: str, messages: list[Any]) -> dict[str, Any]:
        clock.advance(3)
        answer: dict[str, Any] = await upstream(model=model, messages=messages)
        return {**answer, "model": "m-2024-08-06"}

    cache = Cache(clock=clock, ttl=60)
    call = cache.wrap(slow)
    began = clock()
    first = await call(**ASK)
    hit = status(await call(**ASK))
    assert hit.entry is not None
    assert (hit.entry.meta["model"], hit.entry.meta["duration"]) == ("m-2024-08-06", 3)
    assert hit.entry.meta["usage"] == first["usage"]
    assert (hit.entry.created, hit.entry.expires) == (began, began + 63)
    assert (hit.age, hit.ttl, hit.tier) == (3, 60, "memory")
    assert (status(first).age, status(first).ttl) == (0, 60)
