"""`AsyncOpenAI` and `OpenAI`: chat completions, responses, embeddings.

`with_raw_response`, `with_streaming_response` and `.parse()` pass through, uncached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI, AsyncStream, OpenAI
from openai._models import construct_type
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from asynccache.clients._stainless import SDK, Method, StreamOverChunks
from asynccache.clients._stainless import wrap as wrap_any

if TYPE_CHECKING:
    from asynccache.cache import Cache


class CachedStream(StreamOverChunks, AsyncStream[Any]):
    """An `AsyncStream` that may come from the cache."""


_SDK = SDK(
    clients=(AsyncOpenAI, OpenAI),
    methods=(
        Method("chat.completions", "chat", ChatCompletion, ChatCompletionChunk),
        Method("responses", "responses", Response, ResponseStreamEvent),
        Method("embeddings", "embedding", CreateEmbeddingResponse),
    ),
    stream=CachedStream,
    construct=lambda kind, value: construct_type(type_=kind, value=value),
    base_url="https://api.openai.com/v1",
)


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped client, or the wrapped method of one; None for anything else."""
    return wrap_any(_SDK, cache, target, name)
