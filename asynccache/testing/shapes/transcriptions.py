"""OpenAI transcriptions. The audio may be any bytes: what is heard in it depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asynccache.testing.answers import Reply, tokens

_SECONDS = 3.0  # that any audio takes


def transcription(reply: Reply) -> dict[str, Any] | str:
    """As `response_format` says: an object, or a text."""
    text = reply.answers[0].text
    wanted = reply.request.get("response_format") or "json"
    if wanted == "text":
        return text + "\n"
    if wanted == "srt":
        return f"1\n00:00:00,000 --> 00:00:03,000\n{text}\n\n"
    if wanted == "vtt":
        return f"WEBVTT\n\n00:00:00.000 --> 00:00:03.000\n{text}\n\n"
    if wanted == "verbose_json":
        return _verbose(text)
    return {"text": text, "usage": _usage(reply)}


def events(reply: Reply) -> Iterator[dict[str, Any]]:
    """The same as the API's events, each with its `type`."""
    text = reply.answers[0].text
    for piece in tokens(text):
        yield {"type": "transcript.text.delta", "delta": piece}
    yield {"type": "transcript.text.done", "text": text, "usage": _usage(reply)}


def _verbose(text: str) -> dict[str, Any]:
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": _SECONDS,
        "text": text,
        "tokens": [index for index, _ in enumerate(tokens(text))],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.01,
    }
    usage = {"type": "duration", "seconds": int(_SECONDS)}
    return {
        "task": "transcribe",
        "language": "english",
        "duration": _SECONDS,
        "text": text,
        "segments": [segment],
        "usage": usage,
    }


def _usage(reply: Reply) -> dict[str, Any]:
    heard, written = int(_SECONDS) * 10, reply.output_tokens
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
        "output_tokens": written,
        "total_tokens": heard + written,
    }
