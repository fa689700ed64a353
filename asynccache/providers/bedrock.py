"""Amazon Bedrock: `cachePoint` in Converse and in Nova's own bodies, `cache_control` in Claude's.

Converse takes a block of its own, `{"cachePoint": {"type": "default"}}`, behind what is to be kept: in the content of a
message, in `system`, in the list of tools. InvokeModel takes the model's own body: Claude's is that of Anthropic, and
Nova's has the point as a key of a text block, and none for tools. A request in OpenAI's form is LiteLLM's, which makes
points of `cache_control`. Models that keep no prefixes refuse a request with a point: they get none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from asynccache.providers import anthropic
from asynccache.providers.marking import (
    CAP,
    Control,
    Count,
    Dialect,
    Marked,
    Slot,
    apply,
    estimate,
    in_order,
    items,
    with_item,
)
from asynccache.providers.points import SYSTEM, Point

_KEEPS_NONE = re.compile(
    r"claude-(instant|v\d|3-(opus|sonnet|haiku)|3-5-sonnet-20240620)"
    r"|(^|[./])(openai|meta|mistral|cohere|ai21|deepseek|qwen|writer|moonshotai|minimax|google|nvidia)\."
    r"|amazon\.titan|gpt-"
)
_NO_MODEL = "this model keeps no prefixes"


def keeps_prefixes(model: str) -> bool:
    """Whether this model takes marks. One that is not known is believed to."""
    return _KEEPS_NONE.search(model.lower()) is None


def is_nova(model: str) -> bool:
    return "nova" in model.lower()


def _lives_long(model: str) -> bool:
    """Whether a point of this model may say how long it lives: Claude 4.5 and later."""
    version = anthropic.claude_version(model)
    return version is not None and version[1:] >= (4, 5)


class _Bedrock:
    apart = True
    writes: Mapping[str, float] = {"5m": 1.25, "1h": 2.0}
    reads = 0.1

    def cap(self, request: Mapping[str, Any]) -> int:
        return CAP

    def minimum(self, model: str) -> int:
        return 1024 if is_nova(model) else anthropic.claude_minimum(model)


class ConverseDialect(_Bedrock):
    """The form of Converse, with points as blocks of their own."""

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        none = "" if keeps_prefixes(model) else _NO_MODEL
        tools, found = _tools(request), []
        if tools:
            refusal = none or ("Nova keeps no tools" if is_nova(model) else "")
            found.append(_slot("tools", tools, refusal))
        if items(request.get("system")):
            found.append(_slot("system", request["system"], none))
        for index, message in enumerate(items(request.get("messages"))):
            content = message.get("content") if isinstance(message, Mapping) else None
            refusal = none or ("" if items(content) else "it has no blocks")
            role = str(message.get("role") or "") if isinstance(message, Mapping) else ""
            found.append(_slot("message", items(content), refusal, index, role))
        return in_order([*found, Slot("request", refusal="it is no place")], count)

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        changed = dict(request)
        for number, control in marks.items():
            slot, point = slots[number], {"cachePoint": _point(control, model)}
            if slot.place == "tools":
                changed["toolConfig"] = {**changed["toolConfig"], "tools": [*changed["toolConfig"]["tools"], point]}
            elif slot.place == "system":
                changed["system"] = [*changed["system"], point]
            else:
                message = changed["messages"][slot.index]
                message = {**message, "content": [*message["content"], point]}
                changed["messages"] = with_item(changed["messages"], slot.index, message)
        return changed


class NovaInvokeDialect(ConverseDialect):
    """The body of InvokeModel for a Nova model: the point is a key of the last text block."""

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        found = [slot for slot in super().slots(request, model, count) if slot.place != "tools"]
        return [
            slot if slot.refusal or _last_text(request, slot) is not None else replace(slot, refusal="it has no text")
            for slot in found
        ]

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        changed = dict(request)
        for number, control in marks.items():
            slot, index = slots[number], _last_text(changed, slots[number])
            blocks = _blocks(changed, slot)
            assert index is not None  # else the slot would refuse
            blocks = with_item(blocks, index, {**blocks[index], "cachePoint": _point(control, model)})
            if slot.place == "system":
                changed["system"] = blocks
            else:
                message = {**changed["messages"][slot.index], "content": blocks}
                changed["messages"] = with_item(changed["messages"], slot.index, message)
        return changed


class _LiteLLMDialect(anthropic.ChatDialect):
    """OpenAI's form, of which LiteLLM makes one of Bedrock's."""

    def minimum(self, model: str) -> int:
        return _Bedrock().minimum(model)

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        return refusing(super().slots(request, model, count), model)

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        return super().write(request, slots, {n: _control(mark, model) for n, mark in marks.items()}, model)


class ClaudeInvokeDialect(anthropic.MessagesDialect):
    """The body of InvokeModel for a Claude model: Anthropic's."""

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        return refusing(super().slots(request, model, count), model)

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        return super().write(request, slots, {n: _control(mark, model) for n, mark in marks.items()}, model)


CONVERSE: Dialect = ConverseDialect()
CHAT: Dialect = _LiteLLMDialect()
NOVA: Dialect = NovaInvokeDialect()
CLAUDE: Dialect = ClaudeInvokeDialect()


def invoke_dialect(model: str) -> Dialect:
    """That of the body which InvokeModel takes for this model."""
    return NOVA if is_nova(model) else CLAUDE


def mark(
    request: Mapping[str, Any],
    points: Sequence[Point] = SYSTEM,
    *,
    model: str | None = None,
    chat: bool = False,
    count: Count = estimate,
) -> Marked:
    """The arguments of `converse`, of `invoke_model` (with their `body` as JSON), or of a call in OpenAI's form (chat),
    with the marks that these points ask for."""
    named = str(request.get("modelId") or request.get("model") or "") if model is None else model
    if chat:
        return apply(CHAT, request, points, named, count)
    if "body" not in request:
        return apply(CONVERSE, request, points, named, count)
    return within_body(request, lambda body: apply(invoke_dialect(named), body, points, named, count))


def within_body(request: Mapping[str, Any], mark: Callable[[Mapping[str, Any]], Marked]) -> Marked:
    """The arguments of `invoke_model` with what is made of their body."""
    body = decoded(request)
    if body is None:
        return Marked(request, ("not marked: the body is no JSON object",))
    marked = mark(body)
    return Marked(encoded(request, marked.request), marked.notes, marked.marks)


def decoded(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The body of a call of `invoke_model`; None when there is none that could be read."""
    body = request.get("body")
    if not isinstance(body, str | bytes | bytearray):
        return None
    try:
        found = orjson.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def encoded(request: Mapping[str, Any], body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments with this body, if it is not the one they have."""
    if body == decoded(request):
        return request
    data = orjson.dumps(body)
    return {**request, "body": data.decode() if isinstance(request["body"], str) else data}


def refusing(slots: list[Slot], model: str) -> list[Slot]:
    """The slots, none of which takes a mark when the model takes none."""
    if keeps_prefixes(model):
        return slots
    return [replace(slot, refusal=_NO_MODEL) for slot in slots]


def _tools(request: Mapping[str, Any]) -> list[Any]:
    config = request.get("toolConfig")
    return items(config.get("tools")) if isinstance(config, Mapping) else []


def _slot(place: Any, blocks: Sequence[Any], refusal: str, index: int = -1, role: str = "") -> Slot:
    lives = [
        "1h" if isinstance(block["cachePoint"], Mapping) and block["cachePoint"].get("ttl") == "1h" else "5m"
        for block in blocks
        if isinstance(block, Mapping) and block.get("cachePoint") is not None
    ]
    return Slot(place, index, role, lives=tuple(lives), refusal=refusal, part=list(blocks))


def _blocks(request: Mapping[str, Any], slot: Slot) -> list[Any]:
    if slot.place == "system":
        return items(request.get("system"))
    return items(request["messages"][slot.index].get("content")) if slot.place == "message" else []


def _last_text(request: Mapping[str, Any], slot: Slot) -> int | None:
    blocks = _blocks(request, slot)
    return next(
        (n for n in reversed(range(len(blocks))) if isinstance(blocks[n], Mapping) and blocks[n].get("text")), None
    )


def _point(control: Control, model: str) -> dict[str, Any]:
    ttl = control.get("ttl")
    return {"type": "default", **({"ttl": ttl} if ttl in ("5m", "1h") and _lives_long(model) else {})}


def _control(control: Control, model: str) -> Control:
    return control if _lives_long(model) else {name: value for name, value in control.items() if name != "ttl"}
