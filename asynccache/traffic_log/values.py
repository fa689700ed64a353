"""Values as logs write them."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import Any

import orjson


def loads(text: Any) -> Any:
    """The JSON in a text; None when there is none."""
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def as_json(value: Any) -> Any:
    """A value that may stand as a text of JSON."""
    if isinstance(value, str) and value[:1] in "[{" and (found := loads(value)) is not None:
        return found
    return value


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        return None
    return float(value)


def as_time(value: Any) -> float | None:
    """Seconds since the epoch, from such a number or a date of ISO 8601, which is UTC unless it says otherwise."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return as_number(value)
