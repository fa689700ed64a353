"""OpenAI chat completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from asynccache.testing.answers import Answer, Reply, ToolCall, tokens


def completion(reply: Reply) -> dict[str, Any]:
    """The whole answer, as `chat.completion`."""
    choices = [
        {
            "index": index,
            "message": _message(answer, reply.number),
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(reply.answers)
    ]
    return _head(reply, "chat.completion") | {"choices": choices, "usage": usage(reply)}


def chunks(reply: Reply) -> Iterator[dict[str, Any]]:
    """The same in pieces, as `chat.completion.chunk`. The choices take turns, as they do when `n` is above 1.

    With `stream_options={"include_usage": True}` the last chunk has the usage and no choice.
    """
    wants_usage = bool((reply.request.get("stream_options") or {}).get("include_usage"))
    head = _head(reply, "chat.completion.chunk") | ({"usage": None} if wants_usage else {})
    per_choice = (_choice_chunks(index, answer, reply.number) for index, answer in enumerate(reply.answers))
    for choice in _take_turns(per_choice):
        yield head | {"choices": [choice]}
    if wants_usage:
        yield head | {"choices": [], "usage": usage(reply)}


def usage(reply: Reply) -> dict[str, Any]:
    """Tokens read and written; nothing came from the provider's own cache."""
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{reply.number:08d}",
        "object": kind,
        "created": reply.created,
        "model": reply.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }


def _message(answer: Answer, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text or None,
        "refusal": answer.refusal or None,
        "annotations": [],
    }
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": _call_id(number, index), "type": "function", "function": _function(call)}
            for index, call in enumerate(answer.tool_calls)
        ]
    return message


def _choice_chunks(index: int, answer: Answer, number: int) -> Iterator[dict[str, Any]]:
    for delta in _deltas(answer, number):
        yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    yield {"index": index, "delta": {}, "logprobs": None, "finish_reason": answer.finish_reason}


def _deltas(answer: Answer, number: int) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "" if answer.text else None, "refusal": None}
    for piece in tokens(answer.text):
        yield {"content": piece}
    for piece in tokens(answer.refusal):
        yield {"refusal": piece}
    for index, call in enumerate(answer.tool_calls):
        start = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": _call_id(number, index), "type": "function", "function": start}]}
        for piece in tokens(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _function(call: ToolCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}


def _call_id(number: int, index: int) -> str:
    return f"call_{number:08d}_{index}"


def _take_turns(series: Iterable[Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for turn in zip_longest(*series):
        yield from (item for item in turn if item is not None)
