"""Anthropic: `cache_control` on blocks, on tools, or on the whole request.

Up to four marks; each keeps the prefix that ends with its block, for five minutes or an hour. Tools are read before the
system prompt, and that before the messages. Two forms of request: that of `/v1/messages`, where a text becomes a block
so that it can be marked, and OpenAI's, as LiteLLM takes it, where a message with a text is marked itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.call_types.fields import field
from asynccache.providers.marking import (
    CAP,
    Control,
    Count,
    Dialect,
    Marked,
    Slot,
    apply,
    content_refusal,
    estimate,
    in_order,
    items,
    lives_in,
    message_lives,
    tool_lives,
    with_item,
)
from asynccache.providers.points import SYSTEM, Point

_CLAUDE = re.compile(
    r"claude-(?:(?P<name>[a-z]+)-(?P<major>\d)(?:[-.](?P<minor>\d))?(?!\d)"
    r"|(?P<old_major>\d)(?:[-.](?P<old_minor>\d))?(?:-(?P<old_name>[a-z]+))?)"
)
_MINIMA = {
    ("opus", 4, 5): 4096,
    ("opus", 4, 6): 4096,
    ("haiku", 4, 5): 4096,
    ("opus", 4, 7): 2048,
    ("sonnet", 5, 0): 1024,
}
_UNMARKED_TOOLS = ("tool_search_tool_",)


def claude_version(model: str) -> tuple[str, int, int] | None:
    """(name, major, minor) of a Claude model, however its provider writes it; None for another."""
    found = _CLAUDE.search(model.lower())
    if found is None:
        return None
    said = found.groupdict()
    name, major = said["name"] or said["old_name"] or "", said["major"] or said["old_major"]
    return name, int(major), int(said["minor"] or said["old_minor"] or 0)


def claude_minimum(model: str) -> int:
    """Tokens below which this model keeps no prefix; 1,024 where that is not known."""
    version = claude_version(model)
    if version is None:
        return 1024
    name, major, _ = version
    if version in _MINIMA:
        return _MINIMA[version]
    if major >= 5:
        return 512
    return 2048 if name == "haiku" else 1024


class _Claude:
    """What both forms have in common."""

    apart = False
    writes: Mapping[str, float] = {"5m": 1.25, "1h": 2.0}
    reads = 0.1

    def cap(self, request: Mapping[str, Any]) -> int:
        return CAP

    def minimum(self, model: str) -> int:
        return claude_minimum(model)


class MessagesDialect(_Claude):
    """The form of `/v1/messages`; also the body of Bedrock's and Vertex' calls of a Claude model."""

    apart = True

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        tools, system = request.get("tools"), request.get("system")
        found = [tools_slot(tools)] if items(tools) else []
        if system:
            lives = tuple(life for block in items(system) for life in lives_in(block))
            found.append(Slot("system", lives=lives, refusal=content_refusal(system), part=system))
        for index, message in enumerate(items(request.get("messages"))):
            found.append(message_slot(index, message))
        return in_order([*found, whole_request(request)], count)

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        changed = dict(request)
        for number, control in marks.items():
            slot = slots[number]
            if slot.place == "tools":
                changed["tools"] = with_marked_tool(changed["tools"], control)
            elif slot.place == "system":
                changed["system"] = _marked_blocks(changed["system"], control)
            else:
                message = changed["messages"][slot.index]
                content = _marked_blocks(message["content"], control)
                changed["messages"] = with_item(changed["messages"], slot.index, {**message, "content": content})
        return changed


class ChatDialect(_Claude):
    """OpenAI's form of request, as LiteLLM takes it for Claude on any provider."""

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        return in_order([*chat_slots(request), whole_request(request)], count)

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        changed = dict(request)
        for number, control in marks.items():
            slot = slots[number]
            if slot.place == "tools":
                changed["tools"] = with_marked_tool(changed["tools"], control)
            else:
                message = self._marked(changed["messages"][slot.index], control)
                changed["messages"] = with_item(changed["messages"], slot.index, message)
        return changed

    def _marked(self, message: Mapping[str, Any], control: Control) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return {**message, "cache_control": dict(control)}
        return {**message, "content": _marked_blocks(content, control)}


class GatewayDialect(ChatDialect):
    """OpenAI's form over HTTP, to a gateway that passes marks on to Claude (OpenRouter, a LiteLLM proxy): these want
    them on blocks."""

    def _marked(self, message: Mapping[str, Any], control: Control) -> dict[str, Any]:
        return {**message, "content": _marked_blocks(message["content"], control)}


MESSAGES: Dialect = MessagesDialect()
CHAT: Dialect = ChatDialect()
GATEWAY: Dialect = GatewayDialect()


def mark(
    request: Mapping[str, Any],
    points: Sequence[Point] = SYSTEM,
    *,
    model: str | None = None,
    chat: bool = False,
    count: Count = estimate,
) -> Marked:
    """The request with the marks that these points ask for.

    model: when the request does not name it. chat: whether it has OpenAI's form. count: tokens of a part.
    """
    named = str(request.get("model") or "") if model is None else model
    return apply(CHAT if chat else MESSAGES, request, points, named, count)


def chat_slots(request: Mapping[str, Any]) -> list[Slot]:
    """The slots of a request in OpenAI's form. A provider reads system prompts before all other messages."""
    tools = request.get("tools")
    messages = [message_slot(index, message) for index, message in enumerate(items(request.get("messages")))]
    first = [slot for slot in messages if slot.role in ("system", "developer")]
    rest = [slot for slot in messages if slot.role not in ("system", "developer")]
    return [*([tools_slot(tools)] if items(tools) else []), *first, *rest]


def message_slot(index: int, message: Any) -> Slot:
    role, content = str(field(message, "role") or ""), field(message, "content")
    refusal = content_refusal(content) if isinstance(message, Mapping) else "it is no table"
    part = [content, field(message, "tool_calls")]
    return Slot("message", index, role, lives=message_lives(message), refusal=refusal, part=part)


def tools_slot(tools: Any) -> Slot:
    refusal = "" if _last_tool(tools) is not None else "none of the tools takes one"
    return Slot("tools", lives=tool_lives(tools), refusal=refusal, part=items(tools))


def whole_request(request: Mapping[str, Any]) -> Slot:
    """The end, with a mark if the client has asked for one on the whole request, or somewhere in `extra_body`."""
    more = request.get("extra_body")
    more = more if isinstance(more, Mapping) else {}
    lives = [
        *lives_in({"cache_control": request.get("cache_control")}),
        *lives_in(more),
        *tool_lives(more.get("tools")),
    ]
    for block in items(more.get("system")):
        lives += lives_in(block)
    for message in items(more.get("messages")):
        lives += message_lives(message)
    return Slot("request", lives=tuple(lives), refusal="it is no place")


def with_marked_tool(tools: Sequence[Any], control: Control) -> list[Any]:
    index = _last_tool(tools)
    return list(tools) if index is None else with_item(tools, index, {**tools[index], "cache_control": dict(control)})


def _last_tool(tools: Any) -> int | None:
    """The last tool that takes a mark: those that search for tools do not, nor those that are loaded when found."""
    found = None
    for index, tool in enumerate(items(tools)):
        if isinstance(tool, Mapping) and not str(tool.get("type") or "").startswith(_UNMARKED_TOOLS):
            found = found if tool.get("defer_loading") else index
    return found


def _marked_blocks(content: Any, control: Control) -> list[Any]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return with_item(blocks, -1, {**blocks[-1], "cache_control": dict(control)})
