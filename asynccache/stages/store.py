"""Take the answer, ask the admission rules, write. Writing fails open here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from asynccache.epochs import Epochs, Numbers, scopes, tags
from asynccache.errors import BackendError
from asynccache.model import Completion, CompletionStream, Entry, Kind, Request, Response
from asynccache.pipeline import Writes
from asynccache.protocols import AsyncCacheBackend, Clock, Handler, Verdict
from asynccache.stats import Stats
from asynccache.streams import Recorder, join

logger = logging.getLogger("asynccache")

Finish = Callable[[Response, Request], Awaitable[None]]


class Store:
    """Writes what the upstream answered, when the call, the answer and the hooks allow it.

    finish: runs the post-cache hooks on an answer, before it is written, since they may tag or veto it.
    """

    def __init__(
        self, backend: AsyncCacheBackend, *, epochs: Epochs, writes: Writes, finish: Finish, stats: Stats, clock: Clock
    ) -> None:
        self._backend = backend
        self._epochs = epochs
        self._writes = writes
        self._finish = finish
        self._stats = stats
        self._clock = clock

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        directives = request.directives
        if request.bypass or directives.no_store:
            return await call_next(request)
        began = self._clock()
        # Read before the call: an invalidation while it is under way must end what it brings.
        numbers = await self._numbers([*scopes(directives), *tags(directives, directives.tags)])
        response = await call_next(request)
        taking = _Taking(request, response, began, numbers)
        if isinstance(response, CompletionStream):
            self._record(taking, response)
        await self._finish(response, request)
        if isinstance(response, Completion):
            await self._take(taking, response)
        return response

    async def _take(self, taking: _Taking, response: Completion) -> None:
        target = taking.request.target
        try:
            body, facts = target.answers.encode(response.value)
        except Exception as error:  # an answer may be any object at all: then it is passed on, not stored
            logger.debug("not stored: %s", error)
            self._stats.count_rejection("answer-type")
            return
        verdict = _judge(target.call_type.judge, orjson.loads(body))
        # Kept even if it is not written: those who wait for the same answer decode their own from it.
        response.entry = await self._admit(taking, "completion", body, verdict, facts)

    def _record(self, taking: _Taking, response: CompletionStream) -> None:
        target = taking.request.target

        async def done(chunks: list[bytes]) -> None:
            verdict = _judge(target.call_type.judge_stream, [orjson.loads(chunk) for chunk in chunks])
            await self._admit(taking, "stream", join(chunks), verdict, {})

        response.chunks = Recorder(response.chunks, target.answers.encode_chunk, done, self._stats.count_rejection)

    async def _admit(self, taking: _Taking, kind: Kind, body: bytes, verdict: Verdict, facts: dict[str, Any]) -> Entry:
        """The answer as an entry; written unless the call, the answer or a hook refuses."""
        response, directives = taking.response, taking.request.directives
        now, ttl = self._clock(), directives.ttl
        late = await self._numbers(tags(directives, response.tags))
        entry = Entry(
            body,
            kind,
            taking.began,
            expires=None if ttl is None else now + ttl,
            tags=(*(taking.numbers or ()), *(late or ())),
            meta={**verdict.facts, **facts, "duration": now - taking.began},
        )
        response.status.entry, response.status.now = entry, now
        refusal = response.refusal or verdict.refusal or ("ttl" if ttl == 0 else "")
        if refusal:
            self._stats.count_rejection(refusal)
        elif taking.numbers is not None and late is not None:
            await self._writes.run(self._write(taking.request, response, entry))
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
class _Taking:
    """An answer on its way into the cache."""

    request: Request
    response: Response
    began: float
    numbers: Numbers | None


def _judge(judge: Callable[[Any], Verdict], answer: Any) -> Verdict:
    try:
        return judge(answer)
    except Exception as error:  # a provider may send any shape: one that cannot be read is not stored
        logger.debug("not stored, unreadable: %r", error)
        return Verdict("unreadable")
