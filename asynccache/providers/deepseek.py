"""DeepSeek keeps prefixes by itself, and takes no marks: those that a client gives are accepted, and not sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asynccache.providers.marking import Marked
from asynccache.providers.points import Point
from asynccache.providers.stripping import stripped


def mark(request: Mapping[str, Any], points: Sequence[Point] = ()) -> Marked:
    """The request without marks: `cache_control=True`, and those on messages, blocks and tools."""
    notes = ("DeepSeek keeps prefixes by itself: nothing is marked",) if points else ()
    return Marked(stripped(request), notes)
