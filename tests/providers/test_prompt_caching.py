"""The hook: marks reach the provider, and nothing else of the cache."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from asynccache import Cache, ConfigError, Request, Response, status
from asynccache.providers import PromptCaching
from asynccache.providers.anthropic_cache_control_hook import async_pre_llm_hook
from asynccache.testing import FakeClock

LONG = "A sentence that is long enough. " * 400
MARK = {"type": "ephemeral"}
SYSTEM = [{"location": "message", "role": "system"}]
REQUEST: dict[str, Any] = {
    "model": "anthropic/claude-opus-5",
    "messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "Why?"}],
}
MARKED = [{"role": "system", "content": LONG, "cache_control": MARK}, REQUEST["messages"][1]]


class Upstream:
    """An acompletion-like function that remembers what it got."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.twice = asyncio.Event()

    async def __call__(self, *, model: str, messages: list[Any], **params: Any) -> dict[str, Any]:
        self.got.append({"model": model, "messages": messages, **params})
        if len(self.got) == 2:
            self.twice.set()
        return {"choices": [{"message": {"content": f"Answer {len(self.got)}"}, "finish_reason": "stop"}]}


async def test_marks_are_not_in_the_key() -> None:
    """Requests with our marks and without share entries, both ways."""
    backend = Cache().backend
    upstream = Upstream()
    marking = Cache(backend, cache_control_injection_points=SYSTEM).wrap(upstream)
    plain = Cache(backend).wrap(upstream)
    assert status(await marking(**REQUEST)).outcome == "miss"
    assert status(await plain(**REQUEST)).outcome == "hit"
    other = {**REQUEST, "temperature": 0.5}
    assert status(await plain(**other)).outcome == "miss"
    assert status(await marking(**other)).outcome == "hit"
    assert upstream.got == [{**REQUEST, "messages": MARKED}, other]


async def test_points_do_not_matter_for_the_key() -> None:
    keys = {
        status(await Cache(cache_control_injection_points=points).wrap(Upstream())(**REQUEST)).key
        for points in (SYSTEM, "auto", [{"location": "message", "index": -1, "control": {**MARK, "ttl": "1h"}}], None)
    }
    assert len(keys) == 1


async def test_what_the_client_says_counts() -> None:
    """Its own marks, and fields that are translated, stand in the key as they were given."""
    upstream = Upstream()
    call = Cache(cache_control_injection_points=SYSTEM).wrap(upstream)
    requests = [REQUEST, {**REQUEST, "messages": MARKED}, {**REQUEST, "max_tokens": 5}]
    assert len({status(await call(**request)).key for request in requests}) == 3


async def test_other_hooks_and_stages_see_the_request_without_marks() -> None:
    seen: list[Any] = []

    async def look(response: Response, request: Request) -> None:
        seen.append(request.params["messages"])

    await Cache(cache_control_injection_points=SYSTEM, post_hooks=[look]).wrap(Upstream())(**REQUEST)
    assert seen == [REQUEST["messages"]]


async def test_the_callers_objects_are_not_changed() -> None:
    messages = [dict(message) for message in REQUEST["messages"]]
    await Cache(cache_control_injection_points=SYSTEM).wrap(Upstream())(model=REQUEST["model"], messages=messages)
    assert messages == REQUEST["messages"]


async def test_what_the_cache_keeps_out_of_is_marked_too() -> None:
    upstream = Upstream()
    await Cache(cache_control_injection_points=SYSTEM).wrap(upstream)(
        **REQUEST, cache={"no-cache": True, "no-store": True}
    )
    assert upstream.got[0]["messages"] == MARKED


async def test_a_refresh_behind_an_answer_is_marked() -> None:
    clock, upstream = FakeClock(), Upstream()
    cache = Cache(cache_control_injection_points=SYSTEM, ttl=10, stale_while_revalidate=100, clock=clock)
    call = cache.wrap(upstream)
    await call(**REQUEST)
    clock.advance(20)
    assert status(await call(**REQUEST)).outcome == "stale"
    await asyncio.wait_for(upstream.twice.wait(), 10)
    assert [params["messages"] for params in upstream.got] == [MARKED, MARKED]


async def test_a_stream_is_marked() -> None:
    got: list[Any] = []

    async def acompletion(**params: Any) -> AsyncIterator[dict[str, Any]]:
        got.append(params["messages"])

        async def chunks() -> AsyncIterator[dict[str, Any]]:
            yield {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}

        return chunks()

    call = Cache(cache_control_injection_points=SYSTEM).wrap(acompletion, call_type="chat")
    assert len([chunk async for chunk in await call(**REQUEST, stream=True)]) == 1
    assert got == [MARKED]


async def test_a_later_hook_is_marked_over() -> None:
    """Marks are put in at the very end, over what other hooks have made of the request."""

    async def rewrite(request: Request) -> Mapping[str, Any]:
        messages = [request.params["messages"][0], {"role": "user", "content": "How?"}]
        return {**request.params, "messages": messages}

    upstream = Upstream()
    points = [{"location": "message", "index": -1}]
    await Cache(pre_hooks=[PromptCaching(points), rewrite]).wrap(upstream)(**REQUEST)
    assert upstream.got[0]["messages"][1] == {"role": "user", "content": "How?", "cache_control": MARK}


async def test_calls_that_have_no_messages_pass() -> None:
    async def aembedding(model: str, input: list[str]) -> dict[str, Any]:
        return {"data": [{"index": n, "embedding": [0.5]} for n, _ in enumerate(input)]}

    cache = Cache(cache_control_injection_points=SYSTEM)
    answer = await cache.wrap(aembedding, call_type="embedding")(model="claude-x", input=["a", "b"])
    assert len(answer["data"]) == 2

    async def any_function(text: str) -> str:
        return text

    assert await cache.wrap(any_function)("x") == "x"


@pytest.mark.parametrize(
    "messages",
    ["a text", None, 7, [None], [7], [{}], [{"role": "system"}], [object()], ({"role": "system", "content": LONG},)],
)
async def test_no_call_fails_because_of_marks(messages: Any) -> None:
    upstream = Upstream()
    await Cache(cache_control_injection_points=SYSTEM).wrap(upstream)(model="claude-opus-5", messages=messages)
    assert len(upstream.got) == 1


async def test_a_count_that_raises_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    def count(value: Any) -> int:
        raise RuntimeError("no tokenizer")

    upstream = Upstream()
    await Cache(pre_hooks=[PromptCaching(SYSTEM, count=count)]).wrap(upstream)(**REQUEST)
    assert upstream.got == [REQUEST]
    assert "no tokenizer" in caplog.text


async def test_what_is_left_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Providers skip what is below their minimum without a word."""
    call = Cache(cache_control_injection_points=SYSTEM).wrap(Upstream())
    with caplog.at_level(logging.WARNING, "asynccache"):
        for number in range(5):
            messages = [{"role": "system", "content": "Be brief." + "!" * number}, {"role": "user", "content": "?"}]
            await call(model="claude-opus-5", messages=messages)
    assert len(caplog.records) == 1
    assert "below 512 this model keeps none" in caplog.text
    assert "Be brief" not in caplog.text


async def test_an_sdk_that_does_not_know_an_argument_is_not_given_it() -> None:
    got: list[Any] = []

    async def create(*, model: str, messages: list[Any], extra_body: Any = None) -> dict[str, Any]:
        got.append(messages)
        return {}

    request = {**REQUEST, "model": "gpt-5.6"}
    await Cache(cache_control_injection_points=SYSTEM).wrap(create)(**request)
    assert got[0][0]["content"][0]["prompt_cache_breakpoint"] == {"mode": "explicit"}


async def test_sync_functions_are_marked() -> None:
    got: list[Any] = []

    def completion(model: str, messages: list[Any]) -> dict[str, Any]:
        got.append(messages)
        return {"choices": []}

    call = Cache(cache_control_injection_points=SYSTEM).wrap(completion)
    await asyncio.to_thread(call, **REQUEST)
    assert got == [MARKED]


async def test_the_bundled_hook_marks_the_system_prompt() -> None:
    upstream = Upstream()
    await Cache(pre_hooks=[async_pre_llm_hook]).wrap(upstream)(**REQUEST)
    assert upstream.got[0]["messages"] == MARKED


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("system", "or 'auto'"),
        ({"location": "message"}, "a list is wanted"),
        (["system"], "a table is wanted"),
        ([{"location": "messages"}], "it is 'message' or 'tool_config'"),
        ([{"location": "message", "rolle": "x"}], "unknown field 'rolle'"),
        ([{"location": "message"}], "needs a role or an index"),
        ([{"location": "message", "index": "last"}], "needs a role or an index"),
        ([{"location": "message", "index": 1.5}], "an int is wanted"),
        ([{"location": "message", "index": True}], "an int is wanted"),
        ([{"location": "message", "role": 7}], "a name is wanted"),
        ([{"location": "message", "role": "user", "control": "x"}], "a table is wanted"),
    ],
)
def test_wrong_points(points: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cache(cache_control_injection_points=points)


def test_wrong_provider() -> None:
    with pytest.raises(ConfigError, match="known are anthropic"):
        PromptCaching(provider="antropic")  # type: ignore[arg-type]
