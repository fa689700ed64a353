"""The values that travel through the pipeline. No I/O, no policy.

All times are absolute, in seconds since the epoch; all sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import orjson

from asynccache.errors import OrderError

if TYPE_CHECKING:
    from asynccache.protocols import Answers, CallType

T = TypeVar("T")

Kind = Literal["completion", "stream", "epoch"]
Outcome = Literal["hit", "miss", "stale", "coalesced", "semantic", "bypass"]
Views = Callable[..., tuple[str, str]]
KeepOut = Callable[[Mapping[str, Any]], str]

Change = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

KEY_VERSION = "asynccache/1"
"""Goes up when the material of keys changes: entries under older keys are then never found."""


class CacheMode(StrEnum):
    """Whether a call is cached unless it says otherwise, or only when it says so."""

    default_on = "default_on"
    default_off = "default_off"


class CacheKey:
    """Three views of one request. Only `digest` is computed eagerly.

    digest: exact identity, SHA-256, 64 hex digits.
    scope:  everything but the prompt (model, parameters, system prompt, earlier turns, tenant,
            namespace), as 64 hex digits: the partition in which texts may be compared.
    text:   the prompt that gets embedded.

    A key made from a digest alone (`CacheKey(digest)`) has an empty scope and text: it can be
    read, written and deleted by identity, and never matches by similarity.
    """

    __slots__ = ("_views", "digest", "source")

    source: tuple[Any, ...]
    """What `build_key` made it from, and would make it from again; () for any other key."""

    def __init__(self, digest: str, views: Views | tuple[str, str] = ("", ""), source: tuple[Any, ...] = ()) -> None:
        self.digest = digest
        self._views = views
        self.source = source

    def _both(self) -> tuple[str, str]:
        views = self._views
        if not isinstance(views, tuple):
            views = self._views = views(*self.source)
        return views

    @property
    def scope(self) -> str:
        return self._both()[0]

    @property
    def text(self) -> str:
        return self._both()[1]

    @property
    def border(self) -> tuple[str, str | None]:
        """(namespace, tenant) of the call it was built for; ("", None) when its source does not say."""
        for part in self.source:
            if isinstance(part, Directives):
                return part.namespace, part.tenant
        return "", None

    @property
    def semantic(self) -> bool:
        """Whether its call may be answered, and may answer others, by similarity: unless it says otherwise."""
        return all(part.semantic for part in self.source if isinstance(part, Directives))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheKey) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"CacheKey({self.digest[:12]}…)"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a backend keeps. Immutable, so one object may be shared by everybody.

    body:        the answer as JSON; for `kind="stream"`, its chunks as JSON, one a line.
    kind:        "completion", "stream", or "epoch" (the number of a namespace: small, never expires,
                 and not to be evicted while another entry could be).
    created:     when the call that produced the answer began.
    fresh_until: soft end of life; None: as long as `expires`.
    expires:     hard end of life; None: never.
    tags:        (tag, its epoch on that day) pairs; a tag whose epoch has moved on ends the entry.
    meta:        JSON-able facts: the model that answered, usage, duration in seconds, …
    """

    body: bytes
    kind: Kind
    created: float
    fresh_until: float | None = None
    expires: float | None = None
    tags: tuple[tuple[str, int], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """Why an answer stored for another wording serves.

    question:   the text that the answer was stored for. digest: its key's.
    similarity: cosine of the two texts' embeddings, from -1 to 1.
    layer:      who decided: "threshold", "guards", "scorer", "verifier", "budget", …
    score:      the probability that the answer is right; the similarity, where nothing better is known.
    reasons:    what each layer said, in words.
    """

    question: str
    digest: str
    similarity: float
    layer: str
    score: float
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Neighbour(Entry):
    """An entry of another key, whose question means the same.

    match: why it serves.
    next:  the next best, for one who may not serve this one (it is invalidated, or too old); None when there is none.
           Told whether this one is over for good, which takes it away. Raises BackendError.
    """

    match: Match = field(kw_only=True)
    next: Callable[[bool], Awaitable[Neighbour | None]] | None = field(
        default=None, kw_only=True, compare=False, repr=False
    )


class _Draft:
    """An entry that is being made: what may be set has the same layout."""

    __slots__ = ("body", "created", "expires", "fresh_until", "kind", "meta", "tags")

    def __init__(
        self,
        body: bytes,
        kind: Kind,
        created: float,
        fresh_until: float | None,
        expires: float | None,
        tags: tuple[tuple[str, int], ...],
        meta: Mapping[str, Any],
    ) -> None:
        self.body = body
        self.kind = kind
        self.created = created
        self.fresh_until = fresh_until
        self.expires = expires
        self.tags = tags
        self.meta = meta


def new_entry(
    body: bytes,
    kind: Kind,
    created: float,
    fresh_until: float | None,
    expires: float | None,
    tags: tuple[tuple[str, int], ...],
    meta: Mapping[str, Any],
) -> Entry:
    """`Entry(…)` in a third of the time, for hits: a frozen dataclass sets its own fields the long way."""
    entry: Any = _Draft(body, kind, created, fresh_until, expires, tags, meta)
    entry.__class__ = Entry
    return cast(Entry, entry)


@dataclass(frozen=True, slots=True)
class Directives:
    """What one call asks of the cache: the handle's defaults under the call's own `cache={…}`.

    ttl:      seconds the answer may be kept; None: for ever; 0: not at all.
    max_age:  seconds: an older entry is not served; None: any age.
    no_cache: do not read. no_store: do not write.
    only_if_cached: do not call the upstream: without an answer, raise NotCached.
    semantic: False: only an answer to this very question will do, and its answer is for nobody who asks otherwise.
    enabled:  False under `mode="default_off"` without `use-cache`.
    """

    ttl: float | None = None
    max_age: float | None = None
    no_cache: bool = False
    no_store: bool = False
    enabled: bool = True
    namespace: str = ""
    tenant: str | None = None
    tags: tuple[str, ...] = ()
    only_if_cached: bool = False
    semantic: bool = True
    head: bytes = field(init=False)
    bypass: str = field(init=False)

    def __post_init__(self) -> None:
        # The namespace as it stands in every key, and why the cache keeps out of the call, if it does.
        object.__setattr__(self, "head", orjson.dumps(self.namespace))
        bypass = "default-off" if not self.enabled else "no-cache, no-store" if self.no_cache and self.no_store else ""
        object.__setattr__(self, "bypass", bypass)


class CacheStatus:
    """How an answer came about; `asynccache.status(answer)` returns it. Words of RFC 9111 and 9211.

    outcome:    "hit", "miss", "stale", "coalesced", "semantic" or "bypass".
    reason:     why it was not a plain hit ("absent", "expired", "max-age", "no-cache", "hedged" for a look-up
                that was too slow, "stale-while-revalidate", "stale-if-error: RateLimitError", …); else "".
    tier:       the backend that answered, "" when the upstream did.
    key:        the digest, "" when the request has none.
    age:        seconds since the call that produced the answer; 0 for a new one.
    ttl:        seconds it will stay fresh, counted from this answer; None: no end, or not stored.
    similarity: of the prompt that was matched; 1.0 unless the outcome is "semantic".
    match:      what was matched, and who decided that it serves; None unless the outcome is "semantic".
    stored:     whether this very answer was written to the cache, or came from it.
    """

    def __init__(
        self,
        outcome: Outcome,
        reason: str = "",
        tier: str = "",
        key: str = "",
        entry: Entry | None = None,
        now: float = 0.0,
        stored: bool = False,
    ) -> None:
        self.outcome: Outcome = outcome
        self.reason = reason
        self.tier = tier
        self.key = key
        self.entry = entry
        self.now = now
        self.stored = stored

    @property
    def match(self) -> Match | None:
        return self.entry.match if isinstance(self.entry, Neighbour) else None

    @property
    def similarity(self) -> float:
        return 1.0 if self.match is None else self.match.similarity

    @property
    def layer(self) -> str:
        """Who decided that the matched answer serves; "" unless the outcome is "semantic"."""
        return "" if self.match is None else self.match.layer

    @property
    def age(self) -> float:
        if self.entry is None or self.outcome in ("miss", "coalesced", "bypass"):
            return 0.0
        return max(0.0, self.now - self.entry.created)

    @property
    def ttl(self) -> float | None:
        if self.entry is None or not self.stored:
            return None
        end = self.entry.expires if self.entry.fresh_until is None else self.entry.fresh_until
        return None if end is None else max(0.0, end - self.now)

    def __repr__(self) -> str:
        facts = [self.outcome, *([self.reason] if self.reason else []), *([self.tier] if self.tier else [])]
        return f"CacheStatus({' '.join(facts)}, key={self.key[:12]}, age={self.age:.3f}, ttl={self.ttl})"


@dataclass(frozen=True, slots=True)
class Target:
    """What was wrapped, as the pipeline sees it.

    call:      any acompletion-like callable: keyword arguments in, an answer or a stream out.
    call_type: what its arguments mean.
    answers:   how its answers become bytes and are rebuilt: from here, never from an entry.
    endpoint:  where it goes when the arguments do not say it (base URL, organization, or the name
               of a function that takes no model); part of the key.
    absent:    argument → the default that stands for "not given" (None, NOT_GIVEN): left out of the key.
    fill:      argument → a default that counts: in the key also when not given.
    keep_out:  says why the cache must keep out of a call with these arguments, "" when it need not.
    reads:     the arguments of a call → those for its key; None: as they are. Twice must be as once.
    """

    call: Callable[..., Awaitable[Any]]
    call_type: CallType
    answers: Answers
    endpoint: str = ""
    absent: Mapping[str, Any] = field(default_factory=dict)
    fill: Mapping[str, Any] = field(default_factory=dict)
    keep_out: KeepOut | None = None
    reads: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        # What stands before the arguments in every key of this target.
        head = orjson.dumps([KEY_VERSION, self.call_type.name, self.endpoint])
        object.__setattr__(self, "head", head)


class Outgoing:
    """What is to be done to the arguments of a call just before it goes to the upstream; see `Request.before_call`."""

    def __init__(self, changes: tuple[Change, ...]) -> None:
        self.changes = changes

    async def of(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments as they are to be sent."""
        for change in self.changes:
            params = await change(params)
        return params


class Request:
    """One trip through the pipeline; owned by one task; mutable.

    params:     exactly what the wrapped call would get, without `cache`. A stage after BuildKey that
                wants others puts a new dict here: the key still reads the old one.
    directives: what this call asks of the cache.
    bypass:     "" or why the cache keeps out of this call altogether.
    """

    __slots__ = ("_attached", "bypass", "directives", "key", "params", "target")

    key: CacheKey
    """Set by BuildKey; reading it earlier, or on a bypassed call, raises OrderError."""

    def __init__(self, params: dict[str, Any], directives: Directives, target: Target) -> None:
        self.params = params
        self.directives = directives
        self.target = target
        self.bypass = directives.bypass

    def __getattr__(self, name: str) -> Any:
        # Reached only for a slot that was never set, so that reading a key that is there costs nothing.
        if name == "key":
            raise OrderError("request.key was read before BuildKey set it: put the stage after BuildKey")
        if name == "_attached":
            self._attached: dict[type, Any] = {}
            return self._attached
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def digest(self) -> str:
        """The key's digest, or "" while there is none."""
        try:
            return self.key.digest
        except OrderError:
            return ""

    @property
    def kind(self) -> Kind:
        """What the caller wants back: "stream" or "completion"."""
        return "stream" if self.params.get("stream") else "completion"

    def attach(self, value: Any) -> None:
        """Leave a value for a later stage, under its type."""
        self._attached[type(value)] = value

    def before_call(self, change: Change) -> None:
        """Let this have the arguments just before the upstream is called, if it is: a function that gives others, and
        leaves those that it is given as they are. The key does not see what it does, so it must not change the answer.
        Calls that are made for several requests together (of embeddings) go without."""
        before = self.find(Outgoing)
        self.attach(Outgoing((*(() if before is None else before.changes), change)))

    def find(self, kind: type[T]) -> T | None:
        """The value of that type which an earlier stage attached, or None."""
        return self._attached.get(kind)


class Completion:
    """A whole answer, as the wrapped callable's own type.

    value: this caller's own: every caller's is decoded anew, so nobody can change another's.
    entry: the bytes it came from, or was made into; None when it cannot be kept.

    A post-cache hook may call `tag()`, `note()` and `veto()`; they matter while the answer has not been stored
    yet, and not on a hit.
    """

    tags: tuple[str, ...] = ()
    refusal: str = ""
    notes: Mapping[str, Any] = {}
    hooked: bool = False

    def __init__(self, status: CacheStatus, value: Any, entry: Entry | None = None) -> None:
        self.status = status
        self.value = value
        self.entry = entry

    def tag(self, *tags: str) -> None:
        """Add tags to what will be stored."""
        self.tags += tags

    def note(self, **facts: Any) -> None:
        """Add facts (what JSON has) to what will be stored, under `metadata` in `Entry.meta`."""
        self.notes = {**self.notes, **facts}

    def veto(self, reason: str = "veto") -> None:
        """Keep this answer out of the cache; counted under `reason`."""
        self.refusal = reason


class CompletionStream:
    """An answer in pieces: an async iterator of chunks of the wrapped callable's own type.

    source: what the upstream returned, for clients that hand out its other attributes; None on a replay.
    """

    tags: tuple[str, ...] = ()
    refusal: str = ""
    notes: Mapping[str, Any] = {}
    hooked: bool = False

    def __init__(self, status: CacheStatus, chunks: AsyncIterator[Any], source: Any = None) -> None:
        self.status = status
        self.chunks = chunks
        self.source = source

    def tag(self, *tags: str) -> None:
        """Add tags to what will be stored when the stream has ended cleanly."""
        self.tags += tags

    def note(self, **facts: Any) -> None:
        """Add facts (what JSON has) to what will be stored, under `metadata` in `Entry.meta`."""
        self.notes = {**self.notes, **facts}

    def veto(self, reason: str = "veto") -> None:
        """Keep this answer out of the cache; counted under `reason`."""
        self.refusal = reason


Response = Completion | CompletionStream
