"""What the arguments and answers of each kind of call mean: one file a kind."""

from __future__ import annotations

from asynccache.call_types import chat, embedding, function, messages, responses
from asynccache.protocols import CallType

CALL_TYPES: dict[str, CallType] = {
    module.CALL_TYPE.name: module.CALL_TYPE for module in (chat, responses, embedding, messages, function)
}

ALIASES = {
    "completion": "chat",
    "acompletion": "chat",
    "chat_completion": "chat",
    "aresponses": "responses",
    "aembedding": "embedding",
    "embeddings": "embedding",
    "anthropic_messages": "messages",
    "text_completion": "text_completion",
    "atext_completion": "text_completion",
    "transcription": "transcription",
    "atranscription": "transcription",
    "rerank": "rerank",
    "arerank": "rerank",
}
"""The names that LiteLLM's users write in `supported_call_types`."""

__all__ = ["ALIASES", "CALL_TYPES"]
