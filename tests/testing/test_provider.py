"""The simulated provider is a provider to the real SDKs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, TextBlock, ToolUseBlock
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from asynccache.testing.provider import Pace, SimulatedProvider, ToolCall, realistic_latency

MODEL = "simulated"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def client(provider: SimulatedProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.base_url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(provider: SimulatedProvider) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=provider.origin, api_key="any", max_retries=0) as claude:
        yield claude


async def ask(client: AsyncOpenAI, question: str = "How do I reset my password?", n: int = 1) -> ChatCompletion:
    return await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": question}], n=n)


async def stream(client: AsyncOpenAI, question: str = "How do I reset my password?") -> list[ChatCompletionChunk]:
    chunks = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
    )
    return [chunk async for chunk in chunks]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_a_chat_completion_is_valid_and_counts_its_tokens(client: AsyncOpenAI) -> None:
    answer = await ask(client)
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert answer.choices[0].finish_reason == "stop"
    assert len((answer.choices[0].message.content or "").split()) > 10
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id == "req_00000001"


async def test_the_same_request_gets_the_same_words_under_a_new_id(client: AsyncOpenAI) -> None:
    first, second, other = await ask(client), await ask(client), await ask(client, "Where is my parcel?")
    assert first.choices == second.choices
    assert first.id != second.id
    assert first.choices != other.choices


async def test_a_stream_says_what_the_whole_answer_says(client: AsyncOpenAI) -> None:
    whole, chunks = await ask(client), await stream(client)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_n_gives_different_choices(client: AsyncOpenAI) -> None:
    answer = await ask(client, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3


async def test_a_token_limit_is_kept(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=5
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_responses_whole_and_streamed_agree(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model=MODEL, input="Hi", instructions="Be kind.")
    Response.model_validate(whole.model_dump())
    assert whole.status == "completed"
    assert whole.output_text
    async with client.responses.stream(model=MODEL, input="Hi", instructions="Be kind.") as events:
        kinds = [event.type async for event in events]
        final = await events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == whole.output_text
    assert final.usage == whole.usage


async def test_a_response_cut_at_its_limit_is_incomplete(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model=MODEL, input="Hi", max_output_tokens=4)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


async def test_embeddings_are_the_same_numbers_as_float_and_as_base64(client: AsyncOpenAI) -> None:
    texts = ["reset my password", "password reset", "a parcel"]
    plain = await client.embeddings.create(model=MODEL, input=texts, encoding_format="float", dimensions=64)
    packed = await client.embeddings.create(model=MODEL, input=texts, dimensions=64)  # the SDK asks for base64
    assert [item.index for item in plain.data] == [0, 1, 2]
    assert [item.embedding for item in plain.data] == [item.embedding for item in packed.data]
    first, second, third = (item.embedding for item in plain.data)
    assert dot(first, first) == pytest.approx(1.0)
    assert dot(first, second) > dot(first, third)


async def test_a_list_of_token_numbers_is_one_input(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model=MODEL, input=[1, 2, 3])
    assert len(answer.data) == 1


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_messages_whole_and_streamed_agree(claude: AsyncAnthropic) -> None:
    whole = await claude.messages.create(model=MODEL, max_tokens=500, messages=[{"role": "user", "content": "Hi"}])
    Message.model_validate(whole.model_dump(), strict=True)
    assert whole.stop_reason == "end_turn"
    async with claude.messages.stream(
        model=MODEL, max_tokens=500, messages=[{"role": "user", "content": "Hi"}]
    ) as events:
        final = await events.get_final_message()
    assert [block.text for block in final.content if isinstance(block, TextBlock)] == [
        block.text for block in whole.content if isinstance(block, TextBlock)
    ]
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_calls_are_counted_and_their_bodies_kept(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    await ask(client, "one")
    await client.embeddings.create(model=MODEL, input="two", encoding_format="float")
    assert provider.calls == {CHAT: 1, "/v1/embeddings": 1}
    assert provider.requests[0]["messages"] == [{"role": "user", "content": "one"}]
    assert provider.requests[1] == {"model": MODEL, "input": "two", "encoding_format": "float"}


async def test_scripted_failures_come_first_and_count(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.fail_next(status=429, times=2, headers={"Retry-After": "7"})
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client)
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.type == "rate_limit_error"
    await ask(client)
    assert provider.calls[CHAT] == 3


async def test_a_failure_may_have_its_own_body(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.fail_next(status=400, body={"error": {"message": "no", "type": "bad", "code": "content_filter"}})
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client)
    assert caught.value.code == "content_filter"


async def test_failures_are_worded_as_the_api_does(provider: SimulatedProvider, claude: AsyncAnthropic) -> None:
    provider.fail_next(status=529)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await claude.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.status_code == 529
    assert caught.value.type == "overloaded_error"


async def test_a_request_without_a_model_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'messages'"):
        await client.post(CHAT.removeprefix("/v1"), body={"model": MODEL}, cast_to=ChatCompletion)


async def test_an_unknown_path_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.moderations.create(input="Hi")


async def test_finish_reasons_can_be_scripted(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.answer_next(finish_reason="content_filter")
    provider.answer_next("Only this", finish_reason="length")
    filtered, cut, usual = await ask(client), await ask(client), await ask(client)
    assert filtered.choices[0].finish_reason == "content_filter"
    assert filtered.choices[0].message == usual.choices[0].message
    assert (cut.choices[0].finish_reason, cut.choices[0].message.content) == ("length", "Only this")
    assert usual.choices[0].finish_reason == "stop"


async def test_a_refusal(provider: SimulatedProvider, client: AsyncOpenAI, claude: AsyncAnthropic) -> None:
    provider.answer_next(refusal="I cannot help with that.", times=3)
    answer = await ask(client)
    assert answer.choices[0].message.refusal == "I cannot help with that."
    assert answer.choices[0].message.content is None
    chunks = await stream(client)
    refusal = "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks if chunk.choices)
    assert refusal == "I cannot help with that."
    message = await claude.messages.create(model=MODEL, max_tokens=99, messages=[{"role": "user", "content": "Hi"}])
    assert message.stop_reason == "refusal"


async def test_a_refusal_in_responses(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.answer_next(refusal="No.", times=2)
    whole = await client.responses.create(model=MODEL, input="Hi")
    async with client.responses.stream(model=MODEL, input="Hi") as events:
        kinds = [event.type async for event in events]
        final = await events.get_final_response()
    assert "response.refusal.delta" in kinds
    assert [item.to_dict()["content"] for item in final.output] == [item.to_dict()["content"] for item in whole.output]


async def test_tool_calls_in_every_api(
    provider: SimulatedProvider, client: AsyncOpenAI, claude: AsyncAnthropic
) -> None:
    provider.answer_next(tool_calls=[ToolCall("find_order", '{"number": 7}')], times=5)
    answer = await ask(client)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("find_order", '{"number": 7}')

    response = await client.responses.create(model=MODEL, input="Hi")
    assert [item.type for item in response.output] == ["function_call"]
    async with client.responses.stream(model=MODEL, input="Hi") as events:
        final = await events.get_final_response()
    assert [item.to_dict()["arguments"] for item in final.output] == ['{"number": 7}']

    request = {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
    message = await claude.post("/v1/messages", body=request, cast_to=Message)
    assert [block.input for block in message.content if isinstance(block, ToolUseBlock)] == [{"number": 7}]
    async with claude.messages.stream(
        model=MODEL, max_tokens=99, messages=[{"role": "user", "content": "Hi"}]
    ) as parts:
        streamed = await parts.get_final_message()
    assert [block.input for block in streamed.content if isinstance(block, ToolUseBlock)] == [{"number": 7}]
    assert streamed.stop_reason == "tool_use"


async def test_broken_arguments_stay_broken(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.answer_next(tool_calls=[ToolCall("find_order", '{"number": ')], times=2)
    (call,) = (await ask(client)).choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.arguments == '{"number": '
    pieces = [chunk.choices[0].delta.tool_calls for chunk in await stream(client) if chunk.choices]
    joined = "".join((calls[0].function.arguments or "") for calls in pieces if calls and calls[0].function)
    assert joined == '{"number": '


async def test_a_stream_can_be_cut(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.abort_next(after=3)
    chunks = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    assert [await anext(chunks) for _ in range(3)]
    with pytest.raises(openai.APIConnectionError):
        await anext(chunks)
    assert text_of(await stream(client, "Hi"))


async def test_a_whole_answer_can_be_cut(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.abort_next()
    with pytest.raises(openai.APIConnectionError):
        await ask(client)


async def test_a_stream_can_end_in_an_error(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.abort_next(after=1, error={"message": "overloaded"})
    with pytest.raises(openai.APIError, match="overloaded"):
        await stream(client)


async def test_an_anthropic_stream_can_end_in_an_error(provider: SimulatedProvider, claude: AsyncAnthropic) -> None:
    provider.abort_next(after=2, error={"type": "overloaded_error", "message": "Overloaded"})
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        async with claude.messages.stream(
            model=MODEL, max_tokens=99, messages=[{"role": "user", "content": "Hi"}]
        ) as events:
            await events.get_final_message()


async def test_requests_are_held_until_released(provider: SimulatedProvider, client: AsyncOpenAI) -> None:
    provider.hold()
    asking = [asyncio.create_task(ask(client, str(number))) for number in range(5)]
    await provider.reached(5)
    assert not any(task.done() for task in asking)
    provider.release()
    assert len(await asyncio.gather(*asking)) == 5


async def test_a_client_that_goes_away_leaves_nothing_behind(client: AsyncOpenAI, provider: SimulatedProvider) -> None:
    provider.hold()
    asking = asyncio.create_task(ask(client))
    await provider.reached(1)
    asking.cancel()
    await asyncio.wait([asking])
    provider.release()
    await ask(client)
    assert provider.calls[CHAT] == 2


async def test_leaving_ends_what_is_under_way_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with AsyncOpenAI(base_url="http://unused", api_key="any", max_retries=0) as client:
        async with SimulatedProvider() as provider:
            client.base_url = provider.base_url
            provider.hold()
            asking = asyncio.create_task(ask(client))
            await provider.reached(1)
            port = int(provider.origin.rsplit(":", 1)[1])
        with pytest.raises(openai.APIConnectionError):
            await asking
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


async def test_base_url_is_known_only_while_it_serves() -> None:
    provider = SimulatedProvider()
    with pytest.raises(RuntimeError, match="not serving"):
        _ = provider.base_url
    async with provider:
        assert provider.base_url == f"{provider.origin}/v1"
        with pytest.raises(RuntimeError, match="serving already"):
            await provider.__aenter__()
    async with provider:  # it can be used again
        assert provider.base_url


def test_it_serves_sync_code_from_a_thread_of_its_own() -> None:
    with SimulatedProvider() as provider, OpenAI(base_url=provider.base_url, api_key="any") as client:
        provider.hold()
        provider.release()
        answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content
        assert provider.calls[CHAT] == 1


async def test_latency_is_asked_for_with_the_body_of_the_request() -> None:
    asked = []

    def latency(body: object) -> Pace:
        asked.append(body)
        return Pace(first=1e-6, per_token=1e-6)

    async with (
        SimulatedProvider(latency) as provider,
        AsyncOpenAI(base_url=provider.base_url, api_key="any") as client,
    ):
        await ask(client)
        await stream(client)
    assert asked == provider.requests
    assert len(asked) == 2


def test_realistic_latency_is_steady_and_scales() -> None:
    real, fast = realistic_latency(), realistic_latency(speed=100)
    paces = [real({"model": MODEL, "input": str(number)}) for number in range(200)]
    assert paces == [real({"model": MODEL, "input": str(number)}) for number in range(200)]
    assert 0.3 < sorted(pace.first for pace in paces)[100] < 0.7
    assert fast({"input": "x"}).first == pytest.approx(real({"input": "x"}).first / 100)
