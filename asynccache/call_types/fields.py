"""Answers field by field, be they dicts or models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def field(value: Any, name: str) -> Any:
    """A field's value; None when there is none."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def names(value: Any) -> Iterable[str]:
    """The names of its fields. Raises TypeError for what is neither a dict nor a model."""
    if isinstance(value, dict):
        return value.keys()
    if not is_object(value):
        raise TypeError(f"a {type(value).__name__} has no fields")
    return [name for name, _ in value]


def is_object(value: Any) -> bool:
    """Whether it has fields that can be changed in a copy."""
    return isinstance(value, dict) or hasattr(type(value), "model_copy")


def changed(value: Any, **changes: Any) -> Any:
    """A copy with other values in these fields. Raises TypeError as `names` does."""
    if isinstance(value, dict):
        return {**value, **changes}
    if not is_object(value):
        raise TypeError(f"a {type(value).__name__} has no fields")
    return value.model_copy(update=changes)
