"""Remember errors that would only come again."""

from __future__ import annotations

from threading import Lock
from typing import TypeVar

from asynccache.errors import ConfigError
from asynccache.model import Request, Response
from asynccache.protocols import Clock, Handler
from asynccache.stats import Stats

E = TypeVar("E", bound=Exception)


class Negative:
    """For `ttl` seconds after a call raised one of `errors`, raises it again for the same key, without a call.

    Kept in this process alone, at most `limit` of them, the oldest goes first. What is raised again has the
    type, arguments and attributes of the error, and no traceback of the first call. A `no-cache` call is
    made in any case; a `no-store` call is not remembered; a success makes the error forgotten.
    """

    def __init__(
        self, ttl: float, errors: tuple[type[Exception], ...], *, stats: Stats, clock: Clock, limit: int = 1024
    ) -> None:
        if ttl <= 0 or not errors:
            raise ConfigError("negative caching wants both: negative_ttl > 0, and negative_errors")
        self._ttl = ttl
        self._errors = errors
        self._stats = stats
        self._clock = clock
        self._limit = limit
        self._lock = Lock()
        self._known: dict[str, tuple[float, Exception]] = {}

    async def __call__(self, request: Request, call_next: Handler, /) -> Response:
        if request.bypass:
            return await call_next(request)
        digest = request.key.digest
        if digest in self._known and not request.directives.no_cache:
            self._raise_again(digest)
        try:
            response = await call_next(request)
        except self._errors as error:
            if not request.directives.no_store:
                self._remember(digest, error)
            raise
        if digest in self._known:
            self._forget(digest)
        return response

    def _raise_again(self, digest: str) -> None:
        with self._lock:
            since, error = self._known.get(digest, (0.0, None))
        # Before it was remembered, too: a clock that was set back must not prolong it.
        if error is None or not since <= self._clock() < since + self._ttl:
            self._forget(digest)
            return
        self._stats.negative_hits += 1
        raise _twin(error)

    def _remember(self, digest: str, error: Exception) -> None:
        now = self._clock()
        twin = _twin(error)
        with self._lock:
            self._known.pop(digest, None)
            self._known[digest] = (now, twin)
            # In the order of their ends: what is over is in front.
            while (oldest := next(iter(self._known))) and (
                len(self._known) > self._limit or self._known[oldest][0] + self._ttl <= now
            ):
                del self._known[oldest]

    def _forget(self, digest: str) -> None:
        with self._lock:
            self._known.pop(digest, None)


def _twin(error: E) -> E:
    """The same error without its traceback: that would keep the frames of the first call alive, with all
    that is in them, and grow with each raise."""
    kind = type(error)
    try:
        # Past __init__, which may want other arguments than those that the error has kept.
        twin = kind.__new__(kind, *error.args)
        twin.__dict__.update(error.__dict__)
    except Exception:  # a class with a constructor of its own kind
        return error.with_traceback(None)
    twin.args = error.args
    return twin
