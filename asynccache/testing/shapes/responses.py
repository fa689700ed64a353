"""OpenAI responses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from asynccache.testing.answers import Answer, Reply, tokens

Item = dict[str, Any]


def response(reply: Reply) -> dict[str, Any]:
    """The whole answer, as `response`. Only the first of the reply's answers: this API knows no `n`."""
    return _response(reply, _items(reply), "incomplete" if _incomplete_reason(reply) else "completed")


def events(reply: Reply) -> Iterator[dict[str, Any]]:
    """The same as the API's events, numbered from 0, each with its `type`."""
    number = count()
    for event in _events(reply):
        yield event | {"sequence_number": next(number)}


def _events(reply: Reply) -> Iterator[dict[str, Any]]:
    begun = _response(reply, [], "in_progress")
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(_items(reply)):
        is_message = item["type"] == "message"
        empty: Item = {"content": []} if is_message else {"arguments": ""}
        started = item | empty | {"status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": index, "item": started}
        yield from _message_events(item, index) if is_message else _call_events(item, index)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    whole = response(reply)
    yield {"type": f"response.{whole['status']}", "response": whole}


def _message_events(item: Item, index: int) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    name, field = ("output_text", "text") if part["type"] == "output_text" else ("refusal", "refusal")
    place: dict[str, Any] = {"item_id": item["id"], "output_index": index, "content_index": 0}
    extra: dict[str, Any] = {"logprobs": []} if field == "text" else {}
    yield place | {"type": "response.content_part.added", "part": part | {field: ""}}
    for piece in tokens(part[field]):
        yield place | extra | {"type": f"response.{name}.delta", "delta": piece}
    yield place | extra | {"type": f"response.{name}.done", field: part[field]}
    yield place | {"type": "response.content_part.done", "part": part}


def _call_events(item: Item, index: int) -> Iterator[dict[str, Any]]:
    place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
    for piece in tokens(item["arguments"]):
        yield place | {"type": "response.function_call_arguments.delta", "delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield place | done | {"type": "response.function_call_arguments.done"}


def _response(reply: Reply, output: list[Item], status: str) -> dict[str, Any]:
    reason = _incomplete_reason(reply) if status == "incomplete" else None
    request = reply.request
    return {
        "id": f"resp_{reply.number:08d}",
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "error": None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "metadata": request.get("metadata") or {},
        "model": reply.model,
        "output": output,
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": request.get("previous_response_id"),
        "temperature": request.get("temperature", 1.0),
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": request.get("tools") or [],
        "top_p": request.get("top_p", 1.0),
        "usage": None if status == "in_progress" else _usage(reply),
    }


def _items(reply: Reply) -> list[Item]:
    answer = reply.answers[0]
    said = [_message(reply, answer)] if answer.text or answer.refusal or not answer.tool_calls else []
    calls = [
        {
            "type": "function_call",
            "id": f"fc_{reply.number:08d}_{index}",
            "call_id": f"call_{reply.number:08d}_{index}",
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        for index, call in enumerate(answer.tool_calls)
    ]
    return said + calls


def _message(reply: Reply, answer: Answer) -> Item:
    text = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
    refusal = {"type": "refusal", "refusal": answer.refusal}
    return {
        "type": "message",
        "id": f"msg_{reply.number:08d}",
        "status": "incomplete" if _incomplete_reason(reply) else "completed",
        "role": "assistant",
        "content": [refusal if answer.refusal else text],
    }


def _incomplete_reason(reply: Reply) -> str | None:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    return reasons.get(reply.answers[0].finish_reason)


def _usage(reply: Reply) -> dict[str, Any]:
    read, written = reply.input_tokens, reply.answers[0].output_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
