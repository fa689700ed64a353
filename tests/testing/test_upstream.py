"""FakeUpstream behaves like an `acompletion`, and does what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from asynccache.testing.upstream import Answer, FakeUpstream, ToolCall

MESSAGES = [{"role": "user", "content": "How do I reset my password?"}]


async def collect(stream: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk async for chunk in stream]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def test_answers_are_chat_completions_that_depend_on_the_content_alone() -> None:
    upstream = FakeUpstream()
    first = await upstream(model="m", messages=MESSAGES)
    second = await upstream(model="m", messages=MESSAGES)
    other = await upstream(model="m", messages=MESSAGES, temperature=0.5)
    ChatCompletion.model_validate(first, strict=True)
    assert first["choices"] == second["choices"] != other["choices"]
    assert first["id"] != second["id"]
    assert upstream.calls == 3
    assert upstream.requests[2] == {"model": "m", "messages": MESSAGES, "temperature": 0.5}


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    upstream = FakeUpstream()
    whole = await upstream(model="m", messages=MESSAGES)
    chunks = await collect(await upstream(model="m", messages=MESSAGES, stream=True))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]


async def test_n_gives_different_choices() -> None:
    answer = await FakeUpstream()(model="m", messages=MESSAGES, n=2)
    texts = {choice["message"]["content"] for choice in answer["choices"]}
    assert len(texts) == 2


async def test_a_fixed_text() -> None:
    upstream = FakeUpstream(answer="Forty-two.")
    assert (await upstream(model="m", messages=MESSAGES))["choices"][0]["message"]["content"] == "Forty-two."
    assert text_of(await collect(await upstream(model="m", messages=MESSAGES, stream=True))) == "Forty-two."


async def test_a_whole_completion_is_given_out_as_a_copy() -> None:
    fixed = {"id": "x", "choices": [{"message": {"content": "a"}}]}
    upstream = FakeUpstream(answer=fixed)
    given = await upstream(model="m", messages=MESSAGES)
    given["choices"][0]["message"]["content"] = "changed"
    assert await upstream(model="m", messages=MESSAGES) == {"id": "x", "choices": [{"message": {"content": "a"}}]}
    with pytest.raises(TypeError, match="cannot be streamed"):
        await upstream(model="m", messages=MESSAGES, stream=True)


async def test_an_answer_may_be_computed() -> None:
    upstream = FakeUpstream(answer=lambda request: Answer(tool_calls=(ToolCall(request["model"]),)))
    answer = await upstream(model="lookup", messages=MESSAGES)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "lookup", "arguments": "{}"}


async def test_calls_are_held_until_released() -> None:
    upstream = FakeUpstream()
    upstream.hold()
    asking = [asyncio.create_task(upstream(model="m", messages=MESSAGES)) for _ in range(3)]
    await upstream.reached(3)
    assert not any(task.done() for task in asking)
    upstream.release()
    assert len(await asyncio.gather(*asking)) == 3


async def test_a_stream_under_way_can_be_held() -> None:
    upstream = FakeUpstream()
    stream = await upstream(model="m", messages=MESSAGES, stream=True)
    await anext(stream)
    upstream.hold()
    following = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    assert not following.done()
    upstream.release()
    assert await following
    await stream.aclose()
    assert upstream.cancelled == 1


async def test_failing() -> None:
    upstream = FakeUpstream()
    error = ConnectionError("gone")
    upstream.fail(error, times=2)
    for _ in range(2):
        with pytest.raises(ConnectionError) as caught:
            await upstream(model="m", messages=MESSAGES)
        assert caught.value is error
    assert await upstream(model="m", messages=MESSAGES)
    assert upstream.calls == 3


async def test_failing_in_the_middle_of_a_stream() -> None:
    upstream = FakeUpstream()
    upstream.fail(ConnectionError("gone"), after=2)
    stream = await upstream(model="m", messages=MESSAGES, stream=True)
    assert [await anext(stream), await anext(stream)]
    with pytest.raises(ConnectionError):
        await anext(stream)
    assert upstream.cancelled == 0


async def test_a_caller_that_gives_up_is_counted() -> None:
    upstream = FakeUpstream()
    upstream.hold()
    asking = asyncio.create_task(upstream(model="m", messages=MESSAGES))
    await upstream.reached(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert upstream.cancelled == 1
