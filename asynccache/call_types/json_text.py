"""Whether a text that ought to be JSON is."""

from __future__ import annotations

from typing import Any

import orjson


def is_json(text: Any) -> bool:
    """True for JSON, and for nothing at all: a tool without parameters may be called with no text."""
    if not isinstance(text, str) or not text:
        return True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
