"""`AsyncOpenAI` and `OpenAI`, and the clients derived from them, such as those for Azure: chat completions, text
completions, responses, embeddings, transcriptions.

`chat.completions.parse`, `responses.parse` and both `stream` helpers share the entries of `create`. So do
`with_raw_response` and `with_streaming_response`, for these methods.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai._models import construct_type
from openai.types import Completion, CreateEmbeddingResponse, audio
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from asynccache.call_types.transcription import as_given, by_content
from asynccache.clients._stainless import SDK, Argument, Method, StreamOverChunks, SyncStreamOverChunks
from asynccache.clients._stainless import wrap as wrap_any

if TYPE_CHECKING:
    from asynccache.cache import Cache


class CachedStream(StreamOverChunks, AsyncStream[Any]):
    """An `AsyncStream` that may come from the cache."""


class CachedSyncStream(SyncStreamOverChunks, Stream[Any]):
    """A `Stream` that may come from the cache."""


_CHAT = Method("chat.completions", "chat", "/chat/completions", ChatCompletion, ChatCompletionChunk)
_TRANSCRIPTIONS = {
    "json": audio.Transcription,
    "verbose_json": audio.TranscriptionVerbose,
    # An older SDK does not have it.
    **({"diarized_json": audio.TranscriptionDiarized} if hasattr(audio, "TranscriptionDiarized") else {}),
}

_SDK = SDK(
    clients=(AsyncOpenAI, OpenAI),
    methods=(
        _CHAT,
        replace(_CHAT, resource="beta.chat.completions"),
        Method("completions", "text_completion", "/completions", Completion, Completion),
        Method("responses", "responses", "/responses", Response, ResponseStreamEvent),
        Method("embeddings", "embedding", "/embeddings", CreateEmbeddingResponse),
        Method(
            "audio.transcriptions",
            "transcription",
            "/audio/transcriptions",
            _TRANSCRIPTIONS,
            audio.TranscriptionStreamEvent,
            Argument("file", by_content, as_given),
        ),
    ),
    stream=CachedStream,
    sync_stream=CachedSyncStream,
    sync_stream_type=Stream,
    construct=lambda kind, value: construct_type(type_=kind, value=value),
    base_url="https://api.openai.com/v1",
    told=("_request_id",),
    request_id="x-request-id",
)


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped client, or the wrapped method of one; None for anything else."""
    return wrap_any(_SDK, cache, target, name)
