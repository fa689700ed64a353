"""What observers are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from asynccache.model import Outcome
from asynccache.telemetry.usage import NOTHING, Usage

__all__ = ["LEFT", "NOTHING", "HitObserver", "Observation", "Observer", "UpstreamCall", "UpstreamObserver", "Usage"]

LEFT = "left"
"""The `error` of a stream that its reader left before the end."""


@dataclass(slots=True)
class Observation:
    """One finished call, as its caller saw it. Built once: when the answer is complete, a stream when it has ended,
    was left or has failed. Nothing of a prompt or of an answer is in it, nor a credential.

    call_type: "chat", "embedding", …  model: as it was asked for; "" when the call names none.
    provider:  "openai", "anthropic", …, as far as the address or the model's name tells; else "".
    outcome:   as in the answer's status; of a call that raised: "bypass" or "miss".
    reason:    as in the status; of a bypass its kind alone ("unkeyable"), since the rest may quote an argument.
    tier:      the backend that answered; "" when the upstream did.
    stored:    whether this answer was written, or came from the cache.
    key:       the digest; "" when the call has none.
    began:     seconds since the epoch. seconds: how long the whole call took.
    first:     seconds to the first chunk of a stream; None: there was none.
    usage:     what the answer took, or would have taken had it not come from the cache; None: unknown.
    error:     the class of the exception that ended the call ("CancelledError" when its caller gave up), `LEFT`, or "".
    answered:  the model that the answer says it is from, "" if it does not.
    paid:      the part of `usage` that went to the provider for this call: nothing of a hit, only the missing texts of
               a list of texts; None: unknown. What upstream calls cost is told to an `UpstreamObserver`, exactly.
    """

    call_type: str
    model: str
    provider: str
    outcome: Outcome
    reason: str
    tier: str
    stream: bool
    stored: bool
    key: str
    tenant: str | None
    namespace: str
    tags: tuple[str, ...]
    began: float
    seconds: float
    first: float | None
    usage: Usage | None
    error: str
    answered: str = ""
    paid: Usage | None = NOTHING

    def at(self, began: float, seconds: float) -> Observation:
        """The same of another time."""
        return Observation(
            self.call_type,
            self.model,
            self.provider,
            self.outcome,
            self.reason,
            self.tier,
            self.stream,
            self.stored,
            self.key,
            self.tenant,
            self.namespace,
            self.tags,
            began,
            seconds,
            self.first,
            self.usage,
            self.error,
            self.answered,
            self.paid,
        )


@dataclass(slots=True)
class UpstreamCall:
    """One call of what was wrapped, whoever wanted it: a caller, several, or nobody but the cache that refreshes.

    tenant, tags: of the caller who began it. The other fields are as in `Observation`.
    usage: as the provider told it. Nothing when it refused with a status code. None when it cannot be known: it did
           not say, or the call was given up on the way, for which a provider may charge or not.
    """

    call_type: str
    model: str
    provider: str
    stream: bool
    tenant: str | None
    namespace: str
    tags: tuple[str, ...]
    began: float
    seconds: float
    first: float | None
    usage: Usage | None
    error: str
    answered: str = ""


class Observer(Protocol):
    """Is told of every finished call. It may be told on any thread."""

    def observe(self, seen: Observation, /) -> None:
        """Never blocks and never raises. What it raises all the same is counted and logged once."""
        ...


@runtime_checkable
class HitObserver(Protocol):
    """An observer that hears of hits in short: of one entry's hits only the times differ, and they come fast."""

    def hits_like(self, first: Observation, /) -> Callable[[float, float], None] | None:
        """What is called with `began` and `seconds` of each hit that is otherwise like the first, that one too, in the
        place of `observe`, and promises the same. None: `observe` it is."""
        ...


@runtime_checkable
class UpstreamObserver(Protocol):
    """An observer that is told of every upstream call as well: also of those behind answers, and of those whose
    callers have all left. So what they have used is what the provider counts."""

    def observe_upstream(self, made: UpstreamCall, /) -> None:
        """As `observe`."""
        ...


@runtime_checkable
class SupportsDrain(Protocol):
    """An observer that keeps something back for a while."""

    async def drain(self) -> None:
        """Wait until all that was observed so far is where it belongs."""
        ...
