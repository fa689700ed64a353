"""Where marks are wanted: LiteLLM's `cache_control_injection_points`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from asynccache.errors import ConfigError

EPHEMERAL: Mapping[str, Any] = {"type": "ephemeral"}
_FIELDS = ("location", "role", "index", "control")


@dataclass(frozen=True, slots=True)
class Point:
    """One place for a mark.

    location: "message", or "tool_config" for the end of the tools.
    role:     every message of this role.
    index:    the message at this place, whatever its role; negative ones count from the end.
    control:  what the mark says; `{"type": "ephemeral", "ttl": "1h"}` keeps it for an hour.
    """

    location: Literal["message", "tool_config"] = "message"
    role: str | None = None
    index: int | None = None
    control: Mapping[str, Any] = field(default_factory=lambda: EPHEMERAL)


Points = Iterable[Mapping[str, Any] | Point] | Literal["auto"]
"""Where marks are wanted; "auto": where they pay."""

SYSTEM = (Point(role="system"),)
"""What is marked unless points say otherwise."""


def read_points(given: Any) -> tuple[Point, ...]:
    """Points from a list of tables, or of points. Raises ConfigError."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(
            f"cache_control_injection_points: {given!r}: a list is wanted, such as "
            "[{'location': 'message', 'role': 'system'}], or 'auto'"
        )
    return tuple(point if isinstance(point, Point) else _read(point) for point in given)


def _read(given: Any) -> Point:
    what = "cache_control_injection_points"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what}: {given!r}: a table is wanted, such as {{'location': 'message', 'role': 'system'}}")
    for name in given:
        if name not in _FIELDS:
            raise ConfigError(f"{what}: unknown field {name!r}: known are {', '.join(_FIELDS)}")
    location = given.get("location")
    if location not in ("message", "tool_config"):
        raise ConfigError(f"{what}: location={location!r}: it is 'message' or 'tool_config'")
    role, control = given.get("role"), given.get("control")
    if role is not None and not isinstance(role, str):
        raise ConfigError(f"{what}: role={role!r}: a name is wanted, such as 'system'")
    if control is not None and not isinstance(control, Mapping):
        raise ConfigError(f"{what}: control={control!r}: a table is wanted, such as {{'type': 'ephemeral'}}")
    index = _index(given.get("index"))
    if location == "message" and role is None and index is None:
        raise ConfigError(f"{what}: a point in a message needs a role or an index")
    return Point(location, role, index, dict(control) if control else EPHEMERAL)


def _index(given: Any) -> int | None:
    """An index may be written as a text; one that is no number does not count, as with LiteLLM."""
    if isinstance(given, str):
        try:
            return int(given)
        except ValueError:
            return None
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    raise ConfigError(f"cache_control_injection_points: index={given!r}: an int is wanted")


def targets(point: Point, roles: Sequence[str]) -> tuple[list[int], str]:
    """Which of the messages with these roles a point means, and what is wrong with it, if something is."""
    if point.index is not None:
        index = point.index + len(roles) if point.index < 0 else point.index
        if 0 <= index < len(roles):
            return [index], ""
        return [], f"index {point.index} is out of range: there are {len(roles)} messages"
    return [index for index, role in enumerate(roles) if role == point.role], ""
