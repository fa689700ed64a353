"""`AsyncAnthropic` and `Anthropic`: messages.

`messages.stream()`, `with_raw_response` and `with_streaming_response` pass through, uncached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anthropic import Anthropic, AsyncAnthropic, AsyncStream
from anthropic._models import construct_type
from anthropic.types import Message, RawMessageStreamEvent

from asynccache.clients._stainless import SDK, Method, StreamOverChunks
from asynccache.clients._stainless import wrap as wrap_any

if TYPE_CHECKING:
    from asynccache.cache import Cache


class CachedStream(StreamOverChunks, AsyncStream[Any]):
    """An `AsyncStream` that may come from the cache."""


_SDK = SDK(
    clients=(AsyncAnthropic, Anthropic),
    methods=(Method("messages", "messages", Message, RawMessageStreamEvent),),
    stream=CachedStream,
    construct=lambda kind, value: construct_type(type_=kind, value=value),
    base_url="https://api.anthropic.com",
)


def wrap(cache: Cache, target: Any, name: str | None) -> Any:
    """The wrapped client, or the wrapped method of one; None for anything else."""
    return wrap_any(_SDK, cache, target, name)
