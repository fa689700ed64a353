"""OpenAI text completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asynccache.testing.answers import Reply, tokens


def completion(reply: Reply) -> dict[str, Any]:
    """The whole answer, as `text_completion`."""
    choices = [
        {"index": index, "text": answer.text, "logprobs": None, "finish_reason": answer.finish_reason}
        for index, answer in enumerate(reply.answers)
    ]
    return _head(reply) | {"choices": choices, "usage": _usage(reply)}


def chunks(reply: Reply) -> Iterator[dict[str, Any]]:
    """The same in pieces, one choice after the other; with `include_usage`, a last chunk has the usage."""
    wants_usage = bool((reply.request.get("stream_options") or {}).get("include_usage"))
    head = _head(reply) | ({"usage": None} if wants_usage else {})
    for index, answer in enumerate(reply.answers):
        choice = {"index": index, "logprobs": None, "finish_reason": None}
        for piece in tokens(answer.text):
            yield head | {"choices": [choice | {"text": piece}]}
        yield head | {"choices": [choice | {"text": "", "finish_reason": answer.finish_reason}]}
    if wants_usage:
        yield head | {"choices": [], "usage": _usage(reply)}


def _head(reply: Reply) -> dict[str, Any]:
    return {
        "id": f"cmpl-{reply.number:08d}",
        "object": "text_completion",
        "created": reply.created,
        "model": reply.model,
        "system_fingerprint": "fp_simulated",
    }


def _usage(reply: Reply) -> dict[str, Any]:
    read, written = reply.input_tokens, reply.output_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
