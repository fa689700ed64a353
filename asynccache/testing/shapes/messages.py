"""Anthropic messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from asynccache.testing.answers import Answer, Reply, ToolCall, tokens

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


def message(reply: Reply) -> dict[str, Any]:
    """The whole answer, as `message`. Only the first of the reply's answers: this API knows no `n`.

    A tool call's arguments are an object here; broken ones become `{}` (in a stream they stay as they are).
    """
    answer = reply.answers[0]
    usage = _usage(reply, answer.output_tokens)
    return _head(reply) | {
        "content": _blocks(answer, reply.number),
        "stop_reason": _stop_reason(answer),
        "usage": usage,
    }


def events(reply: Reply) -> Iterator[dict[str, Any]]:
    """The same as the API's events, each with its `type`."""
    answer = reply.answers[0]
    yield {"type": "message_start", "message": _head(reply) | {"content": [], "usage": _usage(reply, 1)}}
    for index, (start, deltas) in enumerate(_parts(answer, reply.number)):
        yield {"type": "content_block_start", "index": index, "content_block": start}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": answer.output_tokens}}
    yield {"type": "message_stop"}


def _head(reply: Reply) -> dict[str, Any]:
    return {
        "id": f"msg_{reply.number:08d}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop_reason(answer: Answer) -> str:
    return "refusal" if answer.refusal else _STOP_REASONS[answer.finish_reason]


def _said(answer: Answer) -> str:
    return answer.refusal or answer.text


def _blocks(answer: Answer, number: int) -> list[dict[str, Any]]:
    text = [{"type": "text", "text": _said(answer), "citations": None}] if _said(answer) else []
    uses = [
        _tool_use(call, number, index) | {"input": _object(call.arguments)}
        for index, call in enumerate(answer.tool_calls)
    ]
    return text + uses


def _parts(answer: Answer, number: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each block as it starts, and the deltas that fill it."""
    if _said(answer):
        deltas = [{"type": "text_delta", "text": piece} for piece in tokens(_said(answer))]
        yield {"type": "text", "text": "", "citations": None}, deltas
    for index, call in enumerate(answer.tool_calls):
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in tokens(call.arguments)]
        yield _tool_use(call, number, index), deltas


def _tool_use(call: ToolCall, number: int, index: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number:08d}_{index}", "name": call.name, "input": {}}


def _object(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _usage(reply: Reply, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": reply.input_tokens,
        "output_tokens": output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "service_tier": "standard",
    }
