"""`AsyncAnthropic` and `Anthropic`: messages.

`messages.parse` and `messages.stream` share the entries of `messages.create`. So do `with_raw_response` and
`with_streaming_response`, for these methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anthropic import Anthropic, AsyncAnthropic, AsyncStream, Stream
from anthropic._models import construct_type
from anthropic.types import Message, RawMessageStreamEvent

from asynccache.clients._stainless import SDK, Method, StreamOverChunks, SyncStreamOverChunks
from asynccache.clients._stainless import wrap as wrap_any

if TYPE_CHECKING:
    from asynccache.cache import Cache


class CachedStream(StreamOverChunks, AsyncStream[Any]):
    """An `AsyncStream` that may come from the cache."""


class CachedSyncStream(SyncStreamOverChunks, Stream[Any]):
    """A `Stream` that may come from the cache."""


_SDK = SDK(
    clients=(AsyncAnthropic, Anthropic),
    methods=(Method("messages", "messages", "/v1/messages", Message, RawMessageStreamEvent),),
    stream=CachedStream,
    sync_stream=CachedSyncStream,
    sync_stream_type=Stream,
    construct=lambda kind, value: construct_type(type_=kind, value=value),
    base_url="https://api.anthropic.com",
    told=("_request_id", "_workspace_id"),
    request_id="request-id",
)


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped client, or the wrapped method of one; None for anything else."""
    return wrap_any(_SDK, cache, target, name)
