"""Keys of LiteLLM's functions: every parameter in their signatures, and their message objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import litellm
import pytest
from litellm.types.utils import ChatCompletionMessageToolCall, Function, all_litellm_params
from openai import AsyncOpenAI

from asynccache import Cache
from asynccache.keys import INERT
from tests.key_walk import silent_parameters

pytestmark = pytest.mark.filterwarnings("default")  # LiteLLM's own warnings are its business
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("function", "call", "inert"),
    [
        (
            litellm.acompletion,
            CHAT,
            {"stream", "stream_options", "timeout", "api_key", "extra_headers", "shared_session"},
        ),
        (
            litellm.completion,
            CHAT,
            {"stream", "stream_options", "timeout", "api_key", "extra_headers", "shared_session"},
        ),
        (litellm.aresponses, {"model": "gpt-4o", "input": "Hello"}, {"stream", "timeout", "extra_headers"}),
        (
            litellm.embedding,
            {"model": "text-embedding-3-small", "input": ["Hello"]},
            {"timeout", "api_key", "caching", "litellm_call_id", "logger_fn"},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_parameter_counts_or_is_known_to_be_inert(
    function: Callable[..., Any], call: dict[str, Any], inert: set[str]
) -> None:
    """Changing any parameter of the signature changes the key, but for those that were reviewed."""
    assert silent_parameters(Cache().wrap(function), call) == inert


def test_what_litellm_takes_beside_its_signature_counts() -> None:
    """So does each of LiteLLM's many further keyword arguments, unless it is on the inert list."""
    cache = Cache()
    plain = cache.get_cache_key(**CHAT)
    names = sorted(set(all_litellm_params) - {"cache"})
    for value in ("a", {"x": 1}, True):
        silent = {name for name in names if cache.get_cache_key(**CHAT, **{name: value}) == plain}
        assert silent == INERT & set(names)


def test_a_client_counts_by_where_it_goes() -> None:
    """A client in the arguments counts by its base URL and organization: another place, another key."""
    cache = Cache()
    clients = [
        AsyncOpenAI(api_key="k"),
        AsyncOpenAI(api_key="k", base_url="http://localhost:1"),
        AsyncOpenAI(api_key="k", organization="o"),
        AsyncOpenAI(api_key="k", project="p"),
    ]
    assert len({cache.get_cache_key(**CHAT, client=client) for client in clients}) == 4
    other_key = AsyncOpenAI(api_key="another", timeout=3)
    assert cache.get_cache_key(**CHAT, client=clients[0]) == cache.get_cache_key(**CHAT, client=other_key)


def test_message_object_or_dict() -> None:
    """A message of an answer, sent back as an object, a dump or a dict by hand, makes the same key."""
    call = ChatCompletionMessageToolCall(id="c1", function=Function(name="f", arguments="{}"), type="function")
    message = litellm.Message(role="assistant", content=None, tool_calls=[call])
    by_hand = {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    cache = Cache()
    keys = {
        cache.get_cache_key(model="m", messages=[*CHAT["messages"], turn])
        for turn in (message, message.model_dump(), message.json(), by_hand)
    }
    assert len(keys) == 1
