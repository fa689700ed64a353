"""What a call says of caching (`cache={…}`) → Directives."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from asynccache.errors import ConfigError
from asynccache.model import Directives

CONTROLS = (
    *("ttl", "s-maxage", "no-cache", "no-store", "namespace", "use-cache", "tags", "tenant", "only-if-cached"),
    "semantic",
)
_ALIASES = {"s-max-age": "s-maxage", "max-age": "s-maxage"}


def seconds(value: Any, name: str) -> float:
    """A number of seconds, or a timedelta, that is not negative. Raises ConfigError."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    # Compared with what a float can hold: a larger int could not be added to the time of day.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ConfigError(f"{name}={value!r}: seconds are wanted (a number ≥ 0, or a timedelta)")
    return value


def lifetime(value: Any, name: str = "ttl") -> float | None:
    """The same, or None for no end."""
    return None if value is None else seconds(value, name)


def words(value: Any, name: str) -> tuple[str, ...]:
    """A str, or several, as a tuple. Raises ConfigError."""
    items = [value] if isinstance(value, str) else value
    if isinstance(items, Iterable) and not isinstance(items, Mapping):
        found = sorted(items) if isinstance(items, set | frozenset) else list(items)
        if all(_is_text(item) for item in found):
            return tuple(str.__str__(item) for item in found)
    raise ConfigError(f"{name}={value!r}: a list of str is wanted")


def word(value: Any, name: str) -> str:
    """A str that is not empty. Raises ConfigError."""
    if value and _is_text(value):
        return str.__str__(value)
    raise ConfigError(f"{name}={value!r}: a str that is not empty is wanted")


def _is_text(value: Any) -> bool:
    """A str that can be written as UTF-8, as it will have to be."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def parse(control: Any, base: Directives, fixed: frozenset[str] = frozenset()) -> Directives:
    """The handle's directives as this call changes them.

    fixed: borders ("tenant", "namespace") that this handle is bound to and its callers cannot move.
    Raises ConfigError for an unknown control, a wrong value, or an attempt to cross a border.
    """
    if control is None:
        return base
    if not isinstance(control, Mapping):
        raise ConfigError(f"cache={control!r}: a dict of controls is wanted, such as {{'ttl': 60}}")
    changes: dict[str, Any] = {}
    for given, value in control.items():
        name = str(given).replace("_", "-")
        name = _ALIASES.get(name, name)
        if name not in CONTROLS:
            near = get_close_matches(name.lower(), CONTROLS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(CONTROLS)}"
            raise ConfigError(f"cache={{{given!r}: …}}: no such control; {hint}")
        field, read = _READERS[name]
        if field in changes:
            raise ConfigError(f"cache[{given!r}]: {name!r} is given twice, in two spellings")
        changes[field] = read(value, f"cache[{given!r}]")
        if field in fixed and changes[field] != getattr(base, field):
            raise ConfigError(f"cache[{given!r}]: this handle is bound to another {field}")
    if "tags" in changes:
        changes["tags"] = (*base.tags, *changes["tags"])
    return replace(base, **changes)


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name}={value!r}: True or False is wanted")


def _namespace(value: Any, name: str) -> str:
    return "" if value is None else word(value, name)


def _tenant(value: Any, name: str) -> str | None:
    return None if value is None else word(value, name)


_READERS: dict[str, tuple[str, Any]] = {
    "ttl": ("ttl", lifetime),
    "s-maxage": ("max_age", lifetime),
    "no-cache": ("no_cache", _flag),
    "no-store": ("no_store", _flag),
    "use-cache": ("enabled", _flag),
    "namespace": ("namespace", _namespace),
    "tenant": ("tenant", _tenant),
    "tags": ("tags", words),
    "only-if-cached": ("only_if_cached", _flag),
    "semantic": ("semantic", _flag),
}
