"""What providers stream, read by the real SDK clients over real HTTP: recorded, replayed, assembled, cut again.

The bodies are in `tests/wire`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, RawMessageStreamEvent
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from asynccache import Cache, status
from asynccache.call_types import chat_chunks, messages_events, responses_events
from tests import wire
from tests.wire import JSON

FORMATS: dict[str, ModuleType] = {"chat": chat_chunks, "responses": responses_events, "messages": messages_events}
WHOLE: dict[str, Any] = {"chat": ChatCompletion, "responses": Response, "messages": Message}
CHUNKS: dict[str, Any] = {
    "chat": ChatCompletionChunk,
    "responses": ResponseStreamEvent,
    "messages": RawMessageStreamEvent,
}

ALL = [name for api in FORMATS for name in wire.names(api)]
BROKEN = [name for name in ALL if name.endswith("_error")]
SOUND = [name for name in ALL if name not in BROKEN]
REFUSED = {
    "chat_refusal": "refusal",
    "chat_logprobs_refusal": "refusal",
    "responses_refusal": "refusal",
    "responses_incomplete": "length",
}
"""Answers that are whole and yet not kept, and why."""

KEPT = [name for name in SOUND if name not in REFUSED]

ABSENT = "(absent)"

DIFFERENT: dict[str, dict[str, tuple[Any, Any]]] = {
    "chat_azure": {
        "prompt_filter_results/0/prompt_index": (0, ABSENT),
        "prompt_filter_results/0/content_filter_results/hate/filtered": (False, ABSENT),
        "prompt_filter_results/0/content_filter_results/hate/severity": ("safe", ABSENT),
        "prompt_filter_results/0/content_filter_results/jailbreak/filtered": (False, ABSENT),
        "prompt_filter_results/0/content_filter_results/jailbreak/detected": (False, ABSENT),
        "choices/0/content_filter_results/hate/filtered": (False, ABSENT),
        "choices/0/content_filter_results/hate/severity": ("low", ABSENT),
        "choices/0/content_filter_results/violence/filtered": (False, ABSENT),
        "choices/0/content_filter_results/violence/severity": ("safe", ABSENT),
    },
    "chat_reasoning": {
        "choices/0/message/role": ("assistant", "assistant" * 7),
        "choices/0/message/reasoning_details/0/format": ("anthropic-claude-v1", "anthropic-claude-v1" * 3),
        "choices/0/native_finish_reason": ("end_turn", None),
    },
    "chat_repeated_names": {
        "choices/0/message/role": ("assistant", "assistant" * 4),
        "choices/0/message/tool_calls/0/id": ("call_0", "call_0call_0"),
        "choices/0/message/tool_calls/0/function/name": ("add", "addadd"),
        "choices/0/message/tool_calls/1/id": ("call_1", "call_1call_1"),
        "choices/0/message/tool_calls/1/function/name": ("add", "addadd"),
    },
    "chat_unknown_fields": {
        "x_trace/span": (3, 0),
        "choices/0/token_ids/0": (71, ABSENT),
        "choices/0/token_ids/1": (12, ABSENT),
        "choices/0/token_ids/2": (9, ABSENT),
        "choices/0/token_ids/3": (151645, ABSENT),
        "choices/0/stop_reason": (151645, None),
        "choices/0/x_scores/quality/b": (0.5, ABSENT),
        "choices/0/message/x_level": (3, 4),
    },
    "messages_unknown_fields": {
        "x_why": ("done", ABSENT),
        "context_management/applied_edits": ([], ABSENT),
        "usage/x_units": (3, ABSENT),
        "content/1/mood": ("calm", ABSENT),
        "content/1/x_p": (0.5, ABSENT),
    },
}
"""Where the SDKs' accumulators lose a field, or repeat or add up what is no text: (ours, theirs) by path."""


def api_of(name: str) -> str:
    return name.partition("_")[0]


@asynccontextmanager
async def client_for(api: str, origin: str) -> AsyncIterator[Any]:
    options: dict[str, Any] = {"api_key": "k", "max_retries": 0}
    plain = AsyncAnthropic if api == "messages" else AsyncOpenAI
    async with plain(base_url=origin if api == "messages" else f"{origin}/v1", **options) as client:
        yield client


def method(api: str, client: Any) -> Any:
    return client.chat.completions if api == "chat" else getattr(client, api)


def question(api: str) -> JSON:
    turn = [{"role": "user", "content": "?"}]
    prompt: JSON = {"input": "?"} if api == "responses" else {"messages": turn}
    return {"model": "any", **prompt, **({"max_tokens": 99} if api == "messages" else {})}


async def read(api: str, client: Any) -> tuple[str, list[Any]]:
    """Ask for a stream and read it: how it came about, and its events."""
    stream = await method(api, client).create(**question(api), stream=True)
    return status(stream).outcome, [event async for event in stream]


async def accumulated(api: str, body: bytes) -> Any:
    """What the SDK's own stream helper makes of a body."""
    finals = {"chat": "get_final_completion", "responses": "get_final_response", "messages": "get_final_message"}
    async with (
        wire.streaming(body) as provider,
        client_for(api, provider.origin) as client,
        method(api, client).stream(**question(api)) as stream,
    ):
        return await getattr(stream, finals[api])()


def recorded(event: Any) -> JSON:
    """An event as it stands in an entry."""
    value: JSON = json.loads(event.model_dump_json(by_alias=True, exclude_unset=True, warnings=False))
    return value


def whole(name: str) -> JSON:
    answer: JSON = FORMATS[api_of(name)].assemble(wire.said(name))
    return answer


def cut(name: str) -> list[JSON]:
    api = api_of(name)
    events: list[JSON] = FORMATS[api].cut(whole(name), **({"include_usage": True} if api == "chat" else {}))
    return events


def differences(ours: Any, theirs: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Every leaf that differs, by its path. Left out are what the helpers add to an answer: `parsed` and
    `parsed_arguments`, and the `index` that they leave in a tool call."""
    if ours == theirs or path.endswith(("/parsed", "/parsed_arguments")):
        return {}
    if path.endswith("/index") and "/tool_calls/" in path:
        return {}
    mine, other = _fields(ours), _fields(theirs)
    if not mine:
        return {path: (ours, theirs)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*mine, *(key for key in other or {} if key not in mine)]:
        place = f"{path}/{key}" if path else str(key)
        found |= differences(mine.get(key, ABSENT), (other or {}).get(key, ABSENT), place)
    return found


def _fields(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else None


async def test_bodies_arrive_in_awkward_pieces() -> None:
    """Characters are split over packets, or the other tests here would show less than they say."""
    body = wire.sse("chat_emoji")
    async with (
        wire.streaming(body) as provider,
        client_for("chat", provider.origin) as client,
        client.chat.completions.with_streaming_response.create(**question("chat"), stream=True) as response,
    ):
        pieces = [piece async for piece in response.iter_bytes()]
    assert b"".join(pieces) == body
    assert any("\ufffd" in piece.decode(errors="replace") for piece in pieces)


@pytest.mark.parametrize("name", KEPT)
async def test_a_replay_is_what_was_streamed(name: str) -> None:
    """Event by event: equal, of the same type, equal in every dump; the borders between them are those of the wire."""
    api = api_of(name)
    async with wire.streaming(wire.sse(name)) as provider, client_for(api, provider.origin) as plain, Cache() as cache:
        client = cache.wrap(plain)
        runs = [await read(api, client) for _ in range(2)]
    assert [outcome for outcome, _ in runs] == ["miss", "hit"]
    assert provider.calls == 1
    check_replay(runs[0][1], runs[1][1])
    assert [recorded(event) for event in runs[0][1]] == wire.said(name)


def check_replay(first: list[Any], again: list[Any]) -> None:
    assert [type(event) for event in first] == [type(event) for event in again]
    assert first == again
    for one, other in zip(first, again, strict=True):
        assert one.model_dump(warnings=False) == other.model_dump(warnings=False)
        assert one.model_fields_set == other.model_fields_set
        assert one.to_json(warnings=False) == other.to_json(warnings=False)


@pytest.mark.parametrize("name", ALL)
async def test_every_event_survives_the_record(name: str) -> None:
    """Also those of answers that are not kept in the end: encoded and decoded, each event is what it was."""
    api, events = api_of(name), list[Any]()
    async with wire.streaming(wire.sse(name)) as provider, client_for(api, provider.origin) as plain, Cache() as cache:
        wrapped = method(api, cache.wrap(plain)).create
        try:
            async for event in await method(api, plain).create(**question(api), stream=True):
                events.append(event)
        except (openai.APIError, anthropic.APIError):
            assert name in BROKEN
    answers = wrapped.__asynccache_targets__[0].answers
    assert events
    check_replay(events, [answers.decode_chunk(answers.encode_chunk(event)) for event in events])


@pytest.mark.parametrize("name", REFUSED)
async def test_an_answer_that_is_not_kept_is_streamed_all_the_same(name: str) -> None:
    """Refusals and answers that were cut short reach each caller whole, and each pays for it."""
    api = api_of(name)
    async with wire.streaming(wire.sse(name)) as provider, client_for(api, provider.origin) as plain, Cache() as cache:
        client = cache.wrap(plain)
        runs = [await read(api, client) for _ in range(2)]
        assert cache.stats.reject_reasons == {REFUSED[name]: 2}
    assert [outcome for outcome, _ in runs] == ["miss", "miss"]
    assert [recorded(event) for event in runs[1][1]] == wire.said(name)


@pytest.mark.parametrize("name", BROKEN)
async def test_an_error_in_the_middle_is_never_kept(name: str) -> None:
    """What came before it reaches the caller, then the error as the SDK words it; the next caller asks anew."""
    api = api_of(name)
    async with wire.streaming(wire.sse(name)) as provider, client_for(api, provider.origin) as plain, Cache() as cache:
        client = cache.wrap(plain)
        for _ in range(2):
            events = []
            try:
                async for event in await method(api, client).create(**question(api), stream=True):
                    events.append(event)
            except (openai.APIError, anthropic.APIError):
                assert api != "responses"
            else:  # there it is an event among others
                assert events.pop().type == "error"
            assert [recorded(event) for event in events] == wire.said(name)[:-1]
        assert cache.stats.stored == 0
    assert provider.calls == 2


@pytest.mark.parametrize("name", [name for name in SOUND if name != "responses_incomplete"])
async def test_assembled_as_the_sdk_does(name: str) -> None:
    """The whole answer is that of the SDK's own accumulator, but for what that loses."""
    api = api_of(name)
    ours = WHOLE[api].construct(**whole(name))
    theirs = await accumulated(api, wire.sse(name))
    found = differences(ours.model_dump(warnings=False), theirs.model_dump(warnings=False))
    assert found == DIFFERENT.get(name, {})


def test_an_incomplete_response_is_a_response() -> None:
    """OpenAI's helper wants `response.completed`; the API answers with an incomplete response without `stream` too."""
    answer = whole("responses_incomplete")
    assert answer == wire.said("responses_incomplete")[-1]["response"]
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("name", [name for name in SOUND if name != "messages_unknown_block"])
def test_the_assembled_answer_is_valid(name: str) -> None:
    """It passes the validation of the SDK's own type, and nothing is lost in it."""
    answer = whole(name)
    typed = WHOLE[api_of(name)].model_validate(answer)
    dumped = json.loads(typed.model_dump_json(by_alias=True, exclude_unset=True, warnings=False))
    assert dumped == answer


def test_a_block_of_unknown_kind() -> None:
    """The SDK's validation refuses it in a whole message too; built as the client builds it, it is all there."""
    answer = whole("messages_unknown_block")
    assert answer["content"][0] == {"type": "x_widget", "payload": {"a": [1, None]}}
    with pytest.raises(ValidationError):
        Message.model_validate(answer)
    assert recorded(Message.construct(**answer)) == answer


@pytest.mark.parametrize("name", SOUND)
def test_cut_and_assembled_again(name: str) -> None:
    """A stored answer, cut for a streaming caller, is the same answer again."""
    assert FORMATS[api_of(name)].assemble(cut(name)) == whole(name)


@pytest.mark.parametrize("name", [name for name in SOUND if name != "messages_unknown_block"])
def test_what_is_cut_is_valid(name: str) -> None:
    """Every event of a cut answer passes the validation of the SDK's own type."""
    adapter = TypeAdapter(CHUNKS[api_of(name)])
    for event in cut(name):
        adapter.validate_python(event)


@pytest.mark.parametrize("name", [name for name in SOUND if name != "responses_incomplete"])
async def test_the_sdk_accumulates_what_is_cut(name: str) -> None:
    """The SDK's helper reads a cut answer to its end, and finds all that it finds in any stream."""
    api = api_of(name)
    ours = WHOLE[api].construct(**whole(name))
    theirs = await accumulated(api, wire.encoded(cut(name)))
    found = differences(ours.model_dump(warnings=False), theirs.model_dump(warnings=False))
    assert {path for path, (_, other) in found.items() if other != ABSENT} == set()
