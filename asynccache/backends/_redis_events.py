"""News between processes that share a Redis: of changed entries, and of leases that were released.

All of it goes over one channel, `<key_prefix>events`. A message is one of

    changed <origin> <digest> <digest> …
    released <digest> stored
    released <digest> nothing

in ASCII, its words parted by single spaces. The origin names the backend that made the change, by a random
word, so that nobody is told of what it did itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any, Protocol

from asynccache.backends._redis_driver import AbstractConnection, NoScriptError
from asynccache.backends._redis_lines import Failures, Source, cut, pack
from asynccache.errors import BackendClosed, BackendError, BackendTimeout
from asynccache.model import CacheKey
from asynccache.protocols import Released, Told, Wait

logger = logging.getLogger("asynccache")

_HEARTBEAT = 10.0  # seconds of silence after which the server is asked whether it is still there
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before the next attempt to subscribe; the last one from then on


def digest_bytes(digest: str) -> bytes:
    """As it stands in the names of keys and in messages. Any text will do; keys have 64 hex digits."""
    return digest.encode("utf-8", "surrogatepass")


def changed(origin: str, digests: list[bytes]) -> bytes:
    """The message that tells of these changes."""
    return b" ".join((b"changed", origin.encode(), *digests))


def released(digest: bytes, stored: bool) -> bytes:
    """The message that tells of a lease's end."""
    return b" ".join((b"released", digest, b"stored" if stored else b"nothing"))


class _Wait:
    """See `protocols.Wait`."""

    def __init__(self) -> None:
        self.watching = False  # whether the subscription has stood since this began
        self._news: Released | None = None
        self._future: asyncio.Future[None] | None = None

    def tell(self, news: Released) -> None:
        self._news = news
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def __call__(self, seconds: float, /) -> Released:
        if self._news is None:
            self._future = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(seconds):
                    await self._future
            except TimeoutError:
                return "lapsed"
            finally:
                self._future = None
        news, self._news = self._news, None
        return news or "lapsed"


class Events:
    """The news, as one event loop gets it: one connection, while somebody watches or listens.

    source: where that connection comes from.
    origin: whose changes are not told.
    """

    def __init__(self, source: Source, channel: bytes, origin: str, failures: Failures) -> None:
        self._source = source
        self._channel = channel
        self._origin = origin.encode()
        self._failures = failures
        self._waits: dict[bytes, set[_Wait]] = {}
        self._listeners: list[Told] = []
        self._subscriber: asyncio.Task[None] | None = None
        self._subscribed = False
        self._trouble: BaseException | None = None  # why the last attempt to subscribe failed
        self._arrivals: set[asyncio.Future[None]] = set()  # of those who wait for the subscription to stand

    @asynccontextmanager
    async def watch(self, digest: bytes) -> AsyncIterator[Wait]:
        """Raises BackendError on entry when there can be no subscription."""
        wait = _Wait()
        # Known before the subscription is awaited: a release may come in the same read as its confirmation.
        self._waits.setdefault(digest, set()).add(wait)
        try:
            await self._stand()
            wait.watching = True
            yield wait
        finally:
            waits = self._waits[digest]
            waits.discard(wait)
            if not waits:
                del self._waits[digest]
            await self._stop_if_idle()

    @asynccontextmanager
    async def listen(self, told: Told) -> AsyncIterator[None]:
        self._listeners.append(told)
        if self._subscribed:
            _tell(told, None)
        self._start()
        try:
            yield
        finally:
            self._listeners.remove(told)
            await self._stop_if_idle()

    async def close(self) -> None:
        """Stop, and tell all who are still there that they hear nothing any more. Raises nothing."""
        await self._stop()
        self._lose(BackendClosed("closed"))

    # One task subscribes and reads, for as long as anybody is there.

    def _start(self) -> None:
        if self._subscriber is None:
            self._trouble = None
            self._subscriber = asyncio.get_running_loop().create_task(self._run(), name="asynccache-redis-events")

    async def _stop_if_idle(self) -> None:
        if not self._waits and not self._listeners:
            await self._stop()

    async def _stop(self) -> None:
        task, self._subscriber = self._subscriber, None
        self._subscribed = False
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _stand(self) -> None:
        """Return when the subscription stands. Raises BackendError while attempts fail."""
        self._start()
        if self._subscribed:
            return
        if self._trouble is not None:
            raise self._failures.of(self._trouble)  # another attempt is coming; nobody waits for it
        arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals.add(arrival)
        try:
            await arrival
        finally:
            self._arrivals.discard(arrival)

    async def _run(self) -> None:
        attempts = 0
        while True:
            connection: AbstractConnection | None = None
            try:
                connection = await self._subscribe()
                attempts = 0
                self._gain()
                await self._read(connection)
            except Exception as error:  # whatever it is, the news is cut off, and comes again when it can
                logger.debug("%s: no news: %r", self._failures.backend, error)
                self._lose(error)
            finally:
                if connection is not None:
                    await cut(connection, self._source)
            await asyncio.sleep(_PAUSES[min(attempts, len(_PAUSES) - 1)])
            attempts += 1

    async def _subscribe(self) -> AbstractConnection:
        async with asyncio.timeout(self._failures.patience):
            connection = await self._source.open()
            try:
                await connection.send_packed_command(pack(b"SUBSCRIBE", self._channel), check_health=False)
                reply = await _next(connection, self._failures.patience)
                if not (isinstance(reply, list) and reply[:2] == [b"subscribe", self._channel]):
                    raise self._failures.unavailable(f"an answer that is none to SUBSCRIBE: {reply!r:.100}")
            except BaseException:
                await cut(connection, self._source)
                raise
        return connection

    async def _read(self, connection: AbstractConnection) -> None:
        """Pass on messages until the connection is lost, which raises. A silent one is asked now and then."""
        asked = False
        while True:
            reply = await _next(connection, self._failures.patience if asked else _HEARTBEAT)
            if reply is not None:
                asked = False
                if isinstance(reply, list) and reply[0] == b"message":
                    self._dispatch(reply[2])
            elif asked:
                raise BackendTimeout("no answer to a heartbeat", backend=self._failures.backend)
            else:
                asked = True
                await connection.send_packed_command(pack(b"PING"), check_health=False)

    # What is told to whom.

    def _gain(self) -> None:
        self._subscribed = True
        self._trouble = None
        for arrival in self._arrivals:
            if not arrival.done():
                arrival.set_result(None)
        self._tell_gap()

    def _lose(self, error: BaseException) -> None:
        stood, self._subscribed = self._subscribed, False
        self._trouble = error
        for arrival in self._arrivals:
            if not arrival.done():
                arrival.set_exception(self._failures.of(error))
        if stood or isinstance(error, BackendClosed):
            self._tell_gap()

    def _tell_gap(self) -> None:
        """Something may have been missed: when the news was cut off, and again when it has come back."""
        for waits in self._waits.values():
            for wait in waits:
                if wait.watching:
                    wait.tell("lapsed")
        for told in self._listeners:
            _tell(told, None)

    def _dispatch(self, message: bytes) -> None:
        match message.split(b" "):
            case [b"changed", origin, *digests] if origin != self._origin:
                for digest in digests:
                    for told in self._listeners:
                        _tell(told, digest.decode("utf-8", "replace"))
            case [b"released", digest, outcome]:
                for wait in self._waits.get(digest, ()):
                    wait.tell("stored" if outcome == b"stored" else "nothing")


async def _next(connection: AbstractConnection, seconds: float) -> Any:
    """What comes next, of whatever kind; None when nothing does within so many seconds."""
    return await connection.read_response(disable_decoding=True, timeout=seconds, push_request=True)


def _tell(told: Told, digest: str | None) -> None:
    try:
        told(digest)
    except Exception:  # a fault of one listener is not the others'
        logger.exception("a listener to changes failed")


# Leases.

_RENEW = b"""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""


class Link(Protocol):
    """The store, as one event loop reaches it. All verbs raise BackendError."""

    events: Events

    def read(self, name: bytes) -> Awaitable[bytes | None]:
        """The value under this name, at a time after this call."""
        ...

    def write(self, name: bytes, packed: bytes, changed: bytes = b"") -> Awaitable[Any]:
        """The reply to a command on this name. Commands on one name are done in the order of the calls.

        changed: the digest of the entry that it changes, of which others are to be told.
        """
        ...

    async def ping(self) -> None: ...

    async def close(self) -> None:
        """Let what is under way end, or end it; close the connections. Raises nothing."""
        ...


class RedisLeases:
    """`protocols.Leases` on a Redis: a key with an expiry, which holds the token.

    seconds: how long a lease holds unless it is renewed.
    link:    the running loop's.
    """

    def __init__(self, link: Callable[[], Link], prefix: bytes, channel: bytes, seconds: float) -> None:
        self._link = link
        self._prefix = prefix + b"lease:"
        self._channel = channel
        self._seconds = seconds
        self._milliseconds = b"%d" % max(1, round(seconds * 1000))

    @property
    def seconds(self) -> float:
        return self._seconds

    async def acquire(self, key: CacheKey, token: str, /) -> bool:
        """Take the lease under this token. False when it is somebody's. Raises BackendError."""
        name = self._prefix + digest_bytes(key.digest)
        command = pack(b"SET", name, token.encode(), b"NX", b"PX", self._milliseconds)
        return await self._link().write(name, command) is not None

    async def renew(self, key: CacheKey, token: str, /) -> bool:
        """Hold it for another `seconds`. False when it is no longer this token's. Raises BackendError."""
        return bool(await self._run(_RENEW, key, token, self._milliseconds))

    async def release(self, key: CacheKey, token: str, stored: bool, /) -> None:
        """End it, if it is still this token's, and wake all who watch it. Raises BackendError."""
        message = released(digest_bytes(key.digest), stored)
        await self._run(_RELEASE, key, token, self._channel, message)

    def watch(self, key: CacheKey, /) -> contextlib.AbstractAsyncContextManager[Wait]:
        """Raises BackendError on entry when no news can be had."""
        return self._link().events.watch(digest_bytes(key.digest))

    async def _run(self, script: bytes, key: CacheKey, token: str, *arguments: bytes) -> Any:
        """The script is sent once to each server, and called by its sum from then on."""
        name = self._prefix + digest_bytes(key.digest)
        rest = (b"1", name, token.encode(), *arguments)
        link = self._link()
        try:
            return await link.write(name, pack(b"EVALSHA", sha1(script).hexdigest().encode(), *rest))
        except BackendError as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return await link.write(name, pack(b"EVAL", script, *rest))


class RedisChanges:
    """`protocols.Changes` on a Redis. Told is what other backends of this package have written or deleted: nothing
    of keys that expire, that the server evicts, or that somebody deletes by hand."""

    def __init__(self, link: Callable[[], Link]) -> None:
        self._link = link

    def listen(self, told: Told, /) -> contextlib.AbstractAsyncContextManager[None]:
        """Raises BackendClosed after `aclose()`, and nothing else."""
        return self._link().events.listen(told)
