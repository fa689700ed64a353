"""`cache.wrap` of LiteLLM's further functions and of its Router: a miss, a hit, a stream and an error each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import groupby
from typing import Any

import litellm
import pytest
from litellm.types.llms import openai as types
from litellm.types.llms.openai import ResponsesAPIResponse

from asynccache import Cache, status
from asynccache.clients._litellm_answers import ANSWERS, MessageEvents, _alike
from asynccache.clients.litellm import LiteLLMCache, install
from asynccache.testing.provider import SimulatedProvider, ToolCall
from tests.litellm.test_drop_in import CALLS, HELLO

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_miss_and_hit(cache: Cache, provider: SimulatedProvider, name: str) -> None:
    """The async function pays, and its sync twin finds what it paid for; each answer is of LiteLLM's own type."""
    call = CALLS[name](provider)
    asynchronous, sync = cache.wrap(getattr(litellm, f"a{name}")), cache.wrap(getattr(litellm, name))
    miss = await asynchronous(**call)
    hit = await asynchronous(**call)
    twin = await asyncio.to_thread(sync, **call)
    assert [status(answer).outcome for answer in (miss, hit, twin)] == ["miss", "hit", "hit"]
    assert type(hit) is type(twin) is type(miss)
    assert hit.model_dump() == twin.model_dump() == miss.model_dump()
    assert sum(provider.calls.values()) == 1


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_error(cache: Cache, provider: SimulatedProvider, name: str) -> None:
    """LiteLLM's exception reaches the caller, and nothing is kept."""
    function, call = cache.wrap(getattr(litellm, f"a{name}")), CALLS[name](provider)
    provider.fail_next(status=400)
    with pytest.raises(litellm.BadRequestError):
        await function(**call, max_retries=0)
    assert cache.stats.stored == 0
    assert status(await function(**call, max_retries=0)).outcome == "miss"


async def test_text_completion_stream(cache: Cache, provider: SimulatedProvider) -> None:
    """Chunk by chunk."""
    function, call = cache.wrap(litellm.atext_completion), CALLS["text_completion"](provider)
    runs = [[chunk async for chunk in await function(**call, stream=True)] for _ in range(2)]
    assert [c.choices[0].text for c in runs[0]] == [c.choices[0].text for c in runs[1]]
    assert sum(provider.calls.values()) == 1


async def test_sync_streams(cache: Cache, provider: SimulatedProvider) -> None:
    """A sync function's stream is a sync one, recorded or new, and can be left."""
    completion, call = cache.wrap(litellm.completion), CALLS["completion"](provider)

    def text() -> tuple[str, str]:
        stream = completion(**call, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return status(stream).outcome, said

    (miss, first), (hit, again) = [await asyncio.to_thread(text) for _ in range(2)]
    assert (miss, hit) == ("miss", "hit")
    assert first == again != ""

    def leave() -> None:
        stream = completion(**call, stream=True, temperature=0.5)
        next(iter(stream))
        stream.close()

    await asyncio.to_thread(leave)
    assert cache.stats.stored == 1
    assert sum(provider.calls.values()) == 2


async def test_a_sync_stream_of_a_whole_answer(cache: Cache, provider: SimulatedProvider) -> None:
    """What was paid for whole comes to a sync function as a sync stream, too."""
    completion, call = cache.wrap(litellm.completion), CALLS["completion"](provider)

    def both() -> tuple[Any, Any, list[Any]]:
        whole = completion(**call)
        with completion(**call, stream=True) as stream:
            return whole, status(stream), list(stream)

    whole, how, chunks = await asyncio.to_thread(both)
    assert how.outcome == "hit"
    assert {type(chunk) for chunk in chunks} == {litellm.ModelResponseStream}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert sum(provider.calls.values()) == 1


# -- streams of responses -----------------------------------------------------------------------------


def _openai(provider: SimulatedProvider) -> dict[str, Any]:
    return {"model": "openai/gpt-4o", "api_base": provider.base_url, "api_key": "k"}


def _anthropic(provider: SimulatedProvider) -> dict[str, Any]:
    return {"model": "anthropic/claude-sonnet-4", "api_base": provider.origin, "api_key": "k"}


def _text(provider: SimulatedProvider) -> dict[str, Any]:
    return {
        "model": "text-completion-openai/gpt-3.5-turbo-instruct",
        "api_base": provider.base_url,
        "api_key": "k",
    }


Where = Callable[[SimulatedProvider], dict[str, Any]]
RESPONSES = pytest.mark.parametrize("where", [_openai, _anthropic])
"""OpenAI's own responses, and those that LiteLLM makes of chat completions."""
MESSAGES = pytest.mark.parametrize("where", [_anthropic, _openai, _text])
"""Anthropic's own messages, and those that LiteLLM makes of responses and of chat completions."""


async def _all(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def _kinds(events: list[Any]) -> list[Any]:
    """The types of events in their order, however many deltas there are."""
    return [(kind, said) for (kind, said), _ in groupby((type(event), str(event.type)) for event in events)]


def _told(event: Any) -> Any:
    return event.model_dump(warnings=False)


@RESPONSES
@pytest.mark.parametrize("tools", [(), (ToolCall("weather", '{"city": "Oslo"}'),)], ids=["text", "tool"])
async def test_responses_stream(
    cache: Cache, provider: SimulatedProvider, where: Where, tools: tuple[ToolCall, ...]
) -> None:
    """A recorded stream has LiteLLM's events, usage and all, in their order and with all of their types; its sync
    twin has them too; and it answers a whole call."""
    aresponses, responses = cache.wrap(litellm.aresponses), cache.wrap(litellm.responses)
    provider.answer_next("Hello you", tool_calls=tools)
    call = {**where(provider), "input": "Hello"}
    streams = [await aresponses(**call, stream=True)]
    live = await _all(streams[0])
    streams.append(await aresponses(**call, stream=True))
    again = await _all(streams[1])
    assert [status(stream).outcome for stream in streams] == ["miss", "hit"]
    assert all(map(_alike, live, again))
    assert [_told(event) for event in again] == [_told(event) for event in live]
    assert isinstance(live[-1], types.ResponseCompletedEvent)
    assert again[-1].response.usage.total_tokens > 0

    twin = await asyncio.to_thread(lambda: list(responses(**call, stream=True)))
    assert all(map(_alike, live, twin))

    whole = await aresponses(**call)
    assert status(whole).outcome == "hit"
    assert type(whole) is ResponsesAPIResponse
    assert _alike(whole.output, live[-1].response.output)
    assert whole.usage == live[-1].response.usage
    assert sum(provider.calls.values()) == 1


@RESPONSES
async def test_a_whole_response_is_streamed(cache: Cache, provider: SimulatedProvider, where: Where) -> None:
    """As LiteLLM's events, of the types that a live stream has, with the response at its end."""
    aresponses, call = cache.wrap(litellm.aresponses), {**where(provider), "input": "Hello"}
    miss, hit = [await aresponses(**call) for _ in range(2)]
    assert [status(answer).outcome for answer in (miss, hit)] == ["miss", "hit"]
    assert _alike(hit.output, miss.output)
    cut = await aresponses(**call, stream=True)
    events = await _all(cut)
    assert status(cut).outcome == "hit"
    assert sum(provider.calls.values()) == 1
    assert "".join(event.delta for event in events if isinstance(event, types.OutputTextDeltaEvent)) == miss.output_text
    assert _told(events[-1])["response"] == _told(miss)
    assert _kinds(events) == _kinds(await _all(await litellm.aresponses(**call, stream=True)))


@RESPONSES
async def test_a_broken_responses_stream_is_not_kept(cache: Cache, provider: SimulatedProvider, where: Where) -> None:
    aresponses, call = cache.wrap(litellm.aresponses), {**where(provider), "input": "Hello"}
    provider.abort_next(after=5)
    with pytest.raises(Exception, match=r"."):  # LiteLLM has several for it
        await _all(await aresponses(**call, stream=True))
    assert cache.stats.stored == 0
    assert status(await aresponses(**call, stream=True)).outcome == "miss"


def test_events_of_two_types() -> None:
    """LiteLLM reads some events from the wire as what it does not make them itself: each comes back as it was. What
    would not is not kept."""
    answers = ANSWERS["responses"]
    said = {"item_id": "rs_1", "output_index": 0, "delta": "Hm", "summary_index": 0}
    name = types.ResponsesAPIStreamEvents.REASONING_SUMMARY_TEXT_DELTA
    read = litellm.OpenAIResponsesAPIConfig.get_event_model_class(event_type=name.value)
    made: list[Any] = [types.ReasoningSummaryTextDeltaEvent(type=name, **said), read(type=name.value, **said)]
    for event in made:
        assert _alike(answers.decode_chunk(answers.encode_chunk(event)), event)
    assert type(made[0]) is not type(made[1])

    class Other(types.GenericEvent):  # type: ignore[misc]
        pass

    for chunk in (Other(type="response.created"), "text", {"type": "response.created"}):
        with pytest.raises(ValueError, match=r"Other|str|dict"):
            answers.encode_chunk(chunk)


async def test_a_response_of_litellms_own_types_in_its_own_cache(provider: SimulatedProvider) -> None:
    """What `wrap` notes of their types is not told to LiteLLM, when its cache finds the same entry."""
    litellm.cache = LiteLLMCache()
    call = {**_anthropic(provider), "input": "Hello"}
    try:
        wrapped = await litellm.cache.handle.wrap(litellm.aresponses)(**call, cache={"no-cache": True})
        found = await litellm.aresponses(**call)
        await litellm.cache.aclose()
    finally:
        litellm.cache = None
    assert sum(provider.calls.values()) == 1
    assert _told(found).keys() == _told(wrapped).keys()


# -- streams of messages ------------------------------------------------------------------------------


def _events(chunks: list[Any]) -> list[Any]:
    """What the events say, each of which is a chunk."""
    assert {type(chunk) for chunk in chunks} == {bytes}
    found = [chunk.decode().partition("data: ") for chunk in chunks]
    assert all(head.startswith("event: ") for head, _, _ in found)
    return [json.loads(data) for _, _, data in found]


@MESSAGES
async def test_messages_stream(cache: Cache, provider: SimulatedProvider, where: Where) -> None:
    """The events that came, as bytes; and a whole message of them, with the usage."""
    function, call = cache.wrap(litellm.anthropic_messages), {**where(provider), "messages": HELLO, "max_tokens": 500}
    miss = await function(**call, stream=True)
    live = await _all(miss)
    hit = await function(**call, stream=True)
    assert _events(await _all(hit)) == _events(live)
    whole = await function(**call)
    assert [status(answer).outcome for answer in (miss, hit, whole)] == ["miss", "hit", "hit"]
    said = [event["delta"].get("text", "") for event in _events(live) if event["type"] == "content_block_delta"]
    assert whole["content"][0]["text"] == "".join(said) != ""
    assert whole["usage"]["output_tokens"] == _events(live)[-2]["usage"]["output_tokens"] > 0
    assert sum(provider.calls.values()) == 1


@MESSAGES
async def test_a_whole_message_is_streamed(cache: Cache, provider: SimulatedProvider, where: Where) -> None:
    """It comes whole again, and in events as from a live stream."""
    function, call = cache.wrap(litellm.anthropic_messages), {**where(provider), "messages": HELLO, "max_tokens": 500}
    miss, hit = [await function(**call) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit == miss
    stream = await function(**call, stream=True)
    events = _events(await _all(stream))
    assert status(stream).outcome == "hit"
    assert sum(provider.calls.values()) == 1
    live = _events([chunk async for chunk in MessageEvents(await litellm.anthropic_messages(**call, stream=True))])
    assert _names(events) == _names(live)
    assert events[-2]["usage"]["output_tokens"] == miss["usage"]["output_tokens"]


def _names(events: list[Any]) -> list[str]:
    return [name for name, _ in groupby(event["type"] for event in events if event["type"] != "ping")]


@pytest.mark.parametrize("error", [None, {"type": "overloaded_error", "message": "Overloaded"}], ids=["cut", "error"])
async def test_a_broken_messages_stream_is_not_kept(cache: Cache, provider: SimulatedProvider, error: Any) -> None:
    function = cache.wrap(litellm.anthropic_messages)
    call = {**_anthropic(provider), "messages": HELLO, "max_tokens": 500}
    provider.abort_next(after=5, error=error)
    with suppress(Exception):  # LiteLLM raises for some, and ends others with an event
        await _all(await function(**call, stream=True))
    assert cache.stats.stored == 0
    assert status(await function(**call, stream=True)).outcome == "miss"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_messages_cut_anywhere(size: int) -> None:
    """The same bytes, an event a chunk; comments come with what follows them."""
    events = [b'event: a\r\ndata: {"type": "a"}\r\n\r\n', b': hm\n\nevent: b\ndata: {"type": "b"}\n\n', b"data: 1"]
    said = b"".join(events)

    async def bytes_of() -> AsyncIterator[bytes]:
        for at in range(0, len(said), size):
            yield said[at : at + size]

    chunks = await _all(MessageEvents(bytes_of()))
    assert b"".join(chunks) == said
    assert [[word in chunk for word in (b'"a"', b'"b"', b": 1")] for chunk in chunks] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


async def test_chunks_that_are_no_bytes_are_passed_on(cache: Cache) -> None:
    """In their turn; and such a stream is not kept."""
    given = [b"event: a\n", {"type": "b"}, b'data: {"type": "c"}\n\n']

    async def chunks() -> AsyncIterator[Any]:
        for chunk in given:
            yield chunk

    assert await _all(MessageEvents(chunks())) == given
    for chunk in (given[1], b"data: [DONE]\n\n", b": hm\n\n", b'event: a\ndata: {"type": "b"}\n\n'):
        with pytest.raises(ValueError, match=r"."):
            ANSWERS["anthropic_messages"].encode_chunk(chunk)


# -- installed ----------------------------------------------------------------------------------------


async def test_what_litellm_makes_of_another_call(cache: Cache, provider: SimulatedProvider) -> None:
    """With `install()`, it gets LiteLLM's own streams, and is kept once; and `no-cache` means all of it."""
    responses = {**_anthropic(provider), "input": "Hello", "stream": True}
    messages = {**_openai(provider), "messages": HELLO, "max_tokens": 500, "stream": True}
    with install(cache):
        for function, call in ((litellm.aresponses, responses), (litellm.anthropic_messages, messages)):
            live, again = [await _all(await function(**call)) for _ in range(2)]
            assert len(live) == len(again) > 5
            await _all(await function(**call, cache={"no-cache": True}))
        assert list(await asyncio.to_thread(lambda: list(litellm.responses(**{**responses, "input": "You"}))))
    assert cache.stats.stored == 5
    assert cache.stats.hits == 2
    assert sum(provider.calls.values()) == 5


# -- routers ------------------------------------------------------------------------------------------


@pytest.fixture
def router(provider: SimulatedProvider) -> litellm.Router:
    where = {"api_base": provider.base_url, "api_key": "k", "max_retries": 0}
    models = [
        {"model_name": "small", "litellm_params": {"model": "openai/gpt-4o-mini", **where}},
        {"model_name": "large", "litellm_params": {"model": "openai/gpt-4o", **where}},
        {"model_name": "vectors", "litellm_params": {"model": "openai/text-embedding-3-small", **where}},
    ]
    return litellm.Router(model_list=models, num_retries=0)


async def test_a_file_counts_by_its_content(cache: Cache, provider: SimulatedProvider) -> None:
    """Whatever its name."""
    transcribe = cache.wrap(litellm.atranscription)
    there = {"model": "openai/whisper-1", "api_base": provider.base_url, "api_key": "k"}
    for name in ("speech.wav", "again.wav"):
        answer = await transcribe(file=(name, b"RIFF1234"), **there)
    assert status(answer).outcome == "hit"
    assert status(await transcribe(file=("again.wav", b"RIFF5678"), **there)).outcome == "miss"


async def test_router(cache: Cache, provider: SimulatedProvider, router: litellm.Router) -> None:
    """It is a Router still; the one that was wrapped is as it was."""
    wrapped = cache.wrap(router)
    assert type(wrapped) is litellm.Router
    miss, hit = [await wrapped.acompletion(model="small", messages=HELLO) for _ in range(2)]
    assert (status(miss).outcome, status(hit).outcome) == ("miss", "hit")
    assert hit.model_dump() == miss.model_dump()
    vectors = [await wrapped.aembedding(model="vectors", input=["a", "b"]) for _ in range(2)]
    assert [status(answer).outcome for answer in vectors] == ["miss", "hit"]
    assert status(await wrapped.acompletion(model="large", messages=HELLO)).outcome == "miss"
    plain = await router.acompletion(model="small", messages=HELLO)
    with pytest.raises(TypeError):
        status(plain)


async def test_router_stream_and_error(cache: Cache, provider: SimulatedProvider, router: litellm.Router) -> None:
    wrapped = cache.wrap(router)
    provider.fail_next(status=400)
    with pytest.raises(litellm.BadRequestError):
        await wrapped.acompletion(model="small", messages=HELLO)
    runs = []
    for _ in range(2):
        stream = await wrapped.acompletion(model="small", messages=HELLO, stream=True)
        runs.append([chunk.choices[0].delta.content async for chunk in stream])
    assert runs[0] == runs[1]
    assert sum(provider.calls.values()) == 2


async def test_router_groups(provider: SimulatedProvider, router: litellm.Router) -> None:
    """Models that are to share entries do."""
    async with Cache(caching_groups=[("small", "large")]) as cache:
        wrapped = cache.wrap(router)
        for model in ("small", "large"):
            await wrapped.acompletion(model=model, messages=HELLO)
    assert sum(provider.calls.values()) == 1


async def test_a_routers_own_groups(cache: Cache, provider: SimulatedProvider, router: litellm.Router) -> None:
    """Those of `Router(caching_groups=…)` count as for LiteLLM's cache: whole, streamed, and with a key builder. A
    model outside of them is alone; of one in several, the first counts."""
    groups = [("small", "large"), ("large", "vectors")]
    grouped = litellm.Router(model_list=router.model_list, num_retries=0, caching_groups=groups)
    wrapped = cache.wrap(grouped)
    answers = [await wrapped.acompletion(model=model, messages=HELLO) for model in ("small", "large", "vectors")]
    assert [status(answer).outcome for answer in answers] == ["miss", "hit", "miss"]
    assert answers[1].model == answers[0].model
    stream = await wrapped.acompletion(model="large", messages=HELLO, stream=True)
    assert (status(stream).outcome, len(await _all(stream)) > 1) == ("hit", True)
    assert provider.requests[0]["model"] == "gpt-4o-mini"
    alone = cache.wrap(router)
    assert [status(await alone.acompletion(model=m, messages=HELLO)).outcome for m in ("small", "large")] == [
        "miss"
    ] * 2
    keys = {cache.get_cache_key(wrapped.acompletion, model=model, messages=HELLO) for model in ("small", "large")}
    assert keys == {status(answers[0]).key}

    def text(model: Any, messages: Any, **_: Any) -> str:
        return f"{model} {messages}"

    async with Cache(key_builder=text) as other:
        wrapped = other.wrap(grouped)
        ends = [status(await wrapped.acompletion(model=model, messages=HELLO)).outcome for model in ("small", "large")]
    assert ends == ["miss", "hit"]


async def test_groups_of_both(provider: SimulatedProvider, router: litellm.Router) -> None:
    """For a model in a group of the cache's, that one counts, and the Router's for the others."""
    groups = [("small", "large"), ("vectors", "other")]
    grouped = litellm.Router(model_list=router.model_list, num_retries=0, caching_groups=groups)
    async with Cache(caching_groups=[("small", "medium")]) as cache:
        key = cache.get_cache_key
        call = cache.wrap(grouped).acompletion
        small, medium, large, vectors, other = [
            key(call, model=model, messages=HELLO) for model in ("small", "medium", "large", "vectors", "other")
        ]
    assert small == medium != large
    assert vectors == other != small


async def test_responses_and_messages_of_a_router(
    cache: Cache, provider: SimulatedProvider, router: litellm.Router
) -> None:
    """Whole and streamed, async and sync."""
    wrapped = cache.wrap(router)
    call = {"model": "small", "input": "Hello"}
    stream = await wrapped.aresponses(**call, stream=True)
    events = await _all(stream)
    again, whole = await wrapped.aresponses(**call, stream=True), await wrapped.aresponses(**call)
    assert all(map(_alike, events, await _all(again)))
    twin = await asyncio.to_thread(lambda: wrapped.responses(**call))
    assert [status(answer).outcome for answer in (stream, again, whole, twin)] == ["miss", "hit", "hit", "hit"]
    assert type(whole) is type(twin) is ResponsesAPIResponse
    message = {"model": "small", "messages": HELLO, "max_tokens": 500}
    live = await _all(await wrapped.aanthropic_messages(**message, stream=True))
    found = await wrapped.aanthropic_messages(**message, stream=True)
    assert status(found).outcome == "hit"
    assert _events(await _all(found)) == _events(live)
    assert sum(provider.calls.values()) == 2


async def test_routers_with_other_deployments_do_not_meet(
    cache: Cache, provider: SimulatedProvider, router: litellm.Router
) -> None:
    """An alias may be any model."""
    where = {"api_base": provider.base_url, "api_key": "k"}
    other = litellm.Router(model_list=[{"model_name": "small", "litellm_params": {"model": "openai/o3", **where}}])
    for each in (router, other):
        await cache.wrap(each).acompletion(model="small", messages=HELLO)
    assert sum(provider.calls.values()) == 2
