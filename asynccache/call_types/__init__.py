"""What the arguments and answers of each kind of call mean: one file a kind."""

from __future__ import annotations

from asynccache.call_types import (
    chat,
    embedding,
    function,
    messages,
    rerank,
    responses,
    text_completion,
    transcription,
)
from asynccache.protocols import CallType

CALL_TYPES: dict[str, CallType] = {
    module.CALL_TYPE.name: module.CALL_TYPE
    for module in (chat, text_completion, responses, embedding, transcription, rerank, messages, function)
}

ALIASES = {
    "completion": "chat",
    "acompletion": "chat",
    "chat_completion": "chat",
    "aresponses": "responses",
    "aembedding": "embedding",
    "embeddings": "embedding",
    "transcriptions": "transcription",
    "anthropic_messages": "messages",
    "atext_completion": "text_completion",
    "atranscription": "transcription",
    "arerank": "rerank",
}
"""The names that LiteLLM's users write in `supported_call_types`."""

__all__ = ["ALIASES", "CALL_TYPES"]
