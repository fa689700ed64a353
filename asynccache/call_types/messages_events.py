"""Anthropic messages in pieces: events ⇄ a whole answer, on decoded JSON.

The format: https://platform.claude.com/docs/en/build-with-claude/streaming. `message_start` has the message, blocks
come one by one, and what `message_delta` says (its `delta`, its other fields, its `usage`) is put over the message's
own, field by field; null never replaces anything. Deltas of a block: text and thinking are continued, the last
signature counts, citations are collected, pieces of a tool's input are parsed when all of them are there. Of a kind
that is not known, strings and lists are continued and of the rest the last counts. Other events add nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from asynccache.call_types.pieces import pieces

JSON = dict[str, Any]

_TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_AT_THE_END = ("stop_reason", "stop_sequence", "stop_details", "container")


def assemble(chunks: Sequence[Mapping[str, Any]]) -> JSON:
    """The `message` that the same call would have brought without `stream`. It may share parts with the events.

    Raises ValueError for events that do not make a message: none starts it, a delta belongs to no block, or a tool's
    input is no JSON.
    """
    message: JSON | None = None
    blocks: dict[int, tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = {}
    for event in chunks:
        kind = event.get("type")
        if kind == "message_start":
            message = dict(event["message"])
            blocks = {index: (block, []) for index, block in enumerate(message.get("content") or ())}
        elif kind == "content_block_start":
            blocks[event["index"]] = (event["content_block"], [])
        elif kind == "content_block_delta":
            if event["index"] not in blocks:
                raise ValueError(f"a delta for block {event['index']}, which has not started")
            blocks[event["index"]][1].append(event["delta"])
        elif kind == "message_delta" and message is not None:
            _put_over(message, event)
    if message is None:
        raise ValueError("no message_start: there is no message to assemble")
    message["content"] = [_block(*blocks[index]) for index in sorted(blocks)]
    return message


def _put_over(message: JSON, event: Mapping[str, Any]) -> None:
    rest = {name: event[name] for name in event if name not in ("type", "delta", "usage")}
    _update(message, {**rest, **(event.get("delta") or {})})
    if usage := event.get("usage"):
        message["usage"] = dict(message.get("usage") or {})
        _update(message["usage"], usage)


def _update(values: JSON, newer: Mapping[str, Any]) -> None:
    values.update({name: value for name, value in newer.items() if value is not None or name not in values})


def _block(start: Mapping[str, Any], deltas: list[Mapping[str, Any]]) -> JSON:
    said: dict[str, list[Any]] = {}
    for delta in deltas:
        for name, value in delta.items():
            if name != "type" and value is not None:
                said.setdefault(name, []).append(value)
    block = dict(start)
    if "citation" in said:
        block["citations"] = [*(block.get("citations") or ()), *said.pop("citation")]
    if "signature" in said:
        block["signature"] = said.pop("signature")[-1]
    # Without a word there is nothing to parse: then the input that the block started with is the input.
    if text := "".join(said.pop("partial_json", ())):
        block["input"] = json.loads(text)
    for name, values in said.items():
        began = [] if block.get(name) is None else [block[name]]
        block[name] = _joined(began + values)
    return block


def _joined(values: list[Any]) -> Any:
    if all(isinstance(value, str) for value in values):
        return "".join(values)
    if all(isinstance(value, list) for value in values):
        return list(chain.from_iterable(values))
    return values[-1]


def cut(answer: Mapping[str, Any]) -> list[JSON]:
    """The events in which the API would have streamed this answer.

    Texts, thinking and the input of tools come in pieces, citations and signatures each whole in an event of their
    own; other blocks come whole as they start. What is known only at the end (why it stopped, how many tokens it
    took) is in `message_delta`, all else of the message in `message_start`.

    For every `message`, whatever unknown fields it has, `assemble(cut(answer)) == answer`.
    """
    ending = {name: answer[name] for name in _AT_THE_END if name in answer}
    usage = answer.get("usage") or {}
    total = {"output_tokens": usage["output_tokens"]} if "output_tokens" in usage else {}
    started = {**answer, **dict.fromkeys(ending), "content": []}
    if total:
        started["usage"] = {**usage, "output_tokens": 0}
    blocks = chain.from_iterable(_cut_block(i, block) for i, block in enumerate(answer.get("content") or ()))
    return [
        {"type": "message_start", "message": started},
        *blocks,
        {"type": "message_delta", "delta": ending, "usage": total},
        {"type": "message_stop"},
    ]


def _cut_block(index: int, block: Mapping[str, Any]) -> Iterator[JSON]:
    started, deltas = _parts(block)
    yield {"type": "content_block_start", "index": index, "content_block": started}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _parts(block: Mapping[str, Any]) -> tuple[JSON, list[JSON]]:
    """A block as it starts, and the deltas that fill it."""
    started, deltas, kind = dict(block), list[JSON](), block.get("type")
    if kind in ("text", "thinking") and isinstance(text := block.get(kind), str):
        started[kind] = ""
        deltas += [{"type": f"{kind}_delta", kind: piece} for piece in pieces(text)]
    if kind == "text" and isinstance(citations := block.get("citations"), list):
        started["citations"] = []
        deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
    if kind == "thinking" and isinstance(signature := block.get("signature"), str) and signature:
        started["signature"] = ""
        deltas.append({"type": "signature_delta", "signature": signature})
    if kind in _TOOL_USES and isinstance(block.get("input"), Mapping):
        started["input"] = {}
        text = json.dumps(block["input"], ensure_ascii=False) if block["input"] else ""
        deltas += [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces(text))]
    return started, deltas
