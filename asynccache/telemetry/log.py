"""The access log: one line a call."""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Literal

from asynccache.errors import ConfigError
from asynccache.telemetry.observation import LEFT, Observation

Format = Literal["text", "json"]

_WORDS = {
    "hit": "HIT",
    "miss": "MISS",
    "stale": "STALE",
    "coalesced": "COALESCED",
    "semantic": "HIT",
    "bypass": "BYPASS",
}
_PLAIN = re.compile(r"[\w.:/@+,-]+", re.ASCII)


class AccessLog:
    """An observer that writes a line for each call, at level INFO; at WARNING when the call failed.

        CACHE HIT reason="" tier=memory ms=0.021 type=chat model=gpt-4o key=1f0c9a8b77de
        CACHE MISS reason=absent tier="" ms=812.400 type=chat model=gpt-4o key=77de1f0c9a8b tokens=512+80

    format: "text", or "json": the same as an object with `message`, for those who collect logs.
    logger: where it goes. The default one has the name asynccache.access.

    There is nothing of a prompt or an answer in it, no tenant, no credential, and of the key the first 12 digits. What
    a caller can make up, such as the name of a model, is quoted, so that it cannot begin a line of its own. Raises
    ConfigError for a wrong value.
    """

    def __init__(self, format: Format = "text", *, logger: logging.Logger | None = None) -> None:
        if format not in ("text", "json"):
            raise ConfigError(f"format={format!r}: it is 'text' or 'json'")
        self._json = format == "json"
        self._logger = logging.getLogger("asynccache.access") if logger is None else logger

    def observe(self, seen: Observation, /) -> None:
        level = logging.WARNING if seen.error and seen.error != LEFT else logging.INFO
        if self._logger.isEnabledFor(level):
            message, facts = f"CACHE {_WORDS[seen.outcome]}", _facts(seen)
            line = _as_json(message, facts) if self._json else _as_text(message, facts)
            # `Logger.log` would look for its caller, which is always this, and takes as long as all the rest.
            self._logger.handle(self._logger.makeRecord(self._logger.name, level, __file__, 0, "%s", (line,), None))


def _facts(seen: Observation) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "reason": seen.reason or ("similar" if seen.outcome == "semantic" else ""),
        "tier": seen.tier,
        "ms": round(seen.seconds * 1000, 3),
        "type": seen.call_type,
        "model": seen.model,
        "key": seen.key[:12],
    }
    if seen.stream:
        facts["first_ms"] = None if seen.first is None else round(seen.first * 1000, 3)
    if seen.usage is not None and any(seen.usage):
        facts["tokens"] = f"{seen.usage.input}+{seen.usage.output}"
    if seen.error:
        facts["error"] = seen.error
    return facts


def _as_json(message: str, facts: dict[str, Any]) -> str:
    return json.dumps({"message": message, **facts})


def _as_text(message: str, facts: dict[str, Any]) -> str:
    return " ".join([message, *(f"{name}={_value(value)}" for name, value in facts.items())])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = "" if value is None else str(value)
    # As JSON in ASCII: nothing in it can end the line, or do things to a terminal.
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
