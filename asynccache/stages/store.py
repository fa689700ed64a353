"""Take the answer, ask the admission rules, write. Writing fails open here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from math import inf
from random import random as _random
from typing import Any, TypeVar

import orjson

from asynccache.background import Hedged, cancel
from asynccache.epochs import Epochs, Numbers, invalidated_since, scopes, tags
from asynccache.errors import BackendError
from asynccache.freshness import Freshness, Random
from asynccache.keys import rebuild
from asynccache.material import ReadsFile
from asynccache.model import Completion, CompletionStream, Entry, Kind, Request, Response
from asynccache.pipeline import Writes
from asynccache.protocols import AsyncCacheBackend, Clock, Handler, Verdict
from asynccache.stats import Stats
from asynccache.streams import Recorder, join

logger = logging.getLogger("asynccache")

T = TypeVar("T")
_Encoded = tuple[Kind, bytes, Verdict, dict[str, Any]]
Finish = Callable[[Response, Request], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Began:
    """Attached to a request whose call was made before it came here: when that began."""

    when: float


class Store:
    """Writes what the upstream answered, when the call, the answer and the hooks allow it.

    max_entry_bytes: a larger answer is passed on and not stored.
    finish: runs the post-cache hooks on an answer, before it is written, since they may tag or veto it.
    """

    def __init__(
        self,
        backend: AsyncCacheBackend,
        *,
        epochs: Epochs,
        writes: Writes,
        finish: Finish,
        stats: Stats,
        clock: Clock,
        freshness: Freshness = Freshness(),  # noqa: B008 (immutable)
        random: Random = _random,
        max_entry_bytes: float = inf,
    ) -> None:
        self._backend = backend
        self._max_entry_bytes = max_entry_bytes
        self._epochs = epochs
        self._writes = writes
        self._finish = finish
        self._stats = stats
        self._clock = clock
        self._freshness = freshness
        self._random = random
        self._behind: set[asyncio.Task[Any]] = set()

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        directives = request.directives
        if request.bypass or directives.no_store:
            return await call_next(request)
        names = [*scopes(directives), *tags(directives, directives.tags)]
        if request.find(Hedged) is not None:
            return await self._hedged(request, call_next, names)
        made = request.find(Began)
        began = self._clock() if made is None else made.when
        # Read before the call: an invalidation while it is under way must end what it brings.
        numbers = await self._numbers(names)
        request.attach(call := _Call(began, numbers, _unchanged(request), None, tuple(names), late=made is not None))
        return await self._take(request, await call_next(request), call)

    async def outdated(self, request: Request) -> bool:
        """Whether what this request's call brings was invalidated or purged after it had begun. What this process has
        heard decides while the call is no older than that may be; after that the backend does. When that cannot say,
        an old call is outdated."""
        call = request.find(_Call)
        if call is None:
            return False
        numbers, now = call.numbers or (), self._clock()
        heard = self._epochs.heard(call.names) if call.numbers is None else ()
        if self._epochs.moved((*call.heard, *numbers, *heard)) or invalidated_since(heard, call.began):
            return True
        if 0 <= now - call.began <= self._epochs.max_age:
            return False
        if call.reading is not None and call.reading.done() and not call.reading.cancelled():
            numbers = call.reading.result() or ()
        try:
            return not numbers or invalidated_since(numbers, call.began) or await self._epochs.check(numbers, now) != ""
        except Exception as error:  # also of a backend that breaks its law: it must not break the call
            self._failed(error)
            return True

    async def drain(self) -> None:
        """Wait until what this event loop keeps behind its callers is kept."""
        loop = asyncio.get_running_loop()
        while tasks := [task for task in list(self._behind) if task.get_loop() is loop]:
            await asyncio.wait(tasks)

    async def _hedged(self, request: Request, call_next: Handler, names: list[str]) -> Response:
        """The backend is slow: its epochs are read while the call is under way."""
        began, heard = self._clock(), self._epochs.heard(names)
        reading = self._go_on(self._numbers(names))
        request.attach(call := _Call(began, None, _unchanged(request), reading, tuple(names), heard))
        try:
            return await self._take(request, await call_next(request), call)
        except BaseException:
            await cancel(reading)
            raise

    async def _take(self, request: Request, response: Response, call: _Call) -> Response:
        if isinstance(response, CompletionStream):
            self._record(request, response, call)
            await self._finish(response, request)
        else:
            # As the upstream gave it: what the hooks make of it they make of every copy.
            encoded = self._encode(request, response, call)
            await self._finish(response, request)
            if encoded is not None:
                # Kept even if it is not written: those who wait for the same answer decode their own from it.
                response.entry = await self._admit(request, response, call, *encoded)
        return response

    def _encode(self, request: Request, response: Completion, call: _Call) -> _Encoded | None:
        target = request.target
        if not call.unchanged:
            self._stats.count_rejection("changed")
            return None
        try:
            body, facts = target.answers.encode(response.value)
        except Exception as error:  # an answer may be any object at all: then it is passed on, not stored
            logger.debug("not stored: %s", error)
            self._stats.count_rejection("answer-type")
            return None
        return "completion", body, _judge(target.call_type.judge, orjson.loads(body)), facts

    def _record(self, request: Request, response: CompletionStream, call: _Call) -> None:
        target, reject = request.target, self._stats.count_rejection

        async def done(chunks: list[bytes]) -> None:
            verdict = _judge(target.call_type.judge_stream, [orjson.loads(chunk) for chunk in chunks])
            facts: dict[str, Any] = {"gaps": recorder.gaps}
            if isinstance(asked := request.params.get("stream_options"), dict):
                facts["asked"] = asked
            await self._admit(request, response, call, "stream", join(chunks), verdict, facts)

        if not call.unchanged:
            reject("changed")
        elif request.kind != "stream":  # a stream that nobody asked for could not be told from a whole answer
            reject("answer-type")
        else:
            limit = self._max_entry_bytes
            response.chunks = recorder = Recorder(
                response.chunks, target.answers.encode_chunk, done, reject, limit=limit
            )

    async def _admit(
        self,
        request: Request,
        response: Response,
        call: _Call,
        kind: Kind,
        body: bytes,
        verdict: Verdict,
        facts: dict[str, Any],
    ) -> Entry:
        """The answer as an entry; written unless the call, the answer or a hook refuses."""
        now, ttl = self._clock(), request.directives.ttl
        fresh_until, expires = self._freshness.ends(now, ttl, self._random)
        meta = {**verdict.facts, **facts, "duration": now - call.began}
        if response.notes:
            meta["metadata"] = dict(response.notes)
        entry = Entry(body, kind, call.began, fresh_until, expires, meta=meta)
        response.status.entry, response.status.now = entry, now
        refusal = response.refusal or verdict.refusal or ("ttl" if ttl == 0 else "")
        if len(body) > self._max_entry_bytes:
            refusal = "too-large"
        if refusal:
            self._stats.count_rejection(refusal)
            return entry
        keep = self._keep(request, response, call, entry)
        if call.reading is None:
            return await keep
        self._go_on(keep)
        return entry

    def _go_on(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do it behind the caller."""
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        return task

    async def _keep(self, request: Request, response: Response, call: _Call, entry: Entry) -> Entry:
        """The entry with its tags; written unless it was invalidated."""
        numbers = call.numbers if call.reading is None else await call.reading
        late = await self._numbers(tags(request.directives, response.tags))
        entry = replace(entry, tags=(*(numbers or ()), *(late or ())))
        response.status.entry = entry
        if numbers is not None:
            request.attach(replace(call, numbers=entry.tags))  # for those who come while it is being written
        # What was read before the call has moved on by now; what was read later says when it last did.
        read_later = entry.tags if call.late or call.reading is not None else late or ()
        if self._epochs.moved((*call.heard, *entry.tags)) or invalidated_since(read_later, call.began):
            self._stats.count_rejection("invalidated")
            response.refusal = "invalidated"
        elif numbers is not None and late is not None:
            await self._writes.run(self._write(request, response, entry))
        return entry

    async def _write(self, request: Request, response: Response, entry: Entry) -> None:
        try:
            await self._backend.set(request.key, entry)
        except Exception as error:  # also of a backend that breaks its law: it must not break the call
            self._failed(error)
        else:
            self._stats.stored += 1
            response.status.stored = True

    async def _numbers(self, names: Iterable[str]) -> Numbers | None:
        """The epochs of these tags, or None when the backend cannot say: then nothing may be written,
        since nothing could end it again."""
        try:
            return await self._epochs.read(names)
        except Exception as error:  # as above
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        if isinstance(error, BackendError):
            logger.debug("not stored: %s", error)
        else:
            logger.error("the backend broke its law: it raised what is no BackendError", exc_info=error)
        self._stats.write_errors += 1


@dataclass(frozen=True, slots=True)
class _Call:
    """What was true just before the upstream was called.

    numbers:   the epochs of the tags that were known by then; None when the backend could not say.
    unchanged: whether the arguments were still those that the key was built from.
    late:      whether the call was made before its numbers were read.

    Of a hedged call, whose numbers are read while it is under way:
    reading: brings them. names: the tags. heard: what was known of their numbers, old ones included.
    """

    began: float
    numbers: Numbers | None
    unchanged: bool
    reading: asyncio.Task[Numbers | None] | None = None
    names: tuple[str, ...] = ()
    heard: Numbers = ()
    late: bool = False


def _unchanged(request: Request) -> bool:
    """Their owner may have changed the messages since the key was built, and the upstream gets them as
    they are now. Files are not read again."""
    key = request.key
    try:
        return not key.source or rebuild(key) == key.digest
    except ReadsFile:
        return True
    except Exception:  # what could be read then cannot be read now
        return False


def _judge(judge: Callable[[Any], Verdict], answer: Any) -> Verdict:
    try:
        return judge(answer)
    except Exception as error:  # a provider may send any shape: one that cannot be read is not stored
        logger.debug("not stored, unreadable: %r", error)
        return Verdict("unreadable")
