"""What a backend on Redis does, be it one server or many."""

from __future__ import annotations

import math
import os
import secrets
from abc import ABC, abstractmethod
from typing import Literal

from asynccache.backends._decoded import Decoded
from asynccache.backends._redis_events import Link, RedisChanges, RedisLeases, changed, digest_bytes
from asynccache.backends._redis_lines import Failures, pack
from asynccache.backends._redis_options import seconds, whole
from asynccache.codec import Codec
from asynccache.errors import BackendClosed, BackendError, ConfigError, CorruptEntry, EntryTooLarge
from asynccache.loops import PerLoop
from asynccache.model import CacheKey, Entry
from asynccache.protocols import Clock

_LATEST = 2.0**50  # milliseconds: what is to live longer has no expiry


class RedisVerbs(ABC):
    """The verbs of a backend on Redis. Each event loop has connections of its own, and so has a forked child."""

    remote: Literal[True] = True
    read_timeout = 0.1
    write_timeout = 1.0
    max_concurrent = 10_000

    def __init__(
        self,
        name: str,
        failures: Failures,
        *,
        key_prefix: str,
        max_batch: int,
        connections: int,
        max_entry_bytes: int,
        lease_seconds: float,
        codec: Codec,
        clock: Clock,
    ) -> None:
        if not isinstance(key_prefix, str):
            raise ConfigError(f"key_prefix must be a text, not {key_prefix!r}")
        self.key_prefix = key_prefix
        self.max_batch = whole("max_batch", max_batch, 1)
        self.connections = whole("connections", connections, 1)
        self.max_entry_bytes = whole("max_entry_bytes", max_entry_bytes, 1)
        self._name = name
        self._failures = failures
        self._prefix = key_prefix.encode("utf-8", "surrogatepass")
        self._channel = self._prefix + b"events"
        self._codec = codec
        self._decoded = Decoded(codec)
        self._clock = clock
        self._closed = False
        self._pid = os.getpid()
        self._origin = secrets.token_hex(8)
        self._links = PerLoop(self._new_link, _close)
        self.leases = RedisLeases(self._here, self._prefix, self._channel, seconds("lease_seconds", lease_seconds))
        self.changes = RedisChanges(self._here)

    @abstractmethod
    def _link(self) -> Link:
        """What reaches the store from the running loop. Connects to nothing yet."""

    async def get(self, key: CacheKey, /) -> Entry | None:
        """The entry under this key; None when there is none, or no more.

        Gets of one turn of the event loop travel together. Raises BackendUnavailable when the server cannot
        be reached or refuses; BackendTimeout after `socket_timeout` seconds; CorruptEntry when what is there is no
        whole entry of this key; BackendClosed.
        """
        data = await self._here().read(self._prefix + digest_bytes(key.digest))
        if data is None:
            return None
        if type(data) is not bytes:
            raise self._failures.unavailable(f"an answer that is none to GET: {data!r:.100}")
        try:
            return self._decoded.entry(key, data)
        except CorruptEntry as error:
            raise type(error)(str(error), backend=self._name) from error

    async def set(self, key: CacheKey, entry: Entry, /) -> None:
        """Keep the entry in the place of any other, until it expires; one that has expired takes it away.

        Writes of one turn of the loop travel as one pipeline, in their order. Cancelled before it has left, it is
        never done; after that, what the same backend does next with that key comes after it. Raises EntryTooLarge
        above `max_entry_bytes`, before anything is sent; BackendUnavailable when the server cannot be reached or
        refuses (out of memory, read-only, forbidden); BackendTimeout after `socket_timeout` seconds, when it may
        or may not be done; BackendClosed.
        """
        digest = digest_bytes(key.digest)
        name = self._prefix + digest
        lifetime = self._lifetime(entry)
        if lifetime is not None and lifetime <= 0:
            command = pack(b"UNLINK", name)
        elif lifetime is None:
            command = pack(b"SET", name, self._encoded(key, entry))
        else:
            command = pack(b"SET", name, self._encoded(key, entry), b"PX", b"%d" % lifetime)
        await self._here().write(name, command, digest)

    async def add(self, key: CacheKey, entry: Entry, /) -> bool:
        """Keep the entry unless there is one. True when it was put, or would have been if it had not expired.

        Raises as `set` does.
        """
        digest = digest_bytes(key.digest)
        name = self._prefix + digest
        lifetime = self._lifetime(entry)
        if lifetime is not None and lifetime <= 0:
            return not await self._here().write(name, pack(b"EXISTS", name))
        expiry = () if lifetime is None else (b"PX", b"%d" % lifetime)
        command = pack(b"SET", name, self._encoded(key, entry), b"NX", *expiry)
        return await self._here().write(name, command, digest) is not None

    async def delete(self, key: CacheKey, /) -> bool:
        """Take the entry away. True when there was one. Raises as `set` does."""
        digest = digest_bytes(key.digest)
        name = self._prefix + digest
        return bool(await self._here().write(name, pack(b"UNLINK", name), digest))

    async def ping(self) -> None:
        """Return when the server answers. Raises BackendUnavailable, BackendTimeout, BackendClosed."""
        await self._here().ping()

    async def leave(self) -> None:
        """Close the running loop's connections. What is under way on it ends first, or fails after
        `socket_timeout` seconds; who watches or listens there is told that the news is cut off."""
        await self._links.leave()

    async def aclose(self) -> None:
        """Do that on all loops, and refuse from then on. Closing twice is fine."""
        self._closed = True
        await self._links.aclose()

    def _here(self) -> Link:
        if self._closed:
            raise BackendClosed("used after aclose()", backend=self._name)
        return self._links.here()

    def _new_link(self) -> Link:
        if self._pid != os.getpid():  # a child's changes are news to its parent
            self._pid = os.getpid()
            self._origin = secrets.token_hex(8)
        return self._link()

    def _announcement(self, digests: list[bytes]) -> bytes:
        return pack(b"PUBLISH", self._channel, changed(self._origin, digests))

    def _lifetime(self, entry: Entry) -> int | None:
        """Milliseconds, rounded up; None: no end that is worth counting."""
        if entry.expires is None:
            return None
        left = (entry.expires - self._clock()) * 1000
        return None if not left < _LATEST else max(0, math.ceil(left)) if left > -_LATEST else 0

    def _encoded(self, key: CacheKey, entry: Entry) -> bytes:
        try:
            data = self._codec.encode(key, entry)
        except BackendError as error:
            raise self._failures.of(error) from error
        if len(data) > self.max_entry_bytes:
            raise EntryTooLarge(
                f"an entry of {len(data)} bytes where max_entry_bytes is {self.max_entry_bytes}", backend=self._name
            )
        return data


async def _close(link: Link) -> None:
    await link.close()
