"""Taking marks out of a request for a provider that would refuse them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = frozenset({"cache_control", "cached"})
"""Anthropic's mark, and what guides say in the place of one."""


def stripped(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request without the marks that stand on it, on its messages, blocks and tools, and in `extra_body`. The same
    one, when there are none. Fields of these names elsewhere (a tool's arguments, a schema) are not marks, and stay."""
    changes: dict[str, Any] = {}
    for name in ("messages", "input", "tools"):
        value = request.get(name)
        if isinstance(value, list | tuple) and (bare := [_bare(item) for item in value]) != list(value):
            changes[name] = bare
    more = request.get("extra_body")
    if isinstance(more, Mapping) and (bare_more := stripped(more)) is not more:
        changes["extra_body"] = bare_more
    if not changes and _WORDS.isdisjoint(request):
        return request
    return {**{name: value for name, value in request.items() if name not in _WORDS}, **changes}


def _bare(item: Any) -> Any:
    """A message or a tool without its marks."""
    if not isinstance(item, Mapping):
        return item
    kept = {name: value for name, value in item.items() if name not in _WORDS}
    if isinstance(kept.get("content"), list | tuple):
        kept["content"] = [_without(block) for block in kept["content"]]
    if isinstance(kept.get("tool_calls"), list | tuple):
        kept["tool_calls"] = [_without(call) for call in kept["tool_calls"]]
    if isinstance(kept.get("function"), Mapping):
        kept["function"] = _without(kept["function"])
    return kept if kept != item else item


def _without(value: Any) -> Any:
    if not isinstance(value, Mapping) or _WORDS.isdisjoint(value):
        return value
    return {name: part for name, part in value.items() if name not in _WORDS}
