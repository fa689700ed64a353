"""Which calls are treated in a way of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from asynccache.config import call_type_names
from asynccache.errors import ConfigError
from asynccache.proxy.litellm_shape import Part


def _patterns(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _call_types(value: Any) -> Any:
    """Patterns of call types; one without a wildcard has to be a name that there is."""
    patterns = _patterns(value)
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        return patterns
    try:
        return [p if set(p) & {*"*?["} else next(iter(call_type_names([p]))) for p in patterns]
    except ConfigError as error:
        raise PydanticCustomError("call_type", "{said}", {"said": str(error)}) from error


def _mode(value: Any) -> Any:
    """YAML reads a bare `off` as False."""
    return (
        {False: "off", True: "default_on", "on": "default_on"}.get(value, value)
        if isinstance(value, bool | str)
        else value
    )


_ONE_OR_MANY = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
Patterns = Annotated[list[str], BeforeValidator(_patterns), _ONE_OR_MANY]
CallTypes = Annotated[list[str], BeforeValidator(_call_types), _ONE_OR_MANY]


class Match(Part):
    """Which calls: each is a pattern (`*`, `?`, `[…]`) or a list of them, one of which has to fit. What is not said
    fits all."""

    model: Patterns = Field(default=["*"], description="The model that the caller names.")
    path: Patterns = Field(default=["*"], description="The path of the request, as /v1/chat/completions.")
    tenant: Patterns = Field(default=["*"], description='The tenant of the caller; "" when it has none.')
    call_type: CallTypes = Field(default=["*"], description="chat, messages, responses, embedding, …")


class Rule(Part):
    """How the calls that match are cached. What is not said is as the `caching` table has it."""

    match: Match = Field(default=Match(), description="Which calls.")
    ttl: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="Seconds an answer is kept.")
    mode: Annotated[
        Literal["default_on", "default_off", "off"] | None,
        BeforeValidator(_mode),
        WithJsonSchema({"enum": ["default_on", "default_off", "off", True, False, "on", None]}),
    ] = Field(default=None, description='"default_off": only who asks for it (use-cache) is cached; "off": nobody.')
    semantic: bool | None = Field(default=None, description="Whether an answer to a similar question will do.")
    store: bool | None = Field(default=None, description="Whether new answers are stored.")


class Rules:
    """The rules of a configuration: of those that match a call, the first counts."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [(rule, tuple(_compiled(patterns) for patterns in _parts(rule.match))) for rule in rules]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def of(self, model: str, path: str, tenant: str, call_type: str) -> Rule | None:
        """The rule of a call; `tenant` is "" for none. None when none matches."""
        call = (model, path, tenant, call_type)
        for rule, patterns in self._rules:
            if all(pattern is None or pattern.fullmatch(value) for pattern, value in zip(patterns, call, strict=True)):
                return rule
        return None


def _parts(match: Match) -> tuple[list[str], ...]:
    return match.model, match.path, match.tenant, match.call_type


def _compiled(patterns: list[str]) -> re.Pattern[str] | None:
    """None for what fits all."""
    return None if "*" in patterns else re.compile("|".join(translate(pattern) for pattern in patterns))
