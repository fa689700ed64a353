"""Responses in pieces: events ⇄ a whole answer, on decoded JSON.

The format: https://platform.openai.com/docs/api-reference/responses-streaming. The last event brings the whole
response, so assembling is taking it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asynccache.call_types.pieces import pieces, tokens

JSON = dict[str, Any]

_LAST = ("response.completed", "response.incomplete", "response.failed")
_UNKNOWN_AT_FIRST = ("usage", "completed_at", "incomplete_details", "error")

_TEXT_OF = {
    "function_call": ("arguments", "function_call_arguments"),
    "mcp_call": ("arguments", "mcp_call_arguments"),
    "custom_tool_call": ("input", "custom_tool_call_input"),
    "code_interpreter_call": ("code", "code_interpreter_call_code"),
}
"""Type of an item → the field that comes in pieces, and what the events are called that bring it."""

_WITH_PROGRESS = frozenset(
    {
        *("web_search_call", "file_search_call", "code_interpreter_call"),
        *("image_generation_call", "mcp_call", "mcp_list_tools"),
    }
)
"""Types of items that the provider works on itself, and says so in events without content."""

_PART_EVENTS = {
    "output_text": ("text", "output_text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("text", "reasoning_text"),
}


def assemble(chunks: Sequence[Mapping[str, Any]]) -> JSON:
    """The `response` that the same call would have brought without `stream`: that of the last event.

    Some servers leave its `output` out or empty; then the items that were done are the output. It may share parts
    with the events. Raises ValueError when no event ends the response.
    """
    last = next((event for event in reversed(chunks) if event.get("type") in _LAST), None)
    if last is None:
        raise ValueError(f"none of {', '.join(_LAST)}: there is no whole response")
    response = dict(last["response"])
    if not response.get("output"):
        done = {e["output_index"]: e["item"] for e in chunks if e.get("type") == "response.output_item.done"}
        if done:
            response["output"] = [done[index] for index in sorted(done)]
    return response


def cut(answer: Mapping[str, Any]) -> list[JSON]:
    """The events in which the API would have streamed this response, numbered from 0.

    Texts, refusals, reasoning, its summaries and the arguments of tools come in pieces, texts with `logprobs` token
    by token where that can be; all else comes whole.

    For every `response`, whatever unknown fields it has, `assemble(cut(answer)) == answer`.
    """
    return [{**event, "sequence_number": number} for number, event in enumerate(_events(answer))]


def _events(answer: Mapping[str, Any]) -> Iterator[JSON]:
    unknown = {name: None for name in _UNKNOWN_AT_FIRST if name in answer}
    begun = {**answer, **unknown, "status": "in_progress", "output": []}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(answer.get("output") or ()):
        yield {"type": "response.output_item.added", "output_index": index, "item": _begun(item)}
        yield from _item_events(item, {"item_id": item.get("id") or "", "output_index": index})
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    status = answer.get("status")
    yield {"type": f"response.{status if status in ('incomplete', 'failed') else 'completed'}", "response": answer}


def _begun(item: Mapping[str, Any]) -> JSON:
    """An item as it is added: without what comes in pieces."""
    begun = dict(item)
    if "status" in begun:
        begun["status"] = "in_progress"
    for name in ("content", "summary"):
        if isinstance(begun.get(name), list):
            begun[name] = []
    name, _ = _TEXT_OF.get(item.get("type") or "", ("", ""))
    if isinstance(begun.get(name), str):
        begun[name] = ""
    return begun


def _item_events(item: Mapping[str, Any], place: JSON) -> Iterator[JSON]:
    kind = item.get("type")
    if kind in _WITH_PROGRESS:
        yield {**place, "type": f"response.{kind}.in_progress"}
    if kind in _TEXT_OF:
        yield from _argument_events(item, place, *_TEXT_OF[kind])
    for index, part in enumerate(item.get("summary") or () if kind == "reasoning" else ()):
        yield from _summary_events(part, {**place, "summary_index": index})
    for index, part in enumerate(item.get("content") or () if kind in ("message", "reasoning") else ()):
        yield from _part_events(part, {**place, "content_index": index})
    if kind in _WITH_PROGRESS:
        failed = kind.startswith("mcp_") and item.get("error")
        yield {**place, "type": f"response.{kind}.{'failed' if failed else 'completed'}"}


def _argument_events(item: Mapping[str, Any], place: JSON, field: str, name: str) -> Iterator[JSON]:
    if isinstance(text := item.get(field), str):
        for piece in pieces(text):
            yield {**place, "type": f"response.{name}.delta", "delta": piece}
        # Some versions of the SDK want the name of the function too.
        function = {"name": item["name"]} if item.get("type") == "function_call" and "name" in item else {}
        yield {**place, **function, "type": f"response.{name}.done", field: text}


def _summary_events(part: Mapping[str, Any], place: JSON) -> Iterator[JSON]:
    yield {**place, "type": "response.reasoning_summary_part.added", "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield {**place, "type": "response.reasoning_summary_text.delta", "delta": piece}
    yield {**place, "type": "response.reasoning_summary_text.done", "text": part["text"]}
    yield {**place, "type": "response.reasoning_summary_part.done", "part": part}


def _part_events(part: Mapping[str, Any], place: JSON) -> Iterator[JSON]:
    field, name = _PART_EVENTS.get(part.get("type") or "", ("", ""))
    lists: JSON = {other: [] for other in ("annotations", "logprobs") if isinstance(part.get(other), list)}
    text = {field: ""} if isinstance(part.get(field), str) else {}
    yield {**place, "type": "response.content_part.added", "part": {**part, **lists, **text}}
    if text:
        yield from _text_events(part, place, field, name)
    yield {**place, "type": "response.content_part.done", "part": part}


def _text_events(part: Mapping[str, Any], place: JSON, field: str, name: str) -> Iterator[JSON]:
    logprobs, text = part.get("logprobs") or [], part[field]
    said = tokens(text, logprobs)
    plain: list[tuple[str, list[JSON]]] = [(piece, []) for piece in pieces(text)]
    for piece, entries in plain if said is None else [(token, [entry]) for token, entry in said]:
        more = {"logprobs": entries} if name == "output_text" else {}
        yield {**place, **more, "type": f"response.{name}.delta", "delta": piece}
    for index, annotation in enumerate(part.get("annotations") or ()):
        event = {"type": "response.output_text.annotation.added", "annotation_index": index}
        yield {**place, **event, "annotation": annotation}
    more = {"logprobs": logprobs} if name == "output_text" else {}
    yield {**place, **more, "type": f"response.{name}.done", field: text}
