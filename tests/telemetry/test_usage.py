"""The usage, as providers word it."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import Usage as AnthropicUsage
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage

from asynccache.telemetry.usage import StreamUsage, Usage, usage_in, usage_of

WORDS: dict[str, tuple[dict[str, Any], Usage]] = {
    "openai": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 250},
        },
        Usage(2006, 300, 1920),
    ),
    "openai embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
    "openai responses": (
        {
            "input_tokens": 328,
            "input_tokens_details": {"cached_tokens": 100},
            "output_tokens": 52,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 380,
        },
        Usage(328, 52, 100),
    ),
    "anthropic": (
        {
            "input_tokens": 50,
            "output_tokens": 503,
            "cache_read_input_tokens": 100_000,
            "cache_creation_input_tokens": 248,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
        },
        Usage(100_298, 503, 100_000, 248, 100),
    ),
    "anthropic, older": (
        {"input_tokens": 50, "output_tokens": 5, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 200},
        Usage(250, 5, 0, 200),
    ),
    "deepseek": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 1010,
            "prompt_cache_hit_tokens": 640,
            "prompt_cache_miss_tokens": 360,
        },
        Usage(1000, 10, 640),
    ),
    "xai": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        Usage(32, 103),
    ),
    "gemini": (
        {
            "promptTokenCount": 2152,
            "candidatesTokenCount": 710,
            "thoughtsTokenCount": 90,
            "cachedContentTokenCount": 2027,
            "totalTokenCount": 2952,
        },
        Usage(2152, 800, 2027),
    ),
    "gemini's sdk": (
        {"prompt_token_count": 10, "candidates_token_count": 7, "cached_content_token_count": None},
        Usage(10, 7),
    ),
    "bedrock": (
        {"inputTokens": 30, "outputTokens": 628, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 20},
        Usage(150, 628, 100, 20),
    ),
    "cohere": ({"billed_units": {"input_tokens": 5}, "tokens": {"input_tokens": 71, "output_tokens": 9}}, Usage(71, 9)),
    "openai, with sound": (
        {
            "prompt_tokens": 120,
            "completion_tokens": 300,
            "total_tokens": 420,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 240},
        },
        Usage(120, 300, input_audio=100, output_audio=240),
    ),
    "openai transcriptions": (
        {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
            "output_tokens": 45,
            "total_tokens": 59,
        },
        Usage(14, 45, input_audio=10),
    ),
    "openai realtime": (
        {
            "input_tokens": 150,
            "input_token_details": {
                "text_tokens": 50,
                "audio_tokens": 100,
                "cached_tokens": 60,
                "cached_tokens_details": {"text_tokens": 20, "audio_tokens": 40},
            },
            "output_tokens": 90,
            "output_token_details": {"text_tokens": 10, "audio_tokens": 80},
        },
        Usage(150, 90, 60, input_audio=100, output_audio=80, cached_audio=40),
    ),
    "gemini, with sound": (
        {
            "promptTokenCount": 900,
            "candidatesTokenCount": 50,
            "cachedContentTokenCount": 700,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 100},
                {"modality": "AUDIO", "tokenCount": 800},
            ],
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 700}],
        },
        Usage(900, 50, 700, input_audio=800, cached_audio=700),
    ),
    "what came from the cache is sound where there is not so much text": (
        {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 50, "audio_tokens": 80}},
        Usage(100, 0, 50, input_audio=80, cached_audio=30),
    ),
    "litellm, for anthropic": (
        {
            "prompt_tokens": 1250,
            "completion_tokens": 30,
            "total_tokens": 1280,
            "prompt_tokens_details": {"cached_tokens": 1000, "cache_creation_tokens": 200},
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 1000,
        },
        Usage(1250, 30, 1000, 200),
    ),
}


@pytest.mark.parametrize("provider", WORDS)
def test_words_of_providers(provider: str) -> None:
    said, meant = WORDS[provider]
    assert usage_of(said) == meant


@pytest.mark.parametrize("said", [None, {}, {"type": "duration", "seconds": 9}, "12", 12, {"search_units": 1}, []])
def test_no_tokens_are_unknown_and_not_none_at_all(said: Any) -> None:
    assert usage_of(said) is None


def test_the_sdks_objects() -> None:
    openai = CompletionUsage.model_validate(WORDS["openai"][0])
    anthropic = AnthropicUsage.model_validate(WORDS["anthropic"][0])
    assert usage_of(openai) == WORDS["openai"][1]
    assert usage_of(anthropic) == WORDS["anthropic"][1]
    assert usage_in({"usage": openai}) is not None


LEAVES: Any = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
INNER = {"cached_tokens", "audio_tokens", "tokens", "modality", "tokenCount"}
NAMES = st.sampled_from(sorted({name for said, _ in WORDS.values() for name in said} | INNER))


@given(st.dictionaries(NAMES, LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(NAMES, LEAVES, max_size=3)))
def test_any_shape_makes_a_usage_or_none(said: dict[str, Any]) -> None:
    """A server may send anything: numbers never get negative, and parts never larger than the whole."""
    usage = usage_of(said)
    if usage is not None:
        assert all(type(number) is int and number >= 0 for number in usage)
        assert usage.cached_read + usage.cached_write <= usage.input
        assert usage.cached_write_1h <= usage.cached_write
        assert usage.output_audio <= usage.output
        assert usage.cached_audio <= min(usage.cached_read, usage.input_audio)
        text = usage.input - usage.input_audio
        assert usage.cached_read - usage.cached_audio + usage.cached_write <= text


def test_a_stream_says_it_in_pieces() -> None:
    """Anthropic begins with the input, and ends with the output."""
    usage = StreamUsage()
    start = {"input_tokens": 12, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 0, "output_tokens": 1}
    usage.take({"type": "message_start", "message": {"model": "claude", "usage": start}})
    usage.take({"type": "content_block_delta", "delta": {"text": "usage"}})
    usage.take({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 40, "input_tokens": None}})
    assert usage.usage == Usage(112, 40, 100)
    assert usage.model == "claude"


def test_a_stream_of_bytes() -> None:
    usage = StreamUsage()
    usage.take(b'data: {"choices": [{"delta": {"content": "\\"usage\\""}}]}\n\n')
    usage.take(b'data: {"model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\n')
    usage.take(b"data: [DONE]\n\n")
    usage.take(b'data: "usage" is no JSON\n\n')
    assert usage.usage == Usage(3, 4)
    assert usage.model == "m"
