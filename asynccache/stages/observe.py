"""Tell observers how calls went: the outermost stage; and what was really called: the innermost one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Self

import orjson

from asynccache.batches import Batch, Whole
from asynccache.errors import ConfigError
from asynccache.model import CacheStatus, Completion, Directives, Request, Response, Target
from asynccache.protocols import Clock, Handler
from asynccache.streams import close
from asynccache.telemetry.observation import (
    LEFT,
    NOTHING,
    HitObserver,
    Observation,
    Observer,
    SupportsDrain,
    UpstreamCall,
    UpstreamObserver,
    Usage,
)
from asynccache.telemetry.usage import StreamUsage, model_in, usage_in, usage_of
from asynccache.telemetry.vendors import vendor

logger = logging.getLogger("asynccache")

_FREE = ("hit", "stale", "semantic", "coalesced")
_ASKED = ("miss", "bypass")
_LABEL = 128
_KNOWN = 4096


class Observers:
    """Those who are told. What one of them raises reaches nobody: it is counted, and logged the first time.

    Raises ConfigError for one that cannot be told.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        for observer in observers:
            if not callable(getattr(observer, "observe", None)):
                raise ConfigError(f"observers: {observer!r} has no method observe(seen)")
        self._all = tuple(observers)
        self._calls = tuple(observer.observe for observer in observers)
        self._upstream_calls = tuple(o.observe_upstream for o in observers if isinstance(o, UpstreamObserver))
        self.vendors: dict[tuple[str, str], str] = {}
        self.errors = 0
        """How often an observer has raised."""

    def __bool__(self) -> bool:
        return bool(self._all)

    def tell(self, seen: Observation) -> None:
        self._tell(self._calls, seen)

    def _tell(self, calls: Sequence[Callable[[Observation], None]], seen: Observation) -> None:
        for observe in calls:
            try:
                observe(seen)
            except Exception as error:  # an observer may be anybody's, and must not break the call
                self._failed(observe, error)

    def hits_like(self, first: Observation) -> Callable[[float, float], None]:
        """What tells them of hits like this one."""
        short: list[Callable[[float, float], None]] = []
        whole: list[Callable[[Observation], None]] = []
        for observer, observe in zip(self._all, self._calls, strict=True):
            try:
                told = observer.hits_like(first) if isinstance(observer, HitObserver) else None
            except Exception as error:  # as above
                self._failed(observe, error)
                told = None
            if told is None:
                whole.append(observe)
            else:
                short.append(told)

        def tell(began: float, seconds: float) -> None:
            for told in short:
                try:
                    told(began, seconds)
                except Exception as error:  # as above
                    self._failed(told, error)
            if whole:
                self._tell(whole, first.at(began, seconds))

        return tell

    def tell_upstream(self, made: UpstreamCall) -> None:
        for observe in self._upstream_calls:
            try:
                observe(made)
            except Exception as error:  # as above
                self._failed(observe, error)

    async def drain(self) -> None:
        """Wait until what they keep back is where it belongs."""
        for observer in self._all:
            if isinstance(observer, SupportsDrain):
                try:
                    await observer.drain()
                except Exception as error:  # as above
                    self._failed(observer.drain, error)

    def vendor(self, endpoint: str, model: str) -> str:
        known = self.vendors.get((endpoint, model))
        if known is None:
            if len(self.vendors) >= _KNOWN:
                self.vendors.clear()
            known = self.vendors[endpoint, model] = vendor(endpoint, model)
        return known

    def _failed(self, observe: Callable[..., Any], error: Exception) -> None:
        self.errors += 1
        if self.errors == 1:
            logger.error("an observer failed, %r; said once, the others are counted", observe, exc_info=error)


class Observe:
    """Tells observers of each finished call: of a stream when it has ended, was left, or has failed."""

    def __init__(self, observers: Observers, *, clock: Clock) -> None:
        self.observers = observers
        self._clock = clock
        self._hits: dict[str, _Hits] = {}

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        began, start = self._clock(), perf_counter()
        try:
            response = await call_next(request)
        except BaseException as error:
            status = CacheStatus("bypass" if request.bypass else "miss", request.bypass, key=request.digest)
            self._tell(request, status, began, perf_counter() - start, error=type(error).__name__)
            raise
        if isinstance(response, Completion):
            status = response.status
            if status.outcome == "hit" and status.entry is not None:
                self._tell_hit(request, status, began, perf_counter() - start)
            else:
                self._tell(request, status, began, perf_counter() - start, response)
        else:
            # A follower of somebody else's stream has no entry to read the usage from.
            usage = StreamUsage() if response.status.outcome == "coalesced" else None
            told = partial(self._tell_stream, request, response.status, began, usage)
            response.chunks = Followed(response.chunks, told, start, usage)
        return response

    async def drain(self) -> None:
        """Wait until what observers keep back is where it belongs."""
        await self.observers.drain()

    def _tell_hit(self, request: Request, status: CacheStatus, began: float, seconds: float) -> None:
        """What `_tell` tells of a hit, with what it has in common with the last one of its key said once."""
        hits = self._hits.get(status.key)
        if hits is None or not hits.like(request, status):
            first = self._seen(request, status, began, seconds)
            if len(self._hits) >= _KNOWN:
                self._hits.clear()
            hits = self._hits[status.key] = _Hits(request, status, self.observers.hits_like(first))
        hits.tell(began, seconds)

    def _tell_stream(
        self,
        request: Request,
        status: CacheStatus,
        began: float,
        usage: StreamUsage | None,
        seconds: float,
        first: float | None,
        error: str,
    ) -> None:
        told = None if usage is None or error else usage.usage
        self._tell(request, status, began, seconds, None, first, error, told)

    def _tell(
        self,
        request: Request,
        status: CacheStatus,
        began: float,
        seconds: float,
        response: Completion | None = None,
        first: float | None = None,
        error: str = "",
        told: Usage | None = None,
    ) -> None:
        self.observers.tell(self._seen(request, status, began, seconds, response, first, error, told))

    def _seen(
        self,
        request: Request,
        status: CacheStatus,
        began: float,
        seconds: float,
        response: Completion | None = None,
        first: float | None = None,
        error: str = "",
        told: Usage | None = None,
    ) -> Observation:
        params, target, directives = request.params, request.target, request.directives
        call_type, entry, outcome, reason = target.call_type, status.entry, status.outcome, status.reason
        model = _label(params.get("model"))
        answered = ""
        if entry is not None:
            meta = entry.meta
            answered, usage = _label(meta.get("model")), usage_of(meta.get("usage"))
        else:
            usage = told
        paid: Usage | None
        if call_type.parts is not None and (elements := getattr(status, "elements", None)) is not None:
            usage, paid, answered = _of_elements(elements, response)
        elif outcome in _FREE:
            paid = NOTHING
        else:
            made = request.find(UpstreamCall)
            if made is None:  # none came to pass, or the caller left while others waited for it
                usage, paid = (NOTHING, NOTHING) if error and request.find(_Begun) is None else (usage, None)
            else:
                usage = paid = made.usage
                answered = answered or made.answered
            if outcome == "bypass":
                reason = reason.partition(":")[0]
        return Observation(
            call_type.name,
            model,
            self.observers.vendor(target.endpoint, model),
            outcome,
            reason,
            status.tier,
            bool(params.get("stream")),
            status.stored,
            status.key,
            directives.tenant,
            directives.namespace,
            directives.tags,
            began,
            seconds,
            first,
            usage,
            error,
            answered,
            paid,
        )


class _Hits:
    """Hits of one key that differ only in when they came and how long they took. tell: tells of one."""

    __slots__ = ("_answered", "_directives", "_model", "_reason", "_target", "_tier", "_usage", "tell")

    def __init__(self, request: Request, status: CacheStatus, tell: Callable[[float, float], None]) -> None:
        assert status.entry is not None
        meta = status.entry.meta
        self._usage, self._answered = meta.get("usage"), meta.get("model")
        self._model = request.params.get("model")
        self._target, self._directives = request.target, request.directives
        self._reason, self._tier = status.reason, status.tier
        self.tell = tell

    def like(self, request: Request, status: CacheStatus) -> bool:
        """Whether this is one of them."""
        assert status.entry is not None
        meta = status.entry.meta
        model = request.params.get("model")
        return (
            request.target is self._target
            and _same_labels(request.directives, self._directives)
            and (type(model) is str and model == self._model)
            and (status.reason == self._reason and status.tier == self._tier)
            # An entry in memory says it with the same object each time.
            and ((usage := meta.get("usage")) is self._usage or usage == self._usage)
            and meta.get("model") == self._answered
        )


def _same_labels(one: Directives, other: Directives) -> bool:
    return one is other or (one.tenant, one.namespace, one.tags) == (other.tenant, other.namespace, other.tags)


class Meter:
    """Tells observers of each call that reaches the upstream, with its usage as the provider says it, and leaves that
    for the stage that tells of its caller's call. Calls that travel together are one call."""

    def __init__(self, observers: Observers, *, clock: Clock) -> None:
        self._observers = observers
        self._clock = clock

    def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        batch = request.target.call
        if isinstance(batch, Batch):  # as the innermost handler would ask it
            return batch.ask(request, partial(self._measured, call_next))
        return self._measured(call_next, request)

    async def _measured(self, call_next: Handler, request: Request) -> Response:
        began, start = self._clock(), perf_counter()
        request.attach(_Begun())
        try:
            response = await call_next(request)
        except BaseException as error:
            usage = NOTHING if _refused(error) else None
            self._tell(request, _Said(usage), began, perf_counter() - start, None, type(error).__name__)
            raise
        if isinstance(response, Completion):
            said = _said(request.target, response.value)
            self._tell(request, said, began, perf_counter() - start, None, "")
        else:
            usage_so_far = StreamUsage()
            told = partial(self._tell_stream, request, usage_so_far, began)
            response.chunks = Followed(response.chunks, told, start, usage_so_far)
        return response

    def _tell_stream(
        self, request: Request, usage: StreamUsage, began: float, seconds: float, first: float | None, error: str
    ) -> None:
        self._tell(request, _Said(None if error else usage.usage, usage.model[:_LABEL]), began, seconds, first, error)

    def _tell(
        self, request: Request, said: _Said, began: float, seconds: float, first: float | None, error: str
    ) -> None:
        params, target, directives = request.params, request.target, request.directives
        model = _label(params.get("model"))
        made = UpstreamCall(
            target.call_type.name,
            model,
            self._observers.vendor(target.endpoint, model),
            bool(params.get("stream")),
            directives.tenant,
            directives.namespace,
            directives.tags,
            began,
            seconds,
            first,
            said.usage,
            error,
            said.model,
        )
        request.attach(made)
        self._observers.tell_upstream(made)


def _label(model: Any) -> str:
    return model[:_LABEL] if isinstance(model, str) else "" if model is None else str(model)[:_LABEL]


class _Begun:
    """Attached to a request whose call has reached the upstream."""


class _Said(NamedTuple):
    """What an answer says of itself."""

    usage: Usage | None
    model: str = ""


class Followed:
    """A stream whose end is told once: (seconds, seconds to the first chunk, why it ended: see `Observation.error`)."""

    __slots__ = ("_chunks", "_ended", "_first", "_loop", "_start", "_told", "_usage")

    def __init__(
        self,
        chunks: AsyncIterator[Any],
        told: Callable[[float, float | None, str], None],
        start: float,
        usage: StreamUsage | None,
    ) -> None:
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._chunks = chunks
        self._told = told
        self._start = start
        self._usage = usage
        self._first: float | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await self._chunks.__anext__()
        except StopAsyncIteration:
            self._end("")
            raise
        except BaseException as error:
            self._end(type(error).__name__)
            raise
        if self._first is None:
            self._first = perf_counter() - self._start
        if self._usage is not None:
            self._usage.take(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close what is behind it. Closing twice is fine."""
        try:
            await close(self._chunks)
        finally:
            self._end(LEFT)

    def __del__(self) -> None:
        """Dropped by a reader who broke off and did not close it. That is found out anywhere, also while an observer
        holds a lock of its own: it is told later. With a loop that was closed, nobody is."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._told, perf_counter() - self._start, self._first, LEFT)

    def _end(self, error: str) -> None:
        if not self._ended:
            self._ended = True
            self._told(perf_counter() - self._start, self._first, error)


def _of_elements(
    elements: Sequence[CacheStatus], response: Completion | None
) -> tuple[Usage | None, Usage | None, str]:
    """What a call about several things took, what of it was paid, and the model: thing by thing. One that is in the
    call twice would have been paid twice, and was asked for once."""
    whole, paid, answered = NOTHING, NOTHING, ""
    known = True
    asked: set[int] = set()
    for status in elements:
        meta: Mapping[str, Any] = {} if status.entry is None else status.entry.meta
        answered = answered or _label(meta.get("model"))
        usage = usage_of(meta.get("usage"))
        if usage is None:
            known = False
            continue
        whole = whole.plus(usage)
        if status.outcome in _ASKED and id(status) not in asked:
            asked.add(id(status))
            paid = paid.plus(usage)
    if known:
        return whole, paid, answered
    # Nothing was kept of some: the answer has the sum, without what was in the call twice.
    said = None if response is None else usage_of(usage_in(response.value))
    missing = any(status.outcome in _ASKED for status in elements)
    found = {id(s): usage_of(s.entry and s.entry.meta.get("usage")) for s in elements if s.outcome not in _ASKED}
    if said is None or None in found.values():
        return said, None if missing else NOTHING, answered
    rest = said
    for usage in found.values():
        rest = rest.minus(usage or NOTHING)
    return said, rest, answered


def _said(target: Target, answer: Any) -> _Said:
    """The usage of a whole answer, where the APIs put it; or else as its call type reads it."""
    value = answer.value if isinstance(answer, Whole) else answer
    told = usage_in(value)
    model: Any = model_in(value)
    if told is None and not isinstance(value, dict | str | bytes | list):
        try:
            body, _ = target.answers.encode(value)
            facts = target.call_type.judge(orjson.loads(body)).facts
        except Exception:  # an answer may be any object at all, and then says nothing to us
            return _Said(None)
        told, model = facts.get("usage"), facts.get("model")
    return _Said(usage_of(told), model[:_LABEL] if isinstance(model, str) else "")


def _refused(error: BaseException) -> bool:
    """Whether the provider has answered with an error, so that it charges nothing."""
    if not isinstance(error, Exception):
        return False
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int) and 400 <= status <= 599:
            return True
    return False
