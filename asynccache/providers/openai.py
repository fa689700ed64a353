"""OpenAI: prefixes of 1,024 tokens and more are kept by themselves; which of them, models from GPT-5.6 on can be told.

For those a `prompt_cache_breakpoint` stands on the last block of a message (never of an assistant's), and what is kept
costs a quarter more to write. `prompt_cache_key` leads calls with one prefix to one machine: where the client gives
none, it is made of the prefix alone, so that it is the same for all of them. `cache_control` and `cached`, which OpenAI
refuses, are taken out; `"cached": True` on a message means a breakpoint, where the model takes one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from asynccache.call_types.fields import field
from asynccache.material import Reader, dumps_tree
from asynccache.providers.anthropic import chat_slots, tools_slot
from asynccache.providers.marking import CAP, Control, Count, Dialect, Marked, Slot, apply, estimate, in_order, items
from asynccache.providers.points import SYSTEM, Point
from asynccache.providers.stripping import stripped

_GPT = re.compile(r"(?:^|[/.])gpt-(\d+)(?:\.(\d+))?")
_TAKES = frozenset({"text", "image_url", "file", "input_audio", "input_text", "input_image", "input_file"})
_MINIMUM = 1024
_EXPLICIT: Mapping[str, Any] = {"mode": "explicit"}


def takes_breakpoints(model: str) -> bool:
    """Whether this model can be told what to keep: GPT-5.6 and later."""
    found = _GPT.search(model.lower())
    return found is not None and (int(found[1]), int(found[2] or 0)) >= (5, 6)


class OpenAIDialect:
    """Chat completions, and responses.

    Four prefixes are written for a request. In the mode `implicit`, which is the default, one of them is OpenAI's own.
    """

    apart = False
    writes: Mapping[str, float] = {"30m": 1.25}
    reads = 0.1

    def cap(self, request: Mapping[str, Any]) -> int:
        options = request.get("prompt_cache_options")
        return CAP if isinstance(options, Mapping) and options.get("mode") == "explicit" else CAP - 1

    def minimum(self, model: str) -> int:
        return _MINIMUM

    def slots(self, request: Mapping[str, Any], model: str, count: Count) -> list[Slot]:
        responses = "input" in request and "messages" not in request
        found = _response_slots(request) if responses else chat_slots(request)
        refusal = "" if takes_breakpoints(model) else "this model keeps prefixes by itself"
        found = [
            replace(slot, refusal=refusal or _refusal(request, slot), lives=_lives(request, slot)) for slot in found
        ]
        return in_order(found, count)

    def write(
        self, request: Mapping[str, Any], slots: Sequence[Slot], marks: Mapping[int, Control], model: str
    ) -> Mapping[str, Any]:
        where = "messages" if "messages" in request else "input"
        wanted = {slots[number].index: control for number, control in marks.items()}
        changed = dict(stripped(request))
        given = request.get(where)
        if wanted:
            kind = "text" if where == "messages" else "input_text"
            spoken = items(changed[where]) or [{"role": "user", "content": given}]
            changed[where] = [
                _marked(message, wanted[index], kind) if index in wanted else message
                for index, message in enumerate(spoken)
            ]
            changed.setdefault("prompt_cache_options", {"mode": "implicit"})
        return changed


DIALECT: Dialect = OpenAIDialect()


def mark(
    request: Mapping[str, Any],
    points: Sequence[Point] = SYSTEM,
    *,
    model: str | None = None,
    count: Count = estimate,
) -> Marked:
    """The request with the breakpoints that these points ask for, where the model takes them; with a stable
    `prompt_cache_key`, where its prefix is long enough to be kept; without what OpenAI would refuse."""
    named = str(request.get("model") or "") if model is None else model
    wished = [Point(index=index) for index, message in _spoken(request) if field(message, "cached") is True]
    marked = apply(DIALECT, request, [*wished, *points], named, count)
    notes = marked.notes if takes_breakpoints(named) else ()
    return Marked(with_key(marked.request, named, count), notes, marked.marks)


def with_key(request: Mapping[str, Any], model: str, count: Count = estimate) -> Mapping[str, Any]:
    """The request with a `prompt_cache_key` that is the same for all with its prefix: its model, tools and system
    prompt. As it is, when it has one, and when there is nothing worth keeping."""
    if request.get("prompt_cache_key") is not None:
        return request
    system = [message for _, message in _spoken(request) if field(message, "role") in ("system", "developer")]
    prefix = [items(request.get("tools")), request.get("instructions"), system]
    if count(prefix) < _MINIMUM:
        return request
    try:
        data = dumps_tree(Reader(False).read([model, *prefix]))
    except Exception:  # an argument without a stable value has no stable key
        return request
    return {**request, "prompt_cache_key": f"asynccache-{sha256(data).hexdigest()[:32]}"}


def _spoken(request: Mapping[str, Any]) -> list[tuple[int, Any]]:
    return list(enumerate(items(request.get("messages")) or items(request.get("input"))))


def _response_slots(request: Mapping[str, Any]) -> list[Slot]:
    """Of the Responses API: the instructions cannot be marked, but are read first."""
    given, tools = request.get("input"), request.get("tools")
    found = [tools_slot(tools)] if items(tools) else []
    if request.get("instructions"):
        found.append(Slot("request", refusal="instructions take no mark", part=request["instructions"]))
    if isinstance(given, str):
        return [*found, Slot("message", 0, "user", part=given)]
    return [
        *found,
        *(
            Slot("message", index, str(field(item, "role") or ""), part=field(item, "content") or item)
            for index, item in enumerate(items(given))
        ),
    ]


def _lives(request: Mapping[str, Any], slot: Slot) -> tuple[str, ...]:
    """Breakpoints alone: `cache_control` is nothing to OpenAI."""
    blocks = items(field(_message(request, slot), "content"))
    return tuple("5m" for block in blocks if field(block, "prompt_cache_breakpoint") is not None)


def _refusal(request: Mapping[str, Any], slot: Slot) -> str:
    if slot.place != "message":
        return slot.refusal if slot.place == "request" else "tools take no mark"
    if slot.role == "assistant":
        return "an assistant's message takes none"
    message = _message(request, slot)
    content = message if isinstance(message, str) else field(message, "content")
    if not isinstance(message, Mapping | str):
        return "it is no table"
    if isinstance(content, str) and content:
        return ""
    return "" if any(map(_takes, items(content))) else "none of its blocks takes one"


def _message(request: Mapping[str, Any], slot: Slot) -> Any:
    if slot.place != "message":
        return None
    given = request.get("messages") if "messages" in request else request.get("input")
    return given if isinstance(given, str) else items(given)[slot.index]


def _takes(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") in _TAKES and block.get("text") != ""


def _marked(message: Mapping[str, Any], control: Control, kind: str) -> dict[str, Any]:
    content = message["content"]
    blocks = [{"type": kind, "text": content}] if isinstance(content, str) else list(content)
    last = next(index for index in reversed(range(len(blocks))) if _takes(blocks[index]))
    life = {"ttl": control["ttl"]} if control.get("ttl") in ("30m", "12h") else {}
    blocks[last] = {**blocks[last], "prompt_cache_breakpoint": {**_EXPLICIT, **life}}
    return {**message, "content": blocks}
