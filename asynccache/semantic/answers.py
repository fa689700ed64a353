"""What an answer says, and whether two say the same: labels for policies that learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from asynccache.model import Entry

_SAID = ("content", "text", "delta", "arguments", "partial_json", "refusal")
"""Under these names the providers' answers, and the chunks of their streams, have what the model said."""


def text_of(entry: Entry) -> str | None:
    """What the model said, in one string; None when it cannot be read, or is nothing."""
    try:
        lines = entry.body.splitlines() if entry.kind == "stream" else [entry.body]
        said = "".join(part for line in lines if line.strip() for part in _said(orjson.loads(line)))
    except ValueError:
        return None
    return said or None


def same_words(one: str, other: str) -> bool:
    """Whether they differ in nothing but letter case and white space."""
    return one.casefold().split() == other.casefold().split()


def _said(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value  # an answer that is nothing but a text
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, str):
                yield from _said(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str):
                if name in _SAID:
                    yield item
            else:
                yield from _said(item)
