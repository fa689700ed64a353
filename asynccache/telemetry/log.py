"""The access log: one line a call."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
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
            before, after = self._around(seen)
            self._write(level, before, seen.seconds, after)

    def hits_like(self, first: Observation, /) -> Callable[[float, float], None]:
        """Writes a line of each, which differs from the others in its milliseconds."""
        before, after = self._around(first)

        def write(began: float, seconds: float) -> None:  # noqa: ARG001 (a line has the time at which it is written)
            if self._logger.isEnabledFor(logging.INFO):
                self._write(logging.INFO, before, seconds, after)

        return write

    def _around(self, seen: Observation) -> tuple[str, str]:
        """What stands in a line before the milliseconds, and after."""
        words = f"CACHE {_WORDS[seen.outcome]}"
        found = {"reason": seen.reason or ("similar" if seen.outcome == "semantic" else ""), "tier": seen.tier}
        if self._json:
            return json.dumps({"message": words, **found})[:-1] + ', "ms": ', ", " + json.dumps(_facts(seen))[1:]
        return f"{words} {_as_text(found)} ms=", f" {_as_text(_facts(seen))}"

    def _write(self, level: int, before: str, seconds: float, after: str) -> None:
        line = f"{before}{seconds * 1000:.3f}{after}"
        # `Logger.log` would look for its caller, which is always this, and takes as long as all the rest.
        self._logger.handle(self._logger.makeRecord(self._logger.name, level, __file__, 0, "%s", (line,), None))


def _facts(seen: Observation) -> dict[str, Any]:
    facts: dict[str, Any] = {"type": seen.call_type, "model": seen.model, "key": seen.key[:12]}
    if seen.stream:
        facts["first_ms"] = None if seen.first is None else round(seen.first * 1000, 3)
    if seen.usage is not None and any(seen.usage):
        facts["tokens"] = f"{seen.usage.input}+{seen.usage.output}"
    if seen.error:
        facts["error"] = seen.error
    return facts


def _as_text(facts: dict[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in facts.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = "" if value is None else str(value)
    # As JSON in ASCII: nothing in it can end the line, or do things to a terminal.
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
