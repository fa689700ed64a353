"""What a log tells of: calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from asynccache.call_types import ALIASES, CALL_TYPES
from asynccache.errors import ConfigError
from asynccache.telemetry.usage import Usage, usage_in, usage_of

_DELIVERY = frozenset({"stream", "stream_options", "api_key"})


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One call that was made.

    params:    its arguments, without any for the cache.
    call_type: one of ours ("chat", "embedding", …).
    answer:    the whole answer as JSON; None: the log does not say.
    began:     seconds since the epoch; None: the log does not say. seconds: how long it took.
    usage:     as the log or the answer tells it; None: unknown.
    usd:       what was paid for it, as the log says; None: it does not say.
    tenant:    whose call it was; None: nobody's in particular.
    cached:    whether a cache answered it, so that its time is none of the provider's.
    failed:    whether there is no answer because the call failed.
    whole:     whether the log has all of the arguments, in words that can be sent. If not, calls that differ in what
               is missing look the same, and none of them can be made again.
    """

    params: Mapping[str, Any]
    call_type: str = "chat"
    answer: Any = None
    began: float | None = None
    seconds: float | None = None
    usage: Usage | None = None
    usd: float | None = None
    provider: str = ""
    tenant: str | None = None
    cached: bool = False
    failed: bool = False
    whole: bool = True

    @property
    def model(self) -> str:
        model = self.params.get("model")
        return model if isinstance(model, str) else ""


@dataclass(slots=True)
class TrafficLog:
    """The calls of a log, in its order, and why the other lines are none: reason → how many."""

    calls: list[LoggedCall] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def timed(self) -> bool:
        """Whether it says of every call when it began."""
        return all(call.began is not None for call in self.calls)

    def top(self, count: int) -> list[LoggedCall]:
        """The `count` requests that were made most often, each once, the most frequent first; requests are the same
        when their arguments are, but for how the answer travels."""
        seen: Counter[bytes] = Counter()
        first: dict[bytes, LoggedCall] = {}
        for call in self.calls:
            asked = {name: value for name, value in call.params.items() if name not in _DELIVERY}
            print_ = orjson.dumps([call.call_type, call.tenant, asked], option=orjson.OPT_SORT_KEYS, default=repr)
            seen[print_] += 1
            first.setdefault(print_, call)
        return [first[each] for each, _ in seen.most_common(count)]


class Unreadable(ValueError):
    """A line that is no call. The message is short and quotes nothing of it, so that lines can be counted by it."""


def call_type_of(params: Mapping[str, Any]) -> str:
    """The kind of call that has these arguments. Raises Unreadable."""
    if "messages" in params:  # Anthropic's has its system prompt beside them
        return "messages" if "system" in params or "anthropic_version" in params else "chat"
    if "documents" in params:
        return "rerank"
    if "prompt" in params:
        return "text_completion"
    if "input" in params:
        return "embedding" if "embed" in str(params.get("model")).lower() else "responses"
    raise Unreadable("no prompt")


def known_type(name: Any) -> str | None:
    """Our name of a kind of call; None when it is none of ours."""
    if not isinstance(name, str):
        return None
    name = ALIASES.get(name, name)
    return name if name in CALL_TYPES and name != "function" else None


PATHS = {
    "chat": "/v1/chat/completions",
    "text_completion": "/v1/completions",
    "responses": "/v1/responses",
    "embedding": "/v1/embeddings",
    "messages": "/v1/messages",
    "rerank": "/v1/rerank",
}


def by_path(call_type: str) -> str:
    """Where such a call is posted. Raises ConfigError for one that is not made of JSON."""
    if call_type not in PATHS:
        raise ConfigError(f"a call of type {call_type!r} cannot be made from a log: known are {', '.join(PATHS)}")
    return PATHS[call_type]


def params_of(said: Any) -> dict[str, Any]:
    """Arguments without any for the cache. Raises Unreadable."""
    if not isinstance(said, Mapping):
        raise Unreadable("a request that is no object")
    return {str(name): value for name, value in said.items() if name != "cache"}


def usage_told(*said: Any) -> Usage | None:
    """The usage that the first of these tells: a usage itself, or an answer."""
    for told in said:
        for usage in (told, None if told is None else usage_in(told)):
            if isinstance(usage, Mapping) and (found := usage_of(dict(usage))) is not None:
                return found
    return None
