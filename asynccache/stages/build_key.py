"""Request → key; decides which calls the cache keeps out of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from asynccache.keys import AsyncKeyBuilder, KeyBuilder, build_key
from asynccache.material import ReadsFile, Unkeyable
from asynccache.model import CacheKey, Request, Response
from asynccache.protocols import Handler

logger = logging.getLogger("asynccache")

_PLACES = 1_000


class BuildKey:
    """Sets `request.key`, or `request.bypass` when the call is not to be cached.

    An argument that has no stable value never fails the call: the call is bypassed, and the place of
    the argument is logged once.

    build: makes the key; give one of your own to leave arguments out, or to put more in.
    """

    def __init__(self, build: KeyBuilder = build_key) -> None:
        self._build = build
        self._places: set[str] = set()

    @property
    def build(self) -> AsyncKeyBuilder:
        """What makes the keys."""
        return self._build

    # A plain function that returns what the next stage returns: a coroutine of its own would cost a hit
    # more than all else that happens here but the hashing.
    def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        target = request.target
        if target.keep_out is not None and not request.bypass:
            request.bypass = target.keep_out(request.params)
        if not request.bypass:
            try:
                request.key = self._build(request.params, target, request.directives)
            except ReadsFile:
                return self._read_files(request, call_next)
            except Exception as error:  # also of the caller's own objects, when they are asked for their content
                self._keep_out(request, error)
        return call_next(request)

    async def _read_files(self, request: Request, call_next: Handler) -> Response:
        """Build the key in a thread, since reading files blocks."""
        try:
            request.key = await asyncio.to_thread(
                self._build, request.params, request.target, request.directives, files=True
            )
        except Exception as error:  # as above
            self._keep_out(request, error)
        return await call_next(request)

    def _keep_out(self, request: Request, error: Exception) -> None:
        if not isinstance(error, Unkeyable):
            error = Unkeyable("an argument", f"{type(error).__name__}: {error}")
        request.bypass = f"unkeyable: {error}"
        if error.place not in self._places and len(self._places) < _PLACES:
            self._places.add(error.place)
            logger.warning("not cached, no key can be built from %s; said once for this place", error)


class BuildCustomKey(BuildKey):
    """The same for a builder of `asynccache.key_builders`: it may be async, and may find out whose call it is.

    A builder that raises, or returns what is no text, never fails the call: it is bypassed, and logged once.
    """

    def __init__(self, build: AsyncKeyBuilder) -> None:
        super().__init__()
        self._custom = build

    @property
    def build(self) -> AsyncKeyBuilder:
        return self._custom

    def __call__(self, request: Request, call_next: Handler, /) -> Awaitable[Response]:
        target = request.target
        if target.keep_out is not None and not request.bypass:
            request.bypass = target.keep_out(request.params)
        if not request.bypass:
            try:
                made = self._custom(request.params, target, request.directives)
                if not isinstance(made, CacheKey):
                    return self._wait(made, request, call_next)
                self._take(request, made)
            except ReadsFile:
                return self._read_files(request, call_next)
            except Exception as error:  # as above
                self._keep_out(request, error)
        return call_next(request)

    async def _wait(self, made: Awaitable[CacheKey], request: Request, call_next: Handler) -> Response:
        try:
            self._take(request, await made)
        except ReadsFile:
            return await self._read_files(request, call_next)
        except Exception as error:  # as above
            self._keep_out(request, error)
        return await call_next(request)

    async def _read_files(self, request: Request, call_next: Handler) -> Response:
        try:
            made = await asyncio.to_thread(self._custom, request.params, request.target, request.directives, files=True)
            self._take(request, made if isinstance(made, CacheKey) else await made)
        except Exception as error:  # as above
            self._keep_out(request, error)
        return await call_next(request)

    def _take(self, request: Request, key: CacheKey) -> None:
        request.key = key
        request.directives = key.source[2]  # of the tenant that the builder found
