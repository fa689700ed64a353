"""Gemini: a prefix is kept as a `cachedContents` resource, which a request names in the place of the prefix.

Short prefixes are kept by Google itself. What is marked, by points or by `cache_control` on messages, is what is put
into such a resource: everything up to the end of the first run of marks, with the tools, in the order it stood in.
What is not a text cannot be put there from OpenAI's form of a request: then nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asynccache.providers.marking import Count, Slot, estimate, in_order, items, message_lives
from asynccache.providers.points import SYSTEM, Point, targets
from asynccache.providers.stripping import stripped

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
_OURS = ("systemInstruction", "system_instruction", "tools", "toolConfig", "tool_config")
_CHOICES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}


def minimum(model: str) -> int:
    """Tokens below which a prefix cannot be kept."""
    plain = model.lower()
    if "gemini-2.5-pro" in plain:
        return 2048
    return 1024 if any(old in plain for old in ("gemini-1.5", "gemini-2.0", "gemini-2.5")) else 4096


@dataclass(frozen=True, slots=True)
class Division:
    """A request in two.

    content: what is to be kept, as `cachedContents` takes it; None when nothing is.
    rest:    the request without it.
    notes:   why nothing is, for people.
    """

    content: Mapping[str, Any] | None
    rest: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def divide(
    request: Mapping[str, Any],
    points: Sequence[Point] = SYSTEM,
    *,
    model: str,
    chat: bool = False,
    count: Count = estimate,
) -> Division:
    """What of a request is to be kept. chat: it has OpenAI's form, else that of `generateContent`."""
    try:
        native = _as_native(request) if chat else dict(request)
    except _NotText as error:
        return Division(None, request, (f"nothing is kept: {error}",))
    if any(request.get(name) for name in ("cachedContent", "cached_content", "context_cache_id")):
        return Division(None, request)  # the client has seen to it
    contents = items(native.get("contents"))
    if not all(isinstance(content, Mapping) for content in contents):
        return Division(None, request, ("nothing is kept: the contents are no tables",))
    taken = min(_taken(request, native, points, chat), len(contents) - 1)
    system, tools = native.get("systemInstruction") or native.get("system_instruction"), native.get("tools")
    if taken < 0 or not (taken or system):
        return Division(None, request)
    if taken and (contents[taken - 1].get("role") == "model" or _answers_tool(contents[taken - 1])):
        return Division(None, request, ("nothing is kept: the prefix would end on an answer, or on a tool's",))
    config = native.get("toolConfig") or native.get("tool_config")
    kept = {"systemInstruction": system, "contents": contents[:taken], "tools": tools, "toolConfig": config}
    content = {name: value for name, value in kept.items() if value}
    tokens, least = in_order([Slot("request", part=content)], count)[0].tokens, minimum(model)
    if tokens < least:
        return Division(
            None, request, (f"nothing is kept: it has about {tokens} tokens, and this model keeps {least} or more",)
        )
    return Division(content, _rest(request, native, taken, chat))


def with_context(request: Mapping[str, Any], name: str, *, chat: bool = False) -> dict[str, Any]:
    """The request with the name of what is kept."""
    return {**request, ("cached_content" if chat else "cachedContent"): name}


def with_context_id(request: Mapping[str, Any], *, chat: bool = False) -> Mapping[str, Any]:
    """The request with a client's `context_cache_id` as the API, or LiteLLM, wants it."""
    if "context_cache_id" not in request:
        return request
    rest = {name: value for name, value in request.items() if name != "context_cache_id"}
    return with_context(rest, request["context_cache_id"], chat=chat) if request["context_cache_id"] else rest


@dataclass(frozen=True, slots=True, repr=False)
class GeminiAPI:
    """Where Google AI Studio keeps contexts, and with which key."""

    api_key: str
    base_url: str = BASE_URL

    def resource(self, model: str) -> str:
        """How the API names a model."""
        return f"models/{_plain(model)}"

    def url(self, name: str = "") -> str:
        """Where contexts are, or the one of this name."""
        return f"{self.base_url.rstrip('/')}/{name or 'cachedContents'}"

    async def headers(self) -> Mapping[str, str]:
        return {"x-goog-api-key": self.api_key}


def _plain(model: str) -> str:
    return model.rpartition("/")[2]


def _taken(request: Mapping[str, Any], native: Mapping[str, Any], points: Sequence[Point], chat: bool) -> int:
    """How many contents stand before the end of the first run of marks; -1 when there is no mark."""
    roles = ["user" if item.get("role") in (None, "user") else str(item["role"]) for item in native["contents"]]
    marked: set[int] = set()
    system = False
    for point in points:
        if point.location == "message" and point.role == "system" and point.index is None:
            system = True
        elif point.location == "message" and not chat:
            marked |= set(targets(point, roles)[0])
    if chat:
        messages = items(request.get("messages"))
        found = {n for n, message in enumerate(messages) if message_lives(message)}
        for point in points:
            if point.location == "message":
                found |= set(targets(point, [str(message.get("role")) for message in messages])[0])
        spoken = [n for n, message in enumerate(messages) if message.get("role") not in _SYSTEM]
        system = system or any(n not in spoken for n in found)
        marked = {spoken.index(n) for n in found if n in spoken}
    start = 0 if system and 0 in marked else min(marked, default=-1)
    if system and start > 0:
        start = -1  # the first run of marks is the system prompt alone
    if start < 0:
        return 0 if system else -1
    end = start
    while end + 1 in marked:
        end += 1
    return end + 1


_SYSTEM = ("system", "developer")


class _NotText(Exception):
    """A message that cannot be told in Gemini's words here."""


def _as_native(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request in OpenAI's form, in Gemini's. Raises _NotText."""
    system: list[Any] = []
    contents: list[dict[str, Any]] = []
    for message in items(request.get("messages")):
        if not isinstance(message, Mapping):
            raise _NotText("a message is no table")
        role = message.get("role")
        parts = [{"text": text} for text in _texts(message)]
        if role in _SYSTEM:
            system += parts
        else:
            contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
    native: dict[str, Any] = {"contents": contents}
    if system:
        native["systemInstruction"] = {"parts": system}
    if tools := items(request.get("tools")):
        native["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in tools]}]
    if (choice := request.get("tool_choice")) is not None:
        native["toolConfig"] = {"functionCallingConfig": _choice(choice)}
    return native


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if message.get("role") not in (*_SYSTEM, "user", "assistant") or message.get("tool_calls"):
        raise _NotText("there are calls of tools among the messages")
    if isinstance(content, str):
        return [content]
    blocks = items(content)
    if not blocks or not all(isinstance(block, Mapping) and isinstance(block.get("text"), str) for block in blocks):
        raise _NotText("there is more than text in the messages")
    return [block["text"] for block in blocks]


def _declaration(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise _NotText("there are tools that are no functions")
    said = {name: function[name] for name in ("name", "description") if function.get(name)}
    return {**said, **({"parametersJsonSchema": function["parameters"]} if function.get("parameters") else {})}


def _choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str) and choice in _CHOICES:
        return {"mode": _CHOICES[choice]}
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(function, Mapping) and "name" in function:
        return {"mode": "ANY", "allowedFunctionNames": [function["name"]]}
    raise _NotText("tool_choice is of an unknown kind")


def _answers_tool(content: Mapping[str, Any]) -> bool:
    return any(isinstance(part, Mapping) and "functionResponse" in part for part in items(content.get("parts")))


def _rest(request: Mapping[str, Any], native: Mapping[str, Any], taken: int, chat: bool) -> Mapping[str, Any]:
    if not chat:
        kept = {name: value for name, value in request.items() if name not in _OURS}
        return {**kept, "contents": items(native["contents"])[taken:]}
    spoken = [message for message in request["messages"] if message.get("role") not in _SYSTEM]
    rest = {name: value for name, value in request.items() if name not in ("tools", "tool_choice")}
    return stripped({**rest, "messages": spoken[taken:]})
