"""The contracts. Each is narrow; whoever keeps one fits in, no base class needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from asynccache.model import CacheKey, Completion, CompletionStream, Entry, KeepOut, Request, Response

Clock = Callable[[], float]
"""Seconds since the epoch."""

Handler = Callable[[Request], Awaitable[Response]]


class Stage(Protocol):
    """A layer around the call: an `async def` of this shape. Answer without `call_next` to short-circuit."""

    def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]: ...


class AsyncCacheBackend(Protocol):
    """Keeps entries by key. The law, held by `asynccache.testing.BackendContract`:

    * An entry comes back byte for byte and field for field, or not at all (None).
    * An expired entry may come back: Lookup judges freshness. Native expiry only reclaims space.
    * An entry of kind "epoch" is evicted only when nothing else is left to evict.
    * Only `BackendError` is raised: `CorruptEntry` for bytes that are not a whole entry of this key,
      `EntryTooLarge` for one that can never fit, `BackendClosed` after `aclose()`, and
      `BackendUnavailable` or `BackendTimeout` for the rest; the driver's error is the cause.
    * Safe under cancellation: afterwards there is the old entry or the new one, never a mix.
    * The constructor does no I/O. A client handed in is not closed. Closing twice is fine.
    * Nothing blocks the event loop. Many tasks may use one backend at the same time.
    """

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry under this key, or None."""
        ...

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Put the entry there, in the place of any other."""
        ...

    async def delete(self, key: CacheKey, /) -> bool:
        """Take the entry away. True when there was one."""
        ...

    async def aclose(self) -> None:
        """Free what the backend opened itself."""
        ...


@runtime_checkable
class SupportsPing(Protocol):
    """A backend that can say whether it works."""

    async def ping(self) -> None:
        """Return when reads and writes would work; raise BackendError otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class Size:
    """How full a backend is: entries, and the bytes they take."""

    entries: int
    bytes: int


@runtime_checkable
class SupportsSize(Protocol):
    """A backend that can say how full it is."""

    async def size(self) -> Size: ...


@runtime_checkable
class SupportsAdd(Protocol):
    """A backend that can write on a condition."""

    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        """Put the entry there unless there is one. True when it was put: of several that add at the same
        time, in whatever process, one gets that. Raises as `set` does."""
        ...


@runtime_checkable
class SupportsAging(Protocol):
    """A backend that knows how old its answers are: one that finds them by meaning."""

    async def evict_older_than(self, seconds: float) -> int:
        """Take away all answers, found by meaning, that are older. How many there were. Raises BackendError."""
        ...


@runtime_checkable
class SupportsLeave(Protocol):
    """A backend that holds connections or tasks which belong to an event loop."""

    async def leave(self) -> None:
        """Close what belongs to the running loop. Later use on that loop opens it anew."""
        ...


Released = Literal["stored", "nothing", "lapsed"]


class Wait(Protocol):
    """A release that is waited for."""

    async def __call__(self, seconds: float, /) -> Released:
        """Until the lease is released: "stored" when its holder has stored an entry, "nothing" when it has
        not. "lapsed" when so much time has passed, or the news was cut off: look again. Raises nothing."""
        ...


class Leases(Protocol):
    """The right to call the upstream for a key, held by one process at a time.

    A lease ends by itself `seconds` after it was acquired or renewed, so that the death of its holder
    delays others no longer than that. It saves calls and guards nothing: after a pause of its holder
    there may be two. All verbs raise BackendError.
    """

    @property
    def seconds(self) -> float:
        """How long a lease holds unless it is renewed."""
        ...

    async def acquire(self, key: CacheKey, token: str, /) -> bool:
        """Take the lease under this token, which nobody else uses. False when it is somebody's."""
        ...

    async def renew(self, key: CacheKey, token: str, /) -> bool:
        """Hold it for another `seconds`. False when it is no longer this token's."""
        ...

    async def release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        """End it, if it is still this token's, and wake all who wait for it: is there an entry to be read now?"""
        ...

    def watch(self, key: CacheKey, /) -> AbstractAsyncContextManager[Wait]:
        """No release that happens inside the block is missed."""
        ...


@runtime_checkable
class SupportsLease(Protocol):
    """A backend through which processes can agree on who calls; None when what it stands on cannot."""

    @property
    def leases(self) -> Leases | None: ...


Told = Callable[[str | None], None]


class Changes(Protocol):
    """News of entries that other processes have overwritten or deleted."""

    def listen(self, told: Told, /) -> AbstractAsyncContextManager[None]:
        """Inside the block: `told(digest)` for each change, `told(None)` whenever changes may have been missed, the
        first time once the news has begun to come. Raises nothing: while the store is away it is tried again."""
        ...


@runtime_checkable
class SupportsChanges(Protocol):
    """A backend that tells what others change in it; None when what it stands on cannot."""

    @property
    def changes(self) -> Changes | None: ...


@runtime_checkable
class Remote(Protocol):
    """A backend that is reached over a network, and what time it may take unless its user says otherwise.

    read_timeout, write_timeout: seconds. max_concurrent: operations under way at the same time.
    """

    remote: Literal[True]
    read_timeout: float
    write_timeout: float
    max_concurrent: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer says about itself.

    refusal: why it may not be stored ("length", "empty", …), or "" when it may.
    facts:   what to remember beside it: the `model` that answered and `usage`, as far as it says so.
    """

    refusal: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class CallType(Protocol):
    """What the arguments and answers of one kind of call mean. Pure: no I/O, no state.

    name:  stands in the key, and in `supported_call_types`.
    turns: the argument that holds the list of messages, or "".
    parts: how a call about several things is taken apart; None for a kind of call that is about one.
    keep_out: what `Target.keep_out` has to be for this kind of call; None when any call may be cached.
    """

    @property
    def name(self) -> str: ...

    @property
    def turns(self) -> str: ...

    @property
    def parts(self) -> Parts | None: ...

    @property
    def keep_out(self) -> KeepOut | None: ...

    def views(self, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """Split the arguments into (everything but the prompt, the prompt as text; "" when there is none)."""
        ...

    def judge(self, answer: Any) -> Verdict:
        """Read a whole answer (decoded JSON)."""
        ...

    def judge_stream(self, chunks: Sequence[Any]) -> Verdict:
        """Read the chunks (decoded JSON) of a stream that ended without an error."""
        ...

    def assemble(self, chunks: Sequence[Any]) -> Any:
        """The whole answer that these chunks make (both decoded JSON). Raises ValueError when they make none."""
        ...

    def cut(self, answer: Any, params: Mapping[str, Any]) -> list[Any]:
        """The chunks in which a call with these arguments would have got this answer (both decoded JSON).
        Raises ValueError when there are none."""
        ...

    def fit(self, chunks: list[bytes], asked: Any, params: Mapping[str, Any]) -> list[bytes]:
        """Chunks (JSON) that were recorded from a call with the `stream_options` asked, as a call with these
        arguments would have got them. Raises ValueError when it wants what the recording does not have."""
        ...


class Split(NamedTuple):
    """A call about several things.

    things: each of them; equal ones are there once.
    places: for each thing in the call, in order, which of `things` it is.
    """

    things: list[Any]
    places: list[int]


class Parts(Protocol):
    """How a call about several things becomes calls about one, and their answers one answer. Answers are
    the wrapped callable's own: dicts or models. Pure."""

    def split(self, params: Mapping[str, Any]) -> Split | None:
        """None when the call is about one thing, or is not to be taken apart."""
        ...

    def alone(self, params: Mapping[str, Any], thing: Any) -> dict[str, Any]:
        """The arguments of a call about this thing alone; all else is as in `params`."""
        ...

    def join(self, params: Mapping[str, Any], alone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The arguments of one call for these calls about one thing each."""
        ...

    def divide(self, answer: Any, alone: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What each of the calls alone would have got; sums such as usage are divided without remainder.
        Raises TypeError for an answer of an unknown shape, ValueError for one that has not one part for each."""
        ...

    def unite(self, answers: Sequence[Any], places: Sequence[int], latest: int) -> Any:
        """The answer to the call about all, made of those to the calls alone, which it may use up. What it says
        of itself is what the latest of them says. Raises as `divide` does."""
        ...


class Answers(Protocol):
    """How one wrapped callable's answers become JSON and come back as its own types."""

    def encode(self, value: Any) -> tuple[bytes, dict[str, Any]]:
        """The answer as JSON, and facts that `decode` will need. Raises ValueError if it would not
        come back equal."""
        ...

    def decode(self, entry: Entry) -> Any:
        """A new value, equal to the one that was encoded."""
        ...

    def encode_chunk(self, chunk: Any) -> bytes:
        """One chunk of a stream as JSON, without line breaks. Raises ValueError as `encode` does."""
        ...

    def decode_chunk(self, body: bytes) -> Any: ...

    def carry(self, response: Completion) -> Any:
        """The value that the caller gets, with its status on it."""
        ...

    def stream(self, response: CompletionStream) -> AsyncIterator[Any]:
        """What the caller gets for a stream: the callable's own stream type."""
        ...


class PreHook(Protocol):
    """Runs before the key is built. Change `request.params`, or return other params."""

    async def __call__(self, request: Request, /) -> Mapping[str, Any] | None: ...


class PostHook(Protocol):
    """Runs on every answer before its caller gets it; on a miss, before it is stored, so that
    `response.tag()` and `response.veto()` have their effect."""

    async def __call__(self, response: Response, request: Request, /) -> None: ...
