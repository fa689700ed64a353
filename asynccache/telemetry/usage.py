"""Tokens: what a provider says that a call has used, in whichever words it says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from asynccache.call_types.fields import field


class Usage(NamedTuple):
    """Tokens of one call. `usage_of` makes none whose parts are larger than the whole.

    input:           all that were read, those that came from or went into the provider's own cache included.
    output:          all that were written, reasoning included.
    cached_read:     of the input: what came from the provider's cache.
    cached_write:    of the input: what was put there.
    cached_write_1h: of these: what is to stay there for an hour, which costs more.
    input_audio:     of the input: sound, which costs more than text does. output_audio: of the output.
    cached_audio:    of the input's sound: what came from the provider's cache.
    """

    input: int = 0
    output: int = 0
    cached_read: int = 0
    cached_write: int = 0
    cached_write_1h: int = 0
    input_audio: int = 0
    output_audio: int = 0
    cached_audio: int = 0

    def plus(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Usage) -> Usage:
        """What is left; no number goes below 0."""
        return Usage(*(max(0, a - b) for a, b in zip(self, other, strict=True)))

    def as_dict(self) -> dict[str, int]:
        """JSON-able. Few calls have sound, so only these say it."""
        return {name: count for name, count in self._asdict().items() if count or "audio" not in name}


NOTHING = Usage()

_PLACES = ("usage", "usageMetadata", "usage_metadata")
_HOLDERS = ("message", "response")
_MOST = 2**53


def usage_of(said: Any) -> Usage | None:
    """The usage that a provider's own words make, a dict or a model. None when they say no tokens: a duration, say.

    Understood are OpenAI (chat, responses, embeddings) and who speaks like it, Anthropic, DeepSeek, xAI, Gemini,
    Bedrock, Cohere, and LiteLLM's mixture of them.
    """
    if type(said) is not dict and (said := _as_dict(said)) is None:
        return None
    read = said.get("prompt_tokens")
    usage = _as_openai(said, read) if type(read) is int and 0 <= read < _MOST else _as_others(said)
    if usage is None or not any(usage[2:]):
        return usage
    cached = min(usage.cached_read, usage.input)
    put = min(usage.cached_write, usage.input - cached)
    heard, spoken = min(usage.input_audio, usage.input - put), min(usage.output_audio, usage.output)
    # Most do not say which tokens came from the cache: sound did, as far as there is not so much text.
    again = min(heard, cached, max(usage.cached_audio, cached - (usage.input - heard - put)))
    return Usage(usage.input, usage.output, cached, put, min(usage.cached_write_1h, put), heard, spoken, again)


def _as_others(said: dict[str, Any]) -> Usage | None:
    if "input_tokens" in said or "output_tokens" in said:
        return _as_anthropic(said) if _ANTHROPIC & said.keys() else _as_responses(said)
    for names in _OTHERS:
        if names.read in said or names.written in said:
            return _by_names(said, names)
    for inner in ("tokens", "billed_units"):  # Cohere
        if isinstance(told := said.get(inner), Mapping) and not {"input_tokens", "output_tokens"}.isdisjoint(told):
            return Usage(_count(told.get("input_tokens")), _count(told.get("output_tokens")))
    return _as_openai(said, 0) if "completion_tokens" in said else None


def usage_in(piece: Any) -> Mapping[str, Any] | None:
    """Where a whole answer, or a piece of a streamed one, tells its usage; None when it does not."""
    for holder in (piece, *(field(piece, name) for name in _HOLDERS)):
        if holder is None or isinstance(holder, str):
            continue
        for name in _PLACES:
            if (found := field(holder, name)) and (told := _as_dict(found)) is not None:
                return told
    return None


def model_in(piece: Any) -> str:
    """The model that a whole answer, or a piece of a streamed one, says it is from; "" when it does not."""
    for holder in (piece, *(field(piece, name) for name in _HOLDERS)):
        for name in ("model", "modelVersion", "model_version"):
            if isinstance(found := field(holder, name), str):
                return found
    return ""


class StreamUsage:
    """The usage of a stream, gathered from its chunks as they pass: objects of an SDK, dicts, or bytes of events."""

    __slots__ = ("_said", "model")

    def __init__(self) -> None:
        self._said: dict[str, Any] = {}
        self.model = ""
        """The model that answers, as far as it was said beside a usage."""

    def take(self, chunk: Any) -> None:
        """What comes later counts more: providers that say it several times say sums."""
        for piece in _pieces(chunk):
            if told := usage_in(piece):
                self._said |= {name: value for name, value in told.items() if value is not None}
                self.model = self.model or model_in(piece)

    @property
    def usage(self) -> Usage | None:
        return usage_of(self._said) if self._said else None


def _pieces(chunk: Any) -> list[Any]:
    if not isinstance(chunk, bytes):
        return [chunk]
    if b'"usage' not in chunk:
        return []
    found = []
    for line in chunk.splitlines():
        if line.startswith(b"data:"):
            try:
                found.append(orjson.loads(line[5:]))
            except ValueError:
                pass  # not JSON, so it says nothing to us
    return found


def _as_openai(said: Mapping[str, Any], read: int) -> Usage:
    """The prompt's tokens include those from the cache."""
    details = said.get("prompt_tokens_details")
    written = said.get("completion_tokens")
    written = written if type(written) is int and 0 <= written < _MOST else 0
    cached = cached_write = heard = spoken = 0
    if type(details) is dict:
        heard = details.get("audio_tokens") or 0
        cached = details.get("cached_tokens") or 0
        cached_write = details.get("cache_creation_tokens") or details.get("cache_write_tokens") or 0
    cached = _count(cached or said.get("prompt_cache_hit_tokens") or said.get("cache_read_input_tokens"))
    cached_write = _count(cached_write or said.get("cache_creation_input_tokens"))
    thought = said.get("completion_tokens_details")
    thoughts = 0
    if type(thought) is dict:
        thoughts, spoken = _count(thought.get("reasoning_tokens")), _count(thought.get("audio_tokens"))
    if thoughts and said.get("total_tokens") == read + written + thoughts:
        written += thoughts  # xAI counts them beside the rest, all others among it: the total tells
    return Usage(read, written, cached, cached_write, _hour(said) if cached_write else 0, _count(heard), spoken)


_ANTHROPIC = {"cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"}


def _as_anthropic(said: Mapping[str, Any]) -> Usage:
    """The input's tokens are those beside the cache."""
    read, hour = _count(said.get("cache_read_input_tokens")), _hour(said)
    split = said.get("cache_creation")
    told = _count(split.get("ephemeral_5m_input_tokens")) + hour if isinstance(split, Mapping) else 0
    written = max(_count(said.get("cache_creation_input_tokens")), told)
    return Usage(
        _count(said.get("input_tokens")) + read + written, _count(said.get("output_tokens")), read, written, hour
    )


def _as_responses(said: Mapping[str, Any]) -> Usage:
    """Of responses, transcriptions and realtime sessions."""
    read, written = (
        _table(said.get(f"{name}_tokens_details") or said.get(f"{name}_token_details")) for name in ("input", "output")
    )
    return Usage(
        _count(said.get("input_tokens")),
        _count(said.get("output_tokens")),
        _count(read.get("cached_tokens")),
        _count(read.get("cache_write_tokens")),
        input_audio=_count(read.get("audio_tokens")),
        output_audio=_count(written.get("audio_tokens")),
        cached_audio=_count(_table(read.get("cached_tokens_details")).get("audio_tokens")),
    )


class _Names(NamedTuple):
    """Where others say it. kinds: where of what was read, written, and came from the cache, it is said how much was
    sound. whole: whether what was read has in it what came from the cache, or went there."""

    read: str
    written: str
    cached_read: str
    cached_write: str = ""
    besides: str = ""
    thought: str = ""
    kinds: tuple[str, str, str] = ("", "", "")
    whole: bool = True


_OTHERS = (
    _Names(
        "promptTokenCount",
        "candidatesTokenCount",
        "cachedContentTokenCount",
        besides="toolUsePromptTokenCount",
        thought="thoughtsTokenCount",
        kinds=("promptTokensDetails", "candidatesTokensDetails", "cacheTokensDetails"),
    ),
    _Names(
        "prompt_token_count",
        "candidates_token_count",
        "cached_content_token_count",
        besides="tool_use_prompt_token_count",
        thought="thoughts_token_count",
        kinds=("prompt_tokens_details", "candidates_tokens_details", "cache_tokens_details"),
    ),
    _Names("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens", whole=False),
)
"""Gemini's API, its SDK, and Bedrock."""


def _by_names(said: Mapping[str, Any], names: _Names) -> Usage:
    from_cache, to_cache = _count(said.get(names.cached_read)), _count(said.get(names.cached_write))
    return Usage(
        _count(said.get(names.read)) + _count(said.get(names.besides)) + (0 if names.whole else from_cache + to_cache),
        _count(said.get(names.written)) + _count(said.get(names.thought)),
        from_cache,
        to_cache,
        0,
        *(_sound(said.get(name)) for name in names.kinds),
    )


def _sound(kinds: Any) -> int:
    """The tokens of sound in Gemini's list of kinds."""
    found = [each for each in kinds if isinstance(each, Mapping)] if isinstance(kinds, list) else []
    return sum(
        _count(each.get("tokenCount") or each.get("token_count"))
        for each in found
        if str(each.get("modality")).endswith("AUDIO")
    )


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _hour(said: Mapping[str, Any]) -> int:
    split = said.get("cache_creation")
    return _count(split.get("ephemeral_1h_input_tokens")) if isinstance(split, Mapping) else 0


def _count(value: Any) -> int:
    """A number of tokens; 0 for all that is none, since a provider may send any shape."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MOST:
        return 0
    return int(value)


def _as_dict(said: Any) -> dict[str, Any] | None:
    if isinstance(said, Mapping):
        return dict(said)
    dump = getattr(said, "model_dump", None)
    told = dump() if callable(dump) else None
    return told if isinstance(told, dict) else None
